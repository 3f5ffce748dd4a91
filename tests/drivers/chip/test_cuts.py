"""Power cuts: after whatever write, and in the midst of it, the old or the new image is there, receipts included."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from drivers import keys, update
from drivers.chip.chip import Chip
from drivers.chip.flash import FIRST, LATEST, Layout
from drivers.container import Allowance, Borrowing, Container, FirmItem, ProductItem
from drivers.firm_item import encode_owner
from drivers.image import Image
from tests.drivers.chips import (
    CONTAINER,
    COUNTED,
    FIRM,
    MONTH,
    NOW,
    PLAIN,
    TORN,
    Flash,
    PowerCut,
    chip_on,
    flash_of,
    item,
    parsed,
)
from tests.drivers.samples import FIRM_CODE, LICENSOR_KEY, OWNER

CONSUME, APPLY, TIME, NONCE, BORROW, RETURN = 17, 18, 19, 20, 22, 23
OK, UPDATE_TOO_OLD = 0, 11


def use(key: int, delta: int) -> bytes:
    """Return the payload of CONSUME for the item with ten units."""
    return struct.pack("<16sIIIq", key.to_bytes(16, "big"), FIRM_CODE, 2, delta, NOW)


def loan_id(number: int) -> bytes:
    """Return a loan's id."""
    return number.to_bytes(16, "big")


def borrow(number: int, seconds: int) -> bytes:
    """Return the payload of BORROW for one license of the plain item."""
    return struct.pack("<16sIIIqq32s", loan_id(number), FIRM_CODE, 1, 1, NOW + seconds, NOW, keys.public_of(HOLDER))


HOLDER = bytes(range(96, 128))
RECEIPT = keys.sign(HOLDER, b"cmreturn\0\1" + encode_owner(OWNER) + loan_id(1))
NEW_FIRM = FirmItem(FIRM_CODE, "Chart Works", 8, (PLAIN, ProductItem(2, 15, "Reports", units=Allowance(100, 1))))
UPDATE = update.encode_firm(OWNER, NEW_FIRM, 7, LICENSOR_KEY)
LONG = update.encode_firm(
    OWNER, FirmItem(FIRM_CODE, "", 8, tuple(ProductItem(n, n, "x" * 200) for n in range(1, 200))), 7, LICENSOR_KEY
)


def apply(octets: bytes) -> Callable[[Chip], int]:
    """Return what applies an update, piece by piece."""

    def run(chip: Chip) -> int:
        status = OK
        for at in range(0, len(octets), 4088):
            status, _ = chip.answer(APPLY, struct.pack("<II", at, len(octets)) + octets[at : at + 4088])
        return status

    return run


CHANGES: dict[str, Callable[[Chip], int]] = {
    "a use": lambda chip: chip.answer(CONSUME, use(9, 3))[0],
    "an update": apply(UPDATE),
    "a later time": lambda chip: chip.answer(TIME, struct.pack("<q", NOW + 10_000))[0],
    "a loan": lambda chip: chip.answer(BORROW, borrow(9, MONTH))[0],
    "a later end": lambda chip: chip.answer(BORROW, borrow(1, MONTH))[0],
    "a return": lambda chip: chip.answer(RETURN, struct.pack("<16sq64s", loan_id(1), NOW, RECEIPT))[0],
    "a nonce": lambda chip: chip.answer(NONCE, b"")[0],
}


def used_flash(uses: int, layout: Layout = LATEST) -> Flash:
    """Return a flash whose chip has counted already, so that either slot may be in force."""
    flash = flash_of(layout=layout)
    chip = chip_on(flash)
    assert chip.answer(BORROW, borrow(1, MONTH - 1))[0] == OK
    for key in range(1, uses + 1):
        assert chip.answer(CONSUME, use(key, 1))[0] == OK
    return flash


MANY = ProductItem(1, 14, "", 250, borrowing=Borrowing(MONTH))
LARGE = Container(CONTAINER.id, CONTAINER.kind, "Demo", (FirmItem(FIRM_CODE, "", 7, (MANY, COUNTED)),))


def before_it_erases(flash: Flash, sector: int) -> Flash:
    """Return the flash as it is just before a change erases that sector."""
    chip = chip_on(flash)
    flash.erased.clear()
    later = NOW
    while sector not in flash.erased:
        before, later = flash.copy(), later + 1
        assert chip.answer(TIME, struct.pack("<q", later))[0] == OK
    return before


def large_flash() -> Flash:
    """Return a flash with a ledger of 249 loans, and one use."""
    flash = flash_of(LARGE)
    chip = chip_on(flash)
    for number in range(1, 250):
        assert chip.answer(BORROW, borrow(number, MONTH - 1))[0] == OK
    assert chip.answer(CONSUME, use(1, 1))[0] == OK
    return flash


OTHER_SLOT = 1 + LATEST.slot_sectors
"""The first sector of the slot in which no new container has its state."""
FLASHES: dict[str, Callable[[], Flash]] = {
    "first layout, other slot": lambda: used_flash(0, FIRST),
    "first layout, same slot": lambda: used_flash(1, FIRST),
    "behind others": lambda: used_flash(2),
    "across sectors": lambda: before_it_erases(used_flash(2), 2),
    "into the other slot": lambda: before_it_erases(used_flash(2), OTHER_SLOT),
    "into the other slot, 249 loans": lambda: before_it_erases(large_flash(), OTHER_SLOT),
}


def essence(left: Image) -> tuple[object, ...]:
    """Return all that an image says, except for its nonce, which is another one each time."""
    state = left.state
    return (
        state.sequence,
        state.items,
        state.loans,
        state.receipts,
        state.time_floor,
        bool(any(state.nonce)),
        left.container,
    )


@pytest.fixture(scope="module", params=[*FLASHES])
def flash(request: pytest.FixtureRequest) -> Flash:
    """Return a flash that is copied only."""
    return FLASHES[request.param]()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_cut_leaves_the_old_or_the_new_image(change: Callable[[Chip], int], flash: Flash) -> None:
    """At every write, and wherever in it; and what was cut can be done again."""
    check_cuts(change, flash)


def test_a_cut_in_a_long_update() -> None:
    """It writes each sector of the other bank; how much is behind the state in this one is all the same."""
    for flash in (used_flash(0, FIRST), used_flash(2)):
        check_cuts(apply(LONG), flash)


def check_cuts(change: Callable[[Chip], int], flash: Flash) -> None:
    """Try all cuts of a change, on copies of the flash."""
    whole = flash.copy()
    before = parsed(chip_on(whole))
    chip = chip_on(whole)
    assert change(chip) == OK
    after = parsed(chip)
    assert parsed(chip_on(whole)) == after != before
    for point in range(whole.writes):
        for torn in TORN:
            cut = flash.copy()
            cut.left, cut.torn = point, torn
            with pytest.raises(PowerCut):
                change(chip_on(cut))
            again = chip_on(cut.copy())
            assert essence(parsed(again)) in (essence(before), essence(after))
            assert change(again) in {OK, UPDATE_TOO_OLD}
            assert essence(parsed(again))[1:] == essence(after)[1:]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_chip_that_lives_on_after_a_failed_write_believes_its_flash(
    change: Callable[[Chip], int], flash: Flash
) -> None:
    """What it answers from then on a later start finds; so it is with the change itself, asked for again."""
    whole = flash.copy()
    assert change(chip_on(whole)) == OK
    for point in range(whole.writes):
        for torn in TORN:
            failing = flash.copy()
            chip = chip_on(failing)
            failing.left, failing.torn = point, torn
            with pytest.raises(PowerCut):
                change(chip)
            failing.left = -1
            assert chip.answer(RETURN, struct.pack("<16sq64s", loan_id(1), NOW, RECEIPT))[0] == OK
            found = parsed(chip_on(failing))
            assert found == parsed(chip)
            assert loan_id(1) not in [loan.id for loan in found.state.loans]
            assert change(chip) in {OK, UPDATE_TOO_OLD}
            assert parsed(chip_on(failing)) == parsed(chip)


def test_a_loan_is_asked_for_again_after_its_return_failed() -> None:
    """If the return is in the flash all the same, it is written anew, and not only answered."""
    for torn in TORN:
        flash = used_flash(1)
        chip = chip_on(flash)
        flash.left, flash.torn = 0, torn
        with pytest.raises(PowerCut):
            chip.answer(RETURN, struct.pack("<16sq64s", loan_id(1), NOW, RECEIPT))
        flash.left = -1
        assert chip.answer(BORROW, borrow(1, MONTH - 1)) == (OK, struct.pack("<q", NOW + MONTH - 1))
        assert [loan.id for loan in parsed(chip_on(flash)).state.loans] == [loan_id(1)]


@pytest.mark.parametrize("torn", TORN)
def test_an_unanswered_use_is_taken_at_most_once_and_a_repeated_key_never_twice(torn: int) -> None:
    """The host asks again with the same key after the cut, and again: three units are gone, not six."""
    flash = used_flash(1)
    flash.left, flash.torn = 0, torn
    with pytest.raises(PowerCut):
        chip_on(flash).answer(CONSUME, use(9, 3))
    chip = chip_on(flash.copy())
    assert item(chip, 2).units_used in {1, 4}
    for _ in range(3):
        assert chip.answer(CONSUME, use(9, 3)) == (OK, struct.pack("<IqI", 6, 0, 4))
        assert item(chip, 2).units_used == 4


def test_cuts_one_after_the_other() -> None:
    """A chip that is cut in every update still comes to the end, whatever the other bank holds by then."""
    flash = used_flash(2)
    for point in range(51):
        flash.left = point % 6
        try:
            change = apply(LONG)
            change(chip_on(flash))
        except PowerCut:
            flash = flash.copy()
    flash.left = -1
    chip = chip_on(flash)
    assert apply(LONG)(chip) in {OK, UPDATE_TOO_OLD}
    assert len(parsed(chip).container.firm_items[0].products) == 199


@pytest.mark.parametrize("layout", [FIRST, LATEST])
def test_damage_to_the_bank_in_force_leaves_the_other(layout: Layout) -> None:
    """A head or a firm item that went bad in the flash: the image before the update is there."""
    for sector in (layout.bank, layout.bank + 1 + 2 * layout.slot_sectors):
        flash = flash_of(layout=layout)
        assert apply(UPDATE)(chip_on(flash)) == OK
        octets = bytearray(flash.read(sector))
        octets[10] ^= 1
        flash.write(sector, bytes(octets))
        assert parsed(chip_on(flash)).container.firm_items[0].update_counter == FIRM.update_counter
