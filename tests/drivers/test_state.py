"""The state as the image has it: a whole one, and the changes behind it; nothing else is believed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from hashlib import sha256

import pytest
from msgspec.structs import replace

from drivers import image, keys, state
from drivers.container import LATEST, Loan
from drivers.driver import ImageError
from drivers.firm_item import encode_owner
from drivers.image import STATE_LIMIT
from drivers.state import ItemState, Receipt, State
from tests.drivers.samples import CONTAINER_KEY, EVERYBODY, OWNER, SIGNING, STRANGER_KEY, TRUST, demo_container

DEMO = demo_container()
UNSIGNED = replace(OWNER, key_algorithm=0, key=bytes(32))
WHOLE, CHANGE = b"cmstate\0\1", b"cmchange\0\2"


def name(number: int) -> bytes:
    """Return a key, or a loan's id."""
    return number.to_bytes(16, "big")


def loan(number: int, end: int = 9) -> Loan:
    """Return a loan."""
    return Loan(name(number), 600010, 1, 1, end, bytes(32))


SPENT = State(
    5,
    1_800_000_000,
    (ItemState(600010, 1, 40, 1_700_000_000), ItemState(600010, 2, 1)),
    (loan(1), loan(2), loan(3)),
    tuple(Receipt(name(n), 600010, 1, 20, 60) for n in range(64)),
    bytes(range(32)),
    1_799_999_999,
)
ENCODED = state.encode(SPENT, STATE_LIMIT, OWNER, CONTAINER_KEY)


def record(
    sequence: int = 6,
    items: bytes = b"",
    loans: bytes = b"",
    receipts: bytes = b"",
    struck: bytes = b"",
    floor: int = 1_800_000_001,
) -> bytes:
    """Return a record as the page has it, without its seal."""
    counts = (len(items) // 20, len(loans) // 68, len(receipts) // 32, len(struck) // 16)
    head = struct.pack("<QqHHHH32sq", sequence, floor, *counts, bytes(32), 0)
    return head + items + loans + receipts + struck


def after(before: bytes) -> bytes:
    """Return what is before what is signed of a change that follows these records, from the whole state on."""
    return CHANGE + sha256(before).digest()


def sealed(octets: bytes, prefix: bytes = after(ENCODED), private: bytes = CONTAINER_KEY) -> bytes:
    """Return a record with the seal of the container's key; a change follows the whole state, if not another."""
    signed = octets + b"\1"
    covered = signed + keys.sign(private, prefix + encode_owner(OWNER) + signed)
    return covered + struct.pack("<I", zlib.crc32(covered))


FOLLOWING = sealed(record())


# --- changes ----------------------------------------------------------------------------------------------------------


def test_a_change_is_laid_over_what_was_before() -> None:
    """Counters take their places, a loan goes to the end, what is struck off is gone, and so is the oldest receipt."""
    change = record(
        items=struct.pack("<IIIqIIIq", 600010, 2, 3, 0, 600010, 3, 1, 7),
        loans=struct.pack("<16sIIIq32s", name(1), 600010, 1, 1, 99, bytes(32)),
        receipts=struct.pack("<16sIIII", name(64), 600010, 2, 2, 9),
        struck=name(2),
    )
    again = record(7, struck=name(3) + name(77))
    read = state.decode(ENCODED + sealed(change) + sealed(again, after(ENCODED + sealed(change))), OWNER)
    assert read == State(
        7,
        1_800_000_001,
        (ItemState(600010, 1, 40, 1_700_000_000), ItemState(600010, 2, 3), ItemState(600010, 3, 1, 7)),
        (loan(1, 99),),
        (*SPENT.receipts[1:], Receipt(name(64), 600010, 2, 2, 9)),
    )


def test_without_changes_the_whole_state_is_as_it_stands() -> None:
    """As it was written; with a key or without."""
    assert state.decode(ENCODED, OWNER) == SPENT
    assert state.decode(state.encode(SPENT, STATE_LIMIT, UNSIGNED), UNSIGNED) == SPENT
    assert image.parse(image.encode(DEMO, SPENT, SIGNING), TRUST).state == SPENT
    assert image.decode(image.encode(DEMO, SPENT), EVERYBODY).firm_items[0].products[0].units_used == 40


@pytest.mark.parametrize(
    ("octets", "sentence"),
    [
        (b"", "the state ends too early"),
        (FOLLOWING, "signature of the container's state is not its own"),
        (sealed(record(struck=name(1)), WHOLE), "a whole state strikes loans off"),
        (ENCODED + FOLLOWING[:-1], "the state ends too early"),
        (ENCODED + FOLLOWING[:70], "the state ends too early"),
        (ENCODED + FOLLOWING[:20], "the state ends too early"),
        (ENCODED + FOLLOWING + bytes(3), "the state ends too early"),
        (ENCODED + sealed(record(), WHOLE), "signature of the container's state is not its own"),
        (ENCODED + sealed(record(), private=STRANGER_KEY), "signature of the container's state is not its own"),
        (ENCODED + sealed(record(7)), "state 7 comes after state 5"),
        (ENCODED + sealed(record(5)), "state 5 comes after state 5"),
        (ENCODED + FOLLOWING + sealed(record(), after(ENCODED + FOLLOWING)), "state 6 comes after state 6"),
        (ENCODED + FOLLOWING + sealed(record(7)), "signature of the container's state is not its own"),
        (ENCODED + sealed(record(), CHANGE + ENCODED[-68:-4]), "signature of the container's state is not its own"),
        (ENCODED + sealed(record(floor=LATEST + 1)), "a time that no license time can be"),
        (ENCODED[:16] + b"\xff" * 8 + ENCODED[24:], "the state ends too early"),
    ],
)
def test_what_is_no_state(octets: bytes, sentence: str) -> None:
    """A change that is missing, torn, of somebody else, or of another kind is not passed over."""
    with pytest.raises(ImageError, match=sentence):
        state.decode(octets, OWNER)


def test_every_bit_of_a_change_counts() -> None:
    """Wherever it is turned; and if its checksum is made right again."""
    change = sealed(record(loans=struct.pack("<16sIIIq32s", name(9), 600010, 1, 1, 99, bytes(32))))
    for position in range(len(change)):
        damaged = bytearray(change)
        damaged[position] ^= 0x10
        with pytest.raises(ImageError):
            state.decode(ENCODED + bytes(damaged), OWNER)
        if position < len(change) - 4:
            damaged[-4:] = struct.pack("<I", zlib.crc32(damaged[:-4]))
            with pytest.raises(ImageError):
                state.decode(ENCODED + bytes(damaged), OWNER)


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instant", [-1, LATEST + 1, 2**63 - 1])
@pytest.mark.parametrize(
    "impossible",
    [
        lambda instant: State(1, instant),
        lambda instant: State(1, asked=instant),
        lambda instant: State(1, items=(ItemState(600010, 1, 0, instant),)),
        lambda instant: State(1, loans=(Loan(bytes(16), 600010, 1, 1, instant, bytes(32)),)),
    ],
)
def test_a_time_that_cannot_be_is_damage(impossible: Callable[[int], State], instant: int) -> None:
    """Anybody can make a container: one that says it is after the year 9999 must not reach anybody's clock."""
    octets = state.encode(impossible(instant), STATE_LIMIT, UNSIGNED)
    with pytest.raises(ImageError, match="a time that no license time can be"):
        state.decode(octets, UNSIGNED)
    state.decode(state.encode(impossible(LATEST), STATE_LIMIT, UNSIGNED), UNSIGNED)


def test_a_state_that_does_not_fit_is_refused() -> None:
    """There is room for 250 loans and 64 counters, beside all receipts; not for one counter more."""
    items = tuple(ItemState(600010, reference) for reference in range(1, 66))
    full = State(1, 0, items[:64], tuple(map(loan, range(1, 251))), SPENT.receipts)
    assert image.parse(image.encode(DEMO, full), EVERYBODY).state == full
    with pytest.raises(ImageError, match="it has room for 20411"):
        image.encode(DEMO, replace(full, items=items))


def test_a_state_that_cannot_be_written_is_refused() -> None:
    """A number beyond its field gives a sentence, not a struct error."""
    with pytest.raises(ImageError, match="state cannot be written"):
        image.encode(DEMO, State(-1))


# --- forgeries --------------------------------------------------------------------------------------------------------


def chain(length: int) -> list[bytes]:
    """Return a whole state, and so many changes behind it."""
    records = [ENCODED]
    for number in range(length):
        records.append(sealed(record(6 + number, struck=name(number)), after(b"".join(records))))
    return records


def repaired(octets: bytes) -> bytes:
    """Return a record that was altered, with its checksum made right; its signature stays."""
    return octets[:-4] + struct.pack("<I", zlib.crc32(octets[:-4]))


def test_one_signature_is_for_all_records_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is altered before the last record, or taken out: its checksum is right, and the last one tells."""
    records = chain(5)
    assert state.decode(b"".join(records), OWNER).sequence == 10
    for which, each in enumerate(records[:-1]):
        for at in (8, 24, len(each) - 70, len(each) - 30):
            forged = repaired(each[:at] + bytes([each[at] ^ 1]) + each[at + 1 :])
            with pytest.raises(ImageError):
                state.decode(b"".join([*records[:which], forged, *records[which + 1 :]]), OWNER)
    verify, verified = keys.verify, 0

    def counted(key: bytes, signature: bytes, message: bytes) -> bool:
        nonlocal verified
        verified += 1
        return verify(key, signature, message)

    monkeypatch.setattr(keys, "verify", counted)
    assert state.decode(b"".join(records), OWNER).sequence == 10
    assert verified == 1


def test_a_record_that_its_container_signed_after_others_is_none_of_these() -> None:
    """One of two futures does not go on with the other, whose records have the same numbers."""
    one, other = chain(3), [ENCODED]
    for number in range(3):
        other.append(sealed(record(6 + number, struck=name(9 + number)), after(b"".join(other))))
    assert state.decode(b"".join(other), OWNER).sequence == 8
    for which in (2, 3):
        with pytest.raises(ImageError, match="signature of the container's state is not its own"):
            state.decode(b"".join([*one[:which], *other[which:]]), OWNER)


def test_who_has_no_key_has_no_signature() -> None:
    """In none of the records: else a signature could be thought to say something."""
    whole = state.encode(SPENT, STATE_LIMIT, UNSIGNED)
    for signature in (bytes(64), bytes(63) + b"\1"):
        covered = record() + b"\0" + signature
        octets = whole + covered + struct.pack("<I", zlib.crc32(covered))
        last = record(7) + bytes(65)
        octets += last + struct.pack("<I", zlib.crc32(last))
        if any(signature):
            with pytest.raises(ImageError, match="signature of the container's state is not its own"):
                state.decode(octets, UNSIGNED)
        else:
            assert state.decode(octets, UNSIGNED).sequence == 7
