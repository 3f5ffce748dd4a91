"""License tracking by examples written by hand: which lines a history gives. The model checks them by thousands."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cmserverd.core.terms import Access as Held
from cmserverd.engine import Record
from cmserverd.store import Entry
from cmserverd.tracking import Occupancy, Tracking, occupied
from drivers.container import Borrowing, ContainerId, Loan
from protocol.errors import ErrorNumber
from protocol.messages import Access
from protocol.terms import HandleKind
from protocol.tracking import TrackingLine
from tests.core import tracked
from tests.core.scene import NO_USER_LIMIT, PRODUCT, STATION_SHARE, Scene, container, item
from tests.core.test_laws import eventful


def entries(scene: Scene) -> list[Entry]:
    """Return what a journal keeps of all that has happened."""
    kept = []
    for record in scene.records:
        denied = record.request if record.refusal and record.refusal.number is ErrorNumber.NO_MORE_LICENSES else None
        assert denied is None or isinstance(denied, Access)
        kept.append(Entry(record.position, record.at, record.session, record.changes, denied))
    return kept


def lines(scene: Scene) -> list[TrackingLine]:
    """Return the lines of all that has happened, once they are known to be sound."""
    tracked.check(entries(scene), scene.table)
    tracking = Tracking()
    return [line for entry in entries(scene) for line in tracking.follow(entry)]


def shown(told: list[TrackingLine]) -> list[str]:
    """Return lines in short: what, units, reason."""
    return [" ".join(filter(None, (line.event, str(line.units or ""), line.reason))) for line in told]


def since(scene: Scene, act: Callable[[], object]) -> list[str]:
    """Return the lines of what an act does."""
    before = len(lines(scene))
    act()
    return shown(lines(scene)[before:])


def test_everything_that_can_happen_is_tracked() -> None:
    """The lines of the eventful history add up, also by our own adding up."""
    scene = eventful()
    adding = Occupancy()
    for line in lines(scene):
        adding.take(line)
    assert adding.used == occupied(scene.table) == tracked.counted(scene.table)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("refused", [False, True])
def test_an_access_that_becomes_a_loan_is_released_for_it(refused: bool, ends: bool) -> None:
    """At once, for the loan has its license; it is told again if that is refused. The list may change meanwhile."""
    contents = container(item(quantity=1, borrowing=Borrowing(900, 9)))
    scene = Scene(contents)
    session = scene.session()
    held = scene.access(session)
    lending = scene.engine.borrow(session, scene.loan(handle=held.handle))
    assert shown(lines(scene))[-2:] == ["release 1 converted", "borrow 1"]
    longer = container(item(quantity=1, borrowing=Borrowing(999, 9)))
    relisted = ["return 1 relisted", "licenses", "license", "borrow 1"]
    assert since(scene, lambda: scene.engine.plug(longer, [], {lending.loan.id})) == relisted
    if ends:
        assert since(scene, lambda: scene.release(held)) == []
    if refused:
        told = ["return 1 refused"] + ([] if ends else ["access 1"])
        assert since(scene, lambda: scene.engine.not_lent(lending)) == told
    else:
        assert since(scene, lambda: scene.engine.lent(lending, lending.loan.end)) == []


def test_who_it_is_stands_in_the_line() -> None:
    """License, allocation, handle, client and station."""
    scene = Scene(container(item(quantity=2, feature_map=3)))
    held = scene.access(scene.session("pc", seat=2), STATION_SHARE)
    listed, taken = lines(scene)[-2:]
    assert listed == TrackingLine(1, scene.now, "license", "3-1", 600_010, 14, 1, quantity=2, feature_map=3)
    assert taken == TrackingLine(
        4,
        scene.now,
        "access",
        "3-1",
        600_010,
        14,
        1,
        allocation=1,
        handle=held.handle,
        units=1,
        mode="station_share",
        address="192.0.2.1",
        host="PC",
        user="fs",
        pid=1,
        application="cad",
        station="pc/2",
    )


def test_a_share_is_one_unit() -> None:
    """It comes with the first access, and goes with the last."""
    scene = Scene(container(item(quantity=2)))
    pc = scene.session("pc")
    held: list[Held] = []
    assert since(scene, lambda: held.extend(scene.access(pc, STATION_SHARE) for _ in range(2))) == [
        "access 1",
        "access",
    ]
    assert since(scene, lambda: scene.release(held[0])) == ["release released"]
    assert since(scene, lambda: scene.release(held[1])) == ["release 1 released"]


def test_what_counts_nothing_is_told_without_units() -> None:
    """And what allocates nothing, or is of quantity 0, is not told at all."""
    scene = Scene(container(item(), item(2, quantity=0, product=15)))
    pc = scene.session("pc", local=True)
    assert since(scene, lambda: scene.access(pc, NO_USER_LIMIT)) == ["access"]
    assert since(scene, lambda: scene.access(pc, product=15)) == []
    assert since(scene, lambda: scene.refer(pc, HandleKind.CONTAINER)) == []
    assert [line.item for line in lines(scene) if line.event == "license"] == [1]
    assert since(scene, lambda: scene.engine.close(pc)) == ["release goodbye"]


@pytest.mark.parametrize(("closed", "reason"), [(True, "closed"), (False, "silent")])
def test_how_a_client_went_is_the_reason(closed: bool, reason: str) -> None:
    """Its connection was closed, or nothing was heard of it, until its time was over."""
    scene = Scene(container(item()))
    pc = scene.session("pc")
    scene.access(pc)
    assert since(scene, lambda: scene.engine.detach(pc, closed=closed)) == []
    assert since(scene, lambda: scene.engine.close(pc)) == [f"release 1 {reason}"]


def test_a_ghost_is_superseded() -> None:
    """Its license is released before the newcomer has it."""
    scene = Scene(container(item()))
    ghost = scene.session("pc")
    scene.access(ghost)
    scene.engine.detach(ghost, closed=True)
    again = scene.session("pc")
    assert since(scene, lambda: scene.access(again)) == ["release 1 superseded", "access 1"]


def test_what_lingers_is_occupied() -> None:
    """Until it lapses, or its station has it back."""
    scene = Scene(container(item(linger=30)))
    pc = scene.session("pc")
    held = scene.access(pc)
    assert since(scene, lambda: scene.release(held)) == ["release released"]
    assert since(scene, lambda: scene.release(scene.access(pc))) == ["access", "release released"]
    assert since(scene, lambda: scene.pass_time(30)) == ["release 1 linger_over"]


def test_an_end_of_time_and_a_move() -> None:
    """Who can goes to another license, the others end."""
    scene = Scene(container(item(1, 2, expiration=1_800_000_050), item(2, 1)))
    scene.access(scene.session("a"), item=1)
    scene.access(scene.session("b"))
    assert since(scene, lambda: scene.pass_time(50)) == ["release 1 expired", "release 1 moved", "access 1"]


def test_a_denial_names_who_and_what() -> None:
    """Only 212 is one."""
    scene = Scene(container(item()))
    scene.access(scene.session("a"))
    other = scene.session("b")
    scene.refused(other)
    scene.refused(other, product=99)
    scene.access(scene.session("c"), NO_USER_LIMIT)  # a record that is told, behind the refusals
    last = entries(scene)[-1]
    denied = Entry(last.position + 1, last.at, other.id, (), scene.request())
    tracking = Tracking()
    told = [line for entry in [*entries(scene), denied] for line in tracking.follow(entry)]
    assert [(line.event, line.product_code, line.host, line.container) for line in told[-1:]] == [
        ("denial", PRODUCT, "B", "")
    ]


def test_a_new_list_is_told_while_nothing_stands() -> None:
    """All is released, for its own reason where it has one, and what stands then is told again."""
    scene = Scene(container(item(1, 3)))
    for name in ("a", "b", "c"):
        scene.access(scene.session(name))
    assert since(scene, lambda: scene.engine.plug(container(item(1, 2)))) == [
        "release 1 relisted",
        "release 1 relisted",
        "release 1 reprogrammed",
        "licenses",
        "license",
        "access 1",
        "access 1",
    ]
    assert since(scene, lambda: scene.engine.unplug(ContainerId("3-1"))) == []
    assert since(scene, lambda: scene.engine.plug(container(item(1, 2)))) == [], "nothing has changed"


def test_a_start_is_a_release_of_all() -> None:
    """What was not released before a crash is told again if it stands, and is free if it does not."""
    scene = Scene(container(item(quantity=2)))
    scene.access(scene.session("a"))
    assert since(scene, scene.engine.restart) == ["started", "licenses", "license", "access 1"]
    assert since(scene, scene.engine.stop) == ["stopped"], "nobody has let go for that"


def test_what_is_borrowed_is_told_with_its_holder_and_end() -> None:
    """It counts once, however often it is extended; it comes back for a reason."""
    scene = Scene(container(item(quantity=2, borrowing=Borrowing(900, 2))))
    session = scene.session()
    loan = scene.borrow(session)
    line = lines(scene)[-1]
    assert (line.event, line.handle, line.units, line.mode) == ("borrow", loan.number, 1, "borrowed")
    assert (line.holder, line.expires) == (loan.holder.hex(), loan.end)
    assert (line.host, line.address, line.station) == ("PC", "192.0.2.1", "pc")
    assert since(scene, lambda: scene.borrow(session, seconds=200)) == ["borrow"]
    assert lines(scene)[-1].expires == loan.end == scene.now + 200
    assert since(scene, lambda: scene.engine.given_back(ContainerId("3-1"), loan.id)) == ["return 1 released"]
    scene.borrow(session, 2, 1)
    assert since(scene, lambda: scene.pass_time(61)) == ["return 1 over"]
    lending = scene.engine.borrow(session, scene.loan(3))
    assert since(scene, lambda: scene.engine.not_lent(lending)) == ["return 1 refused"]
    scene.borrow(session, 4)
    assert since(scene, lambda: scene.engine.plug(scene.table.containers[ContainerId("3-1")].contents)) == [
        "return 1 unknown"
    ]


def test_what_is_borrowed_is_told_again_behind_a_new_list_and_at_a_start() -> None:
    """While its license is gone nothing is told of it."""
    contents = container(item(quantity=2, borrowing=Borrowing(900, 2)))
    scene = Scene(contents)
    loan = scene.borrow(scene.session())
    ledger = [Loan(loan.id, loan.license.firm_code, 1, 1, loan.end, loan.holder)]
    again = since(scene, lambda: scene.engine.plug(container(item(), id="3-2")))
    assert again == ["return 1 relisted", "licenses", "license", "license", "borrow 1"]
    assert since(scene, scene.engine.restart) == ["started", "licenses", "license", "license", "borrow 1"]
    assert since(scene, lambda: scene.engine.remove(ContainerId("3-1"))) == ["return 1 relisted", "licenses", "license"]
    assert since(scene, lambda: scene.engine.plug(contents, ledger)) == ["licenses", "license", "license", "borrow 1"]


def test_who_is_not_lent_one_for_want_of_a_license_is_denied() -> None:
    """As who is not given one; other refusals are no denials."""
    scene = Scene(container(item(borrowing=Borrowing(900, 9))))
    session = scene.session()
    scene.borrow(session)
    records: list[Record] = []
    scene.engine.listen(records.append)
    scene.not_lent(session, 2)
    scene.not_lent(session, 2, seconds=901)
    denied = records[0].request
    assert isinstance(denied, Access)
    entry = Entry(records[0].position, scene.now, session.id, (), denied)
    tracking = Tracking()
    told = [line for one in [*entries(scene), entry] for line in tracking.follow(one)]
    assert [(line.event, line.product_code, line.host) for line in told[-1:]] == [("denial", PRODUCT, "PC")]
    assert [record.refusal and record.refusal.number for record in records] == [212, 226]
