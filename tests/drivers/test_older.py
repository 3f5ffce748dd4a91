"""Images of the first version, whose state is in two slots: what older containers hold is still read."""

from __future__ import annotations

import struct

import pytest

from drivers import image
from drivers.container import Loan
from drivers.driver import ImageError
from drivers.state import ItemState, Receipt, State
from tests.drivers import older
from tests.drivers.samples import EVERYBODY, SLOT_LENGTH, TRUST, demo_container, reseal

DEMO = demo_container()
ENCODED = older.encode(DEMO)
SLOTS_AT = len(ENCODED) - 2 * SLOT_LENGTH
SPENT = State(
    5,
    1_800_000_000,
    (ItemState(600010, 1, 40, 1_700_000_000),),
    (Loan(bytes(16), 600010, 1, 1, 9, bytes(32)),),
    (Receipt(bytes(16), 600010, 1, 20, 60),),
    bytes(range(32)),
    1_799_999_999,
)


def test_it_holds_what_it_held() -> None:
    """Header and firm items are those of the second version but for the numbers that say how the state lies."""
    assert image.decode(ENCODED, EVERYBODY) == DEMO
    assert struct.unpack_from("<8sHHI", ENCODED) == (b"CMIMAGE\n", 1, 76, len(ENCODED))
    found = image.parse(ENCODED, TRUST)
    assert (found.fixed_length, found.state_limit) == (SLOTS_AT, SLOT_LENGTH)


def test_every_single_bit_counts() -> None:
    """One flipped bit is refused; in one of the two state slots it is survived, since the other slot is there."""
    for position in range(len(ENCODED)):
        for bit in (0, 5):
            damaged = bytearray(ENCODED)
            damaged[position] ^= 1 << bit
            if position < SLOTS_AT:
                with pytest.raises(ImageError):
                    image.decode(bytes(damaged), EVERYBODY)
            else:
                assert image.decode(bytes(damaged), EVERYBODY) == DEMO


def test_trailing_bytes_are_refused() -> None:
    """Nothing may hang on at the end."""
    with pytest.raises(ImageError, match="it says that it has"):
        image.decode(ENCODED + b"\0", EVERYBODY)


def test_the_state_with_the_higher_number_counts() -> None:
    """Of two valid slots the later one is in force, in whichever place it lies."""
    for states in ((SPENT, State(4)), (State(4), SPENT)):
        parsed = image.parse(older.encode(DEMO, states), EVERYBODY)
        assert parsed.state == SPENT
        item = parsed.container.firm_items[0].products[0]
        assert (item.units_used, item.usage_start) == (40, 1_700_000_000)


def test_a_half_written_state_leaves_the_one_before() -> None:
    """A cut while a device writes a slot leaves the other slot in force."""
    octets = bytearray(older.encode(DEMO, (State(4), SPENT)))
    octets[-SLOT_LENGTH // 2 :] = bytes(SLOT_LENGTH // 2)
    assert image.parse(bytes(octets), EVERYBODY).state == State(4)


def test_without_a_valid_state_nothing_counts() -> None:
    """With both slots damaged the container is refused: what was used of it is not known."""
    octets = bytearray(ENCODED)
    octets[SLOTS_AT] ^= 1
    octets[-1] ^= 1
    with pytest.raises(ImageError, match="Neither of the container's two states can be used"):
        image.decode(bytes(octets), EVERYBODY)


def test_a_state_that_counts_more_than_it_holds_is_damage() -> None:
    """The counts in a slot are held against its bytes."""
    octets = bytearray(ENCODED)
    for slot in (SLOTS_AT, SLOTS_AT + SLOT_LENGTH):
        octets[slot + 16 : slot + 22] = b"\xff" * 6
    with pytest.raises(ImageError, match="a record of the state ends too early"):
        image.decode(reseal(bytes(octets)), EVERYBODY)


def test_a_state_signed_by_a_later_version_is_not_believed() -> None:
    """A slot whose signature this software can't check is not in force."""
    octets = bytearray(ENCODED)
    for slot in (SLOTS_AT, SLOTS_AT + SLOT_LENGTH):
        octets[slot + SLOT_LENGTH - 69] = 1
    with pytest.raises(ImageError, match="signed in another way than its key demands"):
        image.decode(reseal(bytes(octets)), EVERYBODY)


def test_bytes_in_the_empty_room_of_a_slot_are_damage() -> None:
    """Nothing hides behind the state."""
    octets = bytearray(ENCODED)
    for slot in (SLOTS_AT, SLOTS_AT + SLOT_LENGTH):
        octets[slot + 64] = 1
    with pytest.raises(ImageError, match="not empty"):
        image.decode(reseal(bytes(octets)), EVERYBODY)


@pytest.mark.parametrize("length", [0, 3, 4, 60, 68, 132])
def test_slots_too_short_for_a_state_are_damage(length: int) -> None:
    """A slot of any length is looked at without trust."""
    header_length = struct.unpack_from("<H", ENCODED, 10)[0]
    octets = bytearray(ENCODED[:SLOTS_AT] + bytes(2 * length))
    struct.pack_into("<I", octets, 12, len(octets))
    struct.pack_into("<I", octets, 62, length)
    with pytest.raises(ImageError, match="Neither of the container's two states"):
        image.decode(_with_header_sealed(octets, header_length), EVERYBODY)


def _with_header_sealed(octets: bytearray, header_length: int) -> bytes:
    return reseal(bytes(octets[:header_length]) + bytes(2 * SLOT_LENGTH))[:header_length] + bytes(
        octets[header_length:]
    )


def test_a_state_that_does_not_fit_is_refused() -> None:
    """A slot has room for a fixed number of counters, beside all its receipts."""
    receipts = tuple(Receipt(bytes([n]) * 16, 600010, 1, n, 0) for n in range(64))
    full = tuple(ItemState(600010, reference) for reference in range(1, 96))
    spent = State(1, 0, full, receipts=receipts)
    assert image.parse(older.encode(DEMO, (spent, State())), EVERYBODY).state == spent
    with pytest.raises(ImageError, match="it has room for"):
        older.encode(DEMO, (State(1, 0, (*full, ItemState(600010, 96)), receipts=receipts), State()))
