"""Who comes from where, also through a reverse proxy, and by what it is counted how much of something he has."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import structlog
import trio
from starlette.requests import Request
from starlette.types import Scope

from cmserverd.seldom import Seldom
from protocol.hosts import host_of

HOPS: Final = 32
"""How many addresses of X-Forwarded-For are looked at, from its end: more proxies in a row than there are."""

HOUR: Final = 3_600.0

_FORWARDED: Final = re.compile(
    rb"\[([0-9A-Fa-f:.]{2,45})\](?::\d{1,5})?|([0-9.]{7,15})(?::\d{1,5})?|([0-9A-Fa-f:.]{2,45})"
)
"""An address as proxies write it: some add the port."""

_log = structlog.get_logger("webadmin")


class Proxies:
    """The reverse proxies of this server, by their addresses and networks: only what they say of a visitor is believed.

    X-Forwarded-For and X-Forwarded-Proto are what proxies commonly set. The RFC's own header, Forwarded, is never read:
    a proxy that sets the one leaves the other as the visitor wrote it, so only one of the two can be believed.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = tuple(ipaddress.ip_network(network) for network in networks)
        self._strays = Seldom(trio.current_time, lines=1, period=HOUR)

    def seen_through(self, scope: Scope) -> Scope:
        """Return a request with the visitor's address and scheme in the place of the proxy's, if it is one of ours."""
        if scope["type"] != "http" or not scope.get("client"):
            return scope
        peer, port = scope["client"]
        nearest = _parsed(peer)
        forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        if nearest is None or not self._have(nearest):
            if forwarded:
                event = "X-Forwarded-For is not believed; if this is a proxy of yours, name it in [webadmin] proxies"
                self._strays.say(_log.warning, event, address=peer)
            return scope
        visitor = str(self._visitor(nearest, forwarded))
        schemes = [value.lower() for name, value in scope["headers"] if name == b"x-forwarded-proto"]
        scheme = schemes[0].decode() if schemes in ([b"http"], [b"https"]) else scope["scheme"]
        return {**scope, "client": (visitor, port), "scheme": scheme}

    def other_end(self, client: tuple[str, int] | None) -> str:
        """Return by what a connection's other end is counted: its host, or where that speaks for many, itself.

        Many come over loopback, and from a proxy.
        """
        if client is None:
            return "unknown"
        address, port = client
        parsed = _parsed(address)
        many = is_loopback(address) or (parsed is not None and self._have(parsed))
        return f"{host_of(address)} {port}" if many else host_of(address)

    def _have(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)

    def _visitor(self, nearest: IPv4Address | IPv6Address, forwarded: list[bytes]) -> IPv4Address | IPv6Address:
        """Return the nearest address that is no proxy's; what is farther, the visitor himself may have written.

        If all are, or something there is no address, the farthest proxy stands for whoever comes through it.
        """
        for text in reversed(b",".join(forwarded).rsplit(b",", HOPS)[-HOPS:]):
            found = _FORWARDED.fullmatch(text.strip(b" \t"))
            address = _parsed(found[found.lastindex or 0].decode()) if found else None
            if address is None:
                break
            nearest = address
            if not self._have(nearest):
                break
        return nearest


def address_of(request: Request) -> str:
    """Return from where somebody comes: the connection's other end, or what a proxy of ours says."""
    return request.client.host if request.client else "unknown"


def visitor_of(request: Request, name: str) -> str:
    """Return by what is counted how much somebody has done at once: his name, or without one the host he comes from."""
    return name or f"from {host_of(address_of(request))}"


def is_loopback(address: str) -> bool:
    """Tell whether an address is this machine's own."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """Return an address, without its zone, and an IPv4 one out of IPv6; None if it is none."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
