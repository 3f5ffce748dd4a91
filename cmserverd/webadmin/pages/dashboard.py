"""The dashboard: is the server alive, is what it grants protected, how full is each license, what ends or runs out.

Alive and protected are two things: a server whose disk is full answers all questions and grants nothing new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.pages import asking, rows, spelling
from cmserverd.webadmin.pages.rendering import asker, render, whole_stream
from cmserverd.webadmin.pages.rows import LicenseRow
from protocol.listings import EntryState
from protocol.messages import ContainerContents, LicenseCount, ServerInfoRequest
from protocol.watching import Durability, StatisticsRequest

SOON: Final = 30 * 86_400
"""Seconds: what ends within this time is to be told."""

LITTLE: Final = 0.1
"""What part of its units an entry has left when that is to be told."""

MOST: Final = 40
"""How many licenses the dashboard shows; the fullest ones."""

WARNINGS: Final = 30
"""How many it warns of."""


class Warned(Struct, frozen=True):
    """What an administrator should know of a license: `where` it is shown."""

    id: str
    name: str
    where: str
    text: str


class Protection(Struct, frozen=True):
    """Whether what is granted survives, in words."""

    good: bool
    word: str
    text: str


_SURVIVES: Final = {
    "process": "Every grant survives a crash of the license server.",
    "power": "Every grant survives a crash of the license server, and a power cut.",
}


async def dashboard(request: Request, visit: Visit) -> Response:
    """Show how it stands."""
    ask = asker(request, visit)
    server = await ask(ServerInfoRequest())
    figures = await ask(StatisticsRequest())
    licenses, complete = await asking.all_licenses(ask)
    contents = await asking.all_contents(ask)
    warnings = [*running_out(licenses), *ending(licenses, server.time), *used_up(contents)]
    shown = fullest(licenses)
    return render(
        request,
        visit,
        "dashboard.html",
        stream=whole_stream(server.position),
        server=server,
        since=spelling.instant(server.started),
        listening=", ".join(map(spelling.shown, server.listening)),
        protection=protection(figures.durability),
        warnings=warnings[:WARNINGS],
        more_warnings=max(len(warnings) - WARNINGS, 0),
        licenses=shown,
        more_licenses=len(licenses) - len(shown),
        complete=complete,
        as_of=spelling.instant(server.time),
    )


def protection(durability: Durability) -> Protection:
    """Say whether what is granted survives."""
    if durability.protected:
        return Protection(True, "Protected", _SURVIVES.get(durability.setting, ""))
    if durability.setting == "off":
        return Protection(
            False, "Not protected", "Durability is off: a restart forgets who holds what. See journal.durability."
        )
    why = spelling.shown(durability.why) or "it does not say why"
    return Protection(False, "Not protected", f"The journal cannot be written, and nothing new is granted: {why}")


def fullest(licenses: Iterable[LicenseCount]) -> tuple[LicenseRow, ...]:
    """Return the licenses of which the largest part is in use, first."""

    def share(one: LicenseCount) -> tuple[float, int]:
        return (-one.used / one.total if one.total else 0.0, -one.used)

    return tuple(map(rows.license_row, sorted(licenses, key=share)[:MOST]))


def running_out(licenses: Iterable[LicenseCount]) -> Iterator[Warned]:
    """Yield the licenses of which none is free."""
    for one in licenses:
        if one.total and not one.free:
            yield _warned(one, f"all {one.total} in use")
        elif not one.present:
            yield _warned(one, "its container is unplugged")


def ending(licenses: Iterable[LicenseCount], now: int) -> Iterator[Warned]:
    """Yield the licenses that have ended, or do soon, the first to end first."""
    for one in sorted(licenses, key=lambda one: one.valid_until or 0):
        if one.state in (EntryState.EXPIRED, EntryState.USAGE_OVER):
            yield _warned(one, spelling.state(one.state))
        elif one.valid_until is not None and one.valid_until - now <= SOON:
            left = spelling.about(max(one.valid_until - now, 0))
            yield _warned(one, f"ends in {left}, at {spelling.instant(one.valid_until)} UTC")


def used_up(contents: Iterable[ContainerContents]) -> Iterator[Warned]:
    """Yield the entries whose units are used up, or nearly."""
    for container in contents:
        for firm_item in container.firm_items:
            for entry in firm_item.entries:
                if entry.units is None or entry.units_left is None or entry.units_left > entry.units * LITTLE:
                    continue
                yield Warned(
                    f"units-{container.container.id}-{firm_item.firm_code}-{entry.item}",
                    spelling.shown(entry.text) or f"Product Code {entry.product_code}",
                    rows.details_path(container.container.id, firm_item.firm_code, entry.product_code),
                    f"{entry.units_left:,} of {entry.units:,} units left",
                )


def _warned(one: LicenseCount, text: str) -> Warned:
    row = rows.license_row(one)
    return Warned(f"{text[:4].strip()}-{row.id}", row.name, row.where, text)
