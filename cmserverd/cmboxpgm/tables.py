"""The listings as tables, for people. Nothing is cut off: what is too long goes on in the next line."""

from __future__ import annotations

import os
from typing import Final, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cmserverd.cmboxpgm.listing import Document, instant, whose, words

WIDTH: Final = 160
"""Columns where there is no terminal and no `COLUMNS`."""

LEAST: Final = 72
"""Columns below which a table gets no narrower: what is still too wide the terminal continues."""

LOUD: Final = "bold red"


class _Console(Console):
    """A console that leaves it to the command line what happens when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(stream: TextIO) -> Console:
    """Return what prints on a stream: as wide as the terminal, or as `COLUMNS` says; text is never markup."""
    columns = os.environ.get("COLUMNS", "")
    width = None if stream.isatty() else int(columns) if columns.isdecimal() and int(columns) else WIDTH
    return _Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def show_container(out: Console, found: Document) -> None:
    """Print a container."""
    _title(out, found["id"], found["kind"], found["text"])
    _line(out, f"public key {found['public_key']}" if found["public_key"] else "without a key: it cannot be programmed")
    floor = instant(found["time_floor"]) if found["time_floor"] else "none yet"
    asks = ", asks for a certified time" if found["asks_for_time"] else ""
    _line(out, f"state {found['state']}, latest time {floor}{asks}")
    _line(out, whose(found["clock"]))
    for loan in found["loans"]:
        what = f"firm code {loan['firm_code']}, item {loan['item']}"
        _line(out, f"borrowed until {instant(loan['end'])}: {loan['quantity']} of {what}, by holder {loan['holder']}")
    _firm_items(out, found["firm_items"])


def show_enrolled(out: Console, found: list[Document]) -> None:
    """Print a ledger."""
    for one in found:
        _title(out, one["id"], one["kind"], "")
        _line(out, f"public key {one['public_key']}")
        _line(out, f"seen in state {one['state']}")
        _firm_items(out, one["firm_items"])
    _print(out, f"Result: {len(found)} CmContainer(s) enrolled.")


def show_update(out: Console, found: Document) -> None:
    """Print what an update brings, and to whom."""
    _title(out, found["container"], found["kind"], "", "Update for ")
    _line(out, f"public key {found['public_key']}")
    if found["time"] is not None:
        _line(out, f"certified time {instant(found['time'])}, of licensor {found['licensor']}")
        return
    builds = "on whatever the container has" if found["base"] is None else f"on update counter {found['base']}"
    _line(out, f"builds {builds}")
    _firm_items(out, [found["firm_item"]])


def _title(out: Console, name: str, kind: str, text: str, before: str = "") -> None:
    _print(out, Text(before + "CmContainer " + ", ".join(filter(None, (name, kind, text))), "bold"))


def _firm_items(out: Console, found: list[Document]) -> None:
    for one in found:
        name = f" {one['text']}" if one["text"] else ""
        _line(out, f"Firm Code {one['firm_code']}{name}, update counter {one['update_counter']}")
        if one["unusable"]:
            _line(out, Text(f"UNUSABLE: {one['unusable']}", LOUD))
        elif one["licensor"] is None:
            _line(out, Text("UNSIGNED", LOUD))
        else:
            _line(out, f"licensor {one['licensor']}")
        if one["items"]:
            _print_table(out, _items(one["items"]))
        elif not one["unusable"]:
            _line(out, "no items")
        _print(out, "")
    if not found:
        _line(out, "empty")
        _print(out, "")


def _print_table(out: Console, table: Table) -> None:
    room = out.width
    out.width = max(room, LEAST)
    out.print(Padding(table, (0, 0, 0, 2), expand=False), crop=False)
    out.width = room


def _items(found: list[Document]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in ("Item", "Product Code"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("Name", overflow="fold")
    table.add_column("License Quantity", justify="right")
    table.add_column("Options", overflow="fold")
    for one in found:
        options = Text("\n".join(words(one)))
        if one["unusable"]:
            options = Text(f"UNUSABLE: {one['unusable']}", LOUD)
        table.add_row(str(one["item"]), str(one["product_code"]), Text(one["text"]), str(one["quantity"]), options)
    return table


def _line(out: Console, text: str | Text) -> None:
    _print(out, Text("  ") + (text if isinstance(text, Text) else Text(text)))


def _print(out: Console, text: str | Text) -> None:
    out.print(text if isinstance(text, Text) else Text(text), soft_wrap=True)
