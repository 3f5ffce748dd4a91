"""Containers described in TOML: what the virtual driver reads, the embedded dongle is filled with, and tools write.

One container a file, or several in an array `containers`:

    id = "3-3448482"
    text = "Demo"

    [[firm_items]]
    firm_code = 600010
    text = "Chart Works"

    [[firm_items.products]]
    item = 1                      # tells the firm item's entries apart; never give it to another
    product_code = 14
    text = "Chart Processing"
    quantity = 2                  # licenses; 0 = for the local machine only
    denied = ["exclusive"]        # user_limit, no_user_limit, exclusive, station_share
    local_only = false
    feature_map = 0x3             # 32 feature bits; leave it out for none
"""

from __future__ import annotations

import re
import stat
from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from drivers import toml
from drivers.container import (
    Container,
    ContainerKind,
    FirmItem,
    ProductItem,
    QuantityFlag,
    check_text,
    container_id,
    mask_and_serial,
)
from drivers.driver import Faulty, NoPermission, Vanished

FILE_LIMIT: Final = 256 * 1024
"""The most bytes of a file that is read at all: several images, generously commented."""

_U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
_Number = Annotated[int, Meta(ge=1, le=2**32 - 1)]
_Mode = Literal["user_limit", "no_user_limit", "exclusive", "station_share"]

_DENIALS: Final[dict[_Mode, QuantityFlag]] = {
    "user_limit": QuantityFlag.DENY_USER_LIMIT,
    "no_user_limit": QuantityFlag.DENY_NO_USER_LIMIT,
    "exclusive": QuantityFlag.DENY_EXCLUSIVE,
    "station_share": QuantityFlag.DENY_STATION_SHARE,
}


class _Product(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    item: _Number
    product_code: _U32
    text: str = ""
    quantity: _U32 = 1
    denied: tuple[_Mode, ...] = ()
    local_only: bool = False
    feature_map: _U32 | None = None

    def __post_init__(self) -> None:
        check_text(self.text)

    def item_of_container(self) -> ProductItem:
        flags = QuantityFlag.LOCAL_ONLY if self.local_only else QuantityFlag.NONE
        for mode in self.denied:
            flags |= _DENIALS[mode]
        return ProductItem(self.item, self.product_code, self.text, self.quantity, flags, self.feature_map)


class _FirmItem(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    firm_code: _Number
    text: str = ""
    update_counter: _U32 = 0
    products: tuple[_Product, ...] = ()

    def __post_init__(self) -> None:
        check_text(self.text)
        _refuse_repeated("item", [product.item for product in self.products])


class _Container(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str
    text: str = ""
    firm_items: tuple[_FirmItem, ...] = ()

    def __post_init__(self) -> None:
        mask_and_serial(self.id)
        check_text(self.text)
        _refuse_repeated("firm_code", [item.firm_code for item in self.firm_items])

    def container(self, kind: ContainerKind) -> Container:
        firm_items = tuple(
            FirmItem(
                item.firm_code,
                item.text,
                item.update_counter,
                tuple(product.item_of_container() for product in item.products),
            )
            for item in self.firm_items
        )
        return Container(container_id(*mask_and_serial(self.id)), kind, self.text, firm_items)


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    containers: tuple[_Container, ...]

    def __post_init__(self) -> None:
        _refuse_repeated("id", [container.id for container in self.containers])


def _refuse_repeated(key: str, values: list[Any]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            msg = f"{key} = {value} is there {count} times; give each its own"
            raise ValueError(msg)


def read(path: Path) -> bytes:
    """Return a description's bytes, for `parse`.

    Raises Vanished if there is no such file, NoPermission if it may not be read, Faulty if it is something else.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            msg = f"{path} is no file; name a TOML file that describes a container."
            raise Faulty(msg)
        with path.open("rb") as file:
            octets = file.read(FILE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        msg = f"There is no file {path}; put it there, or correct its name in the configuration."
        raise Vanished(msg) from None
    except PermissionError:
        msg = f"The file {path} may not be read; let the daemon's user read it and search its directories."
        raise NoPermission(msg) from None
    except OSError as error:
        msg = f"The file {path} cannot be read: {error.strerror}."
        raise Faulty(msg) from error
    if len(octets) > FILE_LIMIT:
        msg = f"The file {path} has more than {FILE_LIMIT} bytes; divide its containers among several files."
        raise Faulty(msg)
    return octets


def parse(octets: bytes, source: str, kind: ContainerKind) -> tuple[Container, ...]:
    """Return the described containers, as containers of this kind. `source` names the description in errors.

    Raises Faulty, with what would be right, if the description is wrong.
    """
    try:
        table = toml.loads(octets.decode())
    except ValueError as error:  # UnicodeDecodeError is one
        msg = f"{source} is not TOML: {error}."
        raise Faulty(msg) from None
    except RecursionError:
        msg = f"{source} is not TOML that describes containers: it is nested too deep."
        raise Faulty(msg) from None
    form: type[_File | _Container] = _File if "containers" in table else _Container
    try:
        described = msgspec.convert(table, form)
    except msgspec.ValidationError as error:
        raise _explained(source, str(error), form) from None
    containers = described.containers if isinstance(described, _File) else (described,)
    return tuple(each.container(kind) for each in containers)


_PLACE: Final = re.compile(r"(?P<what>.*) - at `\$(?P<path>[^`]*)`", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<word>.*)`", re.DOTALL)
_NO_MODE: Final = re.compile(r"Invalid enum value '(?P<word>.*)'", re.DOTALL)
_TABLES: Final[dict[str, type[Struct]]] = {"containers": _Container, "firm_items": _FirmItem, "products": _Product}


def _explained(source: str, complaint: str, form: type[Struct]) -> Faulty:
    """Return msgspec's complaint as a sentence that says where it is, and what would be right."""
    match = _PLACE.fullmatch(complaint)
    what, path = (match["what"], match["path"]) if match else (complaint, "")
    steps = re.findall(r"\.(\w+)(?:\[(\d+)\])?", path)
    where = source + "".join(f", {key} {int(index) + 1}" if index else f", {key}" for key, index in steps)
    if unknown := _UNKNOWN.fullmatch(what):
        table = _TABLES[steps[-1][0]] if steps else form
        return Faulty(
            f"{where}: there is no key {unknown['word']!a}; {_hint(unknown['word'], table.__struct_fields__)}"
        )
    if mode := _NO_MODE.fullmatch(what):
        return Faulty(f"{where}: there is no access mode '{mode['word']}'; {_hint(mode['word'], tuple(_DENIALS))}")
    return Faulty(f"{where}: {what[:1].lower()}{what[1:]}.")


def _hint(word: str, right: tuple[str, ...]) -> str:
    close = get_close_matches(word, right, n=1)
    return f"did you mean {close[0]!r}?" if close else f"what may stand here: {', '.join(right)}."
