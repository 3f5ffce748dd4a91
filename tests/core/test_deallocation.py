"""An operator takes a license from who holds it (decision 22)."""

from __future__ import annotations

import pytest

from cmserverd.core.refusal import Refused
from protocol.errors import ErrorNumber
from protocol.messages import EndCause
from protocol.terms import HandleKind
from tests.core.scene import EXCLUSIVE, NO_USER_LIMIT, STATION_SHARE, Scene, booked, container, item


def taken(scene: Scene, handle: int, *, alone: bool = False, seen: tuple[int, ...] = (), hold_off: int = 0) -> set[int]:
    """Have an operator take the allocation of a handle; return the handles that ended."""
    done = scene.engine.deallocate(handle, alone=alone, seen=frozenset(seen), hold_off=hold_off)
    return {ended for ended, _, _ in done.accesses}


def test_behaviour_15_the_seat_is_free_at_once_and_other_handles_live_on() -> None:
    """Even where a license would linger; the next use gives 106, and why."""
    scene = Scene(container(item(quantity=1, linger=60)))
    session = scene.session("pc")
    held, box = scene.access(session), scene.refer(session, HandleKind.CONTAINER)
    done = scene.engine.deallocate(held.handle, alone=False, seen=frozenset(), hold_off=0)
    assert done.licenses == 1
    assert [(handle, client.host) for handle, _, client in done.accesses] == [(held.handle, "PC")]
    assert scene.used() == 0
    scene.access(scene.session("other"))
    gone = scene.gone(held)
    assert (gone.number, gone.cause) == (ErrorNumber.INVALID_HANDLE, EndCause.ADMINISTRATOR)
    scene.use(session, box.handle)


def test_an_allocation_goes_with_all_its_instances_and_one_of_them_alone_frees_nothing() -> None:
    """Whosever they are; and the station's other allocations stand."""
    scene = Scene(container(item(quantity=3)))
    first, second = scene.session("pc"), scene.session("pc", application="cam")
    shares = [scene.access(session, STATION_SHARE) for session in (first, first, second)]
    single = scene.access(second)
    done = scene.engine.deallocate(shares[0].handle, alone=True, seen=frozenset(), hold_off=0)
    assert (len(done.accesses), done.licenses, scene.used()) == (1, 0, 2)
    assert taken(scene, shares[2].handle) == {shares[1].handle, shares[2].handle}
    assert scene.used() == 1
    scene.use(second, single.handle)


def test_all_of_a_client_goes_and_what_others_share_with_it_stands() -> None:
    """The session itself lives on."""
    scene = Scene(container(item(quantity=3)))
    first, second = scene.session("pc"), scene.session("pc")
    scene.access(first, STATION_SHARE)
    kept = scene.access(second, STATION_SHARE)
    scene.access(first)
    scene.refer(first, HandleKind.SUBSYSTEM)
    done = scene.engine.deallocate_all(first.id, seen=frozenset(), hold_off=0)
    assert (len(done.accesses), done.licenses, scene.used()) == (3, 1, 1)
    scene.use(second, kept.handle)
    scene.access(first, NO_USER_LIMIT)
    with pytest.raises(Refused, match="ended already"):
        scene.engine.deallocate_all(99, seen=frozenset(), hold_off=0)


def test_a_stale_listing_takes_nothing_from_who_came_later() -> None:
    """One who has gone since is no matter; what is gone altogether is told."""
    scene = Scene(container(item(quantity=2)))
    session = scene.session("pc")
    first, second = scene.access(session, STATION_SHARE), scene.access(session, STATION_SHARE)
    seen = first.handle, second.handle
    third = scene.access(scene.session("pc"), STATION_SHARE)
    with pytest.raises(Refused, match=f"handle {third.handle} has come") as refusal:
        taken(scene, first.handle, seen=seen)
    assert refusal.value.number is ErrorNumber.INVALID_PARAMETER
    assert scene.used() == 1
    scene.release(third)
    scene.release(second)
    assert taken(scene, first.handle, seen=seen) == {first.handle}
    with pytest.raises(Refused, match="ended already"):
        taken(scene, first.handle)


def test_a_held_off_station_gets_no_new_license_and_others_do() -> None:
    """231 with its end, until it has come; of another product it may have one."""
    scene = Scene(container(item(1, 1), item(2, 1, product=15)))
    session = scene.session("pc")
    taken(scene, scene.access(session).handle, hold_off=30)
    refusal = scene.refused(session, EXCLUSIVE)
    assert refusal.number is ErrorNumber.ACCESS_DENIED
    assert "in 30 s" in str(refusal)
    scene.access(session, product=15)
    other = scene.access(scene.session("other"))
    scene.release(other)
    scene.now += 29
    scene.refused(scene.session("pc", application="cam"))
    scene.now += 1
    assert scene.used() == 0
    scene.access(session)


def test_who_is_held_off_may_share_what_the_station_still_has() -> None:
    """Law 3: a fitting share is never refused."""
    scene = Scene(container(item(quantity=2)))
    session = scene.session("pc")
    single, share = scene.access(session), scene.access(session, STATION_SHARE)
    taken(scene, single.handle, hold_off=30)
    assert booked(scene.access(session, STATION_SHARE)) is booked(share)
    assert scene.refused(session).number is ErrorNumber.ACCESS_DENIED


def test_a_hold_off_ends_no_ghost() -> None:
    """Who gets nothing needs no room made for him."""
    scene = Scene(container(item(quantity=1), item(2, 1)))
    crashed = scene.session("pc")
    taken(scene, scene.access(crashed).handle, hold_off=30)
    left = scene.access(scene.session("other"))
    assert scene.refused(crashed).number is ErrorNumber.ACCESS_DENIED
    scene.use(left.session, left.handle)
