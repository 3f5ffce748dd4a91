"""The worked examples of the field, and the behaviours that it expects, each under its number (domain reference).

Sections 4 and 19. What hangs on connections, files or other servers is shown elsewhere.
"""

from __future__ import annotations

import pytest

from drivers.container import QuantityFlag
from protocol.errors import ErrorNumber
from protocol.terms import AccessMode
from tests.core.scene import (
    EXCLUSIVE,
    NO_USER_LIMIT,
    STATION_SHARE,
    USER_LIMIT,
    Scene,
    booked,
    container,
    item,
    place,
)


def free(scene: Scene) -> int:
    """Return how many licenses of the only entry are free."""
    return scene.license().item.quantity - scene.used()


def test_example_a_no_user_limit_counts_nothing() -> None:
    """Quantity 20 and nine accesses, three of them NoUserLimit: six are counted, fourteen free (behaviour 1)."""
    scene = Scene(container(item(quantity=20)))
    for number in range(9):
        mode = NO_USER_LIMIT if number % 3 == 0 else USER_LIMIT
        scene.access(scene.session(f"pc{number}"), mode)
    assert (scene.used(), free(scene)) == (6, 14)
    assert (scene.license().user_limit, scene.license().no_user_limit) == (6, 3)


def test_example_b_exclusive_leaves_other_stations_alone() -> None:
    """Of 23, host A has one exclusively and host B's six instances allocate four: five are used, eighteen free."""
    scene = Scene(container(item(quantity=23)))
    scene.access(scene.session("a"), EXCLUSIVE)
    for mode in (USER_LIMIT, USER_LIMIT, USER_LIMIT, STATION_SHARE, STATION_SHARE, STATION_SHARE):
        scene.access(scene.session("b"), mode)
    counts = scene.license()
    assert (scene.used(), free(scene)) == (5, 18)
    assert (counts.exclusive, counts.user_limit, counts.station_share) == (1, 3, 1)


def test_example_c_four_instances_of_one_station_take_one_license() -> None:
    """The field's own example (behaviour 2): four StationShare accesses of one client use one license of two.

    A second station may start; a third gets 212.
    """
    scene = Scene(container(item(quantity=2)))
    user = scene.session("pc", address="::1")
    instances = [scene.access(user, STATION_SHARE) for _ in range(4)]
    assert len({held.handle for held in instances}) == 4
    assert len({booked(held).id for held in instances}) == 1
    assert (scene.used(), free(scene), scene.license().station_share) == (1, 1, 1)
    scene.access(scene.session("another pc"), STATION_SHARE)
    assert free(scene) == 0
    assert scene.refused(scene.session("a third"), STATION_SHARE).number is ErrorNumber.NO_MORE_LICENSES
    scene.access(user, STATION_SHARE)  # who has a seat still gets in


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_behaviour_3_only_the_last_release_frees(order: tuple[int, ...]) -> None:
    """Releasing three of four shared handles frees nothing, the fourth frees the license, whatever the order."""
    scene = Scene(container(item(quantity=2)))
    instances = [scene.access(scene.session(), STATION_SHARE) for _ in range(4)]
    for number in order[:3]:
        scene.release(instances[number])
        assert scene.used() == 1
    scene.release(instances[order[3]])
    assert scene.used() == 0


def test_behaviour_4_each_terminal_session_is_a_station() -> None:
    """Two terminal sessions of one host are two stations."""
    scene = Scene(container(item(quantity=3)))
    for seat in (1, 2, 2):
        scene.access(scene.session("server", seat), STATION_SHARE)
    assert scene.used() == 2


def test_behaviour_4_one_station_has_many_addresses() -> None:
    """One PC that comes over IPv4, IPv6 and loopback is one station."""
    scene = Scene(container(item(quantity=3)))
    for address in ("192.0.2.1", "2001:db8::1", "127.0.0.1", "::1"):
        scene.access(scene.session("pc", address=address), STATION_SHARE)
    assert scene.used() == 1


def test_behaviour_5_one_address_has_many_stations() -> None:
    """Two PCs behind one NAT address are two stations."""
    scene = Scene(container(item(quantity=3)))
    for machine in ("one", "two"):
        scene.access(scene.session(machine, address="192.0.2.1"), STATION_SHARE)
    assert scene.used() == 2


@pytest.mark.parametrize("mode", AccessMode)
def test_behaviour_6_exclusive_bears_no_second_access_of_its_station(mode: AccessMode) -> None:
    """While a station holds an exclusive access, every other access of it gets 213, other stations none."""
    scene = Scene(container(item(quantity=5)))
    held = scene.access(scene.session("a"), EXCLUSIVE)
    refusal = scene.refused(scene.session("a"), mode)
    assert refusal.number is ErrorNumber.EXCLUSIVE_CONFLICT
    assert [reason.number for reason in refusal.reasons] == [ErrorNumber.EXCLUSIVE_CONFLICT]
    scene.access(scene.session("b"), mode)
    scene.access(scene.session("a", seat=1), mode)
    scene.release(held)
    scene.access(scene.session("a"), mode)


@pytest.mark.parametrize("mode", AccessMode)
def test_behaviour_6_exclusive_is_refused_beside_any_other_access(mode: AccessMode) -> None:
    """An exclusive request gets 213 while its station has any access of the product."""
    scene = Scene(container(item(quantity=5)))
    held = scene.access(scene.session("a"), mode)
    assert scene.refused(scene.session("a"), EXCLUSIVE).number is ErrorNumber.EXCLUSIVE_CONFLICT
    scene.release(held)
    scene.access(scene.session("a"), EXCLUSIVE)


@pytest.mark.parametrize("held", ["3-1", "3-2", "3-3"])
@pytest.mark.parametrize("asked", ["3-1", "3-2", "3-3", None])
def test_exclusive_reaches_over_all_containers_of_the_product_and_no_further(held: str, asked: str | None) -> None:
    """The scope of exclusive is firm and product code over all containers (decision 9)."""
    scene = Scene(
        container(item(1, 2), item(2, product=15)), container(item(1, 2), id="3-2"), container(item(1, 2), id="3-3")
    )
    scene.access(scene.session("a"), EXCLUSIVE, container=held)
    scene.access(scene.session("b"), container=held)
    for mode in (USER_LIMIT, NO_USER_LIMIT, EXCLUSIVE):
        assert scene.refused(scene.session("a"), mode, container=asked).number is ErrorNumber.EXCLUSIVE_CONFLICT
    assert scene.refused(scene.session("b"), EXCLUSIVE, container=asked).number is ErrorNumber.EXCLUSIVE_CONFLICT
    scene.access(scene.session("a"), EXCLUSIVE, product=15)


def test_the_exclusive_conflict_comes_before_the_want_of_a_license() -> None:
    """213 is decided before 212 (decision 9): with nothing free and a conflict, the conflict is told."""
    scene = Scene(container(item(quantity=1)))
    scene.access(scene.session("a"), EXCLUSIVE)
    assert scene.refused(scene.session("a"), USER_LIMIT).number is ErrorNumber.EXCLUSIVE_CONFLICT
    assert scene.refused(scene.session("b"), USER_LIMIT).number is ErrorNumber.NO_MORE_LICENSES


def test_behaviour_9_license_quantity_0_is_for_the_local_machine() -> None:
    """Any number of local accesses, which weigh nothing; to everybody else the entry does not exist (decision 10)."""
    scene = Scene(container(item(quantity=0)))
    for mode in (USER_LIMIT, USER_LIMIT, STATION_SHARE, NO_USER_LIMIT):
        scene.access(scene.session("here", local=True), mode)
    scene.access(scene.session("here", 1, local=True), EXCLUSIVE)
    assert scene.used() == 0
    for mode in AccessMode:
        refusal = scene.refused(scene.session("there"), mode)
        assert (refusal.number, refusal.reasons) == (ErrorNumber.ENTRY_NOT_FOUND, ())


def test_behaviour_9_a_local_only_entry_counts_local_accesses() -> None:
    """An entry flagged local-only does not exist for others, and is counted for local clients."""
    scene = Scene(container(item(quantity=1, flags=QuantityFlag.LOCAL_ONLY)))
    assert scene.refused(scene.session("there")).number is ErrorNumber.ENTRY_NOT_FOUND
    scene.access(scene.session("here", local=True))
    assert scene.used() == 1
    assert scene.refused(scene.session("here", local=True)).number is ErrorNumber.NO_MORE_LICENSES


def test_local_accesses_draw_from_the_same_quantity() -> None:
    """A local access takes a license like any other, where the entry serves the network."""
    scene = Scene(container(item(quantity=1)))
    scene.access(scene.session("here", local=True))
    assert scene.refused(scene.session("there")).number is ErrorNumber.NO_MORE_LICENSES


@pytest.mark.parametrize(
    ("denied", "flag"),
    [
        (USER_LIMIT, QuantityFlag.DENY_USER_LIMIT),
        (NO_USER_LIMIT, QuantityFlag.DENY_NO_USER_LIMIT),
        (EXCLUSIVE, QuantityFlag.DENY_EXCLUSIVE),
        (STATION_SHARE, QuantityFlag.DENY_STATION_SHARE),
    ],
)
def test_behaviour_10_a_denied_mode_is_refused_and_the_others_work(denied: AccessMode, flag: QuantityFlag) -> None:
    """An entry that denies a mode answers 223 to it, and serves the other modes."""
    scene = Scene(container(item(quantity=9, flags=flag)))
    assert scene.refused(scene.session("a"), denied).number is ErrorNumber.WRONG_ACCESS_MODE
    for mode in AccessMode:
        if mode is not denied:
            scene.access(scene.session(mode.value), mode)


def test_behaviour_11_fifty_requests_for_five() -> None:
    """Of fifty requests for five licenses exactly five are granted, every other gets 212."""
    scene = Scene(container(item(quantity=5)))
    sessions = [scene.session(f"pc{number}") for number in range(50)]
    for session in sessions[:5]:
        scene.access(session)
    for session in sessions[5:]:
        refusal = scene.refused(session)
        assert refusal.number is ErrorNumber.NO_MORE_LICENSES
        assert "5 of 5" in refusal.reasons[0].text
    assert scene.used() == 5


def test_behaviour_23_exhausted_entries_of_one_product_are_skipped() -> None:
    """Several entries of one firm and product code are drawn on one after the other."""
    scene = Scene(
        container(item(1, quantity=1), item(2, quantity=2), item(7, product=15)), container(item(1), id="3-2")
    )
    places = [place(scene.access(scene.session(f"pc{number}"))) for number in range(4)]
    assert places == [("3-1", 1), ("3-1", 2), ("3-1", 2), ("3-2", 1)]
    refusal = scene.refused(scene.session("one more"))
    assert refusal.number is ErrorNumber.NO_MORE_LICENSES
    assert [(reason.container, reason.item) for reason in refusal.reasons] == [("3-1", 1), ("3-1", 2), ("3-2", 1)]


def test_no_user_limit_is_granted_with_nothing_free() -> None:
    """NoUserLimit takes nothing, so it needs nothing; the entry must exist all the same."""
    scene = Scene(container(item(quantity=1)))
    scene.access(scene.session("a"))
    scene.access(scene.session("b"), NO_USER_LIMIT)
    assert scene.used() == 1
    assert scene.refused(scene.session("b"), NO_USER_LIMIT, product=99).number is ErrorNumber.ENTRY_NOT_FOUND


def test_user_limit_and_station_share_of_one_station_do_not_share() -> None:
    """Each UserLimit access counts, beside the share of the same station."""
    scene = Scene(container(item(quantity=3)))
    scene.access(scene.session(), STATION_SHARE)
    scene.access(scene.session(), USER_LIMIT)
    scene.access(scene.session(), USER_LIMIT)
    assert scene.used() == 3
