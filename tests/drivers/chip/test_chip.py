"""The chip's commands, by the bytes on the page: what it signs, what it counts, what it refuses."""

from __future__ import annotations

import struct
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers import image, keys
from drivers.chip import flash as flashes
from drivers.chip.banks import Damaged, Newer, program
from drivers.chip.blank import Blank
from drivers.chip.chip import Chip
from drivers.chip.flash import FIRST, SECTOR, Layout
from drivers.container import Container, FirmItem
from drivers.firm_item import encode_owner
from tests.drivers import older
from tests.drivers.chips import CONTAINER, FIRM, KEYS, NOW, TIMED, Flash, chip_on, flash_of, item, parsed
from tests.drivers.samples import CONTAINER_KEY, FIRM_CODE, OWNER, STRANGER_KEY

INFO, READ_IMAGE, SIGN, CONSUME, APPLY, TIME, NONCE = 1, 2, 16, 17, 18, 19, 20
BORROW, RETURN = 22, 23
OK, UNKNOWN_COMMAND, UNSUPPORTED, BAD_REQUEST, OUT_OF_RANGE = range(5)
NO_ITEM, NO_COUNTER, COUNTER_ZERO, UNDERRUN, NO_ROOM = range(6, 11)
LATEST = 253_402_300_799


@pytest.fixture
def chip() -> Chip:
    """Return a chip with three items: a plain one, one with ten units, one with five and an hour."""
    return chip_on(flash_of())


def use(chip: Chip, key: int, reference: int, delta: int, now: int = NOW, firm: int = FIRM_CODE) -> tuple[int, ...]:
    """Consume; return status, units left and usage start, once it is checked that it says what is used by now."""
    status, reply = chip.answer(CONSUME, struct.pack("<16sIIIq", key.to_bytes(16, "big"), firm, reference, delta, now))
    if status != OK:
        return (status,)
    left, start, used = struct.unpack("<IqI", reply)
    assert (used, start) == (item(chip, reference).units_used, item(chip, reference).usage_start)
    return status, left, start


def verified(reply: bytes) -> bytes:
    """Return what was signed, past prefix and owner, once it is verified."""
    signature, statement = reply[:64], reply[64:]
    assert keys.verify(OWNER.key, signature, statement)
    assert statement.startswith(b"cmsign\0" + (b"\2" if statement[8] == 2 else b"\1"))
    assert statement[9:49] == encode_owner(OWNER)
    return statement[8:9] + statement[49:]


# --- the image ------------------------------------------------------------------------------------------------------


def test_the_image_is_the_one_that_was_programmed(chip: Chip) -> None:
    """Byte for byte, in chunks; beyond the end, and more than a payload, is refused."""
    encoded = image.encode(CONTAINER, signing=KEYS)
    assert chip.answer(INFO, b"") == (OK, struct.pack("<BBHI", 1, 1, 4096, len(encoded)))
    read = b"".join(
        chip.answer(READ_IMAGE, struct.pack("<IH", at, min(4096, len(encoded) - at)))[1]
        for at in range(0, len(encoded), 4096)
    )
    assert read == encoded
    assert chip.answer(READ_IMAGE, struct.pack("<IH", len(encoded) - 1, 2)) == (OUT_OF_RANGE, b"")
    assert chip.answer(READ_IMAGE, struct.pack("<IH", 0, 4097)) == (OUT_OF_RANGE, b"")


def test_a_flash_that_holds_no_sound_image_is_told() -> None:
    """Empty, or with another chip's key, it does not start."""
    with pytest.raises(Damaged):
        chip_on(Flash())
    with pytest.raises(Damaged):
        Chip(flash_of(), STRANGER_KEY)


@pytest.mark.parametrize("layout", [FIRST, flashes.LATEST])
def test_a_flash_of_a_later_version_is_told(layout: Layout) -> None:
    """It is neither damaged nor empty: whoever took it for that would write over what it holds."""
    flash = Flash(layout)
    flash.write(0, (b"cmbank\0\3" + bytes(20)).ljust(SECTOR, b"\xff"))
    for start in (chip_on, Blank):
        with pytest.raises(Newer):
            start(flash)


def test_what_does_not_fit_into_the_chip_is_not_programmed() -> None:
    """Another version, a state of another length, or too many firm items."""
    with pytest.raises(ValueError, match=r"of version 2, .* of at most 20480 bytes"):
        program(Flash(), older.encode(CONTAINER, signing=KEYS))
    with pytest.raises(ValueError, match=r"of version 1, .* of at most 4096 bytes"):
        program(Flash(FIRST), older.encode(CONTAINER, slot_length=2048, signing=KEYS))
    octets = image.encode(CONTAINER, signing=KEYS)
    with pytest.raises(ValueError, match="57344 bytes before its state"):
        program(Flash(), octets[:58] + struct.pack("<I", 57_344) + octets[62:])


# --- signing ----------------------------------------------------------------------------------------------------------


def test_presence(chip: Chip) -> None:
    """The nonce and the sequence number, under the container's key."""
    nonce = bytes(range(32))
    status, reply = chip.answer(SIGN, b"\1" + nonce)
    assert (status, verified(reply)) == (OK, b"\1" + nonce + struct.pack("<Q", 1))


@pytest.mark.parametrize("length", [16, 32, 64])
def test_crypt(chip: Chip, length: int) -> None:
    """Product code and update counter are the image's, whatever anybody says."""
    nonce = bytes([length]) + bytes(range(length))
    status, reply = chip.answer(SIGN, b"\2" + nonce + struct.pack("<IIqQ16s", FIRM_CODE, 2, NOW, 2**40, b"k" * 16))
    expected = b"\2" + nonce + struct.pack("<IIIIqQ16sIIq", FIRM_CODE, 15, 2, 7, NOW, 2**40, b"k" * 16, 0, 10, 0)
    assert (status, verified(reply)) == (OK, expected)


def counts(chip: Chip, key: int, reference: int) -> tuple[int, ...]:
    """Return what a statement says of a use: what was taken, the units that were left then, the usage start."""
    asked = struct.pack("<IIqQ16s", FIRM_CODE, reference, 0, 1, key.to_bytes(16, "big"))
    return struct.unpack("<IIq", verified(chip.answer(SIGN, b"\2\x10" + bytes(16) + asked)[1])[-16:])


def test_crypt_tells_what_a_use_took() -> None:
    """By its key, as it was then, also after the power was gone; of no other key, and of no other item."""
    flash = flash_of()
    chip = chip_on(flash)
    use(chip, 1, 2, 3)
    use(chip, 2, 2, 4)
    use(chip, 3, 3, 1)
    use(chip, 0, 3, 0)
    for again in (chip, chip_on(flash)):
        assert counts(again, 1, 2) == (3, 7, 0)
        assert counts(again, 2, 2) == (4, 3, 0)
        assert counts(again, 9, 2) == counts(again, 0, 2) == counts(again, 3, 2) == (0, 3, 0)
        assert counts(again, 3, 3) == (1, 4, NOW)
        assert counts(again, 9, 1) == (0, 2**32 - 1, 0)


def test_crypt_never_signs_a_time_before_the_floor(chip: Chip) -> None:
    """Whoever turns the host's clock back does not get an expired license signed as valid."""
    chip.answer(TIME, struct.pack("<q", NOW))
    _, reply = chip.answer(SIGN, b"\2\x10" + bytes(16) + struct.pack("<IIqQ16s", FIRM_CODE, 2, NOW - 1, 1, b""))
    assert struct.unpack("<IIIIqQ16sIIq", verified(reply)[18:])[4] == NOW


def test_request(chip: Chip) -> None:
    """The state's number, the floor, and the image to the last byte."""
    chip.answer(TIME, struct.pack("<q", NOW))
    status, reply = chip.answer(SIGN, b"\3" + bytes(32))
    expected = b"\3" + bytes(32) + struct.pack("<Qq", 2, NOW) + sha256(chip.image).digest()
    assert (status, verified(reply)) == (OK, expected)


def test_tracking(chip: Chip) -> None:
    """A segment, how many records, their hash; and the floor where the time that is told is before it."""
    chip.answer(TIME, struct.pack("<q", NOW))
    for told, said in ((NOW - 9, NOW), (NOW, NOW), (NOW + 9, NOW + 9)):
        status, reply = chip.answer(SIGN, b"\5" + struct.pack("<QQ32sq", 3, 2**40, bytes(range(32)), told))
        assert (status, verified(reply)) == (OK, b"\5" + struct.pack("<QQ32sq", 3, 2**40, bytes(range(32)), said))
    assert parsed(chip).state.sequence == 2, "nothing is written for it"


def asked(firm: int, reference: int, now: int) -> bytes:
    """Return what is asked for crypt, after the nonce."""
    return struct.pack("<IIqQ16s", firm, reference, now, 1, bytes(16))


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b"", BAD_REQUEST),
        (b"\1" + bytes(31), BAD_REQUEST),
        (b"\1" + bytes(33), BAD_REQUEST),
        (b"\2", BAD_REQUEST),
        (b"\2\x0f" + bytes(15) + asked(FIRM_CODE, 2, NOW), BAD_REQUEST),
        (b"\2\x41" + bytes(65) + asked(FIRM_CODE, 2, NOW), BAD_REQUEST),
        (b"\2\x10" + bytes(16) + asked(FIRM_CODE, 2, NOW) + b"x", BAD_REQUEST),
        (b"\2\x10" + bytes(16) + asked(FIRM_CODE, 2, -1), BAD_REQUEST),
        (b"\2\x10" + bytes(16) + asked(FIRM_CODE, 9, NOW), NO_ITEM),
        (b"\2\x10" + bytes(16) + asked(5, 2, NOW), NO_ITEM),
        (b"\3" + bytes(31), BAD_REQUEST),
        (b"\4" + bytes(47), BAD_REQUEST),
        (b"\4" + bytes(49), BAD_REQUEST),
        (b"\4" + bytes(48), NO_ITEM),
        (b"\5" + bytes(55), BAD_REQUEST),
        (b"\5" + bytes(57), BAD_REQUEST),
        (b"\5" + bytes(48) + struct.pack("<q", LATEST + 1), BAD_REQUEST),
        (b"\6" + bytes(32), UNSUPPORTED),
        (b"\xff" + bytes(32), UNSUPPORTED),
        (b"\0" + bytes(32), UNSUPPORTED),
    ],
)
def test_what_it_does_not_sign(chip: Chip, payload: bytes, status: int) -> None:
    """A form, an item or a purpose that there is not gives no signature."""
    assert chip.answer(SIGN, payload) == (status, b"")


# --- counting ---------------------------------------------------------------------------------------------------------


def test_units_are_taken_down_to_none(chip: Chip) -> None:
    """What is left is told, more than that is refused, and then nothing is left; the image shows it."""
    assert use(chip, 1, 2, 7) == (OK, 3, 0)
    assert use(chip, 2, 2, 4) == (UNDERRUN,)
    assert use(chip, 3, 2, 3) == (OK, 0, 0)
    assert use(chip, 4, 2, 1) == (COUNTER_ZERO,)
    assert use(chip, 5, 2, 0) == (OK, 0, 0)
    assert (item(chip, 2).units_used, item(chip, 3).units_used) == (10, 0)


def test_an_item_without_units(chip: Chip) -> None:
    """It can be used, and nothing of it be counted."""
    assert use(chip, 1, 1, 0) == (OK, 2**32 - 1, 0)
    assert use(chip, 2, 1, 1) == (NO_COUNTER,)
    assert use(chip, 3, 9, 0) == (NO_ITEM,)
    assert use(chip, 3, 1, 0, firm=5) == (NO_ITEM,)


def test_the_first_use_begins_the_usage_period(chip: Chip) -> None:
    """And no later one does; the floor is raised by each."""
    assert use(chip, 1, 3, 0, NOW) == (OK, 5, NOW)
    assert use(chip, 2, 3, 1, NOW + 5) == (OK, 4, NOW)
    assert (item(chip, 3).usage_start, item(chip, 3).units_used) == (NOW, 1)
    assert parsed(chip).state.time_floor == NOW + 5


def test_a_first_use_in_the_past_begins_at_the_floor(chip: Chip) -> None:
    """The floor never goes back, and no period begins before it."""
    chip.answer(TIME, struct.pack("<q", NOW))
    assert use(chip, 1, 3, 0, NOW - 100) == (OK, 5, NOW)
    assert parsed(chip).state.time_floor == NOW


def test_a_period_begins_even_at_no_time(chip: Chip) -> None:
    """A host that says it is 1970 does not get a period that never begins."""
    assert use(chip, 1, 3, 0, 0) == (OK, 5, 1)
    assert use(chip, 2, 3, 0, NOW) == (OK, 5, 1)


def test_a_repeated_key_takes_nothing(chip: Chip) -> None:
    """It gives the first answer, whatever was taken in between, also after the power was gone."""
    flash = flash_of()
    chip = chip_on(flash)
    assert use(chip, 1, 2, 3) == (OK, 7, 0)
    assert use(chip, 2, 2, 3) == (OK, 4, 0)
    writes = flash.writes
    for again in (chip, chip_on(flash)):
        assert use(again, 1, 2, 3) == (OK, 7, 0)
        assert use(again, 1, 2, 9) == (OK, 7, 0)
        assert use(again, 1, 3, 3) == (BAD_REQUEST,)
        assert item(again, 2).units_used == 6
    assert flash.writes == writes


def test_a_refusal_leaves_no_receipt(chip: Chip) -> None:
    """The key is free for what can be done."""
    assert use(chip, 1, 2, 11) == (UNDERRUN,)
    assert use(chip, 1, 2, 10) == (OK, 0, 0)


def test_the_last_64_keys_are_remembered(chip: Chip) -> None:
    """The oldest one is forgotten first."""
    for key in range(1, 65):
        use(chip, key, 1, 0)
    use(chip, 65, 2, 1)
    assert len(parsed(chip).state.receipts) == 64
    use(chip, 2, 2, 1)
    assert item(chip, 2).units_used == 1, "key 2 is remembered: it was item 1's"
    assert use(chip, 65, 2, 1) == (OK, 9, 0)
    assert use(chip, 1, 2, 1) == (OK, 8, 0)


def test_a_key_of_zeros_is_none(chip: Chip) -> None:
    """It is not remembered, begins the period of any item, and takes nothing."""
    assert use(chip, 0, 3, 0, NOW) == (OK, 5, NOW)
    assert use(chip, 0, 2, 0, NOW) == (OK, 10, 0)
    assert use(chip, 0, 2, 1, NOW) == (BAD_REQUEST,)
    assert not parsed(chip).state.receipts


@pytest.mark.parametrize(("layout", "room"), [(FIRST, 95), (flashes.LATEST, 914)])
def test_no_room_for_another_counter(layout: Layout, room: int) -> None:
    """With a state full of counters the next one is refused, and those that are there count on."""
    products = tuple(type(TIMED)(n, n, usage=TIMED.usage, units=TIMED.units) for n in range(1, room + 8))
    container = Container(CONTAINER.id, CONTAINER.kind, "", (FirmItem(FIRM_CODE, "", 7, products),))
    chip = chip_on(flash_of(container, layout=layout))
    asked = [struct.pack("<16sIIIq", n.to_bytes(16, "big"), FIRM_CODE, n, 1, NOW) for n in range(1, room + 8)]
    answers = [chip.answer(CONSUME, each)[0] for each in asked]
    assert answers == [OK] * room + [NO_ROOM] * 7
    assert use(chip, 2000, 5, 1) == (OK, 3, NOW)
    assert len(parsed(chip).state.items) == room
    assert item(chip, 5).units_used == 2


@pytest.mark.parametrize("now", [-1, LATEST + 1, -(2**63), 2**63 - 1])
def test_a_time_that_cannot_be(chip: Chip, now: int) -> None:
    """It would stand for ever; so it is no time."""
    assert use(chip, 1, 2, 1, now) == (BAD_REQUEST,)
    assert chip.answer(TIME, struct.pack("<q", now)) == (BAD_REQUEST, b"")
    assert parsed(chip).state.sequence == 1


# --- time -------------------------------------------------------------------------------------------------------------


def test_the_floor_rises_and_never_falls() -> None:
    """Asking changes nothing; what it was survives."""
    flash = flash_of()
    chip = chip_on(flash)
    for now, floor, writes in ((0, 0, 0), (NOW, NOW, 1), (NOW - 9, NOW, 1), (0, NOW, 1), (LATEST, LATEST, 2)):
        assert chip.answer(TIME, struct.pack("<q", now)) == (OK, struct.pack("<q", floor))
        assert flash.writes == writes
    assert chip_on(flash).answer(TIME, bytes(8)) == (OK, struct.pack("<q", LATEST))


def test_a_nonce_is_fresh_and_kept(chip: Chip) -> None:
    """With the floor of that moment; a later one takes its place."""
    chip.answer(TIME, struct.pack("<q", NOW))
    first, second = chip.answer(NONCE, b"")[1], chip.answer(NONCE, b"")[1]
    assert first[:32] != second[:32]
    assert first[32:] == second[32:] == struct.pack("<q", NOW)
    state = parsed(chip).state
    assert (state.nonce, state.asked) == (second[:32], NOW)


@pytest.mark.parametrize(
    ("command", "payload", "status"),
    [
        (0, b"", UNKNOWN_COMMAND),
        (24, b"", UNKNOWN_COMMAND),
        (255, b"", UNKNOWN_COMMAND),
        (INFO, b"x", BAD_REQUEST),
        (READ_IMAGE, bytes(5), BAD_REQUEST),
        (CONSUME, bytes(35), BAD_REQUEST),
        (CONSUME, bytes(37), BAD_REQUEST),
        (TIME, bytes(7), BAD_REQUEST),
        (NONCE, b"x", BAD_REQUEST),
        (BORROW, bytes(79), BAD_REQUEST),
        (BORROW, bytes(81), BAD_REQUEST),
        (RETURN, bytes(87), BAD_REQUEST),
        (RETURN, bytes(89), BAD_REQUEST),
        (APPLY, bytes(7), BAD_REQUEST),
        (APPLY, bytes(8), BAD_REQUEST),
        (SIGN, bytes(4097), BAD_REQUEST),
    ],
)
def test_what_is_no_command(chip: Chip, command: int, payload: bytes, status: int) -> None:
    """Unknown numbers and wrong lengths are answers, not faults."""
    assert chip.answer(command, payload) == (status, b"")


@settings(max_examples=300)
@given(st.sampled_from([SIGN, CONSUME, APPLY, TIME, NONCE, READ_IMAGE, BORROW, RETURN]), st.binary(max_size=120))
def test_random_payloads_harm_nothing(command: int, payload: bytes) -> None:
    """Whatever comes is answered, and the image is sound after it."""
    chip = chip_on(flash_of())
    status, reply = chip.answer(command, payload)
    assert (status == OK) or reply == b""
    assert parsed(chip).container.firm_items[0].products[0] == FIRM.products[0]


def test_the_state_is_signed_by_the_chip(chip: Chip) -> None:
    """What the host verifies is what the chip wrote; CONTAINER_KEY is nowhere in the image."""
    use(chip, 1, 2, 1)
    assert parsed(chip).state.sequence == 2
    assert CONTAINER_KEY not in chip.image
