"""Linger: a license that was given back stays its station's for a while, and nobody else's."""

from __future__ import annotations

import pytest

from cmserverd.core import changes as c
from drivers.container import ContainerId
from protocol.errors import ErrorNumber
from protocol.terms import AccessMode
from tests.core.scene import (
    EXCLUSIVE,
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


@pytest.mark.parametrize("mode", [USER_LIMIT, STATION_SHARE, EXCLUSIVE])
def test_behaviour_14_a_license_lingers_for_its_station(mode: AccessMode) -> None:
    """Three seconds: not given to others, taken up again at once without a second unit; freed at once if ignored."""
    scene = Scene(container(item(linger=3)))
    pc, other = scene.session("pc"), scene.session("other")
    held = scene.access(pc, mode)
    allocation = booked(held)
    scene.lingered(held)
    scene.pass_time(2)
    refusal = scene.refused(other, mode)
    assert refusal.number is ErrorNumber.NO_MORE_LICENSES
    assert "1 of them lingering, the next is free in 1 s" in refusal.reasons[0].text
    again = scene.access(scene.session("pc"), mode)
    assert (booked(again), scene.used()) == (allocation, 1)
    scene.pass_time(60)
    scene.lingered(again)
    scene.pass_time(3)
    assert scene.used() == 0
    scene.release(scene.access(other, mode, ignore_linger=True))
    assert scene.used() == 0
    scene.access(pc, mode)


def test_only_the_last_release_of_a_share_lingers() -> None:
    """And the last one decides whether it does."""
    scene = Scene(container(item(linger=3)))
    pc = scene.session("pc")
    first, second = scene.access(pc, STATION_SHARE), scene.access(pc, STATION_SHARE, ignore_linger=True)
    scene.release(second)
    assert not booked(first).until
    scene.lingered(first)
    first, second = scene.access(pc, STATION_SHARE), scene.access(pc, STATION_SHARE, ignore_linger=True)
    scene.release(first)
    scene.release(second)
    assert scene.used() == 0


def test_what_lingers_is_taken_up_in_its_own_mode_only() -> None:
    """And only if it satisfies the request; what is left of the quantity serves others."""
    scene = Scene(container(item(1, 3, linger=9, feature_map=1), item(2, 1, feature_map=2)))
    pc = scene.session("pc")
    held = scene.access(pc)
    allocation = booked(held)
    scene.lingered(held)
    assert booked(scene.access(pc, STATION_SHARE)) is not allocation
    assert place(scene.access(pc, feature_code=2)) == ("3-1", 2)
    assert scene.used() == 2
    assert booked(scene.access(pc)) is allocation


def test_the_newest_is_taken_up() -> None:
    """So that the oldest is free for others as soon as it can be."""
    scene = Scene(container(item(1, 2, linger=9)))
    pc = scene.session("pc")
    first, second = scene.access(pc), scene.access(pc)
    newest = booked(second)
    scene.lingered(first)
    scene.now += 1
    scene.lingered(second)
    assert booked(scene.access(pc)) is newest
    scene.pass_time(8)
    assert scene.used() == 1


def test_what_counts_nothing_does_not_linger() -> None:
    """NoUserLimit and license quantity 0 take no unit, and have none to keep."""
    scene = Scene(container(item(1, 2, linger=9), item(2, 0, linger=9)))
    here = scene.session(local=True)
    for held in (scene.access(here, NO_USER_LIMIT), scene.access(here, item=2)):
        scene.release(held)
    assert not scene.table.lingers


def test_what_lingers_is_not_in_the_way_of_exclusive_access() -> None:
    """It does not count for that (decision 9), but takes its unit as before."""
    scene = Scene(container(item(1, 2, linger=9)))
    pc = scene.session("pc")
    scene.lingered(scene.access(pc))
    exclusive = scene.access(pc, EXCLUSIVE)
    assert scene.refused(pc).number is ErrorNumber.EXCLUSIVE_CONFLICT
    assert scene.refused(scene.session("other")).number is ErrorNumber.NO_MORE_LICENSES
    scene.lingered(exclusive)
    scene.access(pc)
    scene.pass_time(9)
    assert scene.used() == 1


def test_a_session_that_ends_lingers_too() -> None:
    """By its own goodbye or because its time is over."""
    scene = Scene(container(item(1, 2, linger=9)))
    session = scene.session("pc")
    scene.access(session)
    scene.access(session, STATION_SHARE)
    scene.engine.close(session)
    assert (scene.used(), len(scene.table.lingers)) == (2, 2)
    scene.access(scene.session("pc"), STATION_SHARE)
    assert scene.refused(scene.session("other")).number is ErrorNumber.NO_MORE_LICENSES


def test_a_ghost_s_license_is_taken_up_by_its_successor() -> None:
    """What the crashed application held lingers, and is there for the same mode."""
    scene = Scene(container(item(linger=9)))
    crashed = scene.session("pc")
    held = scene.access(crashed)
    allocation = booked(held)
    scene.engine.detach(crashed, closed=True)
    assert booked(scene.access(scene.session("pc"))) is allocation
    assert scene.gone(held).cause == "superseded"


def test_a_ghost_is_not_ended_if_its_license_would_linger_in_vain() -> None:
    """In another mode the successor could not have it, unless the ghost was not to linger."""
    scene = Scene(container(item(linger=9)))
    for ignore, ended in ((False, False), (True, True)):
        crashed = scene.session("pc")
        ghost = scene.access(crashed, ignore_linger=ignore)
        scene.engine.detach(crashed, closed=True)
        if ended:
            scene.access(scene.session("pc"), STATION_SHARE)
        else:
            assert scene.refused(scene.session("pc"), STATION_SHARE).number is ErrorNumber.NO_MORE_LICENSES
            scene.engine.close(crashed)
            scene.pass_time(9)
        assert (ghost.handle not in scene.table.accesses) is True


def test_a_ghost_on_an_unplugged_container_leaves_its_license_to_its_successor() -> None:
    """Nothing new is granted there, but what lingers its station has back, as it joins a share."""
    scene = Scene(container(item(linger=9)), container(item(1), id="3-2"))
    crashed = scene.session("pc")
    ghost = scene.access(crashed)
    scene.access(scene.session("other"))
    allocation = booked(ghost)
    scene.engine.detach(crashed, closed=True)
    scene.engine.unplug(ContainerId("3-1"))
    assert booked(scene.access(scene.session("pc"))) is allocation


def test_what_lingers_of_an_item_that_cannot_be_used_any_more_is_not_taken_up() -> None:
    """The item was changed meanwhile, and has an option that this server does not know."""
    scene = Scene(container(item(linger=9)), container(item(1), id="3-2"))
    pc = scene.session("pc")
    scene.lingered(scene.access(pc))
    scene.engine.plug(container(item(linger=9, unusable="an option of the future")))
    assert place(scene.access(pc)) == ("3-2", 1)


def test_an_exclusive_ghost_goes_for_what_lingers() -> None:
    """It stood in the way, and what is wanted lingers already."""
    scene = Scene(container(item(1, 2, linger=9)))
    lingered = scene.access(scene.session("pc"))
    allocation = booked(lingered)
    scene.lingered(lingered)
    crashed = scene.session("pc")
    scene.access(crashed, EXCLUSIVE)
    scene.engine.detach(crashed, closed=True)
    assert booked(scene.access(scene.session("pc"))) is allocation


def test_what_lingers_goes_with_its_container() -> None:
    """As much at a time as of what is held, and it is joined while the container is only away for a moment."""
    scene = Scene(container(item(1, 9, linger=9)))
    pc = scene.session("pc")
    for held in [scene.access(pc) for _ in range(3)]:
        scene.lingered(held)
    scene.engine.unplug(ContainerId("3-1"))
    held = scene.access(pc)
    assert scene.refused(scene.session("other")).number is ErrorNumber.BOX_LOST
    assert scene.engine.vacate(ContainerId("3-1"), 2)
    assert not scene.engine.vacate(ContainerId("3-1"), 2)
    scene.engine.remove(ContainerId("3-1"))
    assert scene.gone(held).cause == "container_gone"
    assert scene.engine.due() is None


def test_what_lingers_gives_way_to_what_is_held() -> None:
    """Where a quantity is lowered: first goes what lingers, the oldest first, and no more than must."""
    scene = Scene(container(item(1, 3, linger=9)))
    pc = scene.session("pc")
    first, second, third = (scene.access(pc) for _ in range(3))
    newest = booked(third)
    scene.lingered(first)
    scene.now += 1
    scene.lingered(third)
    scene.engine.plug(container(item(1, 2, linger=9)))
    assert [entry[2] for entry in scene.table.lingers] == [newest]
    scene.engine.plug(container(item(1, 1)))
    assert (scene.table.lingers, set(scene.table.accesses)) == ([], {second.handle})


def test_what_lingers_of_an_item_that_is_gone_is_gone() -> None:
    """Also where its reference is another product now."""
    scene = Scene(container(item(1, 3, linger=9)))
    scene.lingered(scene.access(scene.session()))
    scene.engine.plug(container(item(1, 3, product=15)))
    assert not scene.table.lingers


def test_who_has_to_leave_takes_up_what_lingers_for_his_station() -> None:
    """In the same mode, a share as a whole; what lingers for others is no refuge."""
    scene = Scene(container(item(1, 9)), container(item(1, 2, linger=9), id="3-2"))
    pc, other = scene.session("pc"), scene.session("other")
    mine, *shared = scene.access(pc), scene.access(pc, STATION_SHARE), scene.access(pc, STATION_SHARE)
    single, share = scene.access(pc, container="3-2"), scene.access(pc, STATION_SHARE, container="3-2")
    allocations = booked(single), booked(share)
    scene.lingered(single)
    scene.lingered(share)
    moving = scene.access(other), scene.access(other, STATION_SHARE)
    scene.engine.remove(ContainerId("3-1"))
    assert [booked(held) for held in (mine, *shared)] == [allocations[0], allocations[1], allocations[1]]
    assert [scene.gone(held).cause for held in moving] == ["container_gone"] * 2
    assert (scene.used("3-2"), scene.engine.due()) == (2, None)


def test_the_same_request_again_while_it_lingers_is_a_new_access() -> None:
    """Its key is free since the client let go of it, and the allocation is the one that lingered."""
    scene = Scene(container(item(linger=9)))
    session = scene.session()
    held = scene.access(session, key=1)
    allocation = booked(held)
    scene.lingered(held)
    again = scene.access(session, key=1)
    assert (again.handle != held.handle, booked(again)) == (True, allocation)
    assert isinstance(scene.changes[-1], c.Joined)


def test_a_shorter_linger_is_free_first_whichever_began_first() -> None:
    """The refusal tells of the next one that is free."""
    scene = Scene(container(item(1, 2, linger=100)))
    pc = scene.session()
    first, second = scene.access(pc), scene.access(pc)
    scene.lingered(first)
    scene.engine.plug(container(item(1, 2, linger=7)))
    scene.lingered(second)
    assert "2 of them" in scene.refused(scene.session("other")).reasons[0].text
    assert "the next is free in 7 s" in scene.refused(scene.session("other")).reasons[0].text
    assert [until for until, _, _ in scene.table.lingers] == [START + 7, START + 100]
    scene.pass_time(7)
    scene.access(scene.session("other"))


def test_an_item_that_becomes_another_product_takes_in_who_must_leave_though_something_lingered_on_it() -> None:
    """In its turn, before other containers: what lingered there was nobody's who would have to leave first."""
    scene = Scene(
        container(item(1, 1), item(2, 1, product=15, linger=30), id="3-1"),
        container(item(1, 1), id="3-2"),
    )
    pc = scene.session()
    scene.lingered(scene.access(pc, product=15))
    held = scene.access(scene.session("other"))
    scene.engine.plug(container(item(2, 1), id="3-1"))
    assert place(held) == ("3-1", 2)
