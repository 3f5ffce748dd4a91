"""The containers, and what is in each: firm items, product items, and their options with what they mean."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.pages import asking, choosing, rows, spelling
from cmserverd.webadmin.pages.rendering import asker, render, whole_stream
from cmserverd.webadmin.people import Role
from protocol.messages import ContainerContents, ContainerInfo, Containers, Contents, EntryInfo, FirmItemInfo
from protocol.terms import shown_period


class ContainerRow(Struct, frozen=True, gc=False):
    """A container; `firm_items` are those whose contents were looked at, each as its code and its licensor's name."""

    id: str
    where: str
    kind: str
    name: str
    present: bool
    firm_items: tuple[str, ...]


class Option(Struct, frozen=True, gc=False):
    """An option of a product item."""

    name: str
    value: str


class EntryRow(Struct, frozen=True, gc=False):
    """A product item; with `trouble` it cannot be had, and that says why."""

    item: int
    product_code: int
    name: str
    where: str
    units: str
    valid_until: str
    quantity: str
    feature_map: str
    trouble: str
    options: tuple[Option, ...]


class FirmItemBlock(Struct, frozen=True, gc=False):
    """A firm item with its product items."""

    firm_code: int
    name: str
    update_counter: int
    unusable: str
    entries: tuple[EntryRow, ...]


async def containers(request: Request, visit: Visit) -> Response:
    """Show the containers."""
    ask = asker(request, visit)
    found = await ask(Containers())
    contents = {one.container.id: one for one in await asking.contents(ask, (one.id for one in found.containers))}
    return render(
        request,
        visit,
        "containers.html",
        stream=whole_stream(found.position),
        containers=tuple(container_row(one, contents.get(one.id)) for one in found.containers),
    )


async def contents(request: Request, visit: Visit) -> Response:
    """Show what is in one container."""
    return await show(request, visit, choosing.container(request.path_params["container"]) or "")


async def show(request: Request, visit: Visit, container: str, problem: str = "") -> Response:
    """Show what is in a container, and the problem that an operator has met with it. Raises LicenseError."""
    found = await asker(request, visit)(Contents(container))
    return render(
        request,
        visit,
        "contents.html",
        400 if problem else 200,
        stream="" if problem else whole_stream(found.position),
        container=container_row(found.container, found),
        firm_items=tuple(firm_item_block(container, one) for one in found.firm_items),
        problem=problem,
        may_act=visit.may(Role.OPERATOR),
    )


def container_row(one: ContainerInfo, contents: ContainerContents | None) -> ContainerRow:
    """Return a container as a row; None: what is in it was not looked at."""
    firm_items = contents.firm_items if contents else ()
    return ContainerRow(
        id=spelling.shown(one.id),
        where=f"/containers/{one.id}",
        kind=spelling.kind(one.kind),
        name=spelling.shown(one.text),
        present=one.present,
        firm_items=tuple(spelling.shown(f"{each.firm_code} {each.text}".rstrip()) for each in firm_items)
        or (spelling.counted(one.firm_items, "firm item"),),
    )


def firm_item_block(container: str, one: FirmItemInfo) -> FirmItemBlock:
    """Return a firm item of a container with its product items."""
    return FirmItemBlock(
        firm_code=one.firm_code,
        name=spelling.shown(one.text),
        update_counter=one.update_counter,
        unusable=spelling.shown(one.unusable),
        entries=tuple(entry_row(container, one.firm_code, entry) for entry in one.entries),
    )


def entry_row(container: str, firm_code: int, entry: EntryInfo) -> EntryRow:
    """Return a product item as a row."""
    return EntryRow(
        item=entry.item,
        product_code=entry.product_code,
        name=spelling.shown(entry.text),
        where=rows.details_path(container, firm_code, entry.product_code),
        units="" if entry.units is None else f"{entry.units_left or 0:,} of {entry.units:,}",
        valid_until=spelling.until(entry.valid_until),
        quantity=str(entry.quantity) if entry.quantity else "local only",
        feature_map=spelling.feature_map(entry.feature_map),
        trouble=spelling.shown(entry.unusable) or spelling.state(entry.state),
        options=tuple(_options(entry)),
    )


def _options(entry: EntryInfo) -> Iterator[Option]:
    if entry.denied:
        yield Option("Access modes that the licensor denies", ", ".join(map(spelling.mode, entry.denied)))
    if entry.local_only:
        yield Option("Local only", "not for clients on other machines")
    if entry.activation is not None:
        yield Option("Activation Time", spelling.instant(entry.activation))
    if entry.expiration is not None:
        yield Option("Expiration Time", spelling.instant(entry.expiration))
    if entry.usage is not None:
        begun = "not begun" if entry.usage_start is None else f"begun {spelling.instant(entry.usage_start)}"
        yield Option("Usage Period", f"{shown_period(entry.usage)} from the first use on; {begun}")
    if entry.maintenance is not None:
        start, end = map(spelling.instant, entry.maintenance)
        yield Option("Maintenance Period", f"software released from {start} until before {end}")
    if entry.units is not None:
        yield Option("Unit Counter", f"{entry.units_left or 0:,} of {entry.units:,} units left")
    if entry.linger:
        yield Option("Linger Time", f"{shown_period(entry.linger)} after the last access, for the same PC only")
    if entry.borrow_seconds is not None:
        licenses = "" if entry.borrow_licenses is None else f", {entry.borrow_licenses:,} at a time"
        yield Option("Borrowing", f"for {shown_period(entry.borrow_seconds)} at most{licenses}")
    if entry.minimum_runtime:
        yield Option("Minimum Runtime", f"license server {spelling.shown(entry.minimum_runtime)} or later")
    if entry.protected_data:
        yield Option("Protected Data", spelling.data(entry.protected_data))
    if entry.user_data:
        yield Option("User Data", spelling.data(entry.user_data))
