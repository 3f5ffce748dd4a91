"""The chip's state in its slots: changes are written behind it, a whole one when there is no room, and little wears."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise

import pytest

from drivers import image, keys, update
from drivers.chip.banks import Damaged, program
from drivers.chip.chip import Chip
from drivers.chip.flash import ERASED, FIRST, LATEST, SECTOR, Layout, MemoryFlash
from drivers.chip.log import whole
from drivers.chip.seal import Seal, after
from drivers.chip.state import Loan, Receipt, State, Used, change_record
from drivers.container import Borrowing, Container, FirmItem, ProductItem
from drivers.driver import ImageError
from drivers.firm_item import encode_owner
from tests.drivers.chips import BELIEVED, CONTAINER, COUNTED, KEYS, MONTH, NOW, Flash, chip_on, flash_of, parsed
from tests.drivers.samples import CONTAINER_KEY, FIRM_CODE, LICENSOR_KEY, OWNER

CONSUME, APPLY, TIME, NONCE, BORROW, RETURN = 17, 18, 19, 20, 22, 23
OK = 0
HOLDER = bytes(range(96, 128))
PUBLIC = keys.public_of(HOLDER)
MANY = ProductItem(1, 14, "", 2**32 - 1, borrowing=Borrowing(MONTH))
LENDING = Container(CONTAINER.id, CONTAINER.kind, "", (FirmItem(FIRM_CODE, "", 7, (MANY, COUNTED)),))
FIRST_SLOT = range(1, 1 + LATEST.slot_sectors)
SECOND_SLOT = range(1 + LATEST.slot_sectors, 1 + 2 * LATEST.slot_sectors)


def borrow(chip: Chip, number: int, seconds: int = 1000) -> None:
    """Borrow a license."""
    name = number.to_bytes(16, "big")
    payload = struct.pack("<16sIIIqq32s", name, FIRM_CODE, 1, 1, NOW + seconds, NOW, PUBLIC)
    assert chip.answer(BORROW, payload)[0] == OK


def give_back(chip: Chip, number: int) -> None:
    """Give it back."""
    name = number.to_bytes(16, "big")
    signature = keys.sign(HOLDER, b"cmreturn\0\1" + encode_owner(OWNER) + name)
    assert chip.answer(RETURN, struct.pack("<16sq64s", name, NOW, signature)) == (OK, b"\1")


def raise_time(chip: Chip, by: int) -> None:
    """Raise the time floor."""
    assert chip.answer(TIME, struct.pack("<q", NOW + by))[0] == OK


def use(chip: Chip, key: int) -> None:
    """Have a use counted that takes no units, under a key."""
    payload = struct.pack("<16sIIIq", key.to_bytes(16, "big"), FIRM_CODE, 2, 0, NOW)
    assert chip.answer(CONSUME, payload)[0] == OK


def lent(loans: int, layout: Layout = LATEST) -> tuple[Flash, Chip]:
    """Return a flash and the chip on it, which has so many loans, and all its receipts."""
    flash = flash_of(LENDING, layout=layout)
    chip = chip_on(flash)
    for number in range(1, loans + 1):
        borrow(chip, number)
    for key in range(1, 65):
        use(chip, key)
    flash.erased.clear()
    return flash, chip


# --- changes ----------------------------------------------------------------------------------------------------------


def test_what_changes_is_written_behind_and_read_by_both_sides() -> None:
    """After each change the chip that starts anew, and the host, know what the chip knew; nothing is erased for it."""
    flash = flash_of(LENDING)
    chip = chip_on(flash)
    before = chip.image
    changes: list[Callable[[], object]] = [
        lambda: borrow(chip, 1),
        lambda: borrow(chip, 2),
        lambda: use(chip, 1),
        lambda: borrow(chip, 1, 2000),
        lambda: give_back(chip, 2),
        lambda: raise_time(chip, 5),
        lambda: chip.answer(NONCE, b""),
    ]
    for number, change in enumerate(changes, 2):
        change()
        assert chip.image.startswith(before)
        assert len(chip.image) > len(before)
        before = chip.image
        again = chip_on(flash)
        assert (again.image, again._state) == (before, chip._state)
        assert list(again._state.loans) == list(chip._state.loans)
        state = parsed(chip).state
        assert (state.sequence, state.time_floor) == (number, chip._state.floor)
        assert [(loan.id, loan.end) for loan in state.loans] == [
            (name, loan.end) for name, loan in chip._state.loans.items()
        ]
        assert [receipt.key for receipt in state.receipts] == list(chip._state.receipts)
        assert (state.nonce, state.asked) == (chip._state.nonce, chip._state.asked)
    assert flash.erased == []


def test_loans_that_are_over_are_struck_off_with_the_next_change_of_the_ledger() -> None:
    """Any number with one record, for both sides."""
    flash, chip = lent(100)
    raise_time(chip, 1060)
    borrow(chip, 999, 5000)
    for each in (chip, chip_on(flash)):
        (loan,) = parsed(each).state.loans
        assert loan.id == (999).to_bytes(16, "big")


def test_the_oldest_receipts_go_on_both_sides() -> None:
    """Also if they lie in changes, and what dropped them as well."""
    flash, chip = lent(0)
    for key in range(65, 75):
        use(chip, key)
    for each in (chip, chip_on(flash)):
        kept = [int.from_bytes(receipt.key, "big") for receipt in parsed(each).state.receipts]
        assert kept == [*range(11, 75)]


def test_an_update_begins_with_a_whole_state() -> None:
    """Behind it there is nothing of the changes before."""
    flash, chip = lent(10)
    octets = update.encode_firm(OWNER, FirmItem(FIRM_CODE, "", 8, (MANY,)), 7, LICENSOR_KEY)
    assert chip.answer(APPLY, struct.pack("<II", 0, len(octets)) + octets) == (OK, b"")
    for each in (chip, chip_on(flash)):
        state = parsed(each).state
        assert (len(state.loans), state.receipts, state.sequence) == (10, (), 76)
        assert len(each.image) == parsed(each).fixed_length + 64 + 10 * 68 + 69
    borrow(chip, 11)
    assert len(parsed(chip_on(flash)).state.loans) == 11


def test_two_futures_of_a_copied_flash_are_not_put_together() -> None:
    """A loan of the one, and what the other gave back since: neither side takes the one for a change of the other."""
    flash = flash_of(LENDING)
    borrow(chip_on(flash), 1)
    other = flash.copy()
    one, two = chip_on(flash), chip_on(other)
    borrow(one, 2)
    borrow(two, 3)
    spliced = chip_on(flash).image
    length = len(spliced)
    give_back(two, 3)
    spliced += two.image[length:]
    with pytest.raises(ImageError, match="signature of the container's state is not its own"):
        image.parse(spliced, BELIEVED)
    fixed = parsed(one).fixed_length
    flash.write(1, spliced[fixed:].ljust(SECTOR, ERASED))
    assert (chip_on(flash).image, chip_on(flash)._state) == (one.image, one._state)


# --- both slots -------------------------------------------------------------------------------------------------------


def compactions(flash: Flash, chip: Chip) -> Iterator[list[int]]:
    """Raise the time on and on; yield the sectors of each whole state that is written."""
    seconds = 0
    before = len(chip.image)
    while True:
        flash.erased.clear()
        seconds += 1
        raise_time(chip, seconds)
        if len(chip.image) < before:
            yield flash.erased
        before = len(chip.image)


def test_the_slots_take_turns() -> None:
    """A slot is filled to its end; then the other one begins, over what is left of an earlier life of it."""
    flash, chip = lent(250)
    whole = compactions(flash, chip)
    for slot in (SECOND_SLOT, FIRST_SLOT, SECOND_SLOT, FIRST_SLOT):
        assert next(whole) == list(slot[:5])
        again = chip_on(flash)
        assert again.image == chip.image
        assert len(parsed(again).state.loans) == 250


def test_what_an_earlier_life_left_behind_does_not_count() -> None:
    """Where a change ends with its sector, the next one may have a sound record that was written there before."""
    loans = {number.to_bytes(16, "big"): Loan(FIRM_CODE, 1, 1, NOW + 9, PUBLIC) for number in range(22)}
    receipts = {number.to_bytes(16, "big"): Receipt(FIRM_CODE, 2, 1, 1) for number in range(64)}
    states = [State(number, NOW + number, {(FIRM_CODE, 2): Used(1)}, loans, receipts) for number in range(100, 104)]
    seal = Seal(encode_owner(OWNER), CONTAINER_KEY)
    records = whole(states[0], LATEST, seal)
    begun = after(sha256(records).digest())
    for before, state in pairwise(states):
        records += seal.put(after(sha256(records).digest()), change_record(before, state))
    assert len(records) == SECTOR
    change = change_record(states[3], replace(states[3], sequence=104))
    earlier, following = seal.put(begun, change), seal.put(after(sha256(records).digest()), change)
    for behind, sequence in ((earlier, 103), (following, 104)):
        flash = flash_of(LENDING)
        flash.write(1, records)
        flash.write(2, behind.ljust(SECTOR, ERASED))
        assert parsed(chip_on(flash)).state.sequence == sequence


def test_a_slot_that_is_shorter_than_before() -> None:
    """Its later sectors are erased when they are begun, and not before."""
    flash, chip = lent(250)
    next(compactions(flash, chip))
    for number in range(1, 251):
        give_back(chip, number)
    whole = compactions(flash, chip)
    next(whole)
    assert next(whole) in ([SECOND_SLOT[0]], [FIRST_SLOT[0]])
    again = chip_on(flash)
    assert (again.image, parsed(again).state.loans) == (chip.image, ())


@pytest.mark.parametrize("damage", [b"\x00", b"\x7f"])
def test_nothing_is_added_behind_what_is_not_erased(damage: bytes) -> None:
    """What a cut left behind the last change would be part of the next one; so the other slot is begun."""
    flash, chip = lent(0)
    end = len(chip.image) - parsed(chip).fixed_length
    sector = flash.read(1 + end // SECTOR)
    at = end % SECTOR + 50
    flash.write(1 + end // SECTOR, sector[:at] + damage + sector[at + 1 :])
    flash.erased.clear()
    again = chip_on(flash)
    assert again.image == chip.image
    raise_time(again, 9)
    assert flash.erased == [SECOND_SLOT[0]]
    assert chip_on(flash).image == again.image


class Failing(Flash):
    """Says of some writes that they failed, though all of them are done; or of which only a part is."""

    failing = False

    def add(self, sector: int, at: int, octets: bytes) -> None:
        """Write, and fail."""
        super().add(sector, at, octets)
        self._fail()

    def write(self, sector: int, octets: bytes) -> None:
        """Write, and fail."""
        super().write(sector, octets)
        self._fail()

    def _fail(self) -> None:
        if self.failing:
            raise OSError(5, "Input/output error")


@pytest.mark.parametrize("number", [1, 20, 143])
def test_a_write_that_failed_and_was_done_all_the_same(number: int) -> None:
    """What was refused may be in the flash, and then it is believed; what is answered after it is in force as well.

    It is tried with each place of a change in its slot: behind another, across sectors, into the other slot.
    """
    for place in range(number, number + 8):
        flash = Failing()
        program(flash, image.encode(LENDING, signing=KEYS))
        chip = chip_on(flash)
        for key in range(place):
            use(chip, key + 1)
        flash.failing = True
        with pytest.raises(OSError, match="Input/output"):
            borrow(chip, 1)
        flash.failing = False
        there = chip_on(flash)._state.loans
        raise_time(chip, 5)
        raise_time(chip, 6)
        again = chip_on(flash)
        assert (again._state, again.image) == (chip._state, chip.image)
        assert again._state.floor == NOW + 6
        assert again._state.loans == there


def test_a_change_of_another_container_does_not_count() -> None:
    """Nor does a whole state in a change's place, or the other way round: each says what it is under its signature."""
    _, chip = lent(0)
    written = chip.image[parsed(chip).fixed_length :]
    whole, first = written[:133], written[133 : 133 + 64 + 32 + 69]
    assert struct.unpack_from("<Q", first) == (2,)
    for slot in (first, whole + whole):
        other = flash_of(LENDING)
        other.write(1, slot.ljust(SECTOR, b"\xff"))
        if slot is first:
            other.write(SECOND_SLOT[0], whole.ljust(SECTOR, b"\xff"))
        assert parsed(chip_on(other)).state.sequence == 1


# --- forgeries --------------------------------------------------------------------------------------------------------


def verifying(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return what counts the signatures that a chip has verified."""
    holds, counted = Seal.holds, 0

    def counting(seal: Seal, prefix: bytes, sealed: bytes) -> bool:
        nonlocal counted
        counted += 1
        return holds(seal, prefix, sealed)

    monkeypatch.setattr(Seal, "holds", counting)
    return lambda: counted


def grown(changes: int) -> tuple[Flash, list[bytes]]:
    """Return a flash whose first slot has a whole state and so many changes, and these records."""
    flash = flash_of(LENDING)
    chip = chip_on(flash)
    ends = [parsed(chip).fixed_length, len(chip.image)]
    for number in range(changes):
        raise_time(chip, 1 + number)
        ends.append(len(chip.image))
    return flash, [chip.image[begin:end] for begin, end in pairwise(ends)]


def repaired(octets: bytes) -> bytes:
    """Return a record that was altered, with its checksum made right; its signature stays."""
    return octets[:-4] + struct.pack("<I", zlib.crc32(octets[:-4]))


def with_records(flash: Flash, records: list[bytes]) -> Flash:
    """Return a flash whose first slot has these records instead."""
    other, octets = flash.copy(), b"".join(records)
    for at, sector in enumerate(FIRST_SLOT):
        MemoryFlash.write(other, sector, octets[at * SECTOR :][:SECTOR].ljust(SECTOR, ERASED))
    return other


def test_a_start_verifies_one_signature_for_all_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are; also where an earlier life of the slot left sound records behind the last one."""
    flash, records = grown(150)
    behind = with_records(flash, [*records, *records[1:30]])
    verified = verifying(monkeypatch)
    for times, each in enumerate((flash, behind), start=1):
        assert chip_on(each)._state.sequence == 151
        assert verified() == times


@pytest.mark.parametrize("which", [1, 2, 30, 58, 59])
def test_an_altered_change_ends_what_counts(which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own signature may stay, and those behind it are the container's: none of them is for what it became."""
    flash, records = grown(59)
    altered = records[which][:8] + struct.pack("<q", NOW + 9_999) + records[which][16:]
    forged = with_records(flash, [*records[:which], repaired(altered), *records[which + 1 :]])
    chip = chip_on(forged)
    assert chip._state.sequence == which
    assert chip._state == chip_on(with_records(flash, records[:which]))._state
    raise_time(chip, 100)
    assert chip_on(forged)._state.floor == NOW + 100


def test_an_altered_whole_state_takes_all_with_it() -> None:
    """Though all changes behind it are as they were signed."""
    flash, records = grown(5)
    altered = repaired(records[0][:8] + struct.pack("<q", NOW + 9_999) + records[0][16:])
    with pytest.raises(Damaged):
        chip_on(with_records(flash, [altered, *records[1:]]))


def test_what_is_altered_beneath_a_running_chip_is_not_signed_with_its_next_change() -> None:
    """Else whoever can write the flash would have the chip itself sign what he made of it."""
    flash, records = grown(9)
    chip = chip_on(flash)
    altered = repaired(records[3][:8] + struct.pack("<q", NOW + 9_999) + records[3][16:])
    MemoryFlash.write(flash, 1, with_records(flash, [*records[:3], altered, *records[4:]]).read(1))
    raise_time(chip, 100)
    raise_time(chip, 101)
    assert chip_on(flash)._state.sequence == 3
    with pytest.raises(ImageError, match="signature of the container's state is not its own"):
        parsed(chip)


def test_a_change_that_is_taken_out_is_missed() -> None:
    """With its number, and with those behind it numbered anew."""
    flash, records = grown(9)
    assert chip_on(with_records(flash, [*records[:4], *records[5:]]))._state.sequence == 4
    renumbered = [repaired(struct.pack("<Q", number + 1) + records[number + 1][8:]) for number in range(4, 9)]
    assert chip_on(with_records(flash, [*records[:4], *renumbered]))._state.sequence == 4


def test_what_somebody_adds_is_not_the_chip_s() -> None:
    """Signed with another key, or with a signature that is the container's for something else."""
    flash, records = grown(3)
    other = change_record(State(4, NOW), State(5, NOW + 9))
    stranger = Seal(encode_owner(OWNER), HOLDER).put(after(sha256(b"".join(records)).digest()), other)
    copied = repaired(other + records[3][-69:])
    for forged in (stranger, copied):
        assert chip_on(with_records(flash, [*records, forged]))._state.sequence == 4
        assert chip_on(with_records(flash, [*records, forged, forged]))._state.sequence == 4


# --- wear -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "loans", "least", "most"),
    [(FIRST, 0, 1, 1), (FIRST, 27, 1, 1), (LATEST, 0, 0.03, 0.05), (LATEST, 100, 0.05, 0.07), (LATEST, 268, 0.2, 0.3)],
)
def test_how_much_a_change_wears(layout: Layout, loans: int, least: float, most: float) -> None:
    """Sectors erased for each license that is borrowed or given back: the figures are on the page."""
    flash, chip = lent(loans, layout)
    for _ in range(200):
        if not loans:
            borrow(chip, 1)
        give_back(chip, loans or 1)
        if loans:
            borrow(chip, loans)
    assert least <= len(flash.erased) / 400 <= most
