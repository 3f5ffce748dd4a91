"""A container that lends, made of keys alone: it signs certificates, and can sign wrong ones."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct, field

from protocol import certificate, signed
from protocol.loans import Loans
from protocol.messages import Borrow, Borrowed, GiveBack
from protocol.proof import Wanted
from protocol.terms import Station

NOW: Final = 1_800_000_000
DAY: Final = 86_400
FIRM: Final = 600010
CHARTS: Final = 14
ITEM: Final = 2
HOME: Final = Station("desk-4")
WANTED: Final = Wanted(FIRM, CHARTS)
FEATURES, ACTIVATION, EXPIRATION, USAGE, MAINTENANCE = range(4, 9)


def option(tag: int, layout: str, *values: int) -> bytes:
    """Return a critical option of a product item."""
    value = struct.pack(layout, *values)
    return struct.pack("<HH", 0x8000 | tag, len(value)) + value


class Lender(Struct):
    """A container with one item that anybody may borrow; `options` are that item's."""

    options: bytes = b""
    licensor: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    container: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    serial: int = 7

    @property
    def public(self) -> bytes:
        """The licensor's public key."""
        return self.licensor.public_key().public_bytes_raw()

    @property
    def id(self) -> str:
        """The container's id."""
        return f"3-{self.serial}"

    @property
    def owner(self) -> bytes:
        """The bytes that name the container."""
        return struct.pack("<HIBB", 3, self.serial, 1, 1) + self.container.public_key().public_bytes_raw()

    @property
    def firm_item(self) -> bytes:
        """The firm item as it is signed."""
        item = struct.pack("<IIH", ITEM, CHARTS, len(self.options)) + self.options
        return b"cmfirm\0\1" + self.owner + struct.pack("<II", FIRM, 4) + b"\5\0Works" + struct.pack("<H", 1) + item

    def lend(self, asked: Borrow, home: Station = HOME, *, now: int = NOW, **said: Any) -> Borrowed:
        """Lend what is asked for; `said` is what the certificate says instead."""
        says = {
            "owner": self.owner,
            "id": asked.id,
            "station": certificate.digest(home),
            "holder": asked.holder,
            "firm_code": FIRM,
            "product_code": CHARTS,
            "item": ITEM,
            "update_counter": 4,
            "quantity": 1,
            "start": now,
            "end": now + asked.seconds,
            **said,
        }
        message = b"cmsign\0\1\4" + says["owner"] + struct.pack("<16s32s32sIIIIIqq", *list(says.values())[1:])
        return self.sign(message, asked.seconds + now)

    def sign(self, message: bytes, end: int = NOW + DAY, firm_item: bytes | None = None) -> Borrowed:
        """Return an answer with these bytes, both signed."""
        firm = self.firm_item if firm_item is None else firm_item
        signatures = self.container.sign(message), self.licensor.sign(firm)
        return Borrowed(self.id, ITEM, 12, end, message, signatures[0], firm, signatures[1])

    def takes(self, receipt: GiveBack, holder: bytes) -> bool:
        """Whether a receipt is signed by this holder, for this container."""
        try:
            Ed25519PublicKey.from_public_bytes(holder).verify(receipt.signature, signed.receipt(self.owner, receipt.id))
        except InvalidSignature:
            return False
        return receipt.container == self.id


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        """Read it."""
        return self.now + 0.5


def loans(directory: Path, clock: Clock | None = None, station: Station = HOME) -> Loans:
    """Return the loans in a directory."""
    return Loans(directory / "loans", station=station, clock=clock or Clock())
