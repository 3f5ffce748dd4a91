"""Containers come, go and change: what stands, what is rebooked, what ends (section 6, decision 6)."""

from __future__ import annotations

from typing import Any

import pytest

from cmserverd.core import changes as c
from cmserverd.core.terms import Access, LicenseId
from drivers.container import Container, ContainerId, ProductItem, QuantityFlag
from protocol.errors import ErrorNumber
from protocol.messages import EndCause
from protocol.terms import AccessMode, HandleKind
from tests.core.scene import (
    EXCLUSIVE,
    FIRM,
    NO_USER_LIMIT,
    STATION_SHARE,
    USER_LIMIT,
    Scene,
    booked,
    container,
    item,
    place,
)

ONE = container(item(), id="3-1")
TWO = container(item(), id="3-2")


def live(scene: Scene, held: Access) -> bool:
    """Whether a handle is still valid."""
    return scene.table.accesses.get(held.handle) is held


def ended(scene: Scene, held: Access) -> EndCause | None:
    """Return why a handle ended."""
    assert not live(scene, held)
    refusal = scene.gone(held)
    assert refusal.number is ErrorNumber.INVALID_HANDLE
    return refusal.cause


def moved(scene: Scene) -> int:
    """Return how many accesses the last passage booked on another license."""
    return sum(isinstance(change, c.Moved) for change in scene.records[-1].changes)


# absence


def test_a_short_absence_ends_nothing() -> None:
    """A container that is back within its grace finds everything as it was: handles, allocations, counts."""
    scene = Scene(ONE)
    user, other = scene.session("a"), scene.session("b")
    held, reference = scene.access(user), scene.refer(user, HandleKind.CONTAINER)
    allocation = booked(held)
    scene.engine.unplug(ONE.id)
    assert live(scene, held)
    assert scene.used() == 1
    assert scene.refused(other).number is ErrorNumber.BOX_LOST
    assert scene.refused(other, kind=HandleKind.CONTAINER, firm_code=0).number is ErrorNumber.BOX_LOST
    scene.engine.plug(ONE)
    assert live(scene, held)
    assert live(scene, reference)
    assert booked(held) is allocation
    assert scene.refused(other).number is ErrorNumber.NO_MORE_LICENSES
    scene.release(held)
    scene.access(other)


def test_what_is_held_can_be_used_and_released_while_its_container_is_away() -> None:
    """An absence is no matter to the holder."""
    scene = Scene(ONE)
    held = scene.access(scene.session())
    scene.engine.unplug(ONE.id)
    scene.now += 5
    assert scene.use(held.session, held.handle).last == scene.now
    scene.release(held)
    assert scene.used() == 0


def test_a_share_is_joined_while_its_container_is_away() -> None:
    """Who holds a share that satisfies him is never refused (law 3), not in the grace either."""
    scene = Scene(container(item(quantity=2)), TWO)
    scene.access(scene.session("pc"), STATION_SHARE)
    scene.engine.unplug(ContainerId("3-1"))
    assert place(scene.access(scene.session("pc"), STATION_SHARE)) == ("3-1", 1)
    assert place(scene.access(scene.session("other"), STATION_SHARE)) == ("3-2", 1)


def test_an_absent_container_is_passed_over() -> None:
    """New accesses go to what is there; when that is exhausted the want of a unit outranks the absence."""
    scene = Scene(ONE, TWO)
    scene.engine.unplug(ONE.id)
    assert place(scene.access(scene.session())) == ("3-2", 1)
    refusal = scene.refused(scene.session())
    assert refusal.number is ErrorNumber.NO_MORE_LICENSES
    assert [reason.number for reason in refusal.reasons] == [ErrorNumber.BOX_LOST, ErrorNumber.NO_MORE_LICENSES]


def test_missing_twice_is_missing_once() -> None:
    """A container that is away already cannot go."""
    scene = Scene(ONE)
    scene.engine.unplug(ONE.id)
    position = scene.engine.position
    scene.engine.unplug(ONE.id)
    assert scene.engine.position == position


# gone


@pytest.mark.parametrize("mode", AccessMode)
def test_a_gone_container_s_accesses_are_rebooked(mode: AccessMode) -> None:
    """When the grace is over an access goes on with the same handle on another fitting license."""
    scene = Scene(ONE, TWO)
    held = scene.access(scene.session(), mode)
    scene.engine.unplug(ONE.id)
    scene.engine.remove(ONE.id)
    assert live(scene, held)
    assert place(held) == ("3-2", 1)
    assert booked(held).mode is mode
    assert scene.used("3-2") == (0 if mode is NO_USER_LIMIT else 1)
    assert LicenseId(ONE.id, FIRM, 1) not in scene.table.licenses
    assert ONE.id not in scene.table.containers


@pytest.mark.parametrize("mode", AccessMode)
def test_what_finds_no_other_place_ends_with_its_cause(mode: AccessMode) -> None:
    """Without another license the access ends; its holder hears 106 and why, and others may start elsewhere."""
    scene = Scene(ONE)
    held = scene.access(scene.session(), mode)
    scene.engine.remove(ONE.id)
    assert ended(scene, held) is EndCause.CONTAINER_GONE
    assert not held.session.accesses
    assert scene.refused(held.session).number is ErrorNumber.ENTRY_NOT_FOUND
    scene.engine.plug(ONE)
    assert not live(scene, held)
    scene.access(held.session)


def test_rebooking_keeps_to_what_was_asked() -> None:
    """Pins and features hold wherever an access is booked: what they forbid is no place for it."""
    scene = Scene(
        container(item(1, 4, feature_map=3), id="3-1"),
        container(item(2, 9, feature_map=1), id="3-2"),
        container(item(1, 9, feature_map=2), id="3-3"),
    )
    session = scene.session()
    plain = scene.access(session)
    feature = scene.access(session, feature_code=2)
    pinned_item = scene.access(session, item=1)
    pinned_here = scene.access(session, container="3-1")
    scene.engine.remove(ContainerId("3-1"))
    assert place(plain) == ("3-2", 2)
    assert place(feature) == ("3-3", 1)
    assert place(pinned_item) == ("3-3", 1)
    assert ended(scene, pinned_here) is EndCause.CONTAINER_GONE


def test_rebooking_keeps_a_share_together() -> None:
    """The accesses of one station go to one license and take one unit there."""
    scene = Scene(ONE, container(item(quantity=2), id="3-2"))
    instances = [scene.access(scene.session("pc"), STATION_SHARE) for _ in range(3)]
    scene.engine.remove(ONE.id)
    assert len({booked(held).id for held in instances}) == 1
    assert (scene.used("3-2"), scene.license("3-2").station_share) == (1, 1)


def test_rebooking_joins_the_station_s_own_share() -> None:
    """A station that has a share elsewhere joins it, even where no unit is free."""
    scene = Scene(ONE, TWO)
    pc = scene.session("pc")
    here, there = (scene.access(pc, STATION_SHARE, container=where) for where in ("3-1", "3-2"))
    free = scene.access(pc, STATION_SHARE)
    assert booked(free) is booked(here)
    scene.engine.remove(ONE.id)
    assert booked(free) is booked(there)
    assert ended(scene, here) is EndCause.CONTAINER_GONE
    assert scene.used("3-2") == 1


def test_rebooking_takes_no_more_than_there_is() -> None:
    """Of three accesses two find a place, one ends, and nothing is counted above the quantity."""
    scene = Scene(container(item(quantity=3)), container(item(quantity=2), id="3-2"))
    held = [scene.access(scene.session(name)) for name in "abc"]
    scene.engine.remove(ContainerId("3-1"))
    stay = [one for one in held if live(scene, one)]
    assert [place(one) for one in stay] == [("3-2", 1), ("3-2", 1)]
    assert [ended(scene, one) for one in held if one not in stay] == [EndCause.CONTAINER_GONE]
    assert scene.used("3-2") == 2


def test_rebooking_never_goes_to_what_leaves_too() -> None:
    """What is taken out of a container is no refuge for its other accesses: each is booked once, where it stays."""
    scene = Scene(container(item(1), item(2, 9)), container(item(quantity=9), id="3-2"))
    held = [scene.access(scene.session("a")) for _ in range(2)]
    assert [place(one) for one in held] == [("3-1", 1), ("3-1", 2)]
    scene.engine.plug(container(id="3-1"))
    assert [place(one) for one in held] == [("3-2", 1), ("3-2", 1)]
    assert moved(scene) == 2


def test_a_share_is_never_rebooked_on_a_share_that_leaves_too() -> None:
    """The same for a station with shares on two items of the container that goes."""
    scene = Scene(container(item(1), item(2)), container(item(quantity=9), id="3-2"))
    pc = scene.session("pc")
    held = [scene.access(pc, STATION_SHARE)]
    blocker = scene.access(scene.session("other"), USER_LIMIT)
    assert place(blocker) == ("3-1", 2)
    scene.release(blocker)
    held.append(scene.access(pc, STATION_SHARE, item=2))
    scene.engine.unplug(ContainerId("3-1"))
    scene.engine.remove(ContainerId("3-1"))
    assert moved(scene) == 1
    assert place(held[0]) == ("3-2", 1)
    assert ended(scene, held[1]) is EndCause.CONTAINER_GONE


def test_a_missing_container_takes_no_rebooking() -> None:
    """What is unplugged just now takes no new allocation, of rebooking neither."""
    scene = Scene(ONE, TWO)
    held = scene.access(scene.session())
    scene.engine.unplug(TWO.id)
    scene.engine.remove(ONE.id)
    assert ended(scene, held) is EndCause.CONTAINER_GONE


def test_a_gone_container_s_accesses_leave_some_at_a_time() -> None:
    """So many allocations in each passage, and as many references; nothing new is granted on it meanwhile."""
    scene = Scene(container(item(quantity=9)), container(item(quantity=3), id="3-2"))
    pc = scene.session("pc")
    share = [scene.access(pc, STATION_SHARE) for _ in range(2)]
    others = [scene.access(scene.session(name)) for name in "abcd"]
    references = [scene.refer(pc, HandleKind.CONTAINER) for _ in range(3)]
    gone = ContainerId("3-1")
    assert scene.engine.vacate(gone, 2)
    assert [place(held) for held in (*share, *others)] == [("3-2", 1)] * 3 + [("3-1", 1)] * 3
    assert [live(scene, held) for held in references] == [False, False, True]
    newcomer = scene.access(scene.session("new"))
    assert place(newcomer) == ("3-2", 1)
    assert scene.engine.vacate(gone, 2)
    assert [ended(scene, held) for held in (*others[1:3], references[2])] == [EndCause.CONTAINER_GONE] * 3
    assert live(scene, others[3])
    assert not scene.engine.vacate(gone, 2)
    assert not live(scene, others[3])
    scene.engine.remove(gone)
    assert gone not in scene.table.containers


def test_what_has_not_left_yet_stands_when_the_container_is_back() -> None:
    """It was late, but in the end it is there: nobody else has to leave."""
    scene = Scene(container(item(quantity=9)))
    held = [scene.access(scene.session(name)) for name in "abc"]
    scene.engine.vacate(ContainerId("3-1"), 1)
    scene.engine.plug(container(item(quantity=9)))
    assert [live(scene, one) for one in held] == [False, True, True]
    assert place(scene.access(held[0].session)) == ("3-1", 1)


def test_references_end_with_their_container() -> None:
    """Handles on a container and its firm items end with it; a subsystem handle lives on."""
    scene = Scene(ONE, TWO)
    session = scene.session()
    box = scene.refer(session, HandleKind.CONTAINER)
    firm_item = scene.refer(session, HandleKind.FIRM_ITEM)
    other = scene.refer(session, HandleKind.CONTAINER, container="3-2")
    subsystem = scene.refer(session, HandleKind.SUBSYSTEM)
    scene.engine.remove(ONE.id)
    assert ended(scene, box) is EndCause.CONTAINER_GONE
    assert ended(scene, firm_item) is EndCause.CONTAINER_GONE
    assert live(scene, other)
    assert live(scene, subsystem)


# other contents


def reprogrammed(*items: ProductItem) -> Container:
    """Return the first container with other contents."""
    return container(*items, id="3-1")


def test_the_same_contents_change_nothing() -> None:
    """A container that is read again and says the same disturbs nobody."""
    scene = Scene(ONE)
    held = scene.access(scene.session())
    scene.engine.plug(ONE)
    assert live(scene, held)
    assert scene.license().item == ONE.firm_items[0].products[0]


def test_a_lowered_quantity_ends_the_newest() -> None:
    """What the new quantity has no room for goes, the newest first, and no more than that."""
    scene = Scene(container(item(quantity=3)))
    oldest, middle, newest = (scene.access(scene.session(name)) for name in "abc")
    scene.engine.plug(reprogrammed(item(quantity=2)))
    assert live(scene, oldest)
    assert live(scene, middle)
    assert ended(scene, newest) is EndCause.REPROGRAMMED
    assert (scene.used(), scene.license().item.quantity) == (2, 2)


def test_a_lowered_quantity_rebooks_before_it_ends() -> None:
    """What has a place elsewhere moves there; nothing ends as long as moving is enough."""
    scene = Scene(container(item(quantity=3)), TWO)
    pinned = [scene.access(scene.session(name), container="3-1") for name in "ab"]
    free = scene.access(scene.session("c"))
    newest_pinned = pinned[-1]
    scene.engine.plug(reprogrammed(item(quantity=2)))
    assert place(free) == ("3-2", 1)
    assert live(scene, newest_pinned)
    assert scene.used() == 2


def test_a_lowered_quantity_moves_the_movable_before_it_ends_the_newest() -> None:
    """An older access that can move does so before a newer one that cannot is ended."""
    scene = Scene(container(item(quantity=2)), TWO)
    older = scene.access(scene.session("a"))
    newer = scene.access(scene.session("b"), container="3-1")
    scene.engine.plug(reprogrammed(item(quantity=1)))
    assert place(older) == ("3-2", 1)
    assert place(newer) == ("3-1", 1)


def test_a_lowered_quantity_does_not_touch_what_counts_nothing() -> None:
    """NoUserLimit accesses take no room, so they need not leave."""
    scene = Scene(container(item(quantity=2)))
    counted = [scene.access(scene.session(name)) for name in "ab"]
    free = scene.access(scene.session("c"), NO_USER_LIMIT)
    scene.engine.plug(reprogrammed(item(quantity=1)))
    assert live(scene, free)
    assert [live(scene, held) for held in counted] == [True, False]


def test_a_share_leaves_as_a_whole() -> None:
    """If a share has no room any more all its accesses end."""
    scene = Scene(container(item(quantity=2)))
    stays = scene.access(scene.session("a"), STATION_SHARE)
    leaves = [scene.access(scene.session("b"), STATION_SHARE) for _ in range(3)]
    scene.engine.plug(reprogrammed(item(quantity=1)))
    assert live(scene, stays)
    assert [ended(scene, held) for held in leaves] == [EndCause.REPROGRAMMED] * 3


def test_of_a_share_that_leaves_each_access_goes_where_it_can() -> None:
    """Neither allocation can move as a whole, so one ends: of that, what has a place moves there all the same."""
    scene = Scene(container(item(quantity=2)), container(item(quantity=9), id="3-2"))
    stays = scene.access(scene.session("a"), container="3-1")
    pc = scene.session("b")
    free, pinned = scene.access(pc, STATION_SHARE), scene.access(pc, STATION_SHARE, container="3-1")
    scene.engine.plug(reprogrammed(item(quantity=1)))
    assert live(scene, stays)
    assert place(free) == ("3-2", 1)
    assert ended(scene, pinned) is EndCause.REPROGRAMMED


def test_of_a_share_that_moves_what_another_share_satisfies_goes_there() -> None:
    """The station's own share comes first, for each access: only the one that needs more goes where a unit is free."""
    elsewhere = container(item(1), item(2, feature_map=1), id="3-2")
    scene = Scene(container(item(1, 2, feature_map=1)), elsewhere)
    pc = scene.session("pc")
    other = scene.access(pc, STATION_SHARE, container="3-2", item=1)
    stays = scene.access(scene.session("a"), container="3-1")
    plain = scene.access(pc, STATION_SHARE, feature_code=1)
    assert place(plain) == ("3-1", 1)
    scene.release(other)
    joins = scene.access(pc, STATION_SHARE)
    assert place(joins) == ("3-1", 1)
    other = scene.access(pc, STATION_SHARE, container="3-2", item=1)
    scene.engine.plug(reprogrammed(item(1, 1, feature_map=1)))
    assert (place(stays), place(joins), place(plain)) == (("3-1", 1), ("3-2", 1), ("3-2", 2))
    assert place(other) == ("3-2", 1)


def test_a_share_is_not_torn_apart_while_another_allocation_can_move() -> None:
    """A share of which one access cannot move stays as it is if an older allocation can make room instead."""
    scene = Scene(container(item(quantity=2)), container(item(quantity=1), id="3-2"))
    older = scene.access(scene.session("a"))
    pc = scene.session("b")
    share = [scene.access(pc, STATION_SHARE), scene.access(pc, STATION_SHARE, container="3-1")]
    scene.engine.plug(reprogrammed(item(quantity=1)))
    assert place(older) == ("3-2", 1)
    assert [place(one) for one in share] == [("3-1", 1), ("3-1", 1)]


def test_what_does_not_fit_leaves_before_what_has_no_room() -> None:
    """A mode is denied and the quantity lowered: the denied access leaves, and with it gone the other has room."""
    scene = Scene(container(item(quantity=2)))
    denied = scene.access(scene.session("a"), USER_LIMIT)
    fits = scene.access(scene.session("b"), STATION_SHARE)
    scene.engine.plug(reprogrammed(item(quantity=1, flags=QuantityFlag.DENY_USER_LIMIT)))
    assert ended(scene, denied) is EndCause.REPROGRAMMED
    assert live(scene, fits)
    assert scene.used() == 1


def test_what_still_fits_is_not_moved_for_what_leaves() -> None:
    """The same with a place elsewhere: only the denied access is booked there."""
    scene = Scene(container(item(quantity=2)), container(item(quantity=9), id="3-2"))
    denied = scene.access(scene.session("a"), USER_LIMIT)
    fits = scene.access(scene.session("b"), STATION_SHARE)
    scene.engine.plug(reprogrammed(item(quantity=1, flags=QuantityFlag.DENY_USER_LIMIT)))
    assert place(denied) == ("3-2", 1)
    assert place(fits) == ("3-1", 1)


def test_a_gone_item_s_access_moves_to_what_the_same_update_enlarged() -> None:
    """Two entries become one: the update takes the first away and gives the second its licenses."""
    for gone, stays in ((1, 2), (2, 1)):
        scene = Scene(container(item(1), item(2)))
        held = [scene.access(scene.session(name)) for name in "ab"]
        scene.engine.plug(reprogrammed(item(stays, quantity=2)))
        assert [live(scene, one) for one in held] == [True, True], f"item {gone} is gone"
        assert {place(one) for one in held} == {("3-1", stays)}


@pytest.mark.parametrize(("gone", "stays"), [(1, 2), (2, 1)])
def test_a_gone_item_s_access_moves_to_what_the_same_update_cleared(gone: int, stays: int) -> None:
    """The entry that stays denies a mode from now on: who used it so has to leave, and then there is room."""
    scene = Scene(container(item(1), item(2)))
    free = scene.access(scene.session("b"), USER_LIMIT, item=stays)
    share = scene.access(scene.session("a"), STATION_SHARE)
    assert place(share) == ("3-1", gone)
    scene.engine.plug(reprogrammed(item(stays, flags=QuantityFlag.DENY_USER_LIMIT)))
    assert place(share) == ("3-1", stays)
    assert ended(scene, free) is EndCause.REPROGRAMMED


def test_a_gone_item_s_access_moves_to_a_new_item() -> None:
    """An update that gives an entry another reference keeps its users."""
    scene = Scene(container(item(1)))
    held = scene.access(scene.session())
    scene.engine.plug(reprogrammed(item(2)))
    assert place(held) == ("3-1", 2)


def test_a_gone_item_without_another_ends_its_accesses() -> None:
    """An item that is taken away takes its accesses with it, and those only."""
    scene = Scene(container(item(1), item(2, product=15)))
    gone, stays = scene.access(scene.session()), scene.access(scene.session(), product=15)
    scene.engine.plug(reprogrammed(item(2, product=15)))
    assert ended(scene, gone) is EndCause.REPROGRAMMED
    assert live(scene, stays)
    assert (FIRM, 14) not in scene.table.products


def test_another_product_code_is_another_product() -> None:
    """An item that becomes another product serves that; accesses of the old one end or move."""
    scene = Scene(container(item(1), item(2)))
    first, second = (scene.access(scene.session(name), item=number) for name, number in (("a", 1), ("b", 2)))
    scene.engine.plug(reprogrammed(item(1, product=15), item(2)))
    assert ended(scene, first) is EndCause.REPROGRAMMED
    assert live(scene, second)
    assert scene.refused(scene.session("c")).number is ErrorNumber.NO_MORE_LICENSES
    assert place(scene.access(scene.session("c"), product=15)) == ("3-1", 1)


@pytest.mark.parametrize(
    ("before", "after", "asked"),
    [
        (item(), item(flags=QuantityFlag.DENY_USER_LIMIT), {}),
        (item(feature_map=3), item(feature_map=1), {"feature_code": 2}),
        (item(feature_map=3), item(), {"feature_code": 2}),
        (item(), item(unusable="an option this server does not know"), {}),
        (item(), item(flags=QuantityFlag.LOCAL_ONLY), {}),
        (item(), item(quantity=0), {}),
    ],
    ids=["mode denied", "feature taken away", "feature map taken away", "unusable", "local only", "quantity 0"],
)
def test_options_that_forbid_an_access_end_it(before: ProductItem, after: ProductItem, asked: dict[str, Any]) -> None:
    """What the new options do not serve ends, unless there is another place."""
    scene = Scene(container(before))
    held = scene.access(scene.session(), **asked)
    scene.engine.plug(reprogrammed(after))
    assert ended(scene, held) is EndCause.REPROGRAMMED
    scene = Scene(container(before), container(before, id="3-2"))
    held = scene.access(scene.session(), **asked)
    scene.engine.plug(reprogrammed(after))
    assert place(held) == ("3-2", 1)


@pytest.mark.parametrize("mode", AccessMode)
@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 1)])
def test_a_local_access_outlives_a_change_to_or_from_quantity_0(mode: AccessMode, before: int, after: int) -> None:
    """The entry serves the local client before and after, so the access goes on; it counts as the entry now says."""
    scene = Scene(container(item(quantity=before)))
    held = scene.access(scene.session("here", local=True), mode)
    scene.engine.plug(reprogrammed(item(quantity=after)))
    assert live(scene, held)
    assert scene.used() == (after if mode is not NO_USER_LIMIT else 0)


def test_options_that_still_serve_an_access_keep_it() -> None:
    """Other texts, more features, a denied mode that nobody uses, a larger quantity: nobody is disturbed."""
    scene = Scene(container(item(feature_map=1)))
    held = scene.access(scene.session(), feature_code=1)
    new = item(quantity=5, text="new", feature_map=3, flags=QuantityFlag.DENY_EXCLUSIVE)
    scene.engine.plug(reprogrammed(new))
    assert live(scene, held)
    assert scene.license().item == new
    scene.access(scene.session(), feature_code=2)
    assert scene.refused(scene.session("b"), EXCLUSIVE).number is ErrorNumber.WRONG_ACCESS_MODE


def test_changed_while_away() -> None:
    """A container that comes back with other contents is treated like one that was changed in place."""
    scene = Scene(container(item(1), item(2, product=15)))
    first, second = scene.access(scene.session()), scene.access(scene.session(), product=15)
    scene.engine.unplug(ContainerId("3-1"))
    scene.engine.plug(reprogrammed(item(1)))
    assert live(scene, first)
    assert ended(scene, second) is EndCause.REPROGRAMMED
    assert scene.license().present


def test_a_gone_firm_item_ends_the_handles_on_it() -> None:
    """Handles on a firm item end with it; those on the container live on."""
    scene = Scene(ONE)
    session = scene.session()
    box, firm_item = scene.refer(session, HandleKind.CONTAINER), scene.refer(session, HandleKind.FIRM_ITEM)
    scene.engine.plug(container(item(), id="3-1", firm=7))
    assert live(scene, box)
    assert ended(scene, firm_item) is EndCause.REPROGRAMMED


def test_containers_keep_their_turn_when_their_contents_change() -> None:
    """Licenses are drawn on in the order of the containers, then of the items: an item added later too."""
    scene = Scene(ONE, TWO)
    scene.engine.plug(reprogrammed(item(1), item(2)))
    places = [place(scene.access(scene.session(name))) for name in "abc"]
    assert places == [("3-1", 1), ("3-1", 2), ("3-2", 1)]


def test_an_item_that_becomes_another_product_s_keeps_its_turn() -> None:
    """It is drawn on before those of later containers, and where it was it is missed."""
    scene = Scene(ONE, TWO)
    for product, first in ((15, "3-2"), (14, "3-1"), (15, "3-2")):
        scene.engine.plug(reprogrammed(item(product=product)))
        held = scene.access(scene.session())
        assert place(held) == (first, 1)
        scene.release(held)


def test_items_are_drawn_on_in_the_order_in_which_they_lie_now() -> None:
    """A container that comes back with its items in another order is drawn on in that."""
    scene = Scene(container(item(1), item(2)))
    scene.engine.plug(container(item(2), item(1)))
    assert place(scene.access(scene.session())) == ("3-1", 2)
