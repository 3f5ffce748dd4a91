"""Borrowing as the host sees it: what it asks, and what it believes of the answers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import pytest
from msgspec.structs import replace

from drivers import keys, statement, wire
from drivers.chip.chip import Chip
from drivers.container import LATEST, ContainerKind, Loan
from drivers.device import ChipDevice
from drivers.driver import Faulty, Purpose, ReadOnly, Refused, Signed, Unsupported
from drivers.statement import Certificate, Vouched
from drivers.wire import Command
from tests.drivers.chips import CONTAINER, MONTH, NOW, chip_on, device_of, flash_of, parsed
from tests.drivers.samples import CONTAINER_KEY, FIRM_CODE, OWNER, STRANGER_KEY

HOLDER: Final = bytes(range(96, 128))
LOAN: Final = Loan(bytes(range(16)), FIRM_CODE, 1, 1, NOW + 1000, keys.public_of(HOLDER))
STATION: Final = bytes(range(64, 96))
BORROW: Final = statement.borrow_body(LOAN.id, STATION)
DIGEST: Final = bytes(range(32))
TRACKING: Final = statement.tracking_body(3, 40, DIGEST, NOW)


@pytest.fixture
def chip() -> Chip:
    """Return a chip whose plain item lends both of its licenses."""
    return chip_on(flash_of())


@pytest.fixture
def device(chip: Chip) -> ChipDevice:
    """Return the device on it."""
    return device_of(chip)


def receipt(loan: bytes = LOAN.id, private: bytes = HOLDER) -> bytes:
    """Return the holder's signature by which he gives a loan back."""
    return keys.sign(private, statement.return_receipt(OWNER, loan))


def test_a_loan_goes_and_comes_back(chip: Chip, device: ChipDevice) -> None:
    """Borrowed, asked for again, extended, given back, and given back again: the image has the ledger at each step."""
    assert device.borrow(LOAN, NOW) == NOW + 1000
    assert device.borrow(LOAN, NOW + 1) == NOW + 1000
    extended = replace(LOAN, end=NOW + 2000)
    assert device.borrow(extended, NOW) == NOW + 2000
    assert device.borrow(LOAN, NOW) == NOW + 2000
    assert parsed(chip).state.loans == (extended,)
    assert device.give_back(LOAN.id, receipt(), NOW) is True
    assert parsed(chip).state.loans == ()
    assert device.give_back(LOAN.id, receipt(), NOW) is False


def test_the_certificate(device: ChipDevice) -> None:
    """It says all of the loan, the station that was asked for, and since when."""
    device.borrow(LOAN, NOW)
    signed = device.sign(Purpose.BORROW, BORROW)
    assert keys.verify(OWNER.key, signed.signature, signed.message)
    assert statement.lent(signed) == Certificate(LOAN.id, STATION, LOAN.holder, FIRM_CODE, 14, 1, 7, 1, NOW, NOW + 1000)


def test_what_is_tracked_is_certified(device: ChipDevice) -> None:
    """By the later one of the two times."""
    signed = device.sign(Purpose.TRACKING, TRACKING)
    assert signed.message.endswith(TRACKING)
    vouched = statement.vouched(signed.message, signed.signature)
    assert vouched == Vouched(CONTAINER.id, OWNER.key, 3, 40, DIGEST, NOW)
    device.time(NOW + 5)
    later = device.sign(Purpose.TRACKING, TRACKING)
    assert statement.vouched(later.message, later.signature).time == NOW + 5
    with pytest.raises(Faulty, match="the history was altered"):
        statement.vouched(later.message, signed.signature)


@pytest.mark.parametrize(
    ("asked", "number", "sentence"),
    [
        (replace(LOAN, reference=9), 28, "no such item"),
        (replace(LOAN, reference=2), 226, "cannot be borrowed; ask its licensor"),
        (replace(LOAN, end=NOW + MONTH + 1), 226, "not lent so long"),
        (replace(LOAN, quantity=3), 226, "No more of the item's licenses"),
    ],
)
def test_refusals(device: ChipDevice, asked: Loan, number: int, sentence: str) -> None:
    """Each has its number, and says what to do."""
    with pytest.raises(Refused, match=sentence) as refused:
        device.borrow(asked, NOW)
    assert refused.value.number == number


def test_somebody_else_s_return(device: ChipDevice) -> None:
    """The sentence is of the return, and not of an update."""
    device.borrow(LOAN, NOW)
    with pytest.raises(Refused, match="the loan's holder did not sign it") as refused:
        device.give_back(LOAN.id, receipt(private=STRANGER_KEY), NOW)
    assert refused.value.number == 211


def test_a_full_ledger_says_so() -> None:
    """It is another matter than an image that is full: nothing is to be taken out."""
    with pytest.raises(Refused, match="no room for another loan; have a license given back") as refused:
        wire.check_status(Command.BORROW, wire.Status.LEDGER_FULL)
    assert refused.value.number == 226


def unasked(_command: Command, _payload: bytes) -> bytes:
    """Be a container that must not be asked."""
    raise AssertionError


@pytest.mark.parametrize(
    "wrong", [replace(LOAN, id=b"x" * 15), replace(LOAN, id=bytes(16)), replace(LOAN, holder=b"x" * 31)]
)
def test_what_is_no_loan_is_not_asked_for(wrong: Loan) -> None:
    """Ids and keys of another length, and the id that is none, do not get to the container."""
    with pytest.raises(ValueError, match="bytes"):
        ChipDevice(unasked, ContainerKind.HARDWARE).borrow(wrong, NOW)


@pytest.mark.parametrize(("loan", "signature"), [(b"x" * 17, bytes(64)), (bytes(16), bytes(64)), (LOAN.id, b"x" * 63)])
def test_what_is_no_return_is_not_asked_for(loan: bytes, signature: bytes) -> None:
    """The same of ids and signatures."""
    with pytest.raises(ValueError, match="bytes"):
        ChipDevice(unasked, ContainerKind.HARDWARE).give_back(loan, signature, NOW)


def answering(command: Command, answer: bytes) -> ChipDevice:
    """Return a device whose container answers this to a command."""

    def exchange(asked: Command, _payload: bytes) -> bytes:
        assert asked is command
        return answer

    return ChipDevice(exchange, ContainerKind.HARDWARE)


@pytest.mark.parametrize("end", [LOAN.end - 1, 0, -1, LATEST + 1])
def test_a_container_that_lends_for_less_than_was_asked(end: int) -> None:
    """It could refuse; what it grants is all of it, or a later end that stood already."""
    assert answering(Command.BORROW, struct.pack("<q", LOAN.end + 1)).borrow(LOAN, NOW) == LOAN.end + 1
    with pytest.raises(Faulty, match="exchange it"):
        answering(Command.BORROW, struct.pack("<q", end)).borrow(LOAN, NOW)


@pytest.mark.parametrize("answer", [b"\2", b"\xff"])
def test_a_return_that_is_neither_done_nor_undone(answer: bytes) -> None:
    """Yes or no."""
    with pytest.raises(Faulty, match="instead of 0 or 1"):
        answering(Command.RETURN, answer).give_back(LOAN.id, bytes(64), NOW)


# --- statements -------------------------------------------------------------------------------------------------------


def changed(at: int, octets: bytes) -> Callable[[bytes], bytes]:
    """Return a change of a statement: these bytes at a place, counted from the end."""
    return lambda message: message[:at] + octets + message[len(message) + at + len(octets) :]


LIES: Final[dict[str, tuple[Purpose, Callable[[bytes], bytes]]]] = {
    "another loan": (Purpose.BORROW, changed(-116, b"\xff")),
    "another station": (Purpose.BORROW, changed(-100, b"\xff")),
    "no license": (Purpose.BORROW, changed(-20, bytes(4))),
    "a start before all times": (Purpose.BORROW, changed(-16, struct.pack("<q", -1))),
    "a start after all times": (Purpose.BORROW, changed(-16, struct.pack("<q", LATEST + 1))),
    "an end before all times": (Purpose.BORROW, changed(-8, struct.pack("<q", -1))),
    "an end after all times": (Purpose.BORROW, changed(-8, struct.pack("<q", LATEST + 1))),
    "a longer certificate": (Purpose.BORROW, lambda message: message + b"\0"),
    "a shorter certificate": (Purpose.BORROW, lambda message: message[:-1]),
    "another purpose": (Purpose.BORROW, lambda message: message[:8] + b"\5" + message[9:]),
    "another segment": (Purpose.TRACKING, changed(-56, b"\xff")),
    "another number of records": (Purpose.TRACKING, changed(-48, b"\xff")),
    "another hash": (Purpose.TRACKING, changed(-9, b"\xff")),
    "an earlier time": (Purpose.TRACKING, changed(-8, struct.pack("<q", NOW - 1))),
    "a time after all times": (Purpose.TRACKING, changed(-8, struct.pack("<q", LATEST + 1))),
    "a longer answer": (Purpose.TRACKING, lambda message: message + b"\0"),
    "a shorter answer": (Purpose.TRACKING, lambda message: message[:-1]),
}


@pytest.mark.parametrize(("purpose", "lie"), LIES.values(), ids=LIES)
def test_a_statement_that_answers_something_else(
    device: ChipDevice, purpose: Purpose, lie: Callable[[bytes], bytes]
) -> None:
    """The container signs it properly, and still it is not what it was asked."""
    device.borrow(LOAN, NOW)
    body = {Purpose.BORROW: BORROW, Purpose.TRACKING: TRACKING}[purpose]
    message = device.sign(purpose, body).message
    lied = lie(message)
    assert lied != message
    with pytest.raises(Faulty, match="signed something that it was not asked for"):
        statement.check(purpose, body, OWNER, Signed(lied, keys.sign(CONTAINER_KEY, lied)))


@pytest.mark.parametrize("purpose", [Purpose.BORROW, Purpose.TRACKING])
@pytest.mark.parametrize("body", [b"", bytes(32), BORROW[:-1], BORROW + b"\0", TRACKING[:-1], TRACKING + b"\0"])
def test_a_body_of_the_wrong_form(device: ChipDevice, purpose: Purpose, body: bytes) -> None:
    """The container refuses it; and one that does not has its answer refused."""
    device.borrow(LOAN, NOW)
    with pytest.raises(Faulty, match="BAD_REQUEST"):
        device.sign(purpose, body)
    said = device.sign(purpose, {Purpose.BORROW: BORROW, Purpose.TRACKING: TRACKING}[purpose])
    with pytest.raises(Faulty, match="not asked for"):
        statement.check(purpose, body, OWNER, said)


def test_what_is_read_only_lends_nothing() -> None:
    """A container in a file says so."""
    with pytest.raises(Unsupported, match="keeps no ledger"):
        ReadOnly().borrow(LOAN, NOW)
    with pytest.raises(Unsupported, match="keeps no ledger"):
        ReadOnly().give_back(LOAN.id, bytes(64), NOW)
