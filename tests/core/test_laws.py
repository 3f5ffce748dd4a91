"""The laws of counting, each by an example written by hand (design, section 4). The model tests them by thousands."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cmserverd.core import changes as c
from cmserverd.core import history
from cmserverd.core.changes import Change
from cmserverd.core.table import Table
from cmserverd.core.terms import Access, License, LicenseId
from drivers.container import Allowance, Borrowing, ContainerId, Loan, QuantityFlag
from protocol.errors import ErrorNumber
from protocol.terms import AccessMode, HandleKind
from tests.core import invariants
from tests.core.replay import dump, facts, replayed
from tests.core.scene import (
    EXCLUSIVE,
    FIRM,
    NO_USER_LIMIT,
    START,
    STATION_SHARE,
    USER_LIMIT,
    Scene,
    booked,
    container,
    item,
    place,
)


def eventful() -> Scene:
    """Return a server to which everything has happened that can happen."""
    scene = Scene(
        container(item(1, 2, feature_map=3), item(2, 1, product=15), id="3-1"),
        container(item(1, 3, flags=QuantityFlag.DENY_EXCLUSIVE), id="3-2"),
        started=False,
    )
    pc, other = scene.session("pc", address="::1", local=True), scene.session("other", application="cam")
    scene.access(pc, STATION_SHARE, feature_code=1)
    scene.access(pc, STATION_SHARE, key=1)
    scene.access(other, USER_LIMIT, container="3-1")
    scene.access(other, EXCLUSIVE, product=15)
    scene.engine.started()
    freed = scene.access(pc, NO_USER_LIMIT)
    box = scene.refer(pc, HandleKind.CONTAINER)
    scene.refer(other, HandleKind.FIRM_ITEM)
    scene.refer(other, HandleKind.SUBSYSTEM)
    scene.refused(scene.session("third"), product=15)
    scene.now += 60
    scene.use(pc, box.handle)
    scene.access(pc, STATION_SHARE, key=1)  # asked again: no change
    scene.release(freed)
    scene.release(box)
    scene.engine.detach(other, closed=True)
    again = scene.session("other", application="cam")
    scene.access(again, EXCLUSIVE, product=15)  # the ghost goes
    scene.engine.detach(pc, closed=False)
    scene.engine.resume(pc.token_hash, "192.0.2.7", local=False)
    scene.engine.plug(container(item(1, 1, feature_map=1), item(2, 1, product=15), id="3-1"))
    scene.engine.unplug(ContainerId("3-1"))
    scene.access(pc, STATION_SHARE)
    scene.engine.remove(ContainerId("3-1"))
    scene.engine.plug(container(item(4, 4), item(5, product=16), id="3-3"))
    scene.engine.close(other)
    _let_time_pass(scene)
    _borrow(scene)
    scene.now -= 30
    scene.engine.set_time(scene.now)
    scene.leap(5)
    scene.access(pc, product=15, maximum_life=900)
    scene.engine.deallocate(scene.access(pc, product=15).handle, alone=False, seen=frozenset(), hold_off=9)
    scene.engine.stop()
    scene.engine.restart()
    return scene


def _let_time_pass(scene: Scene) -> None:
    """Units are used, a usage period ends, and licenses linger: one is taken up again, the others lapse."""
    scene.engine.plug(
        container(item(1, usage=Allowance(9), units=Allowance(5)), item(2, 3, product=15, linger=5), id="3-4")
    )
    pc = scene.session("pc")
    scene.access(pc, container="3-4", item=1, force=True)
    scene.access(pc, NO_USER_LIMIT, container="3-4", item=1)
    scene.engine.consumed(scene.license("3-4").id, 1, scene.now)
    for mode in (USER_LIMIT, STATION_SHARE):
        scene.release(scene.access(pc, mode, product=15))
    scene.access(pc, STATION_SHARE, product=15)
    scene.release(scene.access(scene.session("other"), product=15))
    scene.now += 9
    while scene.engine.advance(1):
        pass


def _borrow(scene: Scene) -> None:
    """A loan comes back, one is over, two are refused, one is extended, one is known to the ledger alone."""
    contents = container(item(1, 4, borrowing=Borrowing(500, 9)), item(2, 2, product=15), id="3-5")
    scene.engine.plug(contents)
    pc = scene.session("pc")
    asked: dict[str, Any] = {"container": "3-5", "item": 1}
    scene.borrow(pc, 1, 1, **asked)
    scene.borrow(pc, 2, 1, **asked)
    scene.engine.given_back(ContainerId("3-5"), scene.loan(2).id)
    scene.engine.not_lent(scene.engine.borrow(pc, scene.loan(3, **asked)))
    held = scene.access(pc, **asked)
    scene.engine.not_lent(scene.engine.borrow(pc, scene.loan(5, handle=held.handle)))
    kept = scene.borrow(pc, 4, 40, handle=held.handle)
    scene.borrow(pc, 4, 400)
    scene.now += 61
    while scene.engine.advance(1):
        pass
    ledger = [
        Loan(kept.id, FIRM, 1, 1, kept.end, kept.holder),
        Loan(b"b" * 16, FIRM, 1, 1, scene.now + 300, b"h" * 32),
    ]
    scene.engine.plug(contents, ledger)
    scene.engine.plug(contents, [*ledger[:1], Loan(b"c" * 16, FIRM, 1, 2, scene.now + 300, b"h" * 32)])


def test_law_1_used_is_the_sum_of_the_weights_and_never_above_the_quantity() -> None:
    """Each allocation that counts adds one, and when all are taken no mode that counts gets another."""
    scene = Scene(container(item(quantity=3)))
    pc = scene.session("pc")
    scene.access(pc, STATION_SHARE)
    scene.access(pc, STATION_SHARE)
    scene.access(pc, USER_LIMIT)
    scene.access(pc, NO_USER_LIMIT)
    assert scene.used() == 2
    scene.access(scene.session("other"), EXCLUSIVE)
    assert scene.used() == 3
    for mode in (USER_LIMIT, STATION_SHARE, EXCLUSIVE):
        assert scene.refused(scene.session("third"), mode).number is ErrorNumber.NO_MORE_LICENSES
    assert scene.used() == sum(allocation.weight for allocation in scene.license().allocations.values()) == 3


def test_law_2_a_station_opens_a_new_share_only_if_none_it_holds_satisfies() -> None:
    """Over all containers, in whatever order they come up: twenty accesses, one allocation."""
    scene = Scene(*(container(item(quantity=2), id=f"3-{number}") for number in range(1, 4)))
    blockers = [scene.access(scene.session("other")) for _ in range(4)]
    shares = [scene.access(scene.session("pc"), STATION_SHARE)]
    assert place(shares[0]) == ("3-3", 1)
    for blocker in blockers:
        scene.release(blocker)
        shares += [scene.access(scene.session("pc"), STATION_SHARE) for _ in range(5)]
    assert len({booked(share).id for share in shares}) == 1


def test_law_3_who_holds_a_share_that_satisfies_is_never_refused() -> None:
    """Not when all licenses are taken, and not while the container is away."""
    scene = Scene(container(item(quantity=1)))
    scene.access(scene.session("pc"), STATION_SHARE)
    scene.access(scene.session("pc"), STATION_SHARE)
    scene.engine.unplug(ContainerId("3-1"))
    scene.access(scene.session("pc"), STATION_SHARE)


def test_law_4_nobody_is_refused_while_a_unit_is_free_to_him() -> None:
    """Whatever stands first in the order and cannot serve, the last unit of the last entry is found."""
    scene = Scene(
        container(item(1, 9, unusable="no"), item(2, 9, flags=QuantityFlag.DENY_STATION_SHARE), item(3, 0), id="3-1"),
        container(item(1, 1), id="3-2"),
        container(item(1, 9), id="3-3"),
        container(item(1, 1), item(2, 2), id="3-4"),
    )
    scene.engine.unplug(ContainerId("3-3"))
    granted = [scene.access(scene.session(f"pc{number}"), STATION_SHARE) for number in range(4)]
    assert [place(held) for held in granted] == [("3-2", 1), ("3-4", 1), ("3-4", 2), ("3-4", 2)]
    assert scene.refused(scene.session("late"), STATION_SHARE).number is ErrorNumber.NO_MORE_LICENSES
    scene.release(granted[2])
    assert place(scene.access(scene.session("late"), STATION_SHARE)) == ("3-4", 2)


def test_law_5_an_allocation_is_held_or_lingers_or_is_not() -> None:
    """It stands as long as one access does, detached or not, and not a moment longer."""
    scene = Scene(container(item(quantity=2)))
    session = scene.session("pc")
    first, second = scene.access(session, STATION_SHARE), scene.access(scene.session("pc"), STATION_SHARE)
    allocation = booked(first)
    scene.engine.detach(session, closed=False)
    scene.release(second)
    assert scene.license().allocations == {allocation.id: allocation}
    scene.engine.close(session)
    assert not scene.license().allocations
    lingering = Scene(container(item(linger=5)))
    lingering.release(lingering.access(lingering.session("pc"), STATION_SHARE))
    assert [(left.until, dict(left.accesses)) for left in lingering.license().allocations.values()] == [(START + 5, {})]
    lingering.now += 5
    lingering.engine.advance(9)
    assert not lingering.license().allocations


def test_law_6_every_access_points_to_an_allocation_that_points_back() -> None:
    """Through every move: the handle, its session and its allocation name each other."""
    scene = eventful()
    for handle, held in scene.table.accesses.items():
        assert held.session.accesses[held.key] is held
        if not hasattr(held.target, "kind"):
            assert booked(held).accesses[handle] is held
            assert booked(held).license.allocations[booked(held).id] is booked(held)


def test_law_7_replaying_all_changes_gives_the_same_table() -> None:
    """Byte for byte, after each change has gone through bytes itself; and after each the table is sound."""
    scene = eventful()
    short = {c.Numbering, c.Remembered, c.Stands, c.Holds, c.Remains}
    told = {c.Witnessed}  # changes nothing, and only a container can make one that is sound
    assert {type(change) for change in scene.changes} == set(Change.__args__) - short - told, "everything has happened"
    table = Table()
    for change in scene.changes:
        table.apply(change)
        if not isinstance(change, c.Plugged):  # what it changed of known items is told by the Reprogrammed after it
            _numbers_are_kept(table)
    assert dump(table) == dump(replayed(scene.changes)) == dump(scene.table)
    invariants.check(replayed(scene.changes))


def test_law_7_the_shortest_history_gives_the_same_table() -> None:
    """After whatever has happened: in all but orders that mean nothing, and it goes on as the longer one would have."""
    scene = eventful()
    table, told = Table(), set()
    for record in scene.records:
        for change in record.changes:
            table.apply(change)
        short = list(history.shortest(table))
        told |= {type(change) for change in short}
        again = replayed(short)
        assert facts(again) == facts(table)
        assert list(history.shortest(again)) == list(history.shortest(replayed(history.shortest(again))))
        invariants.check(again)
    assert told >= {c.Numbering, c.Remembered, c.Stands, c.Holds, c.Remains}
    assert facts(table) == facts(scene.table)


def _numbers_are_kept(table: Table) -> None:
    for counted in table.licenses.values():
        allocated = sum(allocation.weight for allocation in counted.allocations.values())
        assert counted.used == allocated + counted.lent
        assert allocated <= max(counted.item.quantity - counted.lent, 0)


def test_a_change_that_does_not_fit_is_rejected_and_alters_nothing() -> None:
    """A journal of another table, or a bug of a rule, is found at once and not counted."""
    scene = Scene(container(item(quantity=3, borrowing=Borrowing(900, 1))))
    session, other = scene.session(), scene.session("other")
    share = scene.access(session, STATION_SHARE)
    scene.access(session, STATION_SHARE)
    single = scene.access(other)
    loan = scene.borrow(other)
    box = scene.refer(session, HandleKind.CONTAINER)
    here = booked(share).license.id
    before = dump(scene.table)
    for change in (
        c.Joined(9, session.id, b"key", here, 99, scene.now),
        c.Joined(9, session.id, b"key", here, booked(single).id, scene.now),
        c.Allocated(9, 99, b"key", here, 9, USER_LIMIT, scene.now),
        c.Freed(share.handle, session.id),
        c.Freed(box.handle, session.id),
        c.Freed(99, session.id),
        c.Left(single.handle, other.id),
        c.Moved(box.handle, session.id, here, 9),
        c.Used(99, scene.now),
        c.Borrowed(loan.id, loan.license, 99, 1, scene.now, loan.holder, None, None, "", scene.now),
        c.Returned(loan.license.container, b"?" * 16),
        c.Reprogrammed(here, None),
        c.Removed(here.container),
        c.Closed(session.id),
        c.Detached(99, closed=True),
    ):
        with pytest.raises((AssertionError, KeyError)):
            scene.table.apply(change)
        assert dump(scene.table) == before, change


# The proofs themselves are proven: what they must reject, they reject.


def _count(scene: Scene) -> License:
    return scene.table.licenses[LicenseId(ContainerId("3-1"), FIRM, 1)]


def _first(scene: Scene) -> Access:
    return next(iter(scene.table.accesses.values()))


def _spoil_used(scene: Scene) -> None:
    _count(scene).used += 1


def _spoil_mode(scene: Scene) -> None:
    _count(scene).user_limit += 1


def _spoil_quantity(scene: Scene) -> None:
    _count(scene).item = item(quantity=0)


def _spoil_target(scene: Scene) -> None:
    booked(_first(scene)).accesses.clear()


def _spoil_holding(scene: Scene) -> None:
    next(iter(_count(scene).product.holdings.values())).accesses += 1


def _spoil_shares(scene: Scene) -> None:
    next(iter(_count(scene).product.holdings.values())).shares = ()


def _spoil_session(scene: Scene) -> None:
    _first(scene).session.accesses.clear()


def _spoil_address(scene: Scene) -> None:
    scene.table.addresses["192.0.2.1"] += 1


def _spoil_ghosts(scene: Scene) -> None:
    scene.table.ghosts.clear()


def _spoil_token(scene: Scene) -> None:
    scene.table.tokens.remove(next(iter(scene.table.tokens)))


def _spoil_reference(scene: Scene) -> None:
    scene.table.containers[ContainerId("3-1")].references.clear()


def _spoil_presence(scene: Scene) -> None:
    _count(scene).present = False


def _spoil_next(scene: Scene) -> None:
    scene.table.next_handle = 1


@pytest.mark.parametrize("spoil", [value for name, value in sorted(globals().items()) if name.startswith("_spoil")])
def test_the_invariants_reject_a_spoiled_table(spoil: object) -> None:
    """One wrong number or link anywhere is found, by the check and by the dump."""
    scene = Scene(container(item(quantity=3)))
    session = scene.session()
    scene.access(session, STATION_SHARE)
    scene.refer(session, HandleKind.CONTAINER)
    scene.engine.detach(session, closed=True)
    invariants.check(scene.table)
    before = dump(scene.table)
    assert callable(spoil)
    spoil(scene)
    with pytest.raises((AssertionError, KeyError)):
        invariants.check(scene.table)
    assert dump(scene.table) != before


def test_the_dump_sees_order_and_identity() -> None:
    """Two tables with the same sets in another order, or with a copy where one object was shared, differ."""
    one, other = Scene(container(item(1), item(2))), Scene(container(item(1), item(2)))
    assert dump(one.table) == dump(other.table)
    licenses = other.table.products[FIRM, 14].licenses
    licenses.reverse()
    assert dump(one.table) != dump(other.table)
    licenses.reverse()
    other.table.products[FIRM, 14].licenses[0] = msgspec.structs.replace(licenses[0])
    assert dump(one.table) != dump(other.table)


def test_every_mode_replays() -> None:
    """An allocation of each mode comes back as it was."""
    scene = Scene(container(item(quantity=9)))
    for mode in AccessMode:
        scene.access(scene.session(mode.value), mode)
    assert dump(replayed(scene.changes)) == dump(scene.table)
