"""The chip's state as it lies in its two slots: a whole one, and behind it the changes, each written once and for all.

    whole state | change | change | ... | erased

A change that finds no room behind the others is not written: the whole state that it makes goes into the other slot,
which is in force from then on. In the first layout there never is room. After a cut what was half written does not
count, and nothing is added behind it any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import reduce
from hashlib import sha256
from typing import NamedTuple

from drivers.chip.banks import Banks, Damaged
from drivers.chip.flash import ERASED, SECTOR, Layout
from drivers.chip.seal import TAIL, WHOLE, Seal, after, sound
from drivers.chip.state import HEAD_LENGTH, State, change_record, changed, length_of, sequence_of, size_of, whole_record

_NOTHING = State(sequence=0, floor=0)


class Full(Exception):
    """The state does not fit into its slot."""


class _Found(NamedTuple):
    """What a slot says: the first sequence number in it, its state after the last change, and how long that is.

    `hashed` are its records, as the next change is signed with them.
    """

    begun: int
    state: State
    hashed: hashlib._Hash
    length: int
    erased_behind: bool


class Log:
    """The slots of the bank in force. Raises Damaged if neither has a sound state."""

    def __init__(self, banks: Banks, seal: Seal) -> None:
        self._banks = banks
        self._seal = seal
        slots = ((_read(banks.slot(which), banks.layout, seal), which) for which in (0, 1))
        found = [(each, which) for each, which in slots if each is not None]
        if not found:
            raise Damaged
        # A slot is only begun when the other one is left: the one that was begun last counts, however short it is.
        # What it says is not read again, or what somebody altered since would be signed with the next change.
        (_, self.state, self._hashed, self._end, self._can_add), self._which = max(
            found, key=lambda each: each[0].begun
        )

    @property
    def image(self) -> bytes:
        """The state as it lies in the image: with its changes, or both slots in the first layout."""
        if self._banks.layout.padded:
            return self._banks.slot(0) + self._banks.slot(1)
        return self._banks.slot(self._which)[: self._end]

    def put(self, state: State) -> None:
        """Make this the state. Raises Full."""
        layout = self._banks.layout
        _check_room(state, layout)
        record = change_record(self.state, state)
        end = self._end + len(record) + TAIL
        if self._can_add and end <= layout.slot_length:
            sealed = self._seal.put(after(self._hashed.digest()), record)
            self._banks.add_to_slot(self._which, self._end, sealed)
            self._hashed.update(sealed)
        else:
            sealed = whole(state, layout, self._seal)
            self._banks.write_slot(1 - self._which, sealed)
            self._which, end, self._hashed = 1 - self._which, len(sealed), sha256(sealed)
        self.state, self._end, self._can_add = state, end, True

    def replace(self, fixed: bytes, state: State) -> None:
        """Put another image in the place of this one, with this state. Raises Full."""
        sealed = whole(state, self._banks.layout, self._seal)
        self._banks.replace(fixed, sealed)
        self._which, self._end, self._can_add = 0, len(sealed), True
        self.state, self._hashed = state, sha256(sealed)


def whole(state: State, layout: Layout, seal: Seal) -> bytes:
    """Return the state as a slot begins with it. Raises Full."""
    _check_room(state, layout)
    record = whole_record(state)
    return seal.put(WHOLE, record.ljust(layout.whole_limit - TAIL, b"\0") if layout.padded else record)


def _check_room(state: State, layout: Layout) -> None:
    if size_of(state) + TAIL > layout.whole_limit:
        raise Full


def _read(slot: bytes, layout: Layout, seal: Seal) -> _Found | None:
    """Return what a slot says, None if it is torn or not this container's."""
    records = _records(slot, layout)
    # A signature is for all before it, so the last one that holds is enough; behind it is nobody's.
    while records and not seal.holds(_prefix(records[:-1]), records[-1]):
        records.pop()
    if not records:
        return None
    end = sum(map(len, records))
    behind = slot[end : end + -end % SECTOR]
    begun, state = sequence_of(records[0]), reduce(changed, records, _NOTHING)
    return _Found(begun, state, sha256(slot[:end]), end, erased_behind=behind == ERASED * len(behind))


def _records(slot: bytes, layout: Layout) -> list[bytes]:
    """Return the sound records that a slot begins with; what an earlier life of it left has lower numbers."""
    records: list[bytes] = []
    at, end = 0, layout.whole_limit if layout.padded else _end(slot, 0)
    while end <= len(slot) and sound(record := slot[at:end]):
        if records and sequence_of(record) != sequence_of(records[-1]) + 1:
            break
        records.append(record)
        at, end = end, _end(slot, end)
    return records


def _prefix(before: Sequence[bytes]) -> bytes:
    """Return what is before what is signed of a record that follows these."""
    return after(sha256(b"".join(before)).digest()) if before else WHOLE


def _end(slot: bytes, at: int) -> int:
    """Return where the record ends that begins there, with its seal; beyond the slot if there is no room for one."""
    head = slot[at : at + HEAD_LENGTH]
    return at + length_of(head) + TAIL if len(head) == HEAD_LENGTH else len(slot) + 1
