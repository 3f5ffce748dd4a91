"""The chip's flash: sectors that are erased whole, and then written from their beginning on, at once or piece by piece.

A write of a whole sector erases it first, and that is what wears a flash out. What is added behind what is there needs
no erasing. Either one is torn by a power cut.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Protocol

SECTOR: Final = 4096
ERASED: Final = b"\xff"
"""What each byte of an erased sector is."""
FIXED_SECTORS: Final = 14
FIXED_LIMIT: Final = FIXED_SECTORS * SECTOR
"""The most bytes of an image before its state."""


@dataclass(frozen=True)
class Layout:
    """How an image lies in the sectors: `version` of it and of the image, sectors of each of a bank's two state slots.

    A whole state has `whole_limit` bytes at most, and just as many if it is `padded`: then there is room for no change
    behind it.
    """

    version: int
    slot_sectors: int
    whole_limit: int
    padded: bool

    @property
    def slot_length(self) -> int:
        """Bytes of a slot: of a whole state with the changes behind it."""
        return self.slot_sectors * SECTOR

    @property
    def bank(self) -> int:
        """Sectors of a bank: its head, two state slots, and the firm items with the header before them."""
        return 1 + 2 * self.slot_sectors + FIXED_SECTORS

    @property
    def sectors(self) -> int:
        """Sectors of both banks. After them a chip that makes its key itself keeps it, and no command reads it."""
        return 2 * self.bank


FIRST: Final = Layout(version=1, slot_sectors=1, whole_limit=SECTOR, padded=True)
"""The layout of the first containers: each change is a whole state."""
LATEST: Final = Layout(version=2, slot_sectors=6, whole_limit=5 * SECTOR, padded=False)
"""The layout of what is made now. A sector is kept for changes, so that a full state wears no more than an empty one
of the first layout; 220 KiB with the key's sector."""


class Flash(Protocol):
    """Sectors that keep what is written, through power cuts; what is made in them has this `layout`."""

    @property
    def layout(self) -> Layout:
        """How an image lies here."""
        ...

    def read(self, sector: int) -> bytes:
        """Return a sector's bytes."""
        ...

    def write(self, sector: int, octets: bytes) -> None:
        """Erase a sector and write it, and return once it is safe."""
        ...

    def add(self, sector: int, at: int, octets: bytes) -> None:
        """Write from byte `at` on, where the sector is erased, and return once it is safe."""
        ...


class MemoryFlash:
    """Forgets everything with the process."""

    def __init__(self, layout: Layout = LATEST) -> None:
        self.layout = layout
        self._sectors = [bytes(SECTOR)] * (layout.sectors + 1)

    def read(self, sector: int) -> bytes:
        """Return a sector's bytes."""
        return self._sectors[sector]

    def write(self, sector: int, octets: bytes) -> None:
        """Write a sector."""
        self._sectors[sector] = octets

    def add(self, sector: int, at: int, octets: bytes) -> None:
        """Write a part of a sector."""
        before = self._sectors[sector]
        self._sectors[sector] = before[:at] + octets + before[at + len(octets) :]


class FileFlash:
    """A file with the sectors of a layout, open under `descriptor`. Raises OSError as the file does.

    A disk is taken to leave alone what lies before the added bytes in its own sector, as databases take it to.
    """

    def __init__(self, descriptor: int, layout: Layout) -> None:
        self._descriptor = descriptor
        self.layout = layout

    def read(self, sector: int) -> bytes:
        """Return a sector's bytes; fewer if the file ends."""
        return os.pread(self._descriptor, SECTOR, sector * SECTOR)

    def write(self, sector: int, octets: bytes) -> None:
        """Write a sector, and wait until it is on the disk."""
        self.add(sector, 0, octets)

    def add(self, sector: int, at: int, octets: bytes) -> None:
        """Write a part of a sector, and wait until it is on the disk."""
        at += sector * SECTOR
        while octets:
            written = os.pwrite(self._descriptor, octets, at)
            octets, at = octets[written:], at + written
        os.fsync(self._descriptor)
