"""What happens, as those hear it who look: in order, once, from where they were; and at no cost when nobody looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from cmserverd import happenings
from cmserverd.clock import LicenseClock
from cmserverd.core import changes as c
from cmserverd.happenings import GATHER, IDLE, PAGE, RING
from cmserverd.service import Service
from drivers.container import ContainerId
from protocol import messages as m
from protocol.errors import LicenseError
from protocol.terms import AccessMode, HandleKind
from protocol.watching import Happening
from tests.daemon.harness import (
    CHARTS,
    FIRM,
    MONITOR,
    AsyncClient,
    Talk,
    access,
    charts,
    hello,
    make_service,
    rig,
    until,
)


async def told(service: Service, since: int | None = None, wait: int = 0) -> m.Happenings:
    """Ask what happened."""
    return await service.happenings.answer(m.Happened(since, wait))


def kinds(answer: m.Happenings) -> list[str]:
    """Return what kinds of things happened."""
    return [one.kind for one in answer.events]


async def test_what_happens_is_told_with_where_it_happened() -> None:
    """Also of an access that has ended, of which the table knows nothing any more."""
    service = make_service(charts(quantity=1))
    start = (await told(service)).position
    talk = Talk(service, greeting=hello(1))
    session = next(iter(service.engine.table.sessions.values())).id
    handle = talk.ask(access()).handle
    with pytest.raises(LicenseError):
        talk.ask(access())
    talk.ask(m.Release(handle))
    talk.ask(access(kind=HandleKind.CONTAINER))
    talk.ask(m.Goodbye())
    answer = await told(service, start)
    assert kinds(answer) == ["opened", "granted", "refused", "ended", "granted", "ended", "closed"]
    assert answer.position == service.engine.position
    assert not answer.missed
    granted, refused, ended = answer.events[1:4]
    assert granted == Happening(
        start + 2, granted.time, "granted", "3-1", FIRM, CHARTS, 1, handle=handle, session=session
    )
    assert refused == Happening(
        start + 3, granted.time, "refused", firm_code=FIRM, product_code=CHARTS, session=session, number=212
    )
    assert ended == Happening(start + 4, granted.time, "ended", "3-1", FIRM, CHARTS, 1, handle=handle, session=session)
    assert answer.events[5].container == "3-1"


async def test_who_asks_on_is_told_the_rest_and_nothing_twice() -> None:
    """Pages end with whole passages; `position` is where to go on."""
    service = make_service(charts(quantity=2_000))
    start = (await told(service)).position
    talk = Talk(service, greeting=hello(1))
    for _ in range(PAGE + 5):
        talk.ask(access())
    first = await told(service, start)
    second = await told(service, first.position)
    assert len(first.events) == PAGE
    assert [one.position for one in (*first.events, *second.events)] == list(range(start + 1, start + PAGE + 7))
    assert second.position == service.engine.position
    assert (await told(service, second.position)).events == ()


async def test_a_use_is_not_told() -> None:
    """It may come a thousand times a second, and would push what matters out of the ring."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello(1))
    handle = talk.ask(access()).handle
    start = (await told(service)).position
    service.engine.clock.raise_to(service.engine.clock.now() + 10)
    talk.ask(m.Info(handle))
    assert service.engine.position == start + 1
    answer = await told(service, start)
    assert (answer.events, answer.position) == ((), start + 1)


async def test_who_comes_too_late_is_told_that_he_missed_some() -> None:
    """He gets where the ring begins, and from there on all that is in it; memory stays bounded."""
    service = make_service(charts())
    start = here = (await told(service)).position
    talk = Talk(service, greeting=hello(1))
    for _ in range(RING + 100):
        talk.ask(m.Release(talk.ask(access()).handle))
        here = (await told(service, here)).position  # somebody else keeps up
    answer = await told(service, start)
    assert answer.missed
    assert answer.events == ()
    assert answer.position == service.engine.position
    assert answer.first == service.engine.position - RING
    since, events = answer.first, 0
    while since < answer.position:
        page = await told(service, since)
        assert not page.missed
        since, events = page.position, events + len(page.events)
    assert events == RING


async def test_nobody_listens_while_all_have_missed_some(autojump_clock: MockClock) -> None:
    """A server that does more than anybody can follow is not held up by noting it; then who asks is heard again."""
    service = make_service(charts())
    engine = service.engine
    before = engine._listeners
    start = (await told(service)).position
    talk = Talk(service, greeting=hello(1))
    for _ in range(RING // 2 + 1):
        talk.ask(m.Release(talk.ask(access()).handle))
    assert engine._listeners == before
    answer = await told(service, start)
    assert (answer.missed, answer.position) == (True, engine.position)
    await trio.sleep(2 * GATHER)
    assert (await told(service, answer.position)).events == ()
    talk.ask(access())
    assert kinds(await told(service, answer.position)) == ["granted"]


async def test_while_too_much_happens_who_waits_hears_that_alone(autojump_clock: MockClock) -> None:
    """Nothing is noted for him meanwhile; he hears of it every moment, and all of what comes when it is over."""
    service = make_service(charts())
    engine = service.engine
    before = engine._listeners
    here = (await told(service)).position
    talk = Talk(service, greeting=hello(1))
    for _ in range(RING):
        talk.ask(m.Release(talk.ask(access()).handle))
    for _ in range(5):
        asked = trio.current_time()
        answer = await told(service, here, 20)
        assert (answer.missed, answer.position, answer.first) == (True, engine.position, engine.position)
        assert trio.current_time() == pytest.approx(asked + GATHER)
        assert engine._listeners == before
        here = answer.position
        for _ in range(PAGE):
            talk.ask(m.Release(talk.ask(access()).handle))
    answer = await told(service, here, 20)
    assert answer.missed
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_later, talk)
        answer = await told(service, answer.position, 20)
    assert (answer.missed, kinds(answer)) == (False, ["granted"])


async def _later(talk: Talk) -> None:
    """Take a license when it has been quiet for a while."""
    await trio.sleep(3 * GATHER)
    talk.ask(access())


async def test_one_passage_that_is_more_than_the_ring_is_missed_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not told in parts: nobody could know what is missing."""
    monkeypatch.setattr(happenings, "RING", 3)
    service = make_service(charts(quantity=9))
    talk = Talk(service, greeting=hello(1))
    for _ in range(5):
        talk.ask(access())
    start = (await told(service)).position
    talk.ask(m.Goodbye())
    answer = await told(service, start)
    assert (answer.missed, answer.first) == (True, service.engine.position)


@pytest.mark.parametrize("since", [0, 10**9])
async def test_a_position_that_cannot_be_answered_for_is_missed(since: int) -> None:
    """What was before anybody looked, and what a server before this one had."""
    service = make_service(charts())
    assert (await told(service, since, wait=60)).missed


async def test_nobody_looks_and_nobody_listens() -> None:
    """Without somebody who looks a passage makes no record, with twenty of them one listener hears of it."""
    system = [1_790_000_000.0]
    service = make_service(charts(), clock=LicenseClock(lambda: system[0], lambda: 0.0))
    engine = service.engine
    before = engine._listeners
    for _ in range(20):
        start = (await told(service)).position
    assert len(engine._listeners) == len(before) + 1
    talk = Talk(service, greeting=hello(1))
    handle = talk.ask(access()).handle
    assert len((await told(service, start)).events) == 2
    system[0] += IDLE + 1
    service.engine.clock.raise_to(int(system[0]))
    talk.ask(m.Release(handle))
    assert engine._listeners == before
    assert engine._apply == engine.table.apply
    assert (await told(service, start)).missed


async def test_a_bug_in_noting_harms_no_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who only looks is taken off, and the request is answered."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    failed: list[object] = []
    service = make_service(charts())
    monkeypatch.setattr(service.engine, "_on_fault", lambda listener, _: failed.append(listener))
    await told(service)
    places: dict[type[Any], object] = {c.Freed: broken}
    monkeypatch.setattr(happenings, "_VANISHING", places)
    talk = Talk(service, greeting=hello(1))
    talk.ask(m.Release(talk.ask(access()).handle))
    assert len(failed) == 1


async def test_twenty_wait_and_hear_of_the_same() -> None:
    """Each over a connection of his own; what happens at once is one answer."""
    service = make_service(charts(quantity=9))
    async with rig(service) as served:
        watchers = [await served.client(number, MONITOR) for number in range(20)]
        start = (await watchers[0].ask(m.Happened())).position
        answers: list[m.Happenings] = []

        async def wait(watcher: AsyncClient) -> None:
            answers.append(await watcher.ask(m.Happened(start, 60)))

        async with trio.open_nursery() as waiting:
            for watcher in watchers:
                waiting.start_soon(wait, watcher)
            await until(lambda: service.happenings._wake.statistics().tasks_waiting == len(watchers))
            talk = Talk(service, greeting=hello(1))
            talk.ask(access())
            talk.ask(access(AccessMode.STATION_SHARE))
        assert [kinds(answer) for answer in answers] == [["opened", "granted", "granted"]] * 20


async def test_nothing_happens_and_the_wait_ends(autojump_clock: MockClock) -> None:
    """After the seconds that were asked for, with nothing, and the position to go on with."""
    service = make_service(charts())
    start = (await told(service)).position
    began = trio.current_time()
    answer = await told(service, start, wait=7)
    assert trio.current_time() - began == pytest.approx(7)
    assert (answer.position, answer.events, answer.missed) == (start, (), False)
    del autojump_clock


async def test_what_is_there_is_told_at_once(autojump_clock: MockClock) -> None:
    """Who does not wait is answered without time passing; who waits is let wait for a moment, for there may be more."""
    del autojump_clock
    service = make_service(charts())
    start = (await told(service)).position
    Talk(service, greeting=hello(1))
    now = trio.current_time()
    assert kinds(await told(service, start)) == ["opened"]
    assert trio.current_time() == now
    assert kinds(await told(service, start, wait=60)) == ["opened"]
    assert trio.current_time() == pytest.approx(now + GATHER)


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda service: service.engine.unplug(ContainerId("3-1")), "unplugged"),
        (lambda service: service.engine.plug(charts(quantity=5)), "reprogrammed"),
        (lambda service: service.engine.set_time(service.engine.clock.now() - 9), "time_set"),
        (
            lambda service: service.engine.deallocate(1, alone=False, seen=frozenset(), hold_off=60),
            "ended administrator",
        ),
    ],
)
async def test_what_happens_to_containers_and_by_operators(act: Callable[[Service], None], kind: str) -> None:
    """Each by its name, with its cause."""
    service = make_service(charts(quantity=9))
    Talk(service, greeting=hello(1)).ask(access())
    start = (await told(service)).position
    act(service)
    assert kind in {f"{one.kind} {one.cause}".strip() for one in (await told(service, start)).events}
