"""Law 7: the same changes give the same table. How changes become bytes and back, and a table becomes bytes.

A shortened history gives the same table too, but for the order of what has none: `facts` is what must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum

import msgspec
from msgspec import Struct

from cmserverd.core.changes import Change
from cmserverd.core.stock import Stock
from cmserverd.core.table import Table
from cmserverd.core.terms import Access, Allocation, KnownContainer, Lent, License, Product, Session


class Kept:
    """A journal in memory."""

    def __init__(self, changes: list[Change], position: int, time: int) -> None:
        self._changes = list(changes)
        self.position = position
        self.time = time
        self.ahead = 0

    def changes(self) -> list[Change]:
        """Tell all changes."""
        return self._changes


SLOTS = (*Stock.__slots__, *Table.__slots__)
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Change)


def replayed(changes: Iterable[Change]) -> Table:
    """Return the table that these changes give after each went through bytes, as through a journal."""
    table = Table()
    for change in changes:
        table.apply(_DECODER.decode(_ENCODER.encode(change)))
    return table


def dump(table: Table) -> bytes:
    """Return everything that a table consists of, each order and each shared object included, as bytes.

    It knows no field by name, so none can be forgotten: what has an identity gets a number and a line of its own, in
    the order in which it is met, and is named by that number from then on.
    """
    numbers: dict[int, int] = {}
    met: list[Struct] = []

    def plain(value: object) -> str:
        if isinstance(value, Struct):
            kind = type(value)
            if not kind.__struct_config__.frozen:
                if id(value) not in numbers:
                    numbers[id(value)] = len(met)
                    met.append(value)
                return f"#{numbers[id(value)]}"
            return f"{kind.__name__}({', '.join(plain(getattr(value, name)) for name in kind.__struct_fields__)})"
        if isinstance(value, Mapping):
            return f"{{{', '.join(f'{plain(key)}: {plain(one)}' for key, one in value.items())}}}"
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(plain, value))}]"
        assert value is None or isinstance(value, bool | int | str | bytes | Enum), type(value)
        return repr(value)

    lines = [f"{name} = {plain(getattr(table, name))}" for name in SLOTS]
    for value in met:  # grows while it is read
        fields = (f"{name}={plain(getattr(value, name))}" for name in type(value).__struct_fields__)
        lines.append(f"#{numbers[id(value)]} = {type(value).__name__}({', '.join(fields)})")
    return "\n".join(lines).encode()


def facts(table: Table) -> bytes:
    """Return all that a table consists of, but for `License.number` and the order within mappings.

    What has an identity is named by what names it for ever. Lists keep their order: theirs has a meaning.
    """
    met: dict[str, Struct] = {}

    def plain(value: object) -> str:
        if isinstance(value, Struct):
            name = _name(value)
            if name is not None:
                assert met.setdefault(name, value) is value
                return name
            return _fields(value, plain)
        if isinstance(value, Mapping):
            return f"{{{', '.join(sorted(f'{plain(key)}: {plain(one)}' for key, one in value.items()))}}}"
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(plain, value))}]"
        return repr(value)

    lines = [f"{name} = {plain(getattr(table, name))}" for name in SLOTS if name != "next_license"]
    seen = 0
    while seen < len(met):
        name, value = list(met.items())[seen]
        lines.append(f"{name} = {_fields(value, plain)}")
        seen += 1
    return "\n".join(sorted(lines)).encode()


def _name(value: Struct) -> str | None:
    """Return what names an object of the table for ever; None for a value, and for what hangs in one place only."""
    match value:
        case License() | Allocation() | Session():
            return f"{type(value).__name__} {value.id}"
        case Access():
            return f"Access {value.handle}"
        case Lent():
            return f"Lent {value.number}"
        case Product():
            return f"Product {value.firm_code}:{value.product_code}"
        case KnownContainer():
            return f"Container {value.contents.id}"
        case _:
            return None


def _fields(value: Struct, plain: Callable[[object], str]) -> str:
    names = [name for name in type(value).__struct_fields__ if not (name == "number" and isinstance(value, License))]
    return f"{type(value).__name__}({', '.join(f'{name}={plain(getattr(value, name))}' for name in names)})"
