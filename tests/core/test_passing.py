"""What time does to live accesses: they end on the second, or move, some at a time."""

from __future__ import annotations

from cmserverd import views
from cmserverd.core import changes as c
from cmserverd.core import history
from drivers.container import Allowance
from protocol.errors import ErrorNumber
from protocol.listings import AccessInfo
from protocol.messages import EndCause, NetCluster, NetUsers
from protocol.terms import HandleKind
from tests.core.replay import facts, replayed
from tests.core.scene import START, STATION_SHARE, Scene, booked, container, item, place


def test_an_access_ends_on_the_second_its_license_expires() -> None:
    """Not before; with 35, which its handle goes on answering. A usage period that is over is 71."""
    scene = Scene(container(item(1, 9, expiration=START + 9), item(2, 9, product=15, usage=Allowance(20))))
    session = scene.session()
    held, used = scene.access(session), scene.access(session, product=15)
    scene.engine.consumed(booked(used).license.id, 0, START)
    scene.pass_time(8)
    assert (scene.engine.due(), set(scene.table.accesses)) == (START + 9, {held.handle, used.handle})
    scene.pass_time(1)
    assert (scene.gone(held).number, scene.gone(held).cause) == (ErrorNumber.EXPIRATION_OVERRUN, "expired")
    assert scene.refused(session).number is ErrorNumber.EXPIRATION_OVERRUN
    assert (scene.engine.due(), set(scene.table.accesses)) == (START + 20, {used.handle})
    scene.pass_time(11)
    assert (scene.gone(used).number, scene.gone(used).cause) == (ErrorNumber.USAGE_PERIOD_OVERRUN, "usage_over")
    assert scene.engine.due() is None


def test_an_access_moves_to_another_license_that_is_valid() -> None:
    """With its handle; who finds no unit ends. What has expired too is no refuge."""
    scene = Scene(container(item(1, 9, expiration=START + 1), item(2, 9, expiration=START + 1), item(3, 1)))
    session = scene.session()
    first, second = scene.access(session, item=None), scene.access(scene.session("other"))
    scene.pass_time(1)
    assert place(first) == ("3-1", 3)
    assert scene.gone(second).cause == "expired"


def test_a_forced_access_stays_when_its_license_expires() -> None:
    """Those that share its allocation go all the same."""
    scene = Scene(container(item(1, 9, expiration=START + 1)))
    session = scene.session()
    forced, plain = scene.access(session, STATION_SHARE, force=True), scene.access(session, STATION_SHARE)
    alone = scene.access(scene.session("other"), force=True)
    scene.pass_time(1)
    assert set(scene.table.accesses) == {forced.handle, alone.handle}
    assert scene.gone(plain).cause == "expired"
    assert (scene.used(), scene.engine.due()) == (2, None)


def test_so_many_allocations_end_at_a_time() -> None:
    """No more than asked for in one passage, licenses and lingering ones included, until all that is due is done."""
    scene = Scene(
        container(
            *(item(number, 9, expiration=START + 1) for number in range(1, 5)),
            item(5, 9, product=15, linger=1),
        )
    )
    session = scene.session()
    for number in (1, 1, 1, 1, 1, 3, 3):
        scene.access(session, item=number)
    for held in [scene.access(session, product=15) for _ in range(3)]:
        scene.lingered(held)
    scene.now += 1
    passages = 1
    while scene.engine.advance(2):
        passages += 1
    assert all(len(record.changes) <= 2 for record in scene.records[-passages:])
    done = [type(change) for record in scene.records[-passages:] for change in record.changes]
    assert sorted(kind.__name__ for kind in done) == ["Expired"] * 4 + ["Freed"] * 7 + ["Lapsed"] * 3
    assert not scene.table.accesses
    assert scene.engine.due() is None


def test_what_lapses_makes_room_for_what_expires() -> None:
    """In the same second: the unit that lingered takes who had to leave."""
    scene = Scene(container(item(1, 1, expiration=START + 5), item(2, 1, linger=5)))
    other = scene.session("other")
    held = scene.access(scene.session())
    scene.lingered(scene.access(other))
    scene.pass_time(5)
    assert place(held) == ("3-1", 2)


def test_an_extended_license_ends_at_its_new_end() -> None:
    """What was programmed last counts; an end that is taken away never comes."""
    scene = Scene(container(item(expiration=START + 5)))
    held = scene.access(scene.session())
    scene.engine.plug(container(item(expiration=START + 9)))
    scene.pass_time(5)
    assert (scene.engine.due(), held.handle in scene.table.accesses) == (START + 9, True)
    scene.engine.plug(container(item()))
    scene.pass_time(9)
    assert (scene.engine.due(), held.handle in scene.table.accesses) == (None, True)
    scene.engine.plug(container(item(expiration=START)))  # it was over before it was known
    scene.pass_time(0)
    assert scene.gone(held).cause == "expired"


def test_behaviour_21_a_clock_that_is_set_back_brings_nothing_back() -> None:
    """Set forward it ends what expires by then; set right again, what has expired stays expired."""
    scene = Scene(container(item(expiration=START + 100)))
    session = scene.session()
    held = scene.access(session)
    scene.pass_time(1_000)
    assert scene.gone(held).cause == "expired"
    scene.pass_time(-2_000)
    assert scene.refused(session).number is ErrorNumber.EXPIRATION_OVERRUN
    assert scene.engine.clock.now() == START + 1_000


def set_back(scene: Scene, seconds: int) -> None:
    """Have a certified update set the time back by so many seconds."""
    assert scene.engine.clock.now() == scene.now
    scene.now -= seconds
    scene.engine.set_time(scene.now)


def test_a_certified_time_brings_back_what_had_expired_and_it_expires_again() -> None:
    """At its own end, as if it had never been over; what is over all the same stays over, and is not told again."""
    scene = Scene(container(item(1, 9, expiration=START + 100), item(2, 9, product=15, expiration=START + 10)))
    session = scene.session()
    held = scene.access(session)
    scene.pass_time(1_000)
    assert scene.gone(held).cause == "expired"
    told = len(scene.changes)
    set_back(scene, 950)
    again = scene.access(session)
    assert scene.engine.due() == START + 100
    assert scene.refused(session, product=15).number is ErrorNumber.EXPIRATION_OVERRUN
    scene.pass_time(49)
    assert again.handle in scene.table.accesses
    scene.pass_time(1)
    assert scene.gone(again).cause == "expired"
    assert [change.license.item for change in scene.changes[told:] if isinstance(change, c.Expired)] == [1]


def test_an_end_that_is_due_when_the_time_is_set_back_is_no_longer_due() -> None:
    """Neither is it in the list twice."""
    scene = Scene(container(item(expiration=START + 100)))
    held = scene.access(scene.session())
    scene.now += 200
    set_back(scene, 150)
    scene.pass_time(49)
    assert (held.handle in scene.table.accesses, scene.engine.due()) == (True, START + 100)
    scene.pass_time(1)
    assert (scene.gone(held).cause, scene.engine.due()) == ("expired", None)


def test_what_lingers_does_so_for_as_long_as_was_left_when_the_time_is_set_back() -> None:
    """However far it is set back, and however often."""
    scene = Scene(container(item(1, 9, linger=60), item(2, 1, product=15, linger=60)))
    session = scene.session()
    long, short = scene.access(session), scene.access(session, product=15)
    scene.lingered(short)
    scene.pass_time(50)
    scene.lingered(long)
    set_back(scene, 20)
    assert (scene.engine.due(), scene.now) == (START + 40, START + 30)
    assert "the next is free in 10 s" in scene.refused(scene.session("other"), product=15).reasons[0].text
    [counts] = views.license_page(scene.table, NetCluster(product_code=15), 0, scene.now, local=True).licenses
    assert counts.lingering_until == START + 40
    set_back(scene, 1_000_000)
    assert scene.engine.due() == scene.now + 10
    scene.pass_time(9)
    assert (scene.used(), scene.used(reference=2)) == (1, 1)
    scene.pass_time(1)
    assert (scene.used(), scene.used(reference=2), scene.engine.due()) == (1, 0, scene.now + 50)
    scene.pass_time(50)
    assert (scene.used(), scene.engine.due()) == (0, None)


def test_nothing_due_changes_nothing() -> None:
    """A look too early is no passage."""
    scene = Scene(container(item(expiration=START + 5, linger=9)))
    scene.lingered(scene.access(scene.session()))
    position = scene.engine.position
    assert not scene.engine.advance(9)
    assert scene.engine.position == position
    assert not any(isinstance(change, c.Expired | c.Lapsed) for change in scene.changes)


def test_an_access_ends_on_the_second_its_maximum_life_is_over() -> None:
    """Whatever it is on, with 106 and why; the session and its other accesses live on, and asking again is answered."""
    scene = Scene(container(item(1, 9)))
    session = scene.session()
    kept, held = scene.access(session), scene.access(session, key=1, maximum_life=9)
    box = scene.refer(session, HandleKind.CONTAINER, maximum_life=12)
    scene.pass_time(8)
    assert (scene.engine.due(), len(scene.table.accesses)) == (START + 9, 3)
    scene.pass_time(1)
    gone = scene.gone(held)
    assert (gone.number, gone.cause) == (ErrorNumber.INVALID_HANDLE, EndCause.MAXIMUM_LIFE)
    assert scene.refused(session, key=1, maximum_life=9).cause == EndCause.MAXIMUM_LIFE
    assert (scene.engine.due(), scene.used()) == (START + 12, 1)
    scene.pass_time(3)
    assert (scene.gone(box).cause, scene.engine.due()) == (EndCause.MAXIMUM_LIFE, None)
    scene.use(session, kept.handle)


def test_one_of_a_share_ends_alone_and_one_that_is_given_back_earlier_is_forgotten() -> None:
    """Its allocation goes on; nothing is due that is gone."""
    scene = Scene(container(item()))
    session = scene.session()
    stays, short = scene.access(session, STATION_SHARE), scene.access(session, STATION_SHARE, maximum_life=2)
    scene.release(scene.access(session, STATION_SHARE, maximum_life=1))
    assert scene.engine.due() == START + 2
    scene.pass_time(2)
    assert scene.gone(short).cause == EndCause.MAXIMUM_LIFE
    scene.use(session, stays.handle)
    assert scene.used() == 1


def test_a_maximum_life_is_no_way_around_lingering() -> None:
    """Who has the server end his access leaves as others do."""
    scene = Scene(container(item(linger=60)))
    session = scene.session()
    scene.access(session, maximum_life=5)
    scene.pass_time(5)
    assert scene.refused(scene.session("other")).number is ErrorNumber.NO_MORE_LICENSES
    assert scene.engine.due() == START + 65
    scene.access(session)


def test_a_maximum_life_that_is_over_makes_room_for_those_who_must_leave() -> None:
    """Of one instant; and so many at a time."""
    scene = Scene(container(item(1, 1, expiration=START + 5), item(2, 3)))
    leaving = scene.access(scene.session("a"), item=None)
    going = [scene.access(scene.session(name), maximum_life=5) for name in "bcd"]
    scene.now += 5
    assert scene.engine.advance(1)
    assert len(scene.table.accesses) == 3
    scene.pass_time(0)
    assert place(leaving) == ("3-1", 2)
    assert {scene.gone(held).cause for held in going} == {EndCause.MAXIMUM_LIFE}


def test_a_maximum_life_goes_on_for_as_long_as_was_left_when_the_time_is_set_back() -> None:
    """Of each access, whatever came first; and their listing says when that is."""
    scene = Scene(container(item(quantity=2)))
    session = scene.session()
    first = scene.access(session, maximum_life=50)
    scene.pass_time(5)
    second = scene.access(session, maximum_life=46)
    set_back(scene, 105)
    assert [row.life_until for row in listed(scene)] == [START - 55, START - 54]
    assert scene.engine.due() == START - 55
    scene.pass_time(45)
    assert (scene.gone(first).cause, scene.engine.due()) == (EndCause.MAXIMUM_LIFE, START - 54)
    scene.pass_time(1)
    assert (scene.gone(second).cause, scene.engine.due()) == (EndCause.MAXIMUM_LIFE, None)


def test_a_certified_time_that_is_later_is_as_if_time_had_passed() -> None:
    """What lasts is over so much sooner."""
    scene = Scene(container(item(quantity=2)))
    held = scene.access(scene.session(), maximum_life=50)
    scene.engine.set_time(START + 30)
    assert (scene.engine.due(), listed(scene)[0].first_access) == (START + 50, START)
    scene.pass_time(20)
    assert scene.gone(held).cause == EndCause.MAXIMUM_LIFE


def listed(scene: Scene) -> tuple[AccessInfo, ...]:
    """Return the accesses as they are listed."""
    return views.access_page(scene.table, NetUsers(), 0, scene.now, local=True, only=None).accesses


def test_no_access_is_listed_later_than_the_time_was_set_back_to() -> None:
    """One that was before the clock went wrong keeps its time; whatever comes afterwards has its own, used ones too."""
    scene = Scene(container(item(quantity=9)))
    session = scene.session()
    early = scene.access(session)
    scene.pass_time(1_000)
    wrong, used = scene.access(session), scene.access(session)
    scene.pass_time(10)
    set_back(scene, 900)
    after = scene.access(session)
    scene.pass_time(20)
    scene.use(session, used.handle)
    now = START + 110
    expected = {early: (START, START), wrong: (now, now), used: (now, now + 20), after: (now, now)}

    def times() -> list[tuple[int, int]]:
        rows = listed(scene)
        for row in rows:
            info = views.handle_info(scene.table, scene.table.accesses[row.handle], scene.now)
            assert (info.first_access, info.last_access) == (row.first_access, row.last_access)
        return [(row.first_access, row.last_access) for row in rows]

    assert times() == list(expected.values())
    set_back(scene, 10)
    assert times() == [(START, START), (now, now), (now, now + 10), (now, now)]
    assert facts(replayed(history.shortest(scene.table))) == facts(scene.table)
    set_back(scene, 60)
    scene.access(session)
    assert times() == [(START, START), *[(START + 60, START + 60)] * 4]
    scene.pass_time(500)
    assert times() == [(START, START), *[(START + 60, START + 60)] * 4]
    assert facts(replayed(history.shortest(scene.table))) == facts(scene.table)


def test_who_is_held_off_is_so_for_as_long_as_was_left_when_the_time_is_set_back() -> None:
    """An operator's word stands; neither is it for ever if the clock was years ahead."""
    scene = Scene(container(item()))
    scene.pass_time(1_000_000)
    session = scene.session()
    scene.engine.deallocate(scene.access(session).handle, alone=False, seen=frozenset(), hold_off=60)
    scene.pass_time(20)
    set_back(scene, 1_000_000)
    assert "had in 40 s" in str(scene.refused(session))
    scene.pass_time(40)
    scene.access(session)


def test_setting_the_time_touches_nothing_of_what_stands() -> None:
    """However much there is: nobody has to wait for it. Only a license that is not over after all has its end again."""
    scene = Scene(container(item(1, 9, linger=60), item(2, 9, expiration=START + 5), item(3, 9, expiration=START + 50)))
    session = scene.session()
    scene.access(session, item=1, maximum_life=300)
    scene.lingered(scene.access(session, item=1))
    scene.pass_time(51)
    scene.access(session, STATION_SHARE, item=1)
    before = facts(scene.table).splitlines()
    set_back(scene, 10)
    changed = set(before) ^ set(facts(scene.table).splitlines())
    assert {line.split(b" ")[0] for line in changed} == {b"elapsed", b"expired", b"expiries"}
    assert [counted.id.item for _, _, counted in scene.table.expired] == [2]
