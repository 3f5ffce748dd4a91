"""What clients know for certain of the licenses they hold, and whether all of it can be true at once.

A grant counts from the moment that its client has read it until it asks to let go: the server has it at least so long.
So whatever is found here is wrong in the server, however requests and replies crossed each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from msgspec import Struct


class _Holding(Struct, frozen=True):
    client: int
    station: int
    allocation: int


class Ledger:
    """The clients write into it, in the order in which things happen to them; `faults` is what cannot be."""

    def __init__(self, quantity: int) -> None:
        self.faults: list[str] = []
        self.held: dict[int, _Holding] = {}
        self._quantity = quantity
        self._known: set[int] = set()
        self._released: dict[int, int] = {}
        self._uses: Counter[int] = Counter()
        self._shares: dict[int, int] = {}

    def granted(self, client: int, handle: int, allocation: int, station: int = 0) -> None:
        """A client has read that it has a handle; `station` is given where stations share licenses."""
        if handle in self._known:
            self.faults.append(f"handle {handle} was granted twice")
        self._known.add(handle)
        if station and self._shares.setdefault(station, allocation) != allocation:
            self.faults.append(f"station {station} has allocations {self._shares[station]} and {allocation}")
        self.held[handle] = _Holding(client, station, allocation)
        self._uses[allocation] += 1
        if len(self._uses) > self._quantity:
            self.faults.append(f"{len(self._uses)} licenses of {self._quantity} are in use")

    def releasing(self, handle: int) -> None:
        """A client is about to ask to let go of a handle."""
        holding = self.held.pop(handle, None)
        if holding is None:  # it asks again
            return
        allocation = holding.allocation
        self._uses[allocation] -= 1
        if not self._uses[allocation]:
            del self._uses[allocation]
            if self._shares.get(holding.station) == allocation:
                del self._shares[holding.station]

    def released(self, client: int, handle: int) -> None:
        """A client has read that it is rid of a handle."""
        self._released[handle] = client

    def resumed(self, client: int, handles: Collection[int]) -> None:
        """A client has read what it has, on a new connection."""
        gone = [handle for handle, holding in self.held.items() if holding.client == client and handle not in handles]
        self.faults += [f"client {client} has lost handle {handle}, which it was granted" for handle in gone]
        back = [handle for handle in handles if self._released.get(handle) == client]
        self.faults += [f"client {client} has handle {handle} again, which it has released" for handle in back]

    def gone(self, client: int) -> None:
        """A client has read that its session is not known."""
        self.faults.append(f"the session of client {client} is gone")
