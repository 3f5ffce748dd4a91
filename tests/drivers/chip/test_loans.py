"""The chip's ledger, by the bytes on the page: what it lends, to whom, until when, and how it comes back."""

from __future__ import annotations

import struct

import pytest

from drivers import keys, update
from drivers.chip import flash as flashes
from drivers.chip.chip import Chip
from drivers.chip.flash import FIRST, Layout
from drivers.container import Allowance, Borrowing, Container, FirmItem, Loan, ProductItem
from drivers.firm_item import encode_owner
from drivers.image import SigningKeys
from tests.drivers.chips import CONTAINER, MONTH, NOW, OTHER_CODE, Flash, chip_on, flash_of, parsed
from tests.drivers.samples import CONTAINER_KEY, FIRM_CODE, LICENSOR_KEY, OWNER, STRANGER_KEY

SIGN, CONSUME, APPLY, TIME, BORROW, RETURN = 16, 17, 18, 19, 22, 23
OK, BAD_REQUEST, NO_ITEM, NO_ROOM, NOT_SIGNED = 0, 3, 6, 10, 13
NOT_BORROWABLE, TOO_LONG, NONE_LEFT, LEDGER_FULL = 17, 18, 19, 20
SKEW = 60
LATEST = 253_402_300_799

HOLDER = bytes(range(96, 128))
PUBLIC = keys.public_of(HOLDER)
LENT = ProductItem(1, 14, "Chart Processing", 3, borrowing=Borrowing(MONTH))
FEW = ProductItem(2, 15, "Reports", 3, borrowing=Borrowing(3600, 2))
FIXED = ProductItem(3, 16, "Trial", 5)
LOCAL = ProductItem(4, 17, "Local", 0, borrowing=Borrowing(MONTH))
FOREVER = ProductItem(5, 18, "Old", 2**32 - 1, borrowing=Borrowing(2**32 - 1))
FIRM = FirmItem(FIRM_CODE, "Chart Works", 7, (LENT, FEW, FIXED, LOCAL, FOREVER))
LENDING = Container(CONTAINER.id, CONTAINER.kind, "Demo", (FIRM, FirmItem(OTHER_CODE, "Other", 1, (FEW,))))


@pytest.fixture
def flash() -> Flash:
    """Return a flash whose container lends."""
    return flash_of(LENDING)


@pytest.fixture
def chip(flash: Flash) -> Chip:
    """Return the chip on it."""
    return chip_on(flash)


def name(number: int) -> bytes:
    """Return a loan's id."""
    return number.to_bytes(16, "big")


def loan(number: int, reference: int = 1, end: int = NOW + 1000, quantity: int = 1, firm: int = FIRM_CODE) -> Loan:
    """Return a loan to the one holder here."""
    return Loan(name(number), firm, reference, quantity, end, PUBLIC)


def borrow(chip: Chip, asked: Loan, now: int = NOW) -> tuple[int, ...]:
    """Borrow; return the status, and the end in force."""
    payload = struct.pack(
        "<16sIIIqq32s",
        asked.id,
        asked.firm_code,
        asked.reference,
        asked.quantity,
        asked.end,
        now,
        asked.holder,
    )
    status, reply = chip.answer(BORROW, payload)
    return (status,) if status else (status, *struct.unpack("<q", reply))


def receipt(number: int, private: bytes = HOLDER, owner: bytes = encode_owner(OWNER)) -> bytes:
    """Return what a holder signs to give a loan back."""
    return keys.sign(private, b"cmreturn\0\1" + owner + name(number))


def give_back(chip: Chip, number: int, signature: bytes, now: int = NOW) -> tuple[int, bytes]:
    """Give a loan back; return status and reply."""
    return chip.answer(RETURN, struct.pack("<16sq64s", name(number), now, signature))


def ledger(chip: Chip) -> tuple[Loan, ...]:
    """Return what the image says is lent."""
    return parsed(chip).state.loans


# --- lending ----------------------------------------------------------------------------------------------------------


def test_a_loan_is_written_once(flash: Flash, chip: Chip) -> None:
    """It stands in the image, also after the power was gone; asking again writes nothing, and says until when."""
    assert borrow(chip, loan(1)) == (OK, NOW + 1000)
    assert parsed(chip).state.time_floor == NOW
    for again in (chip, chip_on(flash)):
        assert borrow(again, loan(1), NOW + 5) == (OK, NOW + 1000)
        assert ledger(again) == (loan(1),)
    assert flash.writes == 1


def test_a_later_end_extends_and_an_earlier_one_does_not_shorten(flash: Flash, chip: Chip) -> None:
    """Nobody can take time from a holder; what may be added is what the licensor allows from now on."""
    assert borrow(chip, loan(1)) == (OK, NOW + 1000)
    assert borrow(chip, loan(1, end=NOW + 1)) == (OK, NOW + 1000)
    assert borrow(chip, loan(1, end=NOW + MONTH + 1)) == (TOO_LONG,)
    assert ledger(chip) == (loan(1),)
    assert borrow(chip, loan(1, end=NOW + MONTH + 1), NOW + 1) == (OK, NOW + MONTH + 1)
    assert ledger(chip) == (loan(1, end=NOW + MONTH + 1),)
    assert flash.writes == 2


@pytest.mark.parametrize(
    "other",
    [
        loan(1, 5),
        loan(1, 2, firm=OTHER_CODE),
        loan(1, quantity=2),
        Loan(name(1), FIRM_CODE, 1, 1, NOW + 1000, keys.public_of(STRANGER_KEY)),
    ],
)
@pytest.mark.parametrize("later", [0, 1])
def test_a_known_id_is_of_one_loan(chip: Chip, other: Loan, later: int) -> None:
    """With another item, another quantity or another holder it is no question, and changes nothing."""
    assert borrow(chip, loan(1)) == (OK, NOW + 1000)
    changed = Loan(other.id, other.firm_code, other.reference, other.quantity, other.end + later, other.holder)
    assert borrow(chip, changed) == (BAD_REQUEST,)
    assert ledger(chip) == (loan(1),)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (loan(0), BAD_REQUEST),
        (loan(1, quantity=0), BAD_REQUEST),
        (loan(1, 9), NO_ITEM),
        (loan(1, firm=5), NO_ITEM),
        (loan(1, 3), NOT_BORROWABLE),
        (loan(1, 4), NOT_BORROWABLE),
        (loan(1, end=NOW + MONTH + 1), TOO_LONG),
        (loan(1, end=NOW), TOO_LONG),
        (loan(1, end=-1), TOO_LONG),
        (loan(1, end=2**63 - 1), TOO_LONG),
        (loan(1, 2, end=NOW + 3601), TOO_LONG),
        (loan(1, quantity=4), NONE_LEFT),
        (loan(1, 2, quantity=3), NONE_LEFT),
    ],
)
def test_what_is_not_lent(flash: Flash, chip: Chip, asked: Loan, status: int) -> None:
    """What is not there, what may not be taken along, more or longer than its licensor allows; nothing is written."""
    assert borrow(chip, asked) == (status,)
    assert (ledger(chip), flash.writes) == ((), 0)


@pytest.mark.parametrize("asked", [loan(1, end=NOW + MONTH), loan(1, quantity=3), loan(1, 2, quantity=2)])
def test_what_is_just_allowed_is_lent(chip: Chip, asked: Loan) -> None:
    """To the second, and to the last license."""
    assert borrow(chip, asked) == (OK, asked.end)


@pytest.mark.parametrize("now", [-1, LATEST + 1])
def test_a_time_that_cannot_be(flash: Flash, chip: Chip, now: int) -> None:
    """It is no question; and no loan ends after all times, which would make the state unreadable."""
    assert borrow(chip, loan(1), now) == (BAD_REQUEST,)
    assert give_back(chip, 1, bytes(64), now) == (BAD_REQUEST, b"")
    assert borrow(chip, loan(1, 5, end=LATEST + 1), LATEST - 5) == (TOO_LONG,)
    assert flash.writes == 0
    assert borrow(chip, loan(1, 5, end=LATEST), LATEST - 5) == (OK, LATEST)


def test_the_floor_is_the_clock_where_the_host_s_is_behind(chip: Chip) -> None:
    """Whoever turns the host's clock back borrows for no longer."""
    chip.answer(TIME, struct.pack("<q", NOW))
    assert borrow(chip, loan(1, 2, end=NOW + 3601), NOW - 5000) == (TOO_LONG,)
    assert borrow(chip, loan(1, 2, end=NOW - 1), NOW - 5000) == (TOO_LONG,)
    assert borrow(chip, loan(1, 2, end=NOW + 3600), NOW - 5000) == (OK, NOW + 3600)


def test_each_item_is_counted_alone(chip: Chip) -> None:
    """By firm code and reference; an extension counts its own license once."""
    for number in (1, 2, 3):
        assert borrow(chip, loan(number)) == (OK, NOW + 1000)
    assert borrow(chip, loan(4)) == (NONE_LEFT,)
    assert borrow(chip, loan(5, 2, quantity=2)) == (OK, NOW + 1000)
    assert borrow(chip, loan(6, 2)) == (NONE_LEFT,)
    assert borrow(chip, loan(6, 2, firm=OTHER_CODE)) == (OK, NOW + 1000)
    assert borrow(chip, loan(3, end=NOW + 1001)) == (OK, NOW + 1001)
    assert [each.id for each in ledger(chip)] == [name(number) for number in (1, 2, 5, 6, 3)]


def test_a_loan_counts_for_a_minute_after_its_end(flash: Flash, chip: Chip) -> None:
    """Its holder's clock may be behind; then it is dropped with the next one that is written."""
    assert borrow(chip, loan(1, quantity=3)) == (OK, NOW + 1000)
    over = NOW + 1000 + SKEW
    assert borrow(chip, loan(2, end=over + 9), over - 1) == (NONE_LEFT,)
    assert flash.writes == 1
    assert borrow(chip, loan(2, end=over + 9), over) == (OK, over + 9)
    assert ledger(chip) == (loan(2, end=over + 9),)
    assert flash.writes == 2


def test_a_loan_that_is_over_is_unknown(chip: Chip) -> None:
    """Its id begins a new one, whoever's; and there is nothing to give back."""
    assert borrow(chip, loan(1)) == (OK, NOW + 1000)
    over = NOW + 1000 + SKEW
    assert give_back(chip, 1, bytes(64), over) == (OK, b"\0")
    assert ledger(chip) == (loan(1),)
    assert borrow(chip, loan(1, 5, end=over + 9), over) == (OK, over + 9)


# --- room -------------------------------------------------------------------------------------------------------------


def use(chip: Chip, key: int, reference: int) -> int:
    """Take a unit of an item; return the status."""
    payload = struct.pack("<16sIIIq", name(key), FIRM_CODE, reference, 1, NOW)
    return chip.answer(CONSUME, payload)[0]


@pytest.mark.parametrize(
    ("layout", "counted", "room"),
    [
        (FIRST, 0, 28),
        (FIRST, 10, 25),
        (FIRST, 95, 0),
        (flashes.LATEST, 0, 269),
        (flashes.LATEST, 64, 250),
        (flashes.LATEST, 914, 0),
    ],
)
def test_what_is_lent_leaves_room_for_what_is_counted(layout: Layout, counted: int, room: int) -> None:
    """So many loans fit besides 64 receipts and a counter of each item that may get one; all of these still count."""
    items = tuple(ProductItem(n, n, units=Allowance(100)) for n in range(100, 100 + counted))
    container = Container(CONTAINER.id, CONTAINER.kind, "", (FirmItem(FIRM_CODE, "", 7, (FOREVER, *items)),))
    chip = chip_on(flash_of(container, layout=layout))
    answers = [borrow(chip, loan(number, 5))[0] for number in range(1, room + 3)]
    assert answers == [OK] * room + [LEDGER_FULL] * 2
    for key, item in enumerate(items, 1):
        assert use(chip, key, item.reference) == OK
    for key in range(2000, 2065 if counted else 2000):
        assert use(chip, key, 100) == OK
    state = parsed(chip).state
    assert (len(state.loans), len(state.items), len(state.receipts)) == (room, counted, 64 if counted else 0)
    if room:
        assert borrow(chip, loan(1, 5, end=NOW + 1001)) == (OK, NOW + 1001), "an extension takes no room"
        assert give_back(chip, 2, receipt(2)) == (OK, b"\1")
        assert borrow(chip, loan(room + 1, 5)) == (OK, NOW + 1000)


# --- giving back ------------------------------------------------------------------------------------------------------


def test_a_loan_is_given_back_once(flash: Flash, chip: Chip) -> None:
    """The license is free at once; the same receipt again changes nothing, also after the power was gone."""
    for number in (1, 2, 3):
        assert borrow(chip, loan(number)) == (OK, NOW + 1000)
    assert give_back(chip, 2, receipt(2), NOW + 7) == (OK, b"\1")
    assert ledger(chip) == (loan(1), loan(3))
    assert (parsed(chip).state.time_floor, flash.writes) == (NOW + 7, 4)
    for again in (chip, chip_on(flash)):
        assert give_back(again, 2, receipt(2), NOW + 8) == (OK, b"\0")
        assert ledger(again) == (loan(1), loan(3))
    assert flash.writes == 4
    assert borrow(chip, loan(4)) == (OK, NOW + 1000)


def test_only_the_holder_gives_back(flash: Flash, chip: Chip) -> None:
    """Nobody else's signature does, nor the holder's for another loan or container, or over something else."""
    for number in (1, 2):
        assert borrow(chip, loan(number)) == (OK, NOW + 1000)
    other = encode_owner(OWNER)[:-1] + b"\0"
    for signature in (
        receipt(1, STRANGER_KEY),
        receipt(1, CONTAINER_KEY),
        receipt(2),
        receipt(1, owner=other),
        keys.sign(HOLDER, name(1)),
        bytes(64),
    ):
        assert give_back(chip, 1, signature) == (NOT_SIGNED, b"")
    assert (ledger(chip), flash.writes) == ((loan(1), loan(2)), 2)


def test_what_is_not_lent_needs_no_signature(flash: Flash, chip: Chip) -> None:
    """It is an answer that there is no such loan: whoever gives back twice, or too late, has done it right."""
    assert give_back(chip, 1, bytes(64)) == (OK, b"\0")
    assert flash.writes == 0


def test_a_holder_without_a_key_gives_nothing_back(chip: Chip) -> None:
    """Bytes that are no point of the curve have signed nothing; the loan stands to its end."""
    asked = Loan(name(1), FIRM_CODE, 1, 1, NOW + 1000, b"\xff" * 32)
    assert borrow(chip, asked) == (OK, NOW + 1000)
    assert give_back(chip, 1, bytes(64)) == (NOT_SIGNED, b"")


# --- certificates -----------------------------------------------------------------------------------------------------


def certificate(chip: Chip, number: int, station: bytes = bytes(32)) -> tuple[int, bytes]:
    """Return the status, and what was signed past prefix and owner, once it is verified."""
    status, reply = chip.answer(SIGN, b"\4" + name(number) + station)
    if status:
        return status, reply
    assert keys.verify(OWNER.key, reply[:64], reply[64:])
    beginning = b"cmsign\0\1\4" + encode_owner(OWNER)
    assert reply[64:].startswith(beginning)
    return status, reply[64 + len(beginning) :]


def test_a_certificate_says_who_has_what_until_when(flash: Flash, chip: Chip) -> None:
    """Product code, update counter, holder and end are the container's, the start is its time floor."""
    station = bytes(range(32))
    assert borrow(chip, loan(1, 2, quantity=2)) == (OK, NOW + 1000)
    chip.answer(TIME, struct.pack("<q", NOW + 4))
    said = name(1) + station + PUBLIC + struct.pack("<IIIIIqq", FIRM_CODE, 15, 2, 7, 2, NOW + 4, NOW + 1000)
    for again in (chip, chip_on(flash)):
        assert certificate(again, 1, station) == (OK, said)
    assert flash.writes == 2, "nothing is written for it"


def test_there_is_no_certificate_of_what_is_not_lent(chip: Chip) -> None:
    """Never was, was given back, or is over."""
    assert borrow(chip, loan(1)) == borrow(chip, loan(2)) == (OK, NOW + 1000)
    assert give_back(chip, 2, receipt(2)) == (OK, b"\1")
    assert certificate(chip, 1)[0] == OK
    assert certificate(chip, 2) == certificate(chip, 3) == (NO_ITEM, b"")
    chip.answer(TIME, struct.pack("<q", NOW + 1000 + SKEW))
    assert certificate(chip, 1) == (NO_ITEM, b"")


# --- updates ----------------------------------------------------------------------------------------------------------


def apply(chip: Chip, *products: ProductItem) -> int:
    """Apply an update of the firm item to these products; return the status."""
    octets = update.encode_firm(OWNER, FirmItem(FIRM_CODE, "", 8, products), update.ANY, LICENSOR_KEY)
    status = OK
    for at in range(0, len(octets), 4088):
        status, _ = chip.answer(APPLY, struct.pack("<II", at, len(octets)) + octets[at : at + 4088])
    return status


def test_an_update_leaves_room_for_what_it_counts() -> None:
    """With a full ledger it is refused, and nothing changes; once a loan is back, all that is counted counts."""
    chip = chip_on(flash_of(LENDING))
    while borrow(chip, loan(len(ledger(chip)) + 1, 5)) != (LEDGER_FULL,):
        pass
    counted = [ProductItem(n, n, units=Allowance(100)) for n in range(100, 103)]
    before = chip.image
    assert (apply(chip, FOREVER, *counted), chip.image) == (NO_ROOM, before)
    assert apply(chip_on(flash_of(LENDING)), *(ProductItem(n, n, units=Allowance(1)) for n in range(1, 1001))) == OK
    assert give_back(chip, 1, receipt(1)) == (OK, b"\1")
    assert apply(chip, FOREVER, *counted) == OK
    for key in range(1, 100):
        assert use(chip, key, 100 + key % 3) == OK


def test_an_update_keeps_what_is_lent(chip: Chip) -> None:
    """Also of an item that is gone: it can be given back. What comes after is by the new terms, extensions too."""
    for number, reference in ((1, 1), (2, 1), (3, 2)):
        assert borrow(chip, loan(number, reference)) == (OK, NOW + 1000)
    before = ledger(chip)
    assert apply(chip, ProductItem(1, 14, "", 1, borrowing=Borrowing(2000))) == OK
    assert ledger(chip) == before
    assert certificate(chip, 1)[1][-24:] == struct.pack("<IIqq", 8, 1, NOW, NOW + 1000)
    assert certificate(chip, 3) == (NO_ITEM, b"")
    assert borrow(chip, loan(3, 2)) == (OK, NOW + 1000)
    assert borrow(chip, loan(3, 2, end=NOW + 1001)) == (NO_ITEM,)
    assert borrow(chip, loan(1, end=NOW + 1001)) == (NONE_LEFT,), "two are out, and there is one"
    assert give_back(chip, 3, receipt(3)) == give_back(chip, 2, receipt(2)) == (OK, b"\1")
    assert borrow(chip, loan(1, end=NOW + 2001)) == (TOO_LONG,)
    assert borrow(chip, loan(1, end=NOW + 2000)) == (OK, NOW + 2000)


def test_the_receipt_of_one_container_is_none_in_another() -> None:
    """The same loan in two containers: what is signed for the one does not end it in the other."""
    other_key = bytes(range(128, 160))
    signing = SigningKeys(other_key, {FIRM_CODE: LICENSOR_KEY, OTHER_CODE: STRANGER_KEY})
    here = chip_on(flash_of(LENDING))
    there = Chip(flash_of(LENDING, signing), other_key)
    for each in (here, there):
        assert borrow(each, loan(1)) == (OK, NOW + 1000)
    assert give_back(there, 1, receipt(1)) == (NOT_SIGNED, b"")
    assert give_back(here, 1, receipt(1)) == (OK, b"\1")
