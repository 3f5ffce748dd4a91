"""What a proof is held against, to the second and to the bit, and bytes that are none; all of it properly signed."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol import proof
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import Access, AccessKey, Crypt, CryptAnswer

LICENSOR, CONTAINER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PUBLIC = LICENSOR.public_key().public_bytes_raw()
NOW = 1_800_000_000
OWNER = struct.pack("<HIBB", 3, 7, 1, 1) + CONTAINER.public_key().public_bytes_raw()
KEY = b"k" * 16
QUESTION = Crypt(5, b"n" * 16, 4, AccessKey(KEY))
ACCESS = Access(AccessKey(b"a" * 16), 600010, 14)
FEATURES, ACTIVATION, EXPIRATION, USAGE, MAINTENANCE = range(4, 9)


def option(tag: int, layout: str, *values: int) -> bytes:
    """Return a critical option."""
    value = struct.pack(layout, *values)
    return struct.pack("<HH", 0x8000 | tag, len(value)) + value


def firm_item(*options: bytes) -> bytes:
    """Return a firm item with one item of these options, behind one that nobody asks for."""
    both = ((1, 14, option(EXPIRATION, "<q", 1)), (2, 14, b"".join(options)))
    items = b"".join(struct.pack("<IIH", item, product, len(octets)) + octets for item, product, octets in both)
    return b"cmfirm\0\1" + OWNER + struct.pack("<II", 600010, 4) + b"\5\0Works" + struct.pack("<H", 2) + items


def message(*, time: int = NOW, units: int = 4, left: int = 6, start: int = 0) -> bytes:
    """Return what the container says of item 2."""
    said = (600010, 14, 2, 4, time, 5, KEY, units, left, start)
    return b"cmsign\0\2\2" + OWNER + b"\x10" + b"n" * 16 + struct.pack("<IIIIqQ16sIIq", *said)


def answer(firm: bytes, said: bytes) -> CryptAnswer:
    """Return both with their signatures."""
    return CryptAnswer(said, CONTAINER.sign(said), firm, LICENSOR.sign(firm))


def outcome(firm: bytes, said: bytes, access: Access = ACCESS) -> int:
    """Return the number with which a proof is refused, 0 if it is one."""
    try:
        proof.check(answer(firm, said), QUESTION, access, PUBLIC)
    except LicenseError as error:
        return error.number
    return 0


def believed(*options: bytes, access: Access = ACCESS, **said: Any) -> bool:
    """Whether an answer about an item of these options is a proof."""
    number = outcome(firm_item(*options), message(**said), access)
    assert number in {0, ErrorNumber.VERIFY_FAILED}
    return not number


def test_all_that_is_proven() -> None:
    """Each word of it is signed."""
    proven = proof.check(answer(firm_item(), message()), QUESTION, ACCESS, PUBLIC)
    assert proven == proof.Proof("3-7", 600010, 14, 2, 4, NOW, 4, 6, 0)
    unlimited = answer(firm_item(), message(units=0, left=2**32 - 1))
    assert proof.check(unlimited, replace(QUESTION, units=0), ACCESS, PUBLIC).units_left is None


@pytest.mark.parametrize(
    ("features", "wanted", "fits"),
    [(None, 0, True), (None, 1, False), (0, 1, False), (0b101, 0b100, True), (0b101, 0b110, False), (2, 2**31, False)],
)
def test_features(features: int | None, wanted: int, *, fits: bool) -> None:
    """Each bit that is wanted is signed."""
    options = [] if features is None else [option(FEATURES, "<I", features)]
    assert believed(*options, access=replace(ACCESS, feature_code=wanted)) == fits


@pytest.mark.parametrize(("released", "fits"), [(99, False), (100, True), (199, True), (200, False), (None, True)])
def test_maintenance(released: int | None, *, fits: bool) -> None:
    """From the first second on, up to and without the last; whoever does not say is not asked."""
    access = replace(ACCESS, release_date=released)
    assert believed(option(MAINTENANCE, "<qq", 100, 200), access=access) == fits
    assert believed(access=access)


@pytest.mark.parametrize(("date", "valid"), [(0, True), (1, False)])
def test_activation(date: int, *, valid: bool) -> None:
    """From this second on."""
    assert believed(option(ACTIVATION, "<q", NOW + date)) == valid


@pytest.mark.parametrize(("date", "valid"), [(0, False), (1, True)])
def test_expiration(date: int, *, valid: bool) -> None:
    """No longer at this second; whoever asks with force is told the same."""
    for force in (False, True):
        assert believed(option(EXPIRATION, "<q", NOW + date), access=replace(ACCESS, force=force)) == valid


@pytest.mark.parametrize(
    ("start", "valid"), [(0, False), (-1, False), (NOW - 60, False), (NOW - 59, True), (NOW, True), (NOW + 9, True)]
)
def test_usage(start: int, *, valid: bool) -> None:
    """It has begun, and is not over. It may begin later than now: a certified time has set the clock back."""
    assert believed(option(USAGE, "<II", 60, 1), start=start) == valid
    assert believed(start=start)


@pytest.mark.parametrize(
    ("pins", "fits"),
    [({"container": "3-7"}, True), ({"container": "3-8"}, False), ({"item": 2}, True), ({"item": 1}, False)],
)
def test_pins(pins: dict[str, Any], *, fits: bool) -> None:
    """Container and item are those that were asked for."""
    assert believed(access=replace(ACCESS, **pins)) == fits


def test_a_use_without_a_key() -> None:
    """It has zeros for its key, in the answer as in the question."""
    said = message(units=0).replace(KEY, bytes(16))
    question = Crypt(5, b"n" * 16)
    assert proof.check(answer(firm_item(), said), question, ACCESS, PUBLIC).units == 0
    with pytest.raises(LicenseError, match="another use"):
        proof.check(answer(firm_item(), message(units=0)), question, ACCESS, PUBLIC)


def test_an_answer_of_an_earlier_version() -> None:
    """It says nothing of the use."""
    old = message()[:-32].replace(b"cmsign\0\2", b"cmsign\0\1")
    with pytest.raises(LicenseError, match="no answer of this version"):
        proof.check(answer(firm_item(), old), QUESTION, ACCESS, PUBLIC)


@given(st.data())
def test_bytes_that_are_no_proof(data: st.DataObject) -> None:
    """However they are cut, or one of them changed, there is no other error than the one."""
    firm = firm_item(option(FEATURES, "<I", 1), option(USAGE, "<II", 60, 1), option(MAINTENANCE, "<qq", 100, 200))
    parts = [firm, message(start=NOW)]
    which = data.draw(st.sampled_from([0, 1]))
    octets = parts[which]
    at = data.draw(st.integers(0, len(octets) - 1))
    before, changed, after = octets[:at], bytes([octets[at] ^ 1]), octets[at + 1 :]
    parts[which] = data.draw(st.sampled_from([before, before + after, before + changed + after, octets + changed]))
    assert outcome(parts[0], parts[1]) in {0, ErrorNumber.VERIFY_FAILED}
