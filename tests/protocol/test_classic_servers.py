"""Which server is this machine's, and what is said when all refuse."""

from __future__ import annotations

import socket

import pytest
from msgspec.structs import replace

from protocol.address import LOOPBACK, Tcp, Unix
from protocol.classic import constants as cm
from protocol.classic import servers
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import Reason


@pytest.mark.parametrize(
    ("address", "here"),
    [
        (Unix("/run/x.sock"), True),
        (Tcp("127.0.0.9"), True),
        (Tcp("::1"), True),
        (Tcp("LocalHost"), True),
        (Tcp(socket.gethostname().upper()), True),
        (Tcp("192.0.2.1"), False),
        (Tcp("licenses.example"), False),
    ],
)
def test_what_is_this_machines(address: Tcp | Unix, here: bool) -> None:
    """A socket's path, loopback, and the host's own name."""
    assert servers.is_here((address,)) is here


def test_without_one_configured_this_machine_has_its_two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are one server, also beside a configured one; a server that is named stands alone."""
    monkeypatch.setenv("CMSERVERD_SERVER", "192.0.2.1")
    far = (Tcp("192.0.2.1"),)
    assert servers.at(cm.CM_ACCESS_LOCAL_LAN) == (LOOPBACK, far)
    assert servers.at(cm.CM_ACCESS_LAN_LOCAL, "192.0.2.1") == (far,)
    with pytest.raises(LicenseError, match=r"on this machine is asked for, and 192\.0\.2\.1 is not, Error 101\.$"):
        servers.at(cm.CM_ACCESS_LOCAL, "192.0.2.1")


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ([200], 200),
        ([200, 212], 212),
        ([200, 200], 200),
        ([200, 231], 230),
        ([101, 200], 200),
        ([101, 100], 230),
        ([101, 101], 101),
    ],
)
def test_the_one_error_of_all_servers(said: list[int], number: int) -> None:
    """212 before all others, servers that do not answer last; the reasons are those of all that answered."""
    failures = []
    for place, one in enumerate(said):
        body = LicenseError.of(ErrorNumber(one), f"server {place}").body
        reason = Reason(f"3-{place}", 1, 2, 3, one, body.name, body.text)
        failures.append(LicenseError(replace(body, reasons=(reason,))))
    error = servers.refused_by_all(failures)
    assert error.number == number
    assert str(error).endswith(f", Error {number}.")
    answered = [place for place, one in enumerate(said) if one not in (100, 101)] or range(len(said))
    assert {reason.container for reason in error.reasons} == {f"3-{place}" for place in answered}
