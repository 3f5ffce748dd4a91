"""Handles and keys: what repeating a request gives, who may use a handle, and how many there may be (decision 14)."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from cmserverd.core.refusal import Refused
from cmserverd.core.rules import Limits
from cmserverd.core.table import REMEMBERED_ENDINGS
from drivers.container import ContainerId
from protocol.errors import ErrorNumber
from protocol.messages import Access as AccessRequest
from protocol.messages import EndCause, Release
from protocol.terms import HandleKind
from tests.core import invariants
from tests.core.scene import EXCLUSIVE, FIRM, STATION_SHARE, Scene, container, item

ALIKE: dict[str, dict[str, Any]] = {
    "plain": {},
    "with a feature and pins": {"feature_code": 1, "container": "3-1", "item": 1},
    "shared": {"mode": STATION_SHARE},
    "firm item": {"kind": HandleKind.FIRM_ITEM},
    "firm item, pinned": {"kind": HandleKind.FIRM_ITEM, "container": "3-1"},
    "container": {"kind": HandleKind.CONTAINER, "firm_code": 0},
    "container with a firm code": {"kind": HandleKind.CONTAINER},
    "subsystem": {"kind": HandleKind.SUBSYSTEM, "firm_code": 0},
    "subsystem, with what it has no use for": {"kind": HandleKind.SUBSYSTEM, "container": "3-1"},
}


def scene_of_one() -> Scene:
    """Return a server with two containers of one product."""
    return Scene(container(item(1, 9, feature_map=3), item(2, 9)), container(item(1, 9), id="3-2"))


def twice(scene: Scene, first: AccessRequest, second: AccessRequest) -> Refused:
    """Have a session make one request, then the other, and return how the second is refused."""
    session = scene.session()
    scene.engine.access(session, first)
    with pytest.raises(Refused) as refusal:
        scene.engine.access(session, second)
    assert len(session.accesses) == 1
    return refusal.value


@pytest.mark.parametrize("asked", ALIKE.values(), ids=list(ALIKE))
def test_the_same_request_again_gives_the_same_handle(asked: dict[str, Any]) -> None:
    """A client that did not hear the answer asks again, and gets what it has; nothing changes."""
    scene = scene_of_one()
    session = scene.session()
    request = scene.request(**asked)
    held = scene.engine.access(session, request)
    position = scene.engine.position
    assert scene.engine.access(session, request) is held
    assert scene.engine.position == position
    assert len(scene.table.accesses) == 1


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ({}, {"mode": EXCLUSIVE}),
        ({}, {"product_code": 15}),
        ({}, {"firm_code": 7}),
        ({}, {"feature_code": 1}),
        ({}, {"container": "3-1"}),
        ({}, {"item": 1}),
        ({}, {"kind": HandleKind.FIRM_ITEM}),
        ({"kind": HandleKind.FIRM_ITEM}, {"kind": HandleKind.ENTRY}),
        ({"kind": HandleKind.FIRM_ITEM}, {"kind": HandleKind.CONTAINER}),
        ({"kind": HandleKind.FIRM_ITEM}, {"firm_code": 7}),
        ({"kind": HandleKind.FIRM_ITEM}, {"firm_code": 0}),
        ({"kind": HandleKind.FIRM_ITEM}, {"container": "3-1"}),
        ({"kind": HandleKind.CONTAINER, "container": "3-1"}, {"container": "3-2"}),
        ({"kind": HandleKind.CONTAINER, "container": "3-1"}, {"container": None}),
    ],
    ids=str,
)
def test_the_same_key_with_other_parameters_is_105(first: dict[str, Any], other: dict[str, Any]) -> None:
    """A key names one access; with anything else in the request it is a mistake of the client."""
    scene = scene_of_one()
    request = scene.request(**first)
    refusal = twice(scene, request, replace(request, **other))
    assert refusal.number is ErrorNumber.INVALID_PARAMETER


def test_keys_of_two_sessions_are_two_keys() -> None:
    """A key belongs to its session: another client may have chosen the same."""
    scene = scene_of_one()
    first = scene.access(scene.session(), key=1)
    assert scene.access(scene.session(), key=1) is not first
    assert scene.used() == 2


def test_a_repeated_request_is_no_new_grant_after_rebooking() -> None:
    """The key goes with its access, wherever that is booked now."""
    scene = scene_of_one()
    session = scene.session()
    held = scene.access(session, key=1)
    scene.engine.remove(ContainerId("3-1"))
    assert scene.access(session, key=1) is held
    assert scene.used("3-2") == 1


def test_a_released_key_is_free_again() -> None:
    """Who gave a handle back may use its key for anything."""
    scene = scene_of_one()
    session = scene.session()
    first = scene.access(session, key=1)
    scene.release(first)
    second = scene.access(session, STATION_SHARE, key=1)
    assert second.handle > first.handle


def test_the_key_of_an_access_that_the_server_ended_says_so() -> None:
    """Asking again is answered 106 and why, and does not take another license in silence."""
    scene = Scene(container(item()))
    session = scene.session()
    scene.access(session, key=1)
    scene.engine.remove(ContainerId("3-1"))
    scene.engine.plug(container(item()))
    refusal = scene.refused(session, key=1)
    assert (refusal.number, refusal.cause) == (ErrorNumber.INVALID_HANDLE, EndCause.CONTAINER_GONE)
    assert refusal.body().cause == "container_gone"
    scene.access(session, key=2)


def test_releasing_an_ended_handle_says_why_it_ended() -> None:
    """An ended handle answers every use with its cause, for the session's life."""
    scene = Scene(container(item()))
    held = scene.access(scene.session())
    scene.engine.remove(ContainerId("3-1"))
    for _ in range(2):
        with pytest.raises(Refused) as refusal:
            scene.release(held)
        assert (refusal.value.number, refusal.value.cause) == (ErrorNumber.INVALID_HANDLE, EndCause.CONTAINER_GONE)


def test_endings_are_forgotten_in_the_end() -> None:
    """A session answers for its last endings, as many as it can hold at once; older handles are just not valid."""
    scene = Scene()
    session = scene.session()
    held = []
    scene.checking = False
    for _ in range(REMEMBERED_ENDINGS + 2):
        scene.engine.plug(container(item()))
        held.append(scene.access(session))
        scene.engine.remove(ContainerId("3-1"))
    assert len(session.ended or {}) == REMEMBERED_ENDINGS
    assert [scene.gone(one).cause for one in held[:3]] == [None, None, EndCause.CONTAINER_GONE]
    assert scene.gone(held[-1]).cause is EndCause.CONTAINER_GONE
    invariants.check(scene.table)


@pytest.mark.parametrize("thief", ["same pc", "another pc"])
def test_a_handle_of_others_is_106(thief: str) -> None:
    """A handle that another session holds, of the same station too, or nobody, is not valid; it stays where it is."""
    scene = scene_of_one()
    held = scene.access(scene.session("same pc"))
    stranger = scene.session(thief)
    for number in (held.handle, 999, 0):
        with pytest.raises(Refused) as refusal:
            scene.engine.release(stranger, Release(number))
        assert (refusal.value.number, refusal.value.cause) == (ErrorNumber.INVALID_HANDLE, None)
        with pytest.raises(Refused):
            scene.use(stranger, number)
    assert scene.table.accesses == {held.handle: held}


def test_a_released_handle_is_106() -> None:
    """A handle is never used twice: not by a second release, not by a later access."""
    scene = scene_of_one()
    held = scene.access(scene.session())
    scene.release(held)
    refusal = scene.gone(held)
    assert (refusal.number, refusal.cause) == (ErrorNumber.INVALID_HANDLE, None)
    assert scene.access(held.session).handle > held.handle


def test_last_access_is_the_time_of_the_last_use() -> None:
    """A use is noted once each second; first access stays."""
    scene = scene_of_one()
    held = scene.access(scene.session())
    begun = scene.now
    scene.now += 7
    assert scene.use(held.session, held.handle) is held
    assert (held.first, held.last) == (begun, begun + 7)
    position = scene.engine.position
    scene.use(held.session, held.handle)
    assert scene.engine.position == position


def test_a_session_holds_no_more_than_its_limit() -> None:
    """One handle more is 107, of whatever kind; a repeated request is answered all the same."""
    scene = Scene(container(item(quantity=9)), limits=Limits(handles=2))
    session = scene.session()
    held = scene.access(session, key=1)
    scene.refer(session, HandleKind.SUBSYSTEM)
    assert scene.refused(session).number is ErrorNumber.NO_MORE_HANDLES
    assert scene.refused(session, kind=HandleKind.SUBSYSTEM).number is ErrorNumber.NO_MORE_HANDLES
    assert scene.access(session, key=1) is held
    scene.access(scene.session())
    scene.release(held)
    scene.access(session)


def test_the_table_keeps_plain_bytes_for_keys() -> None:
    """A million accesses live on: their keys are no objects that the garbage collector must look at."""
    scene = scene_of_one()
    session = scene.session()
    scene.access(session)
    scene.refer(session, HandleKind.FIRM_ITEM, firm_code=FIRM)
    scene.access(session, STATION_SHARE)
    scene.access(session, STATION_SHARE)
    for key, held in session.accesses.items():
        assert type(key) is bytes
        assert type(held.key) is bytes
