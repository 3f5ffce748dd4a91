"""Large mappings in small blocks, so that none of them stops the daemon.

CPython makes a dictionary anew every so many insertions and deletions: with a million entries that takes 50 ms and
more, with a block of a thousand it goes unnoticed. What a grant needs costs one more look-up. The two classes do the
same with another number for the block, each in its own words: a call of a common function would cost more than it does.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_BITS: Final = 10
"""A block has the entries of 2^10 numbers in a row."""

_SPARSE: Final = (0, 4, 64)
"""A block that shrinks to so few entries is made anew, since dictionaries keep the room that they once had."""

_SHARDS: Final = 255
"""One less than the number of blocks over which hashed keys are spread."""


class _Blocks(Mapping[K, V], Generic[K, V]):
    """What both have in common: blocks by number, none of them empty."""

    __slots__ = ("_blocks", "_count")

    def __init__(self) -> None:
        self._blocks: dict[int, dict[K, V]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[K]:
        for block in self._blocks.values():
            yield from block


class Numbered(_Blocks[int, V]):
    """A mapping from numbers, each higher than those added before; in their order."""

    __slots__ = ()

    def __getitem__(self, number: int) -> V:
        return self._blocks[number >> _BITS][number]

    def find(self, number: int) -> V | None:
        """Return the value of a number, if it is there."""
        block = self._blocks.get(number >> _BITS)
        return None if block is None else block.get(number)

    def add(self, number: int, value: V) -> None:
        """Add a number that is higher than all before."""
        block = self._blocks.get(number >> _BITS)
        if block is None:
            block = self._blocks[number >> _BITS] = {}
        block[number] = value
        self._count += 1

    def remove(self, number: int) -> None:
        """Remove a number. Raises KeyError."""
        block = self._blocks[number >> _BITS]
        del block[number]
        if len(block) in _SPARSE:
            if block:
                self._blocks[number >> _BITS] = dict(block)
            else:
                del self._blocks[number >> _BITS]
        self._count -= 1

    def after(self, number: int) -> Iterator[V]:
        """Yield the values of higher numbers, in their order. Not to be used on once something was added or removed."""
        first = number >> _BITS
        for block in [block for block in self._blocks if block >= first]:
            for at, value in self._blocks[block].items():
                if at > number:
                    yield value


class Spread(_Blocks[K, V]):
    """A mapping from any keys; in no order that means anything."""

    __slots__ = ()

    def __getitem__(self, key: K) -> V:
        return self._blocks[hash(key) & _SHARDS][key]

    def find(self, key: K) -> V | None:
        """Return the value of a key, if it is there."""
        block = self._blocks.get(hash(key) & _SHARDS)
        return None if block is None else block.get(key)

    def add(self, key: K, value: V) -> None:
        """Add a key that is not there."""
        shard = hash(key) & _SHARDS
        block = self._blocks.get(shard)
        if block is None:
            block = self._blocks[shard] = {}
        block[key] = value
        self._count += 1

    def remove(self, key: K) -> None:
        """Remove a key. Raises KeyError."""
        shard = hash(key) & _SHARDS
        block = self._blocks[shard]
        del block[key]
        if not block:
            del self._blocks[shard]
        self._count -= 1
