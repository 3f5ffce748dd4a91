"""What must hold of the lines of license tracking: whoever knows nothing but the lines knows who has what.

Nothing of the server's own counting is trusted, nor of its adding up: the reader here is as naive as a reader can be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from cmserverd.core.table import Table
from cmserverd.store import Entry
from cmserverd.tracking import Tracking
from protocol.tracking import TrackingEvent, TrackingLine


class Reader:
    """Reads lines, and complains of any that cannot be."""

    def __init__(self) -> None:
        self.listed: set[tuple[str, int, int]] = set()
        self.units: Counter[int] = Counter()
        self.where: dict[int, tuple[str, int, int]] = {}
        self.holders: dict[int, int] = {}
        self.lent: dict[int, tuple[tuple[str, int, int], int]] = {}

    def take(self, line: TrackingLine) -> None:
        """Take the next line."""
        where = line.container, line.firm_code, line.item
        match line.event:
            case TrackingEvent.STARTED:
                self.__init__()  # type: ignore[misc]
            case TrackingEvent.STOPPED:
                pass
            case TrackingEvent.LICENSES:
                assert not self.where, "the list changes while something stands"
                assert not self.lent, "the list changes while something is borrowed"
                self.listed.clear()
            case TrackingEvent.LICENSE:
                assert line.quantity > 0
                self.listed.add(where)
            case TrackingEvent.ACCESS:
                assert where in self.listed, "a license that was not listed"
                if line.allocation not in self.where:
                    self.where[line.allocation] = where
                    self.units[line.allocation] = line.units
                    assert line.units == (line.mode != "no_user_limit")
                else:
                    assert not line.units, "an allocation counts twice"
                assert self.where[line.allocation] == where
                assert line.handle not in self.holders
                if line.handle:
                    self.holders[line.handle] = line.allocation
            case TrackingEvent.RELEASE:
                assert line.reason
                assert self.where[line.allocation] == where
                if line.handle:
                    assert self.holders.pop(line.handle) == line.allocation
                else:
                    assert line.allocation not in self.holders.values(), "what is held does not linger"
                if line.units:
                    assert line.allocation not in self.holders.values(), "freed while somebody has it"
                    assert self.units.pop(line.allocation) == line.units
                    del self.where[line.allocation]
                elif not self.units[line.allocation] and line.allocation not in self.holders.values():
                    del self.units[line.allocation], self.where[line.allocation]
            case TrackingEvent.BORROW:
                assert where in self.listed, "a license that was not listed"
                assert line.mode == "borrowed"
                assert line.expires
                assert len(bytes.fromhex(line.holder)) == 32
                if line.handle in self.lent:
                    assert not line.units, "a loan counts twice"
                    assert self.lent[line.handle][0] == where
                else:
                    self.lent[line.handle] = (where, line.units)
            case TrackingEvent.RETURN:
                assert line.reason
                assert self.lent.pop(line.handle) == (where, line.units)
            case TrackingEvent.DENIAL:
                assert line.product_code
            case _:
                raise AssertionError(line.event)

    def used(self) -> dict[tuple[str, int, int], int]:
        """Return what is occupied."""
        used: Counter[tuple[str, int, int]] = Counter()
        for allocation, where in self.where.items():
            used[where] += self.units[allocation]
        for where, units in self.lent.values():
            used[where] += units
        return {where: units for where, units in used.items() if units}


def counted(table: Table) -> dict[tuple[str, int, int], int]:
    """Return what the table says is occupied."""
    return {
        (str(name.container), name.firm_code, name.item): license_.used
        for name, license_ in table.licenses.items()
        if license_.used and license_.item.quantity
    }


def holders(table: Table) -> dict[int, int]:
    """Return the allocation of each handle that tracking knows: what becomes a loan it tells as that."""
    return {
        handle: allocation.id
        for license_ in table.licenses.values()
        if license_.item.quantity
        for allocation in license_.allocations.values()
        for handle in allocation.accesses
        if handle not in table.converting
    }


def read(lines: Iterable[TrackingLine]) -> Reader:
    """Return what a reader knows at the end."""
    reader = Reader()
    for line in lines:
        reader.take(line)
    return reader


def check(entries: Sequence[Entry], table: Table) -> None:
    """Check that the lines of a history lead to the table, and are sound after each of its entries."""
    tracking, reader = Tracking(), Reader()
    for entry in entries:
        for line in tracking.follow(entry):
            reader.take(line)
        assert reader.used() == counted(tracking.table)
        assert reader.holders == holders(tracking.table)
        opening = list(tracking.opening(entry.position, entry.at))
        assert len(opening) == tracking.opening_size()
    assert reader.used() == counted(table)
    assert reader.holders == holders(table)
    opened = read(tracking.opening(0, 0))
    assert (opened.used(), opened.holders) == (reader.used(), reader.holders)
