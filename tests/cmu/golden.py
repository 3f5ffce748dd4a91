"""The tables as they must look, kept as files; `python -m tests.cmu.golden` renews them: read what it wrote."""

from __future__ import annotations

import io
from pathlib import Path

from cmserverd.cmu import fetch, tables
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import ServerInfo, ServerInfoRequest
from tests.cmu.made_up import PAGE_ACCESSES, PAGE_COUNTS, MadeUp

GOLDEN = Path(__file__).parent / "golden"
WIDTHS = (80, 160)
NAMES = ("page", "containers", "contents", "network", "busy", "nothing", "servers")


def rendered(name: str, width: int) -> str:
    """Return a listing as it is printed where there is no terminal, without the blanks at the ends of lines."""
    out = io.StringIO()
    console = tables.console(out)
    console.width = width
    everything = fetch.Selection()
    match name:
        case "page":
            tables.show(console, fetch.network(MadeUp(PAGE_COUNTS, PAGE_ACCESSES), everything))
        case "containers":
            tables.show(console, fetch.containers(MadeUp(), everything))
        case "contents":
            tables.show(console, fetch.contents(MadeUp(), everything))
        case "network":
            tables.show(console, fetch.network(MadeUp(), everything))
        case "busy":
            tables.show(console, fetch.network(MadeUp(PAGE_COUNTS, (), moves=100), everything))
        case "nothing":
            tables.show(console, fetch.network(MadeUp((), ()), everything))
        case _:
            found = fetch.servers(["alpha:22350", "[2001:db8::1]:22350"], "/etc/xdg/cmserverd/client.toml", _state)
            tables.show_servers(console, found)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def path(name: str, width: int) -> Path:
    """Return where a listing is kept."""
    return GOLDEN / f"{name}-{width}.txt"


def _state(address: str) -> ServerInfo:
    if address.startswith("["):
        raise LicenseError.of(ErrorNumber.SERVER_NOT_FOUND, "connection refused")
    return MadeUp().call(ServerInfoRequest())


if __name__ == "__main__":
    for each in NAMES:
        for columns in WIDTHS:
            path(each, columns).write_text(rendered(each, columns))
