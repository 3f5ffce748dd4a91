"""A chip without a container: what it answers, what makes one of it, and power cuts while that is done."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from drivers import image, keys
from drivers.chip.blank import Blank
from drivers.chip.flash import FIRST, LATEST, SECTOR, Layout
from drivers.container import ContainerKind
from drivers.driver import ImageError
from drivers.firm_item import Owner
from drivers.wire import encode_init
from tests.drivers.chips import TORN, Flash, PowerCut, flash_of
from tests.drivers.samples import CONTAINER_KEY, EVERYBODY

INFO, READ_IMAGE, SIGN, CONSUME, APPLY, TIME, NONCE, INIT = 1, 2, 16, 17, 18, 19, 20, 21
BORROW, RETURN = 22, 23
OK, UNKNOWN_COMMAND, BAD_REQUEST, ALREADY_MADE, EMPTY = 0, 1, 3, 15, 16
INFO_OF_NOTHING = bytes.fromhex("0101001000000000")
PARAMETERS = encode_init(3, 7, "Demo")


KEY_SECTOR = LATEST.sectors
OTHER_SLOT = 1 + LATEST.slot_sectors


def check_made(chip: Blank, public: bytes | None = None) -> None:
    """It is container 3-7, has its key, and stays what it is."""
    found = image.parse(chip.image, EVERYBODY)
    key = found.owner.key
    assert public in {None, key}
    assert found.owner == Owner(3, 7, ContainerKind.HARDWARE, 1, key)
    assert (found.container.text, found.container.firm_items, found.state.sequence) == ("Demo", (), 1)
    status, reply = chip.answer(SIGN, b"\1" + bytes(32))
    assert status == OK
    assert keys.verify(key, reply[:64], reply[64:])
    assert chip.answer(INIT, PARAMETERS) == (ALREADY_MADE, b"")


@pytest.mark.parametrize("command", [READ_IMAGE, SIGN, CONSUME, APPLY, TIME, NONCE, BORROW, RETURN])
def test_an_empty_chip_says_so(command: int) -> None:
    """To whatever it is asked but for INFO, which says that its image has no bytes; and nothing is written."""
    flash = Flash()
    chip = Blank(flash)
    assert chip.answer(command, bytes(8)) == (EMPTY, b"")
    assert chip.answer(INFO, b"") == (OK, INFO_OF_NOTHING)
    assert chip.answer(24, b"") == (UNKNOWN_COMMAND, b"")
    assert (chip.image, flash.writes) == (b"", 0)


@pytest.mark.parametrize("layout", [FIRST, LATEST])
def test_it_becomes_a_container_with_a_key_of_its_own(layout: Layout) -> None:
    """At once and after the next start; the answer is the public key, the private one is nowhere to be read."""
    flash = Flash(layout)
    chip = Blank(flash)
    status, public = chip.answer(INIT, PARAMETERS)
    assert status == OK
    private = flash.read(layout.sectors)[:32]
    assert Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw() == public
    for each in (chip, Blank(flash)):
        check_made(each, public)
        assert private not in each.image
    assert Blank(Flash()).answer(INIT, PARAMETERS)[1] != public


def test_a_text_has_255_characters_at_most() -> None:
    """The longest is taken."""
    chip = Blank(Flash())
    assert chip.answer(INIT, encode_init(65_535, 2**32 - 1, "é" * 255))[0] == OK
    assert image.parse(chip.image, EVERYBODY).container.text == "é" * 255


@pytest.mark.parametrize(
    "payload", [b"", bytes(5), bytes(6) + b"\xff", bytes(6) + b"x" * 256, bytes(6) + b"\n", bytes(6) + b"\x7f"]
)
def test_what_is_no_container_is_not_made(payload: bytes) -> None:
    """A chip that nobody could read would be lost for good."""
    flash = Flash()
    assert Blank(flash).answer(INIT, payload) == (BAD_REQUEST, b"")
    assert flash.writes == 0


def damaged(*sectors: int) -> Flash:
    """Return the flash of a container of which these sectors went bad."""
    flash = flash_of()
    for sector in sectors:
        flash.write(sector, b"\xff" * SECTOR)
    flash.writes = 0
    return flash


def older_and_damaged() -> Flash:
    """Return a flash whose bank in force lost its state, and in which the one before is whole, with another key."""
    flash = flash_of()
    older = [flash.read(sector) for sector in range(LATEST.bank)]
    head = struct.pack("<8sQ", b"cmbank\0\2", 2) + older[0][16:24]
    checked = head + struct.pack("<I", zlib.crc32(head))
    without_state = [bytes(SECTOR)] * 2 * LATEST.slot_sectors
    for at, octets in enumerate([checked.ljust(SECTOR, b"\0"), *without_state, *older[1 + len(without_state) :]]):
        flash.write(LATEST.bank + at, octets)
    flash.write(KEY_SECTOR, CONTAINER_KEY.ljust(SECTOR, b"\0"))
    flash.writes = 0
    return flash


FLASHES: dict[str, Callable[[], Flash]] = {
    "new": Flash,
    "without state": lambda: damaged(1, OTHER_SLOT),
    "with half a head": lambda: damaged(0),
    "with an older image": older_and_damaged,
}


@pytest.mark.parametrize("make", FLASHES.values(), ids=FLASHES)
def test_a_cut_leaves_it_empty_or_made(make: Callable[[], Flash]) -> None:
    """At every write, and wherever in it; what is still empty can be made, what is made stays what it is."""
    whole = make()
    assert Blank(whole).answer(INFO, b"") == (OK, INFO_OF_NOTHING)
    assert Blank(whole).answer(INIT, PARAMETERS)[0] == OK
    check_made(Blank(whole))
    empty = made = 0
    for point in range(whole.writes):
        for torn in TORN:
            flash = make()
            chip = Blank(flash)
            flash.left, flash.torn = point, torn
            with pytest.raises(PowerCut):
                chip.answer(INIT, PARAMETERS)
            again = Blank(flash.copy())
            if again.answer(INFO, b"") == (OK, INFO_OF_NOTHING):
                with pytest.raises(ImageError):
                    image.parse(again.image, EVERYBODY)
                assert again.answer(INIT, PARAMETERS)[0] == OK
                empty += 1
            else:
                made += 1
            check_made(again)
    assert empty > made > 0
