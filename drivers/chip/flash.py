"""The chip's flash, and how an image lies in it so that a power cut at any moment leaves the old or the new one.

A sector is written whole, or torn by a cut. There are two banks of sectors:

    head | state slot | state slot | firm items with the header before them

A count is one write: into the slot that is not in force. An update fills the bank that is not in force, and its head is
written last; of two sound heads the one with the higher number is in force. `ONE_BANK` sectors are small enough that
both banks fit into a chip with 256 KiB.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Final, Protocol

SECTOR: Final = 4096
ONE_BANK: Final = 17
SECTORS: Final = 2 * ONE_BANK
KEY_SECTOR: Final = SECTORS
"""After the banks, in a chip that makes its key itself: the private key, which no command reads."""
FIXED_LIMIT: Final = (ONE_BANK - 3) * SECTOR
"""The most bytes of an image before its state slots."""

_HEAD: Final = struct.Struct("<8sQII")
_MAGIC: Final = b"cmbank\x00\x01"
_CHECKSUM: Final = struct.Struct("<I")
_SLOT_LENGTH_AT: Final = 62
"""Where an image's header says how long its slots are."""


class Damaged(Exception):
    """There is no sound image in the flash."""


class Flash(Protocol):
    """Sectors that keep what is written, through power cuts."""

    def read(self, sector: int) -> bytes:
        """Return a sector's bytes."""
        ...

    def write(self, sector: int, octets: bytes) -> None:
        """Write a sector, and return once it is safe."""
        ...


class MemoryFlash:
    """Forgets everything with the process."""

    def __init__(self) -> None:
        self._sectors = [bytes(SECTOR)] * (SECTORS + 1)

    def read(self, sector: int) -> bytes:
        """Return a sector's bytes."""
        return self._sectors[sector]

    def write(self, sector: int, octets: bytes) -> None:
        """Write a sector."""
        self._sectors[sector] = octets


class FileFlash:
    """A file of `SECTORS` sectors, open under `descriptor`. Raises OSError as the file does."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, sector: int) -> bytes:
        """Return a sector's bytes; fewer if the file ends."""
        return os.pread(self._descriptor, SECTOR, sector * SECTOR)

    def write(self, sector: int, octets: bytes) -> None:
        """Write a sector, and wait until it is on the disk."""
        at = sector * SECTOR
        while octets:
            written = os.pwrite(self._descriptor, octets, at)
            octets, at = octets[written:], at + written
        os.fsync(self._descriptor)


class Banks:
    """The image in force. Raises Damaged if there is none."""

    def __init__(self, flash: Flash) -> None:
        self._flash = flash
        found = _heads(flash)
        if not found:
            raise Damaged
        self._number, self._bank, self.fixed = found[-1]
        """`fixed` is all of the image before its state slots."""

    @property
    def slots(self) -> tuple[bytes, bytes]:
        """The two state slots."""
        start = self._bank * ONE_BANK
        return self._flash.read(start + 1), self._flash.read(start + 2)

    def write_slot(self, which: int, slot: bytes) -> None:
        """Write one of the two state slots."""
        self._flash.write(self._bank * ONE_BANK + 1 + which, slot)

    def replace(self, fixed: bytes, slot: bytes) -> None:
        """Put another image in the place of this one; `slot` is its state."""
        bank = 1 - self._bank
        _fill(self._flash, bank, self._number + 1, fixed, (slot, bytes(SECTOR)))
        self._number, self._bank, self.fixed = self._number + 1, bank, fixed


def _heads(flash: Flash) -> list[tuple[int, int, bytes]]:
    """Return number, bank and fixed part of each sound bank, the one in force last."""
    return sorted(head for bank in (0, 1) if (head := _head(flash, bank)) is not None)


def _head(flash: Flash, bank: int) -> tuple[int, int, bytes] | None:
    start = bank * ONE_BANK
    head = flash.read(start)[: _HEAD.size + _CHECKSUM.size]
    if len(head) < _HEAD.size + _CHECKSUM.size:
        return None
    magic, number, length, checksum = _HEAD.unpack_from(head)
    if magic != _MAGIC or length > FIXED_LIMIT or head[_HEAD.size :] != _crc(head[: _HEAD.size]):
        return None
    sectors = range(start + 3, start + 3 + -(-length // SECTOR))
    fixed = b"".join(flash.read(sector) for sector in sectors)[:length]
    return (number, bank, fixed) if zlib.crc32(fixed) == checksum else None


def make(flash: Flash, private: bytes, fixed: bytes, slot: bytes) -> None:
    """Write the first image, as a chip does that has no sound one; `private` is its key, `slot` its state.

    After a cut at any moment there is still none, or all of it with its key. What a damaged image left goes first, and
    of that what is not in force, or an image from before it would be.
    """
    for _, bank, _ in _heads(flash):
        flash.write(bank * ONE_BANK, bytes(SECTOR))
    flash.write(KEY_SECTOR, private.ljust(SECTOR, b"\0"))
    _fill(flash, 0, 1, fixed, (slot, bytes(SECTOR)))


def program(flash: Flash, image: bytes) -> None:
    """Write the first image, as the factory does. Raises ValueError if it does not fit into the chip."""
    (slot_length,) = struct.unpack_from("<I", image, _SLOT_LENGTH_AT)
    fixed = image[: -2 * SECTOR]
    if len(fixed) > FIXED_LIMIT or slot_length != SECTOR:
        msg = f"An image for this chip has {FIXED_LIMIT} bytes before its slots at most, and slots of {SECTOR} bytes."
        raise ValueError(msg)
    _fill(flash, 0, 1, fixed, (image[-2 * SECTOR : -SECTOR], image[-SECTOR:]))


def _fill(flash: Flash, bank: int, number: int, fixed: bytes, slots: tuple[bytes, bytes]) -> None:
    start = bank * ONE_BANK
    for at in range(0, len(fixed), SECTOR):
        flash.write(start + 3 + at // SECTOR, fixed[at : at + SECTOR].ljust(SECTOR, b"\0"))
    for which, slot in enumerate(slots):
        flash.write(start + 1 + which, slot)
    head = _HEAD.pack(_MAGIC, number, len(fixed), zlib.crc32(fixed))
    flash.write(start, (head + _crc(head)).ljust(SECTOR, b"\0"))


def _crc(octets: bytes) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(octets))
