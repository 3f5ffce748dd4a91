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
    activation = 2026-01-01T00:00:00Z
    expiration = 2027-01-01T00:00:00Z
    usage = { seconds = 2592000 } # valid for so long after its first use
    maintenance = { start = 2026-01-01T00:00:00Z, end = 2027-01-01T00:00:00Z }
    units = { count = 100, generation = 1 }   # another generation: the container counts from 0 again
    linger = 120                  # seconds for which a released license stays with its station
    borrow = { seconds = 2592000, licenses = 1 }   # for how long, and how many at a time, may be taken along
    minimum_runtime = "0.2"       # the oldest server that may hand it out
    protected_data = "what applications read"
    user_data = "likewise"
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from drivers import tables, toml
from drivers.container import (
    EVERY_LICENSE,
    Allowance,
    Borrowing,
    Container,
    ContainerKind,
    FirmItem,
    Period,
    ProductItem,
    QuantityFlag,
    Runtime,
    check_text,
    container_id,
    mask_and_serial,
)
from drivers.driver import Faulty, NoPermission, Vanished

FILE_LIMIT: Final = 256 * 1024
"""The most bytes of a file that is read at all: several images, generously commented."""


def _by(check: Callable[[str], object]) -> Meta:
    """Describe a text by a check whose ValueError has words for people."""

    def explain(text: str) -> None:
        try:
            check(text)
        except ValueError as error:
            raise tables.Explained(str(error)) from None

    return tables.checked("a text", explain)


_U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
_Number = Annotated[int, Meta(ge=1, le=2**32 - 1)]
_Date = Annotated[datetime, Meta(tz=True)]
_Version = Annotated[
    str,
    Meta(
        pattern=r"^(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})$",
        extra={"expected": 'a version of two numbers, as in "0.2"'},
    ),
]
_Data = Annotated[str, Meta(max_length=64)]  # 256 bytes of UTF-8 at most
_Text = Annotated[str, _by(check_text)]
_Id = Annotated[str, _by(mask_and_serial)]
_Mode = Literal["user_limit", "no_user_limit", "exclusive", "station_share"]

_DENIALS: Final[dict[_Mode, QuantityFlag]] = {
    "user_limit": QuantityFlag.DENY_USER_LIMIT,
    "no_user_limit": QuantityFlag.DENY_NO_USER_LIMIT,
    "exclusive": QuantityFlag.DENY_EXCLUSIVE,
    "station_share": QuantityFlag.DENY_STATION_SHARE,
}


class _Usage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    seconds: _U32
    generation: _U32 = 0


class _Units(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    count: _U32
    generation: _U32 = 0


class _Borrow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    seconds: _Number
    licenses: _Number = EVERY_LICENSE


class _Maintenance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    start: _Date
    end: _Date


class _Product(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    item: _Number
    product_code: _U32
    text: _Text = ""
    quantity: _U32 = 1
    denied: tuple[_Mode, ...] = ()
    local_only: bool = False
    feature_map: _U32 | None = None
    activation: _Date | None = None
    expiration: _Date | None = None
    usage: _Usage | None = None
    maintenance: _Maintenance | None = None
    units: _Units | None = None
    linger: _U32 = 0
    borrow: _Borrow | None = None
    minimum_runtime: _Version | None = None
    protected_data: _Data = ""
    user_data: _Data = ""

    def item_of_container(self) -> ProductItem:
        flags = QuantityFlag.LOCAL_ONLY if self.local_only else QuantityFlag.NONE
        for mode in self.denied:
            flags |= _DENIALS[mode]
        return ProductItem(
            self.item,
            self.product_code,
            self.text,
            self.quantity,
            flags,
            self.feature_map,
            activation=_seconds(self.activation),
            expiration=_seconds(self.expiration),
            usage=Allowance(self.usage.seconds, self.usage.generation) if self.usage else None,
            maintenance=Period(_instant(self.maintenance.start), _instant(self.maintenance.end))
            if self.maintenance
            else None,
            units=Allowance(self.units.count, self.units.generation) if self.units else None,
            linger=self.linger,
            borrowing=Borrowing(self.borrow.seconds, self.borrow.licenses) if self.borrow else None,
            minimum_runtime=Runtime(*map(int, self.minimum_runtime.split("."))) if self.minimum_runtime else None,
            protected_data=self.protected_data.encode(),
            user_data=self.user_data.encode(),
        )


def _instant(date: datetime) -> int:
    return int(date.timestamp())


def _seconds(date: datetime | None) -> int | None:
    return None if date is None else _instant(date)


class _FirmItem(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    firm_code: _Number
    text: _Text = ""
    update_counter: _U32 = 0
    products: tuple[_Product, ...] = ()

    def __post_init__(self) -> None:
        _refuse_repeated("item", [product.item for product in self.products])


class _Container(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: _Id
    text: _Text = ""
    firm_items: tuple[_FirmItem, ...] = ()

    def __post_init__(self) -> None:
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
        text, table = toml.read(octets)
    except toml.Unreadable as error:
        msg = f"{source}:{error}"
        raise Faulty(msg) from None
    form: type[_File | _Container] = _File if "containers" in table else _Container
    try:
        described = tables.convert(table, form)
    except tables.Fault as fault:
        msg = f"{source}:{toml.line_of(text, fault.key)}: {fault}"
        raise Faulty(msg) from None
    containers = described.containers if isinstance(described, _File) else (described,)
    return tuple(each.container(kind) for each in containers)
