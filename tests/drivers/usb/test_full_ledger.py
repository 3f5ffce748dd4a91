"""A dongle whose ledger is full, over the USB: all of it is read, nothing more is lent, each loan is as good as one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from drivers import image, keys, statement
from drivers.container import Allowance, Borrowing, Container, FirmItem, Loan, ProductItem
from drivers.driver import Purpose, Refused
from drivers.usb.driver import UsbDevice
from drivers.usb.firmware import Firmware
from tests.drivers.chips import CONTAINER, KEYS, MONTH, NOW, Flash, chip_on, flash_of
from tests.drivers.samples import FIRM_CODE, OWNER, TRUST
from tests.drivers.usb.dongles import Counting, driver_on, only

ROOM = 250
LENT = ProductItem(1, 14, "Chart Processing", 1000, borrowing=Borrowing(MONTH))
COUNTED = tuple(ProductItem(n, 15, units=Allowance(1000)) for n in range(2, 66))
FULL = Container(CONTAINER.id, CONTAINER.kind, "Demo", (FirmItem(FIRM_CODE, "Chart Works", 7, (LENT, *COUNTED)),))
HOLDER = bytes(range(96, 128))


def loan(number: int) -> Loan:
    """Return a loan to the one holder here."""
    return Loan(number.to_bytes(16, "big"), FIRM_CODE, 1, 1, NOW + number, keys.public_of(HOLDER))


LOANS = tuple(map(loan, range(1, ROOM + 1)))


@pytest.fixture
def flash() -> Flash:
    """Return what the dongle keeps."""
    return flash_of(FULL, KEYS)


@pytest.fixture
def device(flash: Flash) -> Iterator[UsbDevice]:
    """Return a dongle that has 64 counters and 64 receipts, and whose ledger is full."""
    bus = Counting()
    bus.plug(Firmware(chip_on(flash)))
    driver = driver_on(bus)
    device = driver.open(only(driver))
    for item in COUNTED:
        device.consume(FIRM_CODE, item.reference, 1, item.reference.to_bytes(16, "big"), NOW)
    for each in LOANS:
        assert device.borrow(each, NOW) == each.end
    yield device
    device.close()


def test_250_loans_are_read_and_no_other_is_taken(flash: Flash, device: UsbDevice) -> None:
    """Beside 64 receipts and 64 counters, by the host and by the chip after the power was gone."""
    before = device.read()
    assert len(before) <= image.IMAGE_LIMIT
    state = image.parse(before, TRUST).state
    assert (state.loans, len(state.receipts), len(state.items)) == (LOANS, 64, 64)
    with pytest.raises(Refused, match="has no room for another loan; have a license given back, or wait") as refused:
        device.borrow(loan(ROOM + 1), NOW)
    assert refused.value.number == 226
    assert device.read() == before
    assert image.parse(chip_on(flash).image, TRUST).state == state


def test_each_of_them_is_certified(device: UsbDevice) -> None:
    """As it is in the ledger."""
    device.read()
    for each in LOANS:
        said = statement.lent(device.sign(Purpose.BORROW, statement.borrow_body(each.id, secrets.token_bytes(32))))
        assert (said.id, said.end, said.holder) == (each.id, each.end, each.holder)


def test_what_is_given_back_makes_room(device: UsbDevice) -> None:
    """For one; those that stand can be extended, and all that is counted counts on."""
    signature = keys.sign(HOLDER, statement.return_receipt(OWNER, LOANS[9].id))
    assert device.borrow(replace(LOANS[5], end=NOW + 5000), NOW) == NOW + 5000
    assert device.give_back(LOANS[9].id, signature, NOW)
    assert device.borrow(loan(ROOM + 1), NOW)
    with pytest.raises(Refused, match="no room for another loan"):
        device.borrow(loan(ROOM + 2), NOW)
    for number in range(100, 200):
        device.consume(FIRM_CODE, 5, 1, number.to_bytes(16, "big"), NOW)
    state = image.parse(device.read(), TRUST).state
    expected = [*LOANS[:5], *LOANS[6:9], *LOANS[10:], replace(LOANS[5], end=NOW + 5000), loan(ROOM + 1)]
    assert sorted(state.loans, key=by_id) == sorted(expected, key=by_id)
    assert {each.units_used for each in state.items if each.reference == 5} == {101}


def by_id(lent: Loan) -> bytes:
    """Return what loans are sorted by."""
    return lent.id
