"""The files of borrowing: each is read as it was written, or told in one sentence for what it is."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.loan_files import GRANT, KEPT, LIMIT, RECEIPT, REQUEST, Kept, Kind, Unreadable
from protocol.messages import Borrow, GiveBack, Lend, LoanId
from protocol.terms import Client
from tests.protocol.lender import CHARTS, DAY, FIRM, HOME, NOW, Lender

ID = LoanId(b"i" * 16)
ASKED = Borrow(id=ID, holder=b"h" * 32, seconds=DAY, time=NOW, firm_code=FIRM, product_code=CHARTS)
LENT = Lender().lend(ASKED)
FILES: dict[str, tuple[Kind[Any], Any]] = {
    "kept": (KEPT, Kept(b"k" * 32, ASKED, "alpha:22350", LENT)),
    "asked": (KEPT, Kept(b"k" * 32, ASKED)),
    "request": (
        REQUEST,
        Lend(
            id=ID,
            holder=b"h" * 32,
            seconds=DAY,
            client=Client("WIBU", "fs", 7),
            station=HOME,
            firm_code=FIRM,
            product_code=CHARTS,
        ),
    ),
    "grant": (GRANT, LENT),
    "receipt": (RECEIPT, GiveBack("3-7", ID, b"s" * 64)),
}

every_file = pytest.mark.parametrize(("kind", "value"), FILES.values(), ids=FILES.keys())


def sealed(kind: Kind[Any], body: bytes) -> bytes:
    """Return a file with this body and the right hash."""
    head = struct.pack("<7sBBI", b"cmloan\0", kind._number, 1, len(body))
    return head + body + hashlib.sha256(head + body).digest()


@every_file
def test_read_as_written(kind: Kind[Any], value: Any) -> None:
    """All of it."""
    assert kind.decode(kind.encode(value)) == value


@every_file
def test_for_another(kind: Kind[Any], value: Any) -> None:
    """Who mistakes one file for another is told which it is."""
    others: list[Kind[Any]] = [each for each in (KEPT, REQUEST, GRANT, RECEIPT) if each is not kind]
    for other in others:
        with pytest.raises(Unreadable, match=f"is no {other.name}, but a {kind.name}"):
            other.decode(kind.encode(value))


@every_file
def test_damage(kind: Kind[Any], value: Any) -> None:
    """Each byte counts, and each length."""
    octets = kind.encode(value)
    for at in range(len(octets)):
        with pytest.raises(Unreadable):
            kind.decode(octets[:at])
        with pytest.raises(Unreadable):
            kind.decode(octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :])
    with pytest.raises(Unreadable, match="is damaged: it has"):
        kind.decode(octets + b"\0")


@pytest.mark.parametrize(
    ("octets", "told"),
    [
        (b"", "is no receipt of a return"),
        (b"cmrequest of a container", "is no receipt of a return"),
        (b"cmloan\0\4", "is damaged: it is too short"),
        (bytes(LIMIT + 1), f"has more than {LIMIT} bytes"),
        (b"cmloan\0\4\2" + bytes(40), "is of a version that this software does not know"),
        (b"cmloan\0\x09\1" + bytes(40), "but a file of a newer version"),
        (sealed(RECEIPT, b"\x80"), "is no receipt of a return: Object missing required field `container`"),
        (sealed(RECEIPT, b""), "is no receipt of a return: "),
        (sealed(RECEIPT, b"\x80\x80"), "is no receipt of a return: "),
        (sealed(RECEIPT, b"\x91" * 100_000), "is no receipt of a return: "),
        (sealed(RECEIPT, b"\x81\xa9container\xa3\xff-7"), "is no receipt of a return: 'utf-8' codec"),
        (sealed(RECEIPT, b"\x81\xa1x" + b"\x91" * 100_000 + b"\xc0"), "is no receipt of a return: "),
        (
            sealed(RECEIPT, msgspec.msgpack.encode({"container": "../x", "id": bytes(16), "signature": bytes(64)})),
            r"is no receipt of a return: Expected `str` matching regex",
        ),
        (
            sealed(RECEIPT, msgspec.msgpack.encode({"container": "3-7", "id": bytes(15), "signature": bytes(64)})),
            r"is no receipt of a return: Expected `bytes` of length >= 16",
        ),
    ],
)
def test_what_is_no_receipt(octets: bytes, told: str) -> None:
    """It says why, and nothing of it is believed."""
    with pytest.raises(Unreadable, match=told):
        RECEIPT.decode(octets)


@given(st.binary(max_size=300))
def test_any_bytes(octets: bytes) -> None:
    """There is no other error than the one, even where the hash is right."""
    kinds: tuple[Kind[Any], ...] = (KEPT, REQUEST, GRANT, RECEIPT)
    for kind in kinds:
        with pytest.raises(Unreadable):
            kind.decode(octets)
        with pytest.raises(Unreadable):
            kind.decode(sealed(kind, octets))
