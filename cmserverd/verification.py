"""Whether license tracking is as it was written: the chain of hashes, what replays, and what a container signed.

Sound is what the chain vouches for from the first row to the last, with each segment's own beginning, and what replays:
the lines add up to what the table counts, at each beginning of a segment and at the end. But whoever may write the file
could make all of it anew. So containers sign the hash now and then (decision 20): proven is what stands before the last
signature of a container that is known here.
"""

from __future__ import annotations

from typing import Final

from cmserverd.core.changes import Witnessed
from cmserverd.store import Entry, Segment, Store, StoreBusy, StoreFault
from cmserverd.tracking import Occupancy, Tracking, occupied
from drivers import statement
from drivers.driver import Faulty
from protocol.tracking import TrackingProof, VerifyTracking

_UNLIKE: Final = "the lines up to position {} do not add up to what was counted then"


class Verification(VerifyTracking, frozen=True, gc=False):
    """Asks for a verification; `keys` are the public keys of the containers whose signatures count."""

    keys: tuple[bytes, ...] = ()


def verify(store: Store, keys: tuple[bytes, ...] = ()) -> TrackingProof:
    """Return up to where the history is as it was written, what is wrong then, and how much of it containers signed.

    Raises StoreBusy.
    """
    state = _Verification(store, frozenset(keys))
    try:
        with store.unchanging():
            state.run()
    except StoreBusy:
        raise  # says nothing about what was written
    except StoreFault as fault:
        return state.proof(str(fault))
    except (AssertionError, LookupError) as error:
        return state.proof(f"what happened after position {state.position} cannot have happened: {error!r}")
    return state.proof(state.wrong)


class _Verification:
    def __init__(self, store: Store, keys: frozenset[bytes]) -> None:
        self.position = 0
        self.wrong = ""
        self._store = store
        self._keys = keys
        self._time = 0
        self._first = 0
        self._entries = 0
        self._lines = 0
        self._segments: list[Segment] = []
        self._proven: tuple[int, int, str] = (0, 0, "")
        self._strangers = 0

    def run(self) -> None:
        """Read it all; stop where something is wrong."""
        store = self._store
        self._segments = store.segments()
        first, *coming = self._segments
        tracking = Tracking(store.base(first))
        adding = Occupancy()
        self._first = self.position = first.position
        self._time = first.time
        for line in tracking.opening(first.position, first.time):
            adding.take(line)
        for entry in store.entries(first):
            while coming and entry.position > coming[0].position:
                self._check(coming.pop(0), tracking, adding)
            self._check_signatures(entry)
            if self.wrong:
                return
            for line in tracking.follow(entry):
                adding.take(line)
                self._lines += 1
            self.position, self._time = entry.position, entry.at
            self._entries += 1
        for segment in coming:
            self._check(segment, tracking, adding)
        if adding.used != occupied(tracking.table):
            self.wrong = _UNLIKE.format(self.position)
        for _ in store.changes():  # which also finds rows missing at the end
            pass
        store.rollup()  # which finds what is wrong with the usage of what was dropped

    def _check(self, segment: Segment, before: Tracking, adding: Occupancy) -> None:
        """Check that a segment begins with what there was at its position, and that the lines add up to that."""
        begins = Tracking(self._store.base(segment))
        if not self._store.joins(segment) or occupied(begins.table) != occupied(before.table):
            self.wrong = f"what begins after position {segment.position} does not go on from what was before it"
        elif adding.used != occupied(before.table):
            self.wrong = _UNLIKE.format(segment.position)

    def _check_signatures(self, entry: Entry) -> None:
        for change in entry.changes:
            if isinstance(change, Witnessed):
                self._check_signature(change)

    def _check_signature(self, witnessed: Witnessed) -> None:
        """Check what a container signed against what is written; what a stranger signed proves nothing."""
        try:
            said = statement.vouched(witnessed.message, witnessed.signature)
        except Faulty:
            self.wrong = f"what container {witnessed.container} is said to have signed is not signed by it"
            return
        if said.key not in self._keys:
            self._strangers += 1
            return
        if said.count < self._first:
            return  # that part was dropped
        if self._store.link(said.count) != said.hash:
            self.wrong = f"up to position {said.count}, container {said.container} signed something else"
            return
        self._proven = said.count, said.time, said.container

    def proof(self, wrong: str) -> TrackingProof:
        """Say how far it came."""
        proven, proven_time, container = self._proven
        return TrackingProof(
            sound=not wrong,
            first=self._first,
            position=self.position,
            time=self._time,
            segments=len(self._segments),
            entries=self._entries,
            lines=self._lines,
            text=wrong,
            proven=proven,
            proven_time=proven_time,
            container=container,
            strangers=self._strangers,
        )
