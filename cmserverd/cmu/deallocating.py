"""How `cmu` takes a license from who holds it: it shows whom that hits, asks, and has the daemon do just that."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from cmserverd.cmu import updating
from cmserverd.cmu.outcome import Misused, NotThere
from protocol.messages import AccessInfo, AccessPage, Deallocate, Deallocated, DeallocatedAccess, NetUsers
from protocol.terms import printable

_PAGE: Final = 1_000
_SHOWN: Final = 20
"""How many accesses the question names; it says how many more there are."""


class Freed(Struct, frozen=True):
    """What was removed, and how many licenses are free by that."""

    accesses: tuple[DeallocatedAccess, ...]
    licenses: int

    def sentence(self) -> str:
        """Say it to people."""
        accesses = "1 access was" if len(self.accesses) == 1 else f"{len(self.accesses)} accesses were"
        licenses = "1 license is" if self.licenses == 1 else f"{self.licenses} licenses are"
        return f"{accesses} removed; {licenses} free by that."


def deallocate(options: argparse.Namespace) -> Freed:
    """Remove what the options name. Raises Ended, LicenseError, SettingError; then nothing is removed."""
    control = updating.control_socket(options.server)
    hit = _hit(control.with_name(updating.MONITOR), options.deallocate, options.what, options.timeout)
    if not options.yes and not _agreed(hit, options.what):
        raise NotThere("nothing was removed")
    asked = Deallocate(options.deallocate, options.what, tuple(row.handle for row in hit), options.hold_off)
    done: Deallocated = updating.ask(control, asked, options.timeout)
    return Freed(done.accesses, done.licenses)


def _hit(monitor: Path, handle: int, what: str, timeout: float) -> list[AccessInfo]:
    """Return the accesses that go. Raises NotThere, LicenseError."""
    page: AccessPage = updating.ask(monitor, NetUsers(cursor=handle - 1, limit=1), timeout)
    if not page.accesses or page.accesses[0].handle != handle:
        raise NotThere(f"there is no access {handle} any more (cmu -n lists them)")
    named = page.accesses[0]
    if what == "access" or not named.session or (what == "allocation" and not named.allocation):
        return [named]  # a loan is of no session, and a handle of another kind is of no allocation
    if what == "session":
        return _rows(monitor, NetUsers(limit=_PAGE, session=named.session), timeout)
    return _rows(monitor, NetUsers(limit=_PAGE, allocation=named.allocation), timeout)


def _rows(monitor: Path, asked: NetUsers, timeout: float) -> list[AccessInfo]:
    rows: list[AccessInfo] = []
    cursor: int | None = 0
    while cursor is not None:
        page: AccessPage = updating.ask(monitor, replace(asked, cursor=cursor), timeout)
        rows += page.accesses
        cursor = page.next
    return rows


def _agreed(hit: list[AccessInfo], what: str) -> bool:
    """Show whom it hits, and ask. Raises Misused if nobody can answer."""
    if not sys.stdin.isatty():
        raise Misused("nobody can be asked here; say --yes to remove without a question")
    first = hit[0]
    named = {
        "allocation": f"the allocation {first.allocation} of Firm Code {first.firm_code}, "
        f"Product Code {first.product_code} in {first.container}",
        "access": "one access; its license is free only if it is the last one of its allocation",
        "session": f"all that one client holds ({printable(first.client)})",
    }[what]
    lines = [f"This removes {printable(named)}:"]
    lines += [
        f"  ID {row.handle}, {printable(row.client)}, process {row.pid}, {printable(row.application)}"
        for row in hit[:_SHOWN]
    ]
    if len(hit) > _SHOWN:
        lines.append(f"  and {len(hit) - _SHOWN} more")
    sys.stderr.write("\n".join([*lines, "Remove? [y/N] "]))
    sys.stderr.flush()
    return sys.stdin.readline().strip().casefold() in ("y", "yes")
