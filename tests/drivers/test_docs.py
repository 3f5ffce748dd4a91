"""`docs/drivers.md` is true: its example runs and conforms, its bytes are those of the code, its udev rule fits."""

from __future__ import annotations

import os
import re
import types
from pathlib import Path

import pytest

from drivers import description, image, keys, options, statement, toml, update, wire
from drivers.checks import check_driver
from drivers.chip import flash as flashes
from drivers.chip.banks import program
from drivers.chip.chip import Chip, Memory
from drivers.chip.flash import MemoryFlash
from drivers.container import DATA_LIMIT, Borrowing, ContainerKind, Loan, ProductItem
from drivers.driver import Purpose, Signed, never_cancelled
from drivers.usb import demo_licensor, frames
from drivers.usb.driver import PRODUCT_ID, VENDOR_ID, UsbOptions
from drivers.usb.firmware import Firmware
from drivers.virtual import VirtualOptions
from drivers.wire import Command, Status
from tests.drivers.samples import CONTAINER_KEY, EVERYBODY, LICENSOR_KEY, OWNER, SIGNING, demo_container

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "drivers.md").read_text()
IMAGE = image.encode(demo_container())


def block(after: str, language: str) -> str:
    """Return the first block of this language that comes after some words of the page."""
    match = re.compile(rf"```{language}\n(.*?)```", re.DOTALL).search(PAGE, PAGE.index(after))
    assert match is not None
    return match[1]


def dumped(after: str) -> bytes:
    """Return the bytes of the first dump that comes after some words of the page."""
    return b"".join(bytes.fromhex(line[6:54]) for line in block(after, "text").splitlines())


@pytest.fixture
def card() -> types.ModuleType:
    """Return the page's example as a module."""
    module = types.ModuleType("cmserverd_card")
    exec(compile(block("## A driver of your own", "python"), "docs/drivers.md", "exec"), module.__dict__)  # noqa: S102
    return module


def test_the_example_conforms(card: types.ModuleType, tmp_path: Path) -> None:
    """Whoever copies the example has a driver that the daemon can use."""
    path = tmp_path / "demo.cmimage"
    plugs: list[int] = []

    def plug() -> None:
        path.write_bytes(IMAGE)
        plugs.append(0)
        stamp = 1_700_000_000 + len(plugs)
        os.utime(path, (stamp, stamp))

    options = card.CardOptions(directory=str(tmp_path))
    check_driver(lambda: card.CardDriver(options, never_cancelled), plug, path.unlink, kind=ContainerKind.HARDWARE)
    assert len(plugs) == 2


def test_the_page_s_image() -> None:
    """The bytes on the page are the first ones of that container's image."""
    octets = dumped("<!-- image -->")
    assert len(octets) > 200
    assert image.encode(demo_container(), signing=SIGNING).startswith(octets)


def test_the_page_s_statement() -> None:
    """The chip signs the page's bytes, and the host believes them."""
    flash = MemoryFlash()
    program(flash, image.encode(demo_container(), signing=SIGNING))
    nonce = bytes(range(32))
    reply = dumped("<!-- presence -->")
    assert Chip(flash, CONTAINER_KEY).answer(Command.SIGN, bytes([Purpose.PRESENCE]) + nonce) == (Status.OK, reply)
    statement.check(Purpose.PRESENCE, nonce, OWNER, Signed(reply[64:], reply[:64]))


def test_the_page_s_update() -> None:
    """A licensor writes the page's bytes."""
    assert update.encode_time(OWNER, bytes(range(32)), 1_800_000_000, LICENSOR_KEY) == dumped("<!-- update -->")


def test_the_page_s_return() -> None:
    """A holder signs the page's bytes, the host sends them, and the chip strikes the loan off."""
    octets = dumped("<!-- return -->")
    signed, payload = octets[:66], octets[66:]
    holder, loan, now = bytes(range(96, 128)), bytes(range(16)), 1_800_000_000
    assert statement.return_receipt(OWNER, loan) == signed
    assert wire.encode_return(loan, keys.sign(holder, signed), now + 500) == payload
    flash = MemoryFlash()
    item = ProductItem(1, 14, borrowing=Borrowing(1000))
    program(flash, image.encode(demo_container(ContainerKind.HARDWARE, item), signing=SIGNING))
    chip = Chip(flash, CONTAINER_KEY)
    lent = wire.encode_loan(Loan(loan, 600010, 1, 1, now + 1000, keys.public_of(holder)), now)
    assert chip.answer(Command.BORROW, lent) == (Status.OK, (now + 1000).to_bytes(8, "little"))
    assert chip.answer(Command.RETURN, payload) == (Status.OK, b"\1")


def test_the_page_s_change() -> None:
    """A chip that lends writes the page's bytes behind its state, and the host reads the loan there."""
    flash = MemoryFlash()
    item = ProductItem(1, 14, borrowing=Borrowing(1000))
    program(flash, image.encode(demo_container(ContainerKind.HARDWARE, item), signing=SIGNING))
    chip = Chip(flash, CONTAINER_KEY)
    before, now = chip.image, 1_800_000_000
    loan = Loan(bytes(range(16)), 600010, 1, 1, now + 1000, keys.public_of(bytes(range(96, 128))))
    assert chip.answer(Command.BORROW, wire.encode_loan(loan, now))[0] == Status.OK
    assert chip.image == before + dumped("<!-- change -->")
    assert image.parse(chip.image, EVERYBODY).state.loans == (loan,)


def test_the_limits_are_on_the_page() -> None:
    """How many bytes an image and its parts have at most."""
    limits = (image.IMAGE_LIMIT, image.FIXED_LIMIT, image.STATE_LIMIT)
    assert all(f"{limit:,}" in PAGE for limit in limits)
    assert (flashes.LATEST.whole_limit, flashes.FIXED_LIMIT) == (image.STATE_LIMIT, image.FIXED_LIMIT)
    assert flashes.FIXED_LIMIT + flashes.LATEST.slot_length == image.IMAGE_LIMIT


def test_the_page_s_exchange() -> None:
    """The firmware answers the page's commands with the page's replies, and the host sends those commands."""
    firmware = Firmware(Memory(IMAGE))
    firmware.reset()
    firmware.control(0x00, 9, 1, 0, 0)
    lines = [line.split(maxsplit=1) for line in block("<!-- exchange -->", "text").splitlines()]
    assert [who for who, _ in lines] == ["host", "dongle"] * 2
    sent = [bytes.fromhex(octets) for _, octets in lines]
    for command, reply in ((sent[0], sent[1]), (sent[2], sent[3])):
        assert firmware.out_packet(0x01, command)
        assert firmware.in_packet(0x81) == reply
    assert frames.encode_command(Command.INFO, 1) == sent[0]
    assert frames.encode_command(Command.READ_IMAGE, 2, wire.encode_chunk(0, 4)) == sent[2]


@pytest.mark.parametrize("numbers", [Command, Status])
def test_every_number_is_on_the_page(numbers: type[Command] | type[Status]) -> None:
    """Commands and statuses are described with the numbers that the code uses."""
    for number in numbers:
        assert f"{number.value} {number.name}" in PAGE


def test_every_option_is_on_the_page() -> None:
    """Each setting of our drivers is described."""
    for table in (UsbOptions, VirtualOptions):
        for field in table.__struct_fields__:
            assert f"`{field}" in PAGE


def test_every_option_of_an_item_is_on_the_page() -> None:
    """The table has each option with its number, whether it is critical, the length of its value, and its key."""
    rows: dict[int, tuple[bool, str, str]] = {}
    for line in PAGE[PAGE.index("| tag | critical |") :].splitlines()[2:]:
        if not line.startswith("|"):
            break
        tag, critical, length, key, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        rows[int(tag)] = (critical == "yes", length, key.strip("`"))
    for option in options._OPTIONS:
        row = rows.pop(option.tag & ~options.CRITICAL)
        assert row == (bool(option.tag & options.CRITICAL), str(option.layout.size), option.field)
    assert rows.pop(options._TEXT) == (False, "to 1,020", "text")
    for number, field in options._DATA.items():
        assert rows.pop(number) == (False, f"to {DATA_LIMIT}", field)
    assert not rows


def test_the_page_s_description_has_every_key() -> None:
    """The TOML on the page can be read, and shows each key that there is."""
    (container,) = description.parse(block("around it makes several", "toml").encode(), "page", ContainerKind.VIRTUAL)
    assert image.decode(image.encode(container), EVERYBODY) == container
    table = toml.loads(block("around it makes several", "toml"))
    for form, shown in (
        (description._Container, table),
        (description._FirmItem, table["firm_items"][0]),
        (description._Product, table["firm_items"][0]["products"][0]),
    ):
        assert set(form.__struct_fields__) == shown.keys()


def test_the_demo_licensor_is_on_the_page() -> None:
    """Whoever tries the demo finds the line for his configuration, and what it is worth."""
    table = toml.loads(block("<!-- demo licensor -->", "toml"))
    assert table == {"licensors": {"600010": keys.to_text(demo_licensor.PUBLIC)}}


def test_the_udev_rule_is_for_our_dongles() -> None:
    """Rule and driver have the same ids, and the page names the group that the rule gives the dongles to."""
    lines = (ROOT / "systemd" / "60-cmserverd.rules").read_text().splitlines()
    (rule,) = [line for line in lines if line and not line.startswith("#")]
    parts = dict(re.findall(r"([\w{}]+)(?:==|\+=|!=|=)\"([^\"]*)\"", rule))
    assert (parts["ATTR{idVendor}"], parts["ATTR{idProduct}"]) == (f"{VENDOR_ID:04x}", f"{PRODUCT_ID:04x}")
    assert (parts["SUBSYSTEM"], parts["ENV{DEVTYPE}"]) == ("usb", "usb_device")
    assert (parts["GROUP"], parts["MODE"]) == ("cmserverd", "0660")
    assert "SupplementaryGroups=cmserverd" in PAGE
