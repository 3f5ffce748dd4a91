"""Which servers a location means, in which order, and the one error for all of their refusals.

A *server* is the addresses at which it may be: one for each that is configured, two for this machine's if none is.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Final

from protocol.address import LOOPBACK, Address, Unix, candidates
from protocol.classic import constants as cm
from protocol.errors import ErrorNumber, LicenseError, text_of
from protocol.messages import ErrorBody

Server = tuple[Address, ...]

_UNREACHABLE: Final = frozenset({ErrorNumber.NETWORK_FAULT, ErrorNumber.SERVER_NOT_FOUND})


def is_here(server: Server) -> bool:
    """Whether a server is this machine's, by the address alone: a socket's path, loopback, or this host's name."""
    address = server[0]
    if isinstance(address, Unix):
        return True
    try:
        return ip_address(address.host).is_loopback
    except ValueError:
        return address.host.lower() in {"localhost", socket.gethostname().lower()}


def configured(name: str = "") -> tuple[Server, ...]:
    """Return the servers of this client's configuration, or the one of that name. Raises SettingError."""
    found = candidates(name or None)
    return (LOOPBACK,) if found is LOOPBACK else tuple((address,) for address in found)


def at(location: int, name: str = "") -> tuple[Server, ...]:
    """Return the servers to ask, in order; with a `name` only that one. Raises SettingError, LicenseError 101."""
    found = configured(name)
    here = tuple(server for server in found if is_here(server)) or (() if name else (LOOPBACK,))
    elsewhere = tuple(server for server in found if not is_here(server))
    servers = {
        cm.CM_ACCESS_LOCAL: here,
        cm.CM_ACCESS_LAN: elsewhere,
        cm.CM_ACCESS_LOCAL_LAN: here + elsewhere,
        cm.CM_ACCESS_LAN_LOCAL: elsewhere + here,
    }[location]
    if not servers:
        where = "on this machine" if location == cm.CM_ACCESS_LOCAL else "on another machine"
        what = name or "any of the configured servers"
        raise LicenseError.of(ErrorNumber.SERVER_NOT_FOUND, f"a server {where} is asked for, and {what} is not")
    return servers


def refused_by_all(failures: list[LicenseError]) -> LicenseError:
    """Return one error for those of all servers: of those that answered, 212 if any said so, else what all said.

    If they say different things it is 230. The reasons of all come along.
    """
    telling = [error for error in failures if error.number not in _UNREACHABLE] or failures
    if len(telling) == 1:
        return telling[0]
    numbers = {error.number for error in telling}
    if ErrorNumber.NO_MORE_LICENSES in numbers:
        telling.sort(key=lambda error: error.number != ErrorNumber.NO_MORE_LICENSES)
    elif len(numbers) > 1:
        text = text_of(ErrorNumber.SEVERAL_REASONS, "; ".join(str(error).rstrip(".") for error in telling))
        telling.insert(0, LicenseError(ErrorBody(ErrorNumber.SEVERAL_REASONS, ErrorNumber.SEVERAL_REASONS.name, text)))
    first = telling[0].body
    reasons = tuple(reason for error in telling for reason in error.reasons)
    return LicenseError(ErrorBody(first.number, first.name, first.text, reasons))
