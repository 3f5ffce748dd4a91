"""Update files: the host reads them within bounds, the chip applies them once, in order, from the right licensor."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from drivers import firm_item, keys, update
from drivers.chip.chip import Chip
from drivers.container import Allowance, Container, FirmItem, ProductItem, QuantityFlag
from drivers.driver import ImageError
from drivers.firm_item import Owner
from drivers.update import ANY, FirmUpdate, TimeUpdate
from tests.drivers.chips import (
    CONTAINER,
    COUNTED,
    FIRM,
    NOW,
    OTHER_CODE,
    PLAIN,
    TIMED,
    Flash,
    chip_on,
    flash_of,
    item,
    parsed,
)
from tests.drivers.samples import FIRM_CODE, FIRM_ITEMS, LICENSOR, LICENSOR_KEY, OWNER, STRANGER_KEY

OK, BAD_REQUEST = 0, 3
NO_ROOM, UPDATE_TOO_OLD, UPDATE_TOO_NEW, NOT_SIGNED, NOT_FOR_THIS_CONTAINER = range(10, 15)

NEXT = FirmItem(FIRM_CODE, "Chart Works", 8, (PLAIN, COUNTED, TIMED))
GOOD = update.encode_firm(OWNER, NEXT, 7, LICENSOR_KEY)
NONCE = bytes(range(1, 33))
CERTIFIED = update.encode_time(OWNER, NONCE, NOW, LICENSOR_KEY)


def applied(chip: Chip, octets: bytes) -> int:
    """Give the chip an update; return its last status."""
    status = OK
    for at in range(0, max(len(octets), 1), 4088):
        status, reply = chip.answer(18, struct.pack("<II", at, len(octets)) + octets[at : at + 4088])
        assert reply == b""
    return status


def refused(octets: bytes, status: int, flash: Flash | None = None) -> None:
    """Demand this refusal, and that nothing was written."""
    flash = flash or flash_of()
    before = flash.writes
    assert applied(chip_on(flash), octets) == status
    assert flash.writes == before


# --- the host ---------------------------------------------------------------------------------------------------------


@given(FIRM_ITEMS, st.integers(0, 2**32 - 1))
def test_what_is_encoded_is_decoded(firm: FirmItem, base: int) -> None:
    """Every firm item can be brought by an update."""
    assert update.decode(update.encode_firm(OWNER, firm, base, LICENSOR_KEY)) == FirmUpdate(OWNER, firm, base, LICENSOR)


def test_a_certified_time_is_decoded() -> None:
    """Whose, for which nonce, when."""
    assert update.decode(CERTIFIED) == TimeUpdate(OWNER, NONCE, NOW, LICENSOR)
    assert len(CERTIFIED) == 10 + 40 + 32 + 8 + 32 + 64


def test_the_bytes_are_fixed() -> None:
    """As on the page: other people's licensors write them."""
    signed = firm_item.encode(NEXT, OWNER)
    head = b"cmupdate\1\1" + firm_item.encode_owner(OWNER) + struct.pack("<III", FIRM_CODE, 7, len(signed))
    covered = head + signed + keys.sign(LICENSOR_KEY, signed) + LICENSOR
    assert covered + keys.sign(LICENSOR_KEY, covered) == GOOD


def test_every_cut_and_every_bit_is_refused() -> None:
    """By the host with a sentence, and by the chip, which does not rely on it; and nothing is changed."""
    chip = chip_on(flash := flash_of())
    chip.answer(20, b"")
    before = chip.image
    certified = update.encode_time(OWNER, parsed(chip).state.nonce, NOW, LICENSOR_KEY)
    writes = flash.writes
    chance = random.Random(1)
    for octets in (GOOD, certified):
        for length in range(len(octets)):
            with pytest.raises(ImageError):
                update.decode(octets[:length])
            assert applied(chip, octets[:length]) != OK
        for bit in chance.sample(range(8 * len(octets)), 1000):
            damaged = bytearray(octets)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(ImageError):
                update.decode(bytes(damaged))
            assert applied(chip, bytes(damaged)) != OK
        with pytest.raises(ImageError):
            update.decode(octets + b"\0")
        assert applied(chip, octets + b"\0") != OK
    assert (flash.writes, chip.image) == (writes, before)
    assert applied(chip, certified) == OK
    assert applied(chip, GOOD) == OK


def resealed(octets: bytes, private: bytes = LICENSOR_KEY) -> bytes:
    """Return an update whose bytes were changed, signed again as a whole."""
    return octets[:-64] + keys.sign(private, octets[:-64])


@pytest.mark.parametrize(
    ("octets", "sentence"),
    [
        (bytes(update.LIMIT + 1), "the most is 65536"),
        (b"x" + GOOD[1:], "no update for a container"),
        (GOOD[:8] + b"\2" + GOOD[9:], "of version 2 and kind 1, which this software does not know"),
        (GOOD[:9] + b"\3" + GOOD[10:], "of version 1 and kind 3"),
        (GOOD[:100] + b"?" + GOOD[101:], "its signature is wrong"),
        (resealed(GOOD[:50] + struct.pack("<I", 5) + GOOD[54:]), "another one than it says"),
        (resealed(GOOD[:10] + b"\7" + GOOD[11:]), "another one than it says"),
        (resealed(CERTIFIED[:82] + struct.pack("<q", -1) + CERTIFIED[90:]), "no date"),
    ],
)
def test_what_is_wrong_is_said(octets: bytes, sentence: str) -> None:
    """Damage, a later version and a licensor's slip are told apart."""
    with pytest.raises(ImageError, match=sentence):
        update.decode(octets)


def test_nothing_is_dropped_in_silence() -> None:
    """What this software does not know of an item, it cannot write, and a licensor must not sign away."""
    for product in (
        ProductItem(1, 14, unusable="The item has an option that this server does not know (99)."),
        ProductItem(1, 14, flags=QuantityFlag(0x1000)),
    ):
        with pytest.raises(ImageError, match="has an option or a flag that this software does not know"):
            update.encode_firm(OWNER, FirmItem(FIRM_CODE, products=(product,)), update.ANY, LICENSOR_KEY)
    counted = ProductItem(1, 14, units=Allowance(9), units_used=3, usage_start=NOW)
    octets = update.encode_firm(OWNER, FirmItem(FIRM_CODE, products=(counted,)), update.ANY, LICENSOR_KEY)
    assert isinstance(brought := update.decode(octets), FirmUpdate)
    assert brought.item.products == (ProductItem(1, 14, units=Allowance(9)),)


def test_what_no_image_may_have_is_not_written() -> None:
    """A licensor learns of his slip before his customer does."""
    for firm in (FirmItem(0), FirmItem(5, "\x07"), FirmItem(5, "", 2**32), FirmItem(5, "", 1, (PLAIN, PLAIN))):
        with pytest.raises(ImageError):
            update.encode_firm(OWNER, firm, ANY, LICENSOR_KEY)


@given(st.binary(max_size=300))
def test_random_bytes_give_nothing_but_image_errors(octets: bytes) -> None:
    """Also behind a right beginning."""
    for candidate in (octets, GOOD[:10] + octets, GOOD[:62] + octets, CERTIFIED[:10] + octets):
        with pytest.raises(ImageError):
            update.decode(candidate)


# --- the chip ---------------------------------------------------------------------------------------------------------


def test_an_update_takes_the_firm_item_s_place() -> None:
    """The new one is there, believed, and the other licensor's is as it was."""
    chip = chip_on(flash_of())
    others = parsed(chip).sealed[OTHER_CODE]
    assert applied(chip, GOOD) == OK
    image = parsed(chip)
    assert image.container.firm_items[0] == replace(NEXT, licensor=LICENSOR)
    assert image.sealed[OTHER_CODE] == others
    assert image.container.text == CONTAINER.text


def test_an_update_is_applied_once_and_in_order() -> None:
    """Again, an earlier one, one that skips, and one that builds on another: refused, and nothing changed."""
    flash = flash_of()
    chip = chip_on(flash)
    assert applied(chip, GOOD) == OK
    ninth = update.encode_firm(OWNER, replace(NEXT, update_counter=9), 8, LICENSOR_KEY)
    for octets, status in (
        (GOOD, UPDATE_TOO_OLD),
        (update.encode_firm(OWNER, replace(NEXT, update_counter=8), ANY, LICENSOR_KEY), UPDATE_TOO_OLD),
        (update.encode_firm(OWNER, replace(NEXT, update_counter=3), ANY, LICENSOR_KEY), UPDATE_TOO_OLD),
        (update.encode_firm(OWNER, replace(NEXT, update_counter=10), 9, LICENSOR_KEY), UPDATE_TOO_NEW),
        (update.encode_firm(OWNER, replace(NEXT, update_counter=10), 7, LICENSOR_KEY), UPDATE_TOO_NEW),
    ):
        refused(octets, status, flash)
    assert applied(chip, ninth) == OK
    assert applied(chip, update.encode_firm(OWNER, replace(NEXT, update_counter=20), ANY, LICENSOR_KEY)) == OK
    assert applied(chip, ninth) == UPDATE_TOO_OLD


def test_a_deleted_firm_item_does_not_come_back_by_an_old_update() -> None:
    """It leaves its update counter behind."""
    chip = chip_on(flash_of())
    assert applied(chip, update.encode_firm(OWNER, FirmItem(FIRM_CODE, "", 9), 7, LICENSOR_KEY)) == OK
    assert parsed(chip).container.firm_items[0].products == ()
    assert applied(chip, GOOD) == UPDATE_TOO_OLD
    assert applied(chip, update.encode_firm(OWNER, replace(NEXT, update_counter=10), 9, LICENSOR_KEY)) == OK
    assert item(chip, 2).units_used == 0


def test_a_new_firm_item_is_added() -> None:
    """By an update that builds on none; one that builds on another is told so."""
    firm = FirmItem(5, "New", 3, (PLAIN,))
    refused(update.encode_firm(OWNER, firm, 2, STRANGER_KEY), UPDATE_TOO_NEW)
    chip = chip_on(flash_of())
    assert applied(chip, update.encode_firm(OWNER, firm, ANY, STRANGER_KEY)) == OK
    assert [each.firm_code for each in parsed(chip).container.firm_items] == [FIRM_CODE, OTHER_CODE, 5]


def test_another_licensor_s_key_is_refused() -> None:
    """Whose a firm item is stays as it is: by a stranger's key, well signed, or by one put into a good file."""
    refused(update.encode_firm(OWNER, NEXT, 7, STRANGER_KEY), NOT_SIGNED)
    refused(update.encode_firm(OWNER, NEXT, ANY, STRANGER_KEY), NOT_SIGNED)
    refused(GOOD[:-96] + keys.public_of(STRANGER_KEY) + GOOD[-64:], NOT_SIGNED)
    refused(resealed(GOOD, STRANGER_KEY), NOT_SIGNED)
    signature_at = len(GOOD) - 160
    stolen = GOOD[:signature_at] + keys.sign(STRANGER_KEY, firm_item.encode(NEXT, OWNER)) + GOOD[-96:]
    refused(resealed(stolen), NOT_SIGNED)


@pytest.mark.parametrize(
    "owner",
    [
        Owner(3, 3448483, OWNER.kind, 1, OWNER.key),
        Owner(4, 3448482, OWNER.kind, 1, OWNER.key),
        Owner(3, 3448482, OWNER.kind, 1, LICENSOR),
        Owner(3, 3448482, OWNER.kind),
    ],
)
def test_another_container_s_update_is_refused(owner: Owner) -> None:
    """Whole, or with only one of the two places right."""
    foreign = update.encode_firm(owner, NEXT, 7, LICENSOR_KEY)
    refused(foreign, NOT_FOR_THIS_CONTAINER)
    refused(resealed(foreign[:10] + firm_item.encode_owner(OWNER) + foreign[50:]), NOT_FOR_THIS_CONTAINER)
    refused(resealed(GOOD[:10] + firm_item.encode_owner(owner) + GOOD[50:]), NOT_FOR_THIS_CONTAINER)
    refused(update.encode_time(owner, NONCE, NOW, LICENSOR_KEY), NOT_FOR_THIS_CONTAINER)


def test_what_was_used_counts_on_within_a_generation() -> None:
    """More units of the same generation are added to; another one begins anew, for units and usage each by itself."""
    flash = flash_of()
    chip = chip_on(flash)
    for key, reference in ((1, 2), (2, 3)):
        assert chip.answer(17, struct.pack("<16sIIIq", bytes([key] * 16), FIRM_CODE, reference, 2, NOW))[0] == OK
    more = replace(COUNTED, units=Allowance(100, 1))
    mixed = replace(TIMED, units=Allowance(5, 9))
    assert applied(chip, update.encode_firm(OWNER, replace(NEXT, products=(more, mixed)), 7, LICENSOR_KEY)) == OK
    assert (item(chip, 2).units_used, item(chip, 3).units_used, item(chip, 3).usage_start) == (2, 0, NOW)
    anew = (replace(COUNTED, units=Allowance(100, 2)), replace(TIMED, usage=Allowance(3600, 2), units=Allowance(5, 9)))
    assert applied(chip, update.encode_firm(OWNER, FirmItem(FIRM_CODE, "", 9, anew), 8, LICENSOR_KEY)) == OK
    assert parsed(chip).state.items == ()
    assert parsed(chip).state.time_floor == NOW


def test_a_receipt_is_of_one_generation() -> None:
    """A key is known as long as the same units and usage are counted; an old one says nothing of new ones."""
    chip = chip_on(flash_of())

    def use(key: int, reference: int) -> tuple[int, int]:
        """Return units left and units used, once two were taken under a key, or had been."""
        use = struct.pack("<16sIIIq", bytes([key] * 16), FIRM_CODE, reference, 2, NOW)
        status, reply = chip.answer(17, use)
        assert status == OK
        left, _, used = struct.unpack("<IqI", reply)
        return left, used

    assert (use(1, 2), use(2, 2), use(3, 3)) == ((8, 2), (6, 4), (3, 2))
    more = replace(COUNTED, units=Allowance(100, 1))
    assert applied(chip, update.encode_firm(OWNER, replace(NEXT, products=(more, TIMED)), 7, LICENSOR_KEY)) == OK
    assert (use(1, 2), use(3, 3)) == ((8, 4), (3, 2)), "both are known"
    anew = (replace(COUNTED, units=Allowance(100, 2)), replace(TIMED, usage=Allowance(3600, 2)))
    assert applied(chip, update.encode_firm(OWNER, FirmItem(FIRM_CODE, "", 9, anew), 8, LICENSOR_KEY)) == OK
    assert parsed(chip).state.receipts == ()
    assert (use(1, 2), use(3, 3)) == ((98, 2), (1, 4)), "both are uses of what was given anew"
    other = FirmItem(OTHER_CODE, "", 2, (COUNTED,))
    assert applied(chip, update.encode_firm(OWNER, other, update.ANY, STRANGER_KEY)) == OK
    assert len(parsed(chip).state.receipts) == 2, "it is another licensor's"


def test_an_option_that_goes_and_comes_back_begins_anew() -> None:
    """What the licensor took out, he gave again."""
    chip = chip_on(flash_of())
    chip.answer(17, struct.pack("<16sIIIq", bytes([1] * 16), FIRM_CODE, 2, 2, NOW))
    for counter, product in ((8, ProductItem(2, 15)), (9, COUNTED)):
        firm = FirmItem(FIRM_CODE, "", counter, (product,))
        assert applied(chip, update.encode_firm(OWNER, firm, counter - 1, LICENSOR_KEY)) == OK
        assert item(chip, 2).units_used == 0


def test_an_update_that_finds_no_room_is_refused() -> None:
    """The chip is full, and as it was."""
    products = tuple(ProductItem(n, n, "x" * 255) for n in range(1, 201))
    container = Container(CONTAINER.id, CONTAINER.kind, "", (FIRM, FirmItem(OTHER_CODE, "", 1, products[:50])))
    large = FirmItem(FIRM_CODE, "", 8, products)
    refused(update.encode_firm(OWNER, large, 7, LICENSOR_KEY), NO_ROOM, flash_of(container))


def test_pieces_that_come_twice_or_in_another_order() -> None:
    """A piece that the host sends again after a stall is taken once; a gap is refused; an update may begin afresh."""
    chip = chip_on(flash_of())
    size = len(GOOD)

    def give(at: int, end: int, octets: bytes = GOOD) -> int:
        status, _ = chip.answer(18, struct.pack("<II", at, size) + octets[at:end])
        return status

    assert give(100, 200) == BAD_REQUEST
    assert give(0, 100) == OK
    assert give(100, 150) == OK
    assert give(100, 150) == OK
    assert give(160, 200) == BAD_REQUEST
    assert give(100, 150, bytes(size)) == BAD_REQUEST
    assert give(0, 100) == OK
    assert give(150, size) == BAD_REQUEST
    assert give(100, size) == OK
    assert give(100, size) == UPDATE_TOO_OLD
    assert parsed(chip).container.firm_items[0].update_counter == 8


@pytest.mark.parametrize(("offset", "total", "length"), [(0, 0, 1), (0, 65_537, 1), (5, 4, 1), (0, 4, 5), (0, 4, 0)])
def test_pieces_that_cannot_be(offset: int, total: int, length: int) -> None:
    """No memory is taken for an update beyond the limit, nor for a piece beyond its update."""
    chip = chip_on(flash_of())
    assert chip.answer(18, struct.pack("<II", offset, total) + bytes(length)) == (BAD_REQUEST, b"")


# --- certified time ---------------------------------------------------------------------------------------------------


def waiting() -> tuple[Chip, Flash, bytes]:
    """Return a chip that gave out a nonce at NOW + 1000, its flash, and the nonce."""
    flash = flash_of()
    chip = chip_on(flash)
    chip.answer(19, struct.pack("<q", NOW + 1000))
    return chip, flash, chip.answer(20, b"")[1][:32]


def floor(chip: Chip) -> int:
    """Return the chip's time floor."""
    return int.from_bytes(chip.answer(19, bytes(8))[1], "little")


def test_a_certified_time_is_the_one_way_back() -> None:
    """What has passed since the nonce is added; the nonce is spent, also across a restart."""
    chip, flash, nonce = waiting()
    chip.answer(19, struct.pack("<q", NOW + 1007))
    certified = update.encode_time(OWNER, nonce, NOW, LICENSOR_KEY)
    assert applied(chip, certified) == OK
    assert floor(chip) == NOW + 7
    for again in (chip, chip_on(flash)):
        assert applied(again, certified) == UPDATE_TOO_OLD
        assert floor(again) == NOW + 7


def test_a_certified_time_for_another_nonce_or_by_a_stranger() -> None:
    """The nonce before, none at all, a key that no firm item has, or that of one added later: nothing changes."""
    chip, flash, nonce = waiting()
    refused(update.encode_time(OWNER, nonce, NOW, bytes([9] * 32)), NOT_SIGNED, flash)
    refused(update.encode_time(OWNER, nonce, NOW, STRANGER_KEY), NOT_SIGNED, flash)
    refused(update.encode_time(OWNER, NONCE, NOW, LICENSOR_KEY), UPDATE_TOO_OLD, flash)
    refused(update.encode_time(OWNER, bytes(32), NOW, LICENSOR_KEY), UPDATE_TOO_OLD, flash)
    refused(update.encode_time(OWNER, bytes(32), NOW, LICENSOR_KEY), UPDATE_TOO_OLD)
    chip.answer(20, b"")
    refused(update.encode_time(OWNER, nonce, NOW, LICENSOR_KEY), UPDATE_TOO_OLD, flash)
    assert floor(chip_on(flash)) == NOW + 1000


def test_a_certified_time_past_all_calendars_is_refused() -> None:
    """What has passed since then counts too."""
    chip, flash, nonce = waiting()
    chip.answer(19, struct.pack("<q", NOW + 1001))
    latest = 253_402_300_799
    refused(update.encode_time(OWNER, nonce, latest, LICENSOR_KEY), BAD_REQUEST, flash)
    assert applied(chip, update.encode_time(OWNER, nonce, latest - 1, LICENSOR_KEY)) == OK
