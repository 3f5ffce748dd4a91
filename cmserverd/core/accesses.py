"""All accesses by their handles, kept in blocks of consecutive handles.

One dictionary of a million accesses is made anew by CPython every so many insertions and deletions, which would stop
the daemon for 50 ms; here a block is, in microseconds. Handles are given out in rising order, so blocks are in order
too, and a listing that goes on after some handle finds its place at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from cmserverd.core.terms import Access

_BITS: Final = 10
"""A block holds the accesses of 2^10 consecutive handles: small enough to be made anew unnoticed."""


class Accesses(Mapping[int, Access]):
    """A mapping from handles to accesses, in the order of the handles."""

    __slots__ = ("_blocks", "_count")

    def __init__(self) -> None:
        self._blocks: dict[int, dict[int, Access]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, handle: int) -> Access:
        return self._blocks[handle >> _BITS][handle]

    def __iter__(self) -> Iterator[int]:
        for block in self._blocks.values():
            yield from block

    def find(self, handle: int) -> Access | None:
        """Return the access of a handle, if there is one."""
        block = self._blocks.get(handle >> _BITS)
        return None if block is None else block.get(handle)

    def add(self, access: Access) -> None:
        """Add an access; its handle is higher than all before."""
        block = self._blocks.get(access.handle >> _BITS)
        if block is None:
            block = self._blocks[access.handle >> _BITS] = {}
        block[access.handle] = access
        self._count += 1

    def remove(self, handle: int) -> None:
        """Remove the access of a handle. Raises KeyError."""
        number = handle >> _BITS
        block = self._blocks[number]
        del block[handle]
        if not block:
            del self._blocks[number]
        self._count -= 1

    def after(self, handle: int) -> Iterator[Access]:
        """Yield the accesses with handles above this one, in their order."""
        first = handle >> _BITS
        for number in [number for number in self._blocks if number >= first]:
            for held in self._blocks[number].values():
                if held.handle > handle:
                    yield held
