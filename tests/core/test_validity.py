"""Which licenses are valid for a request: dates, units, usage, maintenance, versions, and who need not care."""

from __future__ import annotations

from typing import Any

import pytest

from cmserverd import __version__
from cmserverd.core.refusal import Refused
from cmserverd.core.validity import RUNTIME, limited, valid_until
from drivers.container import (
    Allowance,
    Container,
    ContainerId,
    ContainerKind,
    FirmItem,
    Period,
    ProductItem,
    QuantityFlag,
    Runtime,
)
from protocol.errors import ErrorNumber
from protocol.terms import HandleKind
from tests.core.scene import (
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

SPAN = Period(START - 1_000, START)
"""A maintenance period."""

INVALID: list[tuple[int, dict[str, Any], dict[str, Any]]] = [
    (35, {"expiration": START}, {}),
    (35, {"expiration": START - 1}, {}),
    (37, {"activation": START + 1}, {}),
    (32, {"units": Allowance(5), "units_used": 5}, {}),
    (32, {"units": Allowance(0)}, {}),
    (71, {"usage": Allowance(60), "usage_start": START - 60}, {}),
    (77, {"maintenance": SPAN}, {"release_date": START - 1_001}),
    (78, {"maintenance": SPAN}, {"release_date": START}),
    (129, {"minimum_runtime": Runtime(RUNTIME.major, RUNTIME.minor + 1)}, {}),
]
"""The number, an item that is invalid, and what must be asked for that."""

VALID: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"expiration": START + 1}, {}),
    ({"activation": START}, {}),
    ({"units": Allowance(5), "units_used": 4}, {}),
    ({"usage": Allowance(60)}, {}),
    ({"usage": Allowance(60), "usage_start": START - 59}, {}),
    ({"maintenance": SPAN}, {}),
    ({"maintenance": SPAN}, {"release_date": START - 1_000}),
    ({"maintenance": SPAN}, {"release_date": START - 1}),
    ({}, {"release_date": START + 1_000_000}),
    ({"minimum_runtime": RUNTIME}, {}),
]
"""Items that are valid just so, and for what."""


def untrusted(serial: int = 1, firm_code: int = FIRM) -> Container:
    """Return a container whose firm item nobody vouches for."""
    firm_item = FirmItem(firm_code, unusable="its licensor is not listed; add him under [licensors]")
    return Container(ContainerId(f"3-{serial}"), ContainerKind.VIRTUAL, "", (firm_item,))


def numbers(refusal: Refused) -> list[int]:
    """Return the numbers of the reasons."""
    return [reason.number for reason in refusal.reasons]


@pytest.mark.parametrize(("number", "options", "asked"), INVALID)
def test_behaviour_19_what_is_not_valid_is_refused_unless_forced(
    number: int, options: dict[str, Any], asked: dict[str, Any]
) -> None:
    """Each with its number, in every mode; who forces it gets the handle, and is counted."""
    scene = Scene(container(item(quantity=9, **options)))
    session = scene.session()
    for mode in (USER_LIMIT, STATION_SHARE, NO_USER_LIMIT):
        refusal = scene.refused(session, mode, **asked)
        assert (refusal.number, numbers(refusal)) == (number, [number])
    assert scene.used() == 0
    scene.access(session, force=True, **asked)
    scene.access(session, STATION_SHARE, force=True, **asked)
    assert scene.used() == 2


@pytest.mark.parametrize(("options", "asked"), VALID)
def test_what_is_valid_just_so_is_granted(options: dict[str, Any], asked: dict[str, Any]) -> None:
    """From the activation on, up to and without the expiration and the maintenance's end, with the last unit."""
    scene = Scene(container(item(**options)))
    scene.access(scene.session(), **asked)


def test_force_takes_no_license_more_than_there_is_and_opens_nothing_else() -> None:
    """It is about validity alone: a denied mode, a missing feature and the want of a unit refuse as ever."""
    scene = Scene(container(item(expiration=START, flags=QuantityFlag.DENY_EXCLUSIVE)))
    session = scene.session()
    assert scene.refused(session, feature_code=1, force=True).number is ErrorNumber.FEATURE_MAP_MISSING
    scene.access(session, force=True)
    assert scene.refused(scene.session("other"), force=True).number is ErrorNumber.NO_MORE_LICENSES


@pytest.mark.parametrize(
    ("options", "until"),
    [
        ({}, None),
        ({"activation": START}, None),
        ({"expiration": 10}, 10),
        ({"usage": Allowance(5)}, None),
        ({"usage": Allowance(5), "usage_start": 4}, 9),
        ({"usage": Allowance(5), "usage_start": 4, "expiration": 10}, 9),
        ({"usage": Allowance(7), "usage_start": 4, "expiration": 10}, 10),
        ({"usage": Allowance(7), "expiration": 10}, 10),
    ],
)
def test_behaviour_22_valid_until_is_the_earliest_end(options: dict[str, Any], until: int | None) -> None:
    """Of expiration and begun usage period; never if there is none."""
    assert valid_until(item(**options)) == until


def test_behaviour_20_a_usage_period_begins_with_a_use_not_with_the_access() -> None:
    """As long as nothing was used it does not run, however long accesses last."""
    scene = Scene(container(item(quantity=2, usage=Allowance(60))))
    session = scene.session()
    held = scene.access(session)
    scene.pass_time(1_000_000)
    scene.access(session)
    assert scene.engine.due() is None
    scene.engine.consumed(booked(held).license.id, 0, scene.now)
    assert scene.engine.due() == scene.now + 60


def test_a_license_for_a_newer_server_says_for_which() -> None:
    """The reason names both versions."""
    scene = Scene(container(item(minimum_runtime=Runtime(9, 1))))
    assert (
        f"needs server 9.1, this one is {RUNTIME.major}.{RUNTIME.minor}"
        in scene.refused(scene.session()).reasons[0].text
    )


def test_behaviour_23_what_is_invalid_or_exhausted_is_skipped() -> None:
    """Wherever it stands, the valid free one is used."""
    scene = Scene(
        container(
            item(1, 9, expiration=START),
            item(2, 9, activation=START + 1),
            item(3, 9, units=Allowance(0)),
            item(4, 1),
        ),
        container(item(1, 9, usage=Allowance(1), usage_start=1), item(2, 2, expiration=START + 1), id="3-2"),
    )
    session = scene.session()
    assert [place(scene.access(session)) for _ in range(3)] == [("3-1", 4), ("3-2", 2), ("3-2", 2)]


def test_a_valid_license_that_is_taken_outranks_invalid_ones() -> None:
    """The number is 212 if a valid one lacked only a unit; without that, the common reason or 230 (decision 11)."""
    scene = Scene(container(item(1, expiration=START), item(2, expiration=START), item(3)))
    holder = scene.access(scene.session())
    refusal = scene.refused(scene.session())
    assert (refusal.number, numbers(refusal)) == (212, [35, 35, 212])
    assert scene.refused(scene.session(), item=2).number is ErrorNumber.EXPIRATION_OVERRUN
    scene.release(holder)
    scene.engine.plug(container(item(1, expiration=START), item(2, activation=START + 1)))
    refusal = scene.refused(scene.session())
    assert (refusal.number, numbers(refusal)) == (230, [35, 37])


def test_what_does_not_fit_is_told_before_what_is_not_valid() -> None:
    """A license that could not serve anyhow is not called expired."""
    scene = Scene(container(item(expiration=START, flags=QuantityFlag.DENY_USER_LIMIT)))
    assert scene.refused(scene.session()).number is ErrorNumber.WRONG_ACCESS_MODE


def test_a_share_that_is_valid_no_longer_is_not_joined() -> None:
    """Not by those who need a valid one; what the station has of another license is, and who forces it joins."""
    scene = Scene(container(item(1, 2, units=Allowance(1)), item(2, 1)))
    session = scene.session()
    share = scene.access(session, STATION_SHARE)
    scene.engine.consumed(booked(share).license.id, 1, 0)
    other = scene.access(session, STATION_SHARE)
    assert place(other) == ("3-1", 2)
    assert booked(scene.access(session, STATION_SHARE)) is booked(other)
    assert booked(scene.access(session, STATION_SHARE, force=True)) is booked(share)
    scene.release(scene.access(session, STATION_SHARE))


def test_a_release_date_holds_wherever_an_access_is_booked() -> None:
    """A share is joined and a container left for what the release date allows only."""
    old, new = Period(START - 9, START), Period(START - 9, START + 9)
    scene = Scene(
        container(item(1, 9, maintenance=old)),
        container(item(1, 9, maintenance=new), id="3-2"),
        container(item(1, 9, maintenance=old), id="3-3"),
    )
    session = scene.session()
    plain = scene.access(session, STATION_SHARE)
    dated = scene.access(session, STATION_SHARE, release_date=START)
    assert (place(plain), place(dated)) == (("3-1", 1), ("3-2", 1))
    scene.engine.remove(ContainerId("3-1"))
    assert place(plain) == ("3-2", 1)
    scene.engine.remove(ContainerId("3-2"))
    assert place(plain) == ("3-3", 1)
    assert scene.gone(dated).number is ErrorNumber.INVALID_HANDLE


@pytest.mark.parametrize(
    "other",
    [{"release_date": START}, {"force": True}, {"ignore_linger": True}, {"maximum_life": 9}, {"cleanup_time": 9}],
)
def test_the_same_key_with_other_demands_is_105(other: dict[str, Any]) -> None:
    """Release date, force, linger, maximum life, cleanup time: another value is another request."""
    scene = Scene(container(item(quantity=2)))
    session = scene.session()
    held = scene.access(session, key=1)
    assert scene.refused(session, key=1, **other).number is ErrorNumber.INVALID_PARAMETER
    assert scene.access(session, key=1) is held
    demanding = scene.access(session, key=2, **other)
    assert scene.access(session, key=2, **other) is demanding
    assert scene.refused(session, key=2).number is ErrorNumber.INVALID_PARAMETER


def test_a_new_maintenance_period_ends_what_it_does_not_cover() -> None:
    """Reprogrammed to another period, another activation or another version, a license is left by whom it shuts out."""
    scene = Scene(container(item(1, 9)))
    session = scene.session()
    plain, forced, dated = (
        scene.access(session),
        scene.access(session, force=True, release_date=START),
        scene.access(session, release_date=START),
    )
    scene.engine.plug(container(item(1, 9, maintenance=SPAN, units=Allowance(0))))
    assert set(scene.table.accesses) == {plain.handle, forced.handle}
    assert scene.gone(dated).cause == "reprogrammed"
    scene.engine.plug(container(item(1, 9, activation=START + 1)))
    assert set(scene.table.accesses) == {forced.handle}


def test_a_firm_item_that_is_not_trusted_is_21_and_says_why() -> None:
    """Its firm code is refused with its sentence, whatever product is asked for, and on handles of other kinds too."""
    scene = Scene(untrusted(), container(item(), id="3-2", firm=7))
    session = scene.session()
    refusal = scene.refused(session)
    assert (refusal.number, numbers(refusal)) == (21, [21])
    assert "add him under [licensors]" in refusal.reasons[0].text
    assert scene.refused(session, container="3-2").number is ErrorNumber.ENTRY_NOT_FOUND
    for kind in (HandleKind.FIRM_ITEM, HandleKind.CONTAINER):
        assert scene.refused(session, kind=kind).number is ErrorNumber.FIRM_ITEM_INVALID
    scene.refer(session, HandleKind.CONTAINER, firm_code=0)


def test_a_firm_item_that_is_not_trusted_refuses_only_if_nothing_else_serves() -> None:
    """Another container's license of the same firm code serves; taken, the number is 212, expired it is 230."""
    scene = Scene(untrusted(), container(item(), id="3-2"))
    session = scene.session()
    held = scene.access(session)
    refusal = scene.refused(session)
    assert (refusal.number, numbers(refusal)) == (212, [212, 21])
    scene.release(held)
    scene.engine.plug(container(item(expiration=START), id="3-2"))
    refusal = scene.refused(session)
    assert (refusal.number, numbers(refusal)) == (230, [35, 21])


def test_a_firm_item_that_is_trusted_no_longer_is_left() -> None:
    """Its accesses end or move, those on the firm item itself too."""
    scene = Scene(container(item()))
    session = scene.session()
    held, firm_item = scene.access(session), scene.refer(session, HandleKind.FIRM_ITEM)
    scene.engine.plug(untrusted())
    assert scene.gone(held).cause == scene.gone(firm_item).cause == "reprogrammed"


def test_what_a_container_counted_enters_the_table() -> None:
    """Units and the beginning of the usage, for listings and for who comes next; nobody who is there has to leave."""
    scene = Scene(container(item(1, 9, units=Allowance(2), usage=Allowance(60)), item(2, 9, product=15)))
    session = scene.session()
    held = scene.access(session)
    entry = booked(held).license
    scene.engine.consumed(entry.id, 1, START - 5)
    assert valid_until(entry.item) == scene.engine.due() == START + 55
    scene.access(session)
    scene.engine.consumed(entry.id, 2, START - 5)
    assert scene.refused(session).number is ErrorNumber.UNIT_COUNTER_ZERO
    assert held.handle in scene.table.accesses
    (firm_item,) = scene.table.containers[ContainerId("3-1")].contents.firm_items
    assert [(one.units_used, one.usage_start) for one in firm_item.products] == [(2, START - 5), (0, 0)]
    position = scene.engine.position
    scene.engine.consumed(entry.id, 2, START - 5)
    assert scene.engine.position == position, "the same again changes nothing"
    scene.engine.remove(ContainerId("3-1"))
    scene.engine.consumed(entry.id, 3, START - 5)  # it was asked before the container was gone


def test_every_option_that_can_make_an_item_invalid_is_looked_at() -> None:
    """An item is limited exactly if one of the options above is there."""
    assert not limited(item(quantity=3, feature_map=1, linger=5, protected_data=b"x", user_data=b"x"))
    for _, options, _ in INVALID:
        assert limited(item(**options))
    without = set(ProductItem.__struct_fields__) - {name for _, options, _ in INVALID for name in options}
    assert without == {
        "reference", "product_code", "text", "quantity", "flags", "feature_map", "linger", "borrowing",
        "protected_data", "user_data", "unusable",
    }  # fmt: skip


def test_the_version_that_items_are_compared_with_is_ours() -> None:
    """Major and minor of the package's version."""
    assert __version__.startswith(f"{RUNTIME.major}.{RUNTIME.minor}.")
