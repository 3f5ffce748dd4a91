r"""The listings as tables, for people. Nothing is cut off: what is too long goes on in the next line.

The two tables of a license are those of the field's page *License Monitoring Details*.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, TextIO

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from cmserverd.cmu.fetch import ContainerListing, ContentsListing, LicenseUse, Listing, NetworkListing, ServerState
from cmserverd.cmu.folding import Cell, FoldingTable
from cmserverd.cmu.options import LOUD, instant, options, state, until
from protocol.messages import AccessInfo, ContainerContents, ContainerInfo, EntryInfo, FirmItemInfo, LicenseCount
from protocol.terms import HandleKind, printable

WIDTH: Final = 160
"""Columns where there is no terminal and no `COLUMNS`."""

TIMES: Final = ("~First Access", "~Last Access")


def console(stream: TextIO) -> Console:
    """Return what prints on a stream: as wide as the terminal, or as `COLUMNS` says; text is never markup."""
    columns = os.environ.get("COLUMNS", "")
    width = None if stream.isatty() else int(columns) if columns.isdecimal() and int(columns) else WIDTH
    return _Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


class _Console(Console):
    """A console that leaves it to the command line what happens when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def show(out: Console, found: Listing) -> None:
    """Print a listing."""
    server = found.server
    out.print(printable(f"Server {server.name} ({server.software} {server.version})"))
    match found:
        case ContainerListing(containers=containers):
            out.print()
            _containers(out, containers)
            _result(out, len(containers), "CmContainer")
        case ContentsListing(contents=contents):
            out.print()
            for one in contents:
                _container(out, one)
            _result(out, len(contents), "CmContainer")
        case NetworkListing(licenses=licenses, others=others):
            out.print(f"As of {instant(found.time)}; all times are UTC")
            out.print()
            for use in licenses:
                _license(out, use)
            if others:
                out.print("Accesses that allocate none of these licenses")
                print_table(out, _others(others), indent=2)
                out.print()
            if not found.consistent:
                out.print("The table changed while it was read: counts and accesses may differ by what changed.")
            _result(out, len(licenses), "license")


def show_servers(out: Console, found: Iterable[ServerState]) -> None:
    """Print the servers, in the order in which a client asks them."""
    listed = list(found)
    if listed:
        out.print(printable(f"Addresses from: {listed[0].source}"))  # one place names them all
        out.print()
        table = FoldingTable("#No.", "Address", "Name", "Version", "State")
        for number, one in enumerate(listed, 1):
            if one.info is not None:
                software = f"{one.info.server.software} {one.info.server.version}"
                state: str | Text = "starting" if one.info.starting else "answers"
                table.row(number, one.address, one.info.server.name, software, state)
            else:
                text = one.error.text if one.error else ""
                table.row(number, one.address, "", "", Text(printable(text), LOUD))
        print_table(out, table)
        out.print()
    _result(out, len(listed), "server")


# --- the parts ----------------------------------------------------------------------------------------------------


def _result(out: Console, number: int, what: str) -> None:
    out.print(f"Result: {number} {what}(s) listed.")


def _containers(out: Console, containers: Iterable[ContainerInfo]) -> None:
    table = FoldingTable("=CmContainer", "=Kind", "Name", "State", "#Firm Items")
    for one in containers:
        table.row(one.id, one.kind, one.text, _presence(one), one.firm_items)
    if table.rows:
        print_table(out, table)
        out.print()


def _container(out: Console, one: ContainerContents) -> None:
    container = one.container
    about = ", ".join(filter(None, (container.id, container.kind, container.text)))
    out.print(Text.assemble((printable(f"CmContainer {about}"), "bold"), ", ", _presence(container)))
    for firm_item in one.firm_items:
        name = f" {firm_item.text}" if firm_item.text else ""
        updates = f"update counter {firm_item.update_counter}"
        out.print(printable(f"  Firm Code {firm_item.firm_code}{name}, {updates}"))
        if firm_item.unusable:
            out.print(Padding(Text(printable(f"NOT TRUSTED: {firm_item.unusable}"), LOUD), (0, 0, 0, 2), expand=False))
        if firm_item.entries:
            print_table(out, _entries(firm_item), indent=2)
        elif not firm_item.unusable:
            out.print("  no product items")
        if (others := _options(firm_item)).rows:
            print_table(out, others, indent=2)
        out.print()
    if not one.firm_items:
        out.print("  empty")
        out.print()


def _entries(firm_item: FirmItemInfo) -> FoldingTable:
    table = FoldingTable(
        "#Item", "#Product Code", "Name", "#License Quantity", "=Feature Map", "~Denied Modes", "State"
    )
    for entry in firm_item.entries:
        denied = ", ".join(map(_mode, entry.denied))
        table.row(
            entry.item,
            entry.product_code,
            entry.text,
            entry.quantity,
            _map(entry.feature_map),
            denied,
            _use(entry),
        )
    return table


def _options(firm_item: FirmItemInfo) -> FoldingTable:
    """Return what those entries have that few have, in a table of its own: the other one fills the screen."""
    table = FoldingTable("#Item", "~Valid Until (UTC)", "Options")
    for entry in firm_item.entries:
        said = options(entry)
        if said or entry.valid_until is not None:
            table.row(entry.item, until(entry.valid_until), said)
    return table


def _license(out: Console, use: LicenseUse) -> None:
    counts = use.counts
    container = counts.container if counts.present else Text(printable(f"{counts.container} (unplugged)"), LOUD)
    identity: dict[str, Cell] = {
        "#Firm Code": counts.firm_code,
        "#Product Code": counts.product_code,
        "Name": counts.text,
        "=CmContainer": container,
        "#Item": counts.item,
        "=Feature Map": _map(counts.feature_map),
    }
    numbers: dict[str, Cell] = {
        "#Total": counts.total,
        "#Available": counts.free,
        "#User Limit": f"{counts.user_limit} ({counts.borrowed})" if counts.borrowed else counts.user_limit,
        "#No User Limit": counts.no_user_limit,
        "#Exclusive": counts.exclusive,
        "#Station Share": counts.station_share,
    }
    ends: dict[str, Cell] = {}
    if counts.lingering_until is not None:
        ends |= {"#Lingering": counts.lingering, "~Lingering Until": instant(counts.lingering_until)}
    if counts.valid_until is not None:
        ends["~Valid Until"] = instant(counts.valid_until)
    if word := state(counts.state):
        ends["State"] = word
    whole = _one_row(identity | numbers | ends)
    for upper in [whole] if whole.natural <= out.width else map(_one_row, filter(None, (identity, numbers, ends))):
        print_table(out, upper)
    if use.accesses:
        lower = FoldingTable("#ID", "Client", "#Client Process ID", "Application", "~Access Mode", *TIMES)
        for access in use.accesses:
            lower.row(access.handle, *_client(access), _use_of(access, counts), *_times(access))
        print_table(out, lower, indent=2)
    out.print()


def _use_of(access: AccessInfo, counts: LicenseCount) -> str:
    """Say how an access uses its license, or until when that is borrowed."""
    if access.borrowed_until is not None:
        return f"Borrowed until {instant(access.borrowed_until)}"
    forced = " (forced)" if access.valid_until != counts.valid_until else ""  # it does not end with its license
    return _mode(access.mode) + forced


def _others(accesses: Iterable[AccessInfo]) -> FoldingTable:
    table = FoldingTable("#ID", "Client", "#Client Process ID", "Application", "~Access To", *TIMES)
    for access in accesses:
        table.row(access.handle, *_client(access), _target(access), *_times(access))
    return table


def _target(access: AccessInfo) -> str:
    """Say what an access without a license refers to."""
    match access.kind:
        case HandleKind.CONTAINER:
            return f"CmContainer {access.container}"
        case HandleKind.FIRM_ITEM:
            return f"Firm Code {access.firm_code} in {access.container}"
        case HandleKind.ENTRY:  # of a license that the server listed no more, or not yet
            return f"Firm Code {access.firm_code}, Product Code {access.product_code} in {access.container}"
        case other:
            return _mode(other)


def _client(access: AccessInfo) -> tuple[str | Text, int, str]:
    """Return the cells that tell who it is; a client that is cut off stands out."""
    client = access.client if access.attached else Text(printable(f"cut off: {access.client}"), "yellow")
    return client, access.pid, access.application


def _times(access: AccessInfo) -> tuple[str, str]:
    return instant(access.first_access), instant(access.last_access)


def _presence(container: ContainerInfo) -> str | Text:
    return "plugged in" if container.present else Text("unplugged", LOUD)


def _use(entry: EntryInfo) -> str | Text:
    if entry.unusable:
        return Text(printable(f"UNUSABLE: {entry.unusable}"), LOUD)
    return state(entry.state) or ("local only" if entry.local_only else "")


def _mode(name: str) -> str:
    return name.replace("_", " ").title()


def _map(feature_map: int | None) -> str:
    return "" if feature_map is None else f"0x{feature_map:08x}"


def _one_row(cells: dict[str, Cell]) -> FoldingTable:
    table = FoldingTable(*cells)
    table.row(*cells.values())
    return table


def print_table(out: Console, table: FoldingTable, indent: int = 0) -> None:
    """Print a table, so many columns from the left."""
    room = out.width
    out.width = max(room, table.fit(room - indent) + indent)  # what is still too wide the terminal continues, uncut
    out.print(Padding(table, (0, 0, 0, indent), expand=False), crop=False)
    out.width = room
