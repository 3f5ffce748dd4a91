"""Decision 12: an application that crashes and is started again gets its license."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from cmserverd.core import ghosts, rules
from cmserverd.core.refusal import Refused
from cmserverd.core.terms import Access, Session
from drivers.container import QuantityFlag
from protocol.errors import ErrorNumber
from protocol.messages import EndCause
from protocol.terms import AccessMode
from tests.core.scene import EXCLUSIVE, NO_USER_LIMIT, STATION_SHARE, USER_LIMIT, Scene, booked, container, item


def crashed(scene: Scene, *modes: AccessMode, closed: bool = True, **who: Any) -> list[Access]:
    """Have a session get these accesses, and lose its connection."""
    session = scene.session(**who)
    held = [scene.access(session, mode) for mode in modes]
    scene.engine.detach(session, closed=closed)
    return held


def alive(scene: Scene, held: list[Access]) -> list[bool]:
    """Return which of these handles are still valid."""
    return [one.handle in scene.table.accesses for one in held]


@contextmanager
def counted_steps() -> Iterator[list[int]]:
    """Count the instructions that the interpreter executes inside."""
    steps = [0]

    def count(frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes = True
        steps[0] += event == "opcode"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield steps
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("mode", [USER_LIMIT, EXCLUSIVE])
def test_a_crashed_application_gets_its_license_again(mode: AccessMode) -> None:
    """Its old access ends, with the cause that says so."""
    scene = Scene(container(item()))
    (ghost,) = crashed(scene, mode)
    held = scene.access(scene.session(), mode)
    assert scene.gone(ghost).cause is EndCause.SUPERSEDED
    assert scene.table.accesses == {held.handle: held}


@pytest.mark.parametrize("mode", AccessMode)
def test_an_exclusive_ghost_keeps_nobody_of_its_application_out(mode: AccessMode) -> None:
    """213 is overcome like 212, in whichever mode the application starts again."""
    scene = Scene(container(item(quantity=9)))
    (ghost,) = crashed(scene, EXCLUSIVE)
    scene.access(scene.session(), mode)
    assert alive(scene, [ghost]) == [False]


def test_an_exclusive_request_ends_every_ghost_of_the_product() -> None:
    """An exclusive access bears no other beside it, so all go; those of other products stay."""
    scene = Scene(container(item(1, 9), item(2, 9, product=15)))
    ghosts = crashed(scene, USER_LIMIT, NO_USER_LIMIT, STATION_SHARE)
    other = scene.session()
    elsewhere = scene.access(other, product=15)
    scene.engine.detach(other, closed=True)
    scene.access(scene.session(), EXCLUSIVE)
    assert alive(scene, ghosts) == [False] * 3
    assert alive(scene, [elsewhere]) == [True]


def test_a_silent_session_is_no_ghost() -> None:
    """Of a client whose cable was pulled nothing is taken: it may come back."""
    scene = Scene(container(item()))
    held = crashed(scene, USER_LIMIT, closed=False)
    assert scene.refused(scene.session()).number is ErrorNumber.NO_MORE_LICENSES
    assert alive(scene, held) == [True]


def test_a_resumed_session_is_no_ghost() -> None:
    """Who came back keeps what he has."""
    scene = Scene(container(item()))
    held = crashed(scene, USER_LIMIT)
    session = held[0].session
    scene.engine.resume(session.token_hash, session.address, session.local)
    assert scene.refused(scene.session()).number is ErrorNumber.NO_MORE_LICENSES
    assert alive(scene, held) == [True]


@pytest.mark.parametrize("who", [{"machine": "another"}, {"application": "another"}])
def test_ghosts_of_others_are_left_alone(who: dict[str, Any]) -> None:
    """Another station, or another application, waits until the grace is over."""
    scene = Scene(container(item()))
    held = crashed(scene, USER_LIMIT, **who)
    assert scene.refused(scene.session()).number is ErrorNumber.NO_MORE_LICENSES
    assert alive(scene, held) == [True]


def test_the_oldest_go_first_and_no_more_than_needed() -> None:
    """One license is wanted: the oldest ghost that holds one goes, whatever lies before and after it."""
    scene = Scene(container(item(quantity=3)))
    ghosts = crashed(scene, NO_USER_LIMIT, USER_LIMIT) + crashed(scene, USER_LIMIT, USER_LIMIT)
    scene.access(scene.session())
    assert alive(scene, ghosts) == [True, False, True, True]
    scene.access(scene.session())
    assert alive(scene, ghosts) == [True, False, False, True]


def test_none_is_ended_while_a_unit_is_free() -> None:
    """A request that can be granted anyway ends nothing."""
    scene = Scene(container(item(quantity=2)))
    held = crashed(scene, USER_LIMIT)
    scene.access(scene.session())
    assert alive(scene, held) == [True]


def test_a_share_is_joined_and_not_ended() -> None:
    """A crashed StationShare application joins its own share; nothing ends."""
    scene = Scene(container(item()))
    held = crashed(scene, STATION_SHARE)
    again = scene.access(scene.session(), STATION_SHARE)
    assert booked(again) is booked(held[0])
    assert alive(scene, held) == [True]


@pytest.mark.parametrize(("mode", "quantity"), [(EXCLUSIVE, 2), (EXCLUSIVE, 9), (USER_LIMIT, 2)])
def test_none_is_ended_if_it_would_not_help(mode: AccessMode, quantity: int) -> None:
    """A live access of the same station stands in the way of an exclusive one; the unit is another station's."""
    scene = Scene(container(item(quantity=quantity)))
    ghosts = crashed(scene, NO_USER_LIMIT, STATION_SHARE)
    live = scene.access(scene.session(), STATION_SHARE)  # joins, and keeps the allocation of the ghost
    other = scene.access(scene.session("other"))
    number = scene.refused(scene.session(), mode).number
    assert number is (ErrorNumber.EXCLUSIVE_CONFLICT if mode is EXCLUSIVE else ErrorNumber.NO_MORE_LICENSES)
    assert alive(scene, [*ghosts, live, other]) == [True] * 4


def test_none_is_ended_for_an_exclusive_request_without_a_unit() -> None:
    """All that stands beside it are ghosts, but their end would free nothing that the request can use."""
    scene = Scene(container(item(1, 1), item(2, 1, flags=QuantityFlag.DENY_EXCLUSIVE)))
    scene.access(scene.session("other"))
    ghosts = crashed(scene, USER_LIMIT, NO_USER_LIMIT)
    refusal = scene.refused(scene.session(), EXCLUSIVE)
    assert refusal.number is ErrorNumber.EXCLUSIVE_CONFLICT
    assert alive(scene, ghosts) == [True, True]


def test_a_share_of_ghosts_alone_ends_as_a_whole() -> None:
    """A share frees its unit only with its last access: all of it goes, or another ghost that holds a unit alone."""
    scene = Scene(container(item(quantity=1)))
    ghosts = crashed(scene, STATION_SHARE, STATION_SHARE) + crashed(scene, STATION_SHARE, NO_USER_LIMIT)
    scene.access(scene.session(), USER_LIMIT)
    assert alive(scene, ghosts) == [False, False, False, True]


def test_a_ghost_on_a_license_that_does_not_fit_is_left_alone() -> None:
    """Ending it would free a unit that the request cannot use."""
    scene = Scene(container(item(1, feature_map=1), item(2, flags=QuantityFlag.DENY_USER_LIMIT)))
    ghosts = crashed(scene, USER_LIMIT) + crashed(scene, STATION_SHARE)
    refusal = scene.refused(scene.session(), USER_LIMIT, feature_code=2)
    assert refusal.number is ErrorNumber.SEVERAL_REASONS
    assert alive(scene, ghosts) == [True, True]


def test_a_closed_session_leaves_no_ghosts() -> None:
    """When the grace is over the session and its accesses are gone like any other."""
    scene = Scene(container(item()))
    (ghost,) = crashed(scene, USER_LIMIT)
    session: Session = ghost.session
    scene.engine.close(session)
    assert not scene.table.ghosts
    assert scene.used() == 0


def test_other_ghosts_remain_when_one_is_gone() -> None:
    """Of two crashed instances one comes back or is over; the other goes on being a ghost."""
    scene = Scene(container(item(quantity=2)))
    first, second = crashed(scene, USER_LIMIT) + crashed(scene, USER_LIMIT)
    scene.engine.resume(first.session.token_hash, "192.0.2.1", local=False)
    scene.access(scene.session())
    assert alive(scene, [first, second]) == [True, False]
    scene.engine.close(second.session)
    assert not scene.table.ghosts


def test_many_ghosts_that_cannot_help_cost_little() -> None:
    """A client that leaves thousands of handles behind cannot stop the server with each request that is refused.

    What is compared is the number of steps of the interpreter, not time: eight times the ghosts may cost a request a
    little more than eight times the work, and not sixty-four times.
    """

    def work(count: int) -> int:
        scene = Scene(container(item()))
        scene.checking = False
        scene.access(scene.session("other"))
        client = scene.session()
        crashed(scene, *[NO_USER_LIMIT] * count)
        asked = scene.request()
        asking = rules.access(scene.table, client, asked, scene.now, rules.Limits())
        with pytest.raises(Refused) as refusal, counted_steps() as steps:
            next(asking)
        assert refusal.value.number is ErrorNumber.NO_MORE_LICENSES
        return steps[0]

    assert work(400) < work(50) * 16


def test_of_too_many_ghosts_none_is_looked_at() -> None:
    """Each refused request looks at all of them, so their number is bounded; they go when their grace is over."""
    scene = Scene(container(item()))
    scene.checking = False
    crashed(scene, USER_LIMIT)
    crashed(scene, *[NO_USER_LIMIT] * ghosts.LOOKED_AT)
    client = scene.session()
    assert scene.refused(client).number is ErrorNumber.NO_MORE_LICENSES
