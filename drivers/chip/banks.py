"""How an image lies in the chip's flash so that a power cut at any moment leaves the old or the new one.

There are two banks of sectors:

    head | state slot | state slot | firm items with the header before them

What changes in the field is written into the slots (`drivers.chip.log`). An update fills the bank that is not in force,
and its head is written last; of two sound heads the one with the higher number is in force. Both banks fit into a chip
with 256 KiB.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from drivers.chip.flash import ERASED, FIXED_LIMIT, LATEST, SECTOR, Flash

_HEAD: Final = struct.Struct("<7sBQII")
_MAGIC: Final = b"cmbank\x00"
_CHECKSUM: Final = struct.Struct("<I")
_IMAGE_HEAD: Final = struct.Struct("<8sHHI40sHII")


class Damaged(Exception):
    """There is no sound image in the flash."""


class Newer(Exception):
    """What is in the flash has a layout of a later version."""


class Banks:
    """The image in force. Raises Damaged if there is none, Newer if a later version made it."""

    def __init__(self, flash: Flash) -> None:
        self.layout = flash.layout
        self._flash = flash
        found = _heads(flash)
        if not found:
            check_version(flash)
            raise Damaged
        self._number, self._bank, self.fixed = found[-1]
        """`fixed` is all of the image before its state."""

    def slot(self, which: int) -> bytes:
        """Return one of the two state slots."""
        start = self._slot(which)
        return b"".join(self._flash.read(sector) for sector in range(start, start + self.layout.slot_sectors))

    def write_slot(self, which: int, octets: bytes) -> None:
        """Write a slot from its beginning. What lay behind that stays, but for the rest of the last sector."""
        _write(self._flash, self._slot(which), octets)

    def add_to_slot(self, which: int, at: int, octets: bytes) -> None:
        """Write behind the first `at` bytes of a slot, where its sector is erased; further ones are erased now."""
        sector, offset = divmod(at, SECTOR)
        sector += self._slot(which)
        if offset:
            room = SECTOR - offset
            self._flash.add(sector, offset, octets[:room])
            sector, octets = sector + 1, octets[room:]
        _write(self._flash, sector, octets)

    def replace(self, fixed: bytes, slot: bytes) -> None:
        """Put another image in the place of this one; `slot` is its state, in the first slot."""
        bank = 1 - self._bank
        _fill(self._flash, bank, self._number + 1, fixed, slot)
        self._number, self._bank, self.fixed = self._number + 1, bank, fixed

    def _slot(self, which: int) -> int:
        return self._bank * self.layout.bank + 1 + which * self.layout.slot_sectors


def check_version(flash: Flash) -> None:
    """Raise Newer if what begins the flash is the head of a later layout."""
    head = flash.read(0)
    if head.startswith(_MAGIC) and head[len(_MAGIC)] > LATEST.version:
        raise Newer


def _heads(flash: Flash) -> list[tuple[int, int, bytes]]:
    """Return number, bank and fixed part of each sound bank, the one in force last."""
    return sorted(head for bank in (0, 1) if (head := _head(flash, bank)) is not None)


def _head(flash: Flash, bank: int) -> tuple[int, int, bytes] | None:
    layout = flash.layout
    start = bank * layout.bank
    head = flash.read(start)[: _HEAD.size + _CHECKSUM.size]
    if len(head) < _HEAD.size + _CHECKSUM.size:
        return None
    magic, version, number, length, checksum = _HEAD.unpack_from(head)
    if (magic, version) != (_MAGIC, layout.version) or head[_HEAD.size :] != _crc(head[: _HEAD.size]):
        return None
    if length > FIXED_LIMIT:
        return None
    first = start + 1 + 2 * layout.slot_sectors
    fixed = b"".join(flash.read(sector) for sector in range(first, first - -length // SECTOR))[:length]
    return (number, bank, fixed) if zlib.crc32(fixed) == checksum else None


def make(flash: Flash, private: bytes, fixed: bytes, slot: bytes) -> None:
    """Write the first image, as a chip does that has no sound one; `private` is its key, `slot` its state.

    After a cut at any moment there is still none, or all of it with its key. What a damaged image left goes first, and
    of that what is not in force, or an image from before it would be.
    """
    for _, bank, _ in _heads(flash):
        flash.write(bank * flash.layout.bank, bytes(SECTOR))
    flash.write(flash.layout.sectors, private.ljust(SECTOR, b"\0"))
    _fill(flash, 0, 1, fixed, slot)


def program(flash: Flash, image: bytes) -> None:
    """Write the first image, as the factory does. Raises ValueError if it does not fit into the chip."""
    layout = flash.layout
    _, version, header_length, _, _, _, items_length, whole_limit = _IMAGE_HEAD.unpack_from(image)
    fixed_length = header_length + items_length
    if fixed_length > FIXED_LIMIT or (version, whole_limit) != (layout.version, layout.whole_limit):
        msg = (
            f"An image for this chip is of version {layout.version}, has {FIXED_LIMIT} bytes before its state at most, "
            f"and a state of at most {layout.whole_limit} bytes."
        )
        raise ValueError(msg)
    _fill(flash, 0, 1, image[:fixed_length], image[fixed_length:][: layout.slot_length])


def _fill(flash: Flash, bank: int, number: int, fixed: bytes, slot: bytes) -> None:
    layout = flash.layout
    start = bank * layout.bank
    _write(flash, start + 1 + 2 * layout.slot_sectors, fixed)
    _write(flash, start + 1, slot)
    flash.write(start + 1 + layout.slot_sectors, bytes(SECTOR))
    head = _HEAD.pack(_MAGIC, layout.version, number, len(fixed), zlib.crc32(fixed))
    flash.write(start, (head + _crc(head)).ljust(SECTOR, ERASED))


def _write(flash: Flash, sector: int, octets: bytes) -> None:
    """Erase as many sectors as these bytes take, and write them."""
    for at in range(0, len(octets), SECTOR):
        flash.write(sector + at // SECTOR, octets[at : at + SECTOR].ljust(SECTOR, ERASED))


def _crc(octets: bytes) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(octets))
