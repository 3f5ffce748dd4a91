"""The table as messages: what listings show, page by page, and to whom."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from cmserverd import views
from cmserverd.core.terms import Access, Allocation, Session
from drivers.container import (
    Allowance,
    Container,
    ContainerId,
    ContainerKind,
    FirmItem,
    Period,
    QuantityFlag,
    Runtime,
)
from protocol import messages as m
from protocol import rpc
from protocol.terms import Client, HandleKind, Station
from tests.core.scene import EXCLUSIVE, NO_USER_LIMIT, START, STATION_SHARE, USER_LIMIT, Scene, container, item


def pages(scene: Scene, request: m.NetUsers, only: Session | None = None, local: bool = True) -> list[list[int]]:
    """Return the handles of all pages of a listing."""
    found = []
    while True:
        page = views.access_page(scene.table, request, 7, scene.now, local=local, only=only)
        assert (page.position, page.time) == (7, scene.now)
        found.append([row.handle for row in page.accesses])
        if page.next is None:
            return found
        request = replace(request, cursor=page.next)


def many(scene: Scene, count: int) -> list[Access]:
    """Return so many accesses, which count nothing."""
    session = scene.session()
    return [scene.access(session, NO_USER_LIMIT) for _ in range(count)]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7])
def test_every_access_is_on_one_page(limit: int) -> None:
    """In the order of the handles, and the last page is known as such."""
    scene = Scene(container(item()))
    handles = [held.handle for held in many(scene, 6)]
    found = pages(scene, m.NetUsers(limit=limit))
    assert [handle for page in found for handle in page] == handles
    assert len(found) == -(-6 // limit)


def test_a_table_that_moves_between_pages_shows_nobody_twice() -> None:
    """What was released is left out, what came later comes last; the page that a cursor names need not be there."""
    scene = Scene(container(item()))
    held = many(scene, 6)
    first = views.access_page(scene.table, m.NetUsers(limit=3), 0, 0, local=True, only=None)
    assert first.next == held[2].handle
    scene.release(held[2])
    scene.release(held[3])
    late = many(scene, 1)[0]
    rest = views.access_page(scene.table, m.NetUsers(cursor=first.next, limit=9), 0, 0, local=True, only=None)
    assert [row.handle for row in rest.accesses] == [held[4].handle, held[5].handle, late.handle]


def test_a_page_looks_at_so_many_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that finds little gives short pages, even empty ones, with a cursor to go on."""
    monkeypatch.setattr(views, "ROWS_LOOKED_AT", 2)
    scene = Scene(container(item(), firm=7), container(item(), id="3-2", firm=8))
    session = scene.session()
    for _ in range(5):
        scene.access(session, NO_USER_LIMIT, firm_code=7)
    wanted = scene.access(session, NO_USER_LIMIT, firm_code=8)
    assert pages(scene, m.NetUsers(firm_code=8)) == [[], [], [wanted.handle]]


@pytest.mark.parametrize("looked_at", [1, 3, 20_000])
def test_few_are_found_at_once_and_many_page_by_page(looked_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rare product, one client's accesses and one allocation's need no look at all the others; the rows are the same.

    What is too much for one page is looked for as ever, and in the same order.
    """
    monkeypatch.setattr(views, "ROWS_LOOKED_AT", looked_at)
    scene = Scene(container(item(1, quantity=9), item(2, product=15, quantity=9)))
    one, other = scene.session("a"), scene.session("b")
    first = [scene.access(who, STATION_SHARE, product=15) for who in (other, one)]
    crowd = [scene.access(scene.session("c"), NO_USER_LIMIT) for _ in range(7)]
    later = [scene.access(who, STATION_SHARE, product=15) for who in (one, other)]
    assert isinstance(first[1].target, Allocation)
    for request, wanted in (
        (m.NetUsers(session=one.id), [first[1], later[0]]),
        (m.NetUsers(allocation=first[1].target.id), [first[1], later[0]]),
        (m.NetUsers(session=one.id, allocation=first[1].target.id, product_code=15), [first[1], later[0]]),
        (m.NetUsers(session=one.id, product_code=14), []),
        (m.NetUsers(allocation=first[1].target.id, product_code=14), []),
        (m.NetUsers(product_code=15), [*first, *later]),
        (m.NetUsers(product_code=15, cursor=first[1].handle), later),
        (m.NetUsers(product_code=14), crowd),
        (m.NetUsers(session=99), []),
    ):
        found = pages(scene, request)
        assert [handle for page in found for handle in page] == [held.handle for held in wanted]
        assert len(found) == 1 or looked_at < 20_000
    assert not any(pages(scene, m.NetUsers(session=other.id), only=one))


def test_only_what_is_relevant_to_licensing() -> None:
    """The filter leaves out handles on containers, firm items and the subsystem, and nothing else (behaviour 28)."""
    scene = Scene(container(item()))
    session = scene.session()
    box = scene.refer(session, HandleKind.CONTAINER)
    free = scene.access(session, NO_USER_LIMIT)
    assert pages(scene, m.NetUsers()) == [[box.handle, free.handle]]
    assert pages(scene, m.NetUsers(relevant=True)) == [[free.handle]]


def test_filters_are_joined_by_and() -> None:
    """Container, firm code and product code each narrow the listing, of other kinds of handle too."""
    scene = Scene(container(item(), id="3-1", firm=7), container(item(), id="3-2", firm=8))
    session = scene.session()
    seven = scene.access(session, NO_USER_LIMIT, firm_code=7)
    eight = scene.access(session, NO_USER_LIMIT, firm_code=8)
    box = scene.refer(session, HandleKind.CONTAINER, firm_code=0, container="3-2")
    assert pages(scene, m.NetUsers(firm_code=7)) == [[seven.handle]]
    assert pages(scene, m.NetUsers(container="3-2")) == [[eight.handle, box.handle]]
    assert pages(scene, m.NetUsers(container="3-1", firm_code=8)) == [[]]
    assert pages(scene, m.NetUsers(container="3-2", product_code=14)) == [[eight.handle]]


def test_one_session_only() -> None:
    """With the policy *own* a client is shown what it holds itself."""
    scene = Scene(container(item(quantity=2)))
    mine, theirs = scene.access(scene.session("a")), scene.access(scene.session("b"))
    assert pages(scene, m.NetUsers(), only=mine.session) == [[mine.handle]]
    assert pages(scene, m.NetUsers()) == [[mine.handle, theirs.handle]]


def test_the_counts_of_a_license() -> None:
    """Used and free make the total; each mode has its allocations, so a share of four counts once."""
    scene = Scene(container(item(quantity=9)))
    scene.access(scene.session("a"), USER_LIMIT)
    scene.access(scene.session("b"), EXCLUSIVE)
    scene.access(scene.session("c"), NO_USER_LIMIT)
    for _ in range(4):
        scene.access(scene.session("d"), STATION_SHARE)
    (row,) = views.license_page(scene.table, m.NetCluster(), 0, 0, local=True).licenses
    assert (row.quantity, row.total, row.used, row.free) == (9, 9, 3, 6)
    assert (row.user_limit, row.exclusive, row.no_user_limit, row.station_share) == (1, 1, 1, 1)


def test_an_unplugged_container_offers_nothing_more() -> None:
    """What is used stands; the rest cannot be had just now, so the total is what is used."""
    scene = Scene(container(item(quantity=5)))
    scene.access(scene.session())
    scene.engine.unplug(ContainerId("3-1"))
    (row,) = views.license_page(scene.table, m.NetCluster(), 0, 0, local=True).licenses
    assert (row.present, row.quantity, row.total, row.used, row.free) == (False, 5, 1, 1, 0)


def test_what_does_not_exist_for_a_client_is_not_shown_to_it() -> None:
    """License quantity 0 and local-only entries are for clients on the server's own machine (behaviour 9)."""
    scene = Scene(container(item(1, 0), item(2, flags=QuantityFlag.LOCAL_ONLY), item(3)))
    here = scene.session("here", local=True)
    hidden = [scene.access(here, item=number) for number in (1, 2)]
    shown = scene.access(here, item=3)
    assert pages(scene, m.NetUsers()) == [[*(held.handle for held in hidden), shown.handle]]
    assert pages(scene, m.NetUsers(), local=False) == [[shown.handle]]
    plugged = scene.table.containers[ContainerId("3-1")]
    for local, items in ((True, [1, 2, 3]), (False, [3])):
        licenses = views.license_page(scene.table, m.NetCluster(), 0, 0, local=local).licenses
        assert [row.item for row in licenses] == items
        (firm_item,) = views.contents(plugged, 0, scene.now, local=local).firm_items
        assert [entry.item for entry in firm_item.entries] == items


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_every_license_is_on_one_page(limit: int) -> None:
    """By a cursor too, so that a table of any size can be read."""
    scene = Scene(container(item(1), item(2), item(3)))
    found: list[int] = []
    cursor: int | None = 0
    while cursor is not None:
        page = views.license_page(scene.table, m.NetCluster(cursor=cursor, limit=limit), 0, 0, local=True)
        found += [row.item for row in page.licenses]
        cursor = page.next
    assert found == [1, 2, 3]


def test_an_entry_with_its_options() -> None:
    """Denied modes are named as in requests; quantity 0 is local only without a flag."""
    flags = QuantityFlag.DENY_EXCLUSIVE | QuantityFlag.DENY_NO_USER_LIMIT
    scene = Scene(container(item(1, 2, flags=flags, feature_map=5), item(2, 0)))
    plugged = scene.table.containers[ContainerId("3-1")]
    (firm_item,) = views.contents(plugged, 0, scene.now, local=True).firm_items
    denying, zero = firm_item.entries
    assert (denying.denied, denying.local_only, denying.feature_map) == (("no_user_limit", "exclusive"), False, 5)
    assert (zero.denied, zero.local_only, zero.feature_map) == ((), True, None)


def test_an_entry_with_all_its_options() -> None:
    """Each option, what is left of it, and until when it is valid; and what it lacks is missing."""
    scene = Scene(
        container(
            item(
                1,
                activation=START - 9,
                expiration=START + 90,
                usage=Allowance(60),
                usage_start=START - 1,
                maintenance=Period(START - 5, START + 5),
                units=Allowance(5),
                units_used=7,
                linger=3,
                minimum_runtime=Runtime(0, 1),
                protected_data=b"p",
                user_data=b"u",
            ),
            item(2),
        )
    )
    (firm_item,) = views.contents(scene.table.containers[ContainerId("3-1")], 0, START, local=True).firm_items
    full, plain = firm_item.entries
    assert full == m.EntryInfo(
        item=1,
        product_code=14,
        text="",
        quantity=1,
        activation=START - 9,
        expiration=START + 90,
        usage=60,
        usage_start=START - 1,
        maintenance=(START - 5, START + 5),
        units=5,
        units_left=0,
        linger=3,
        minimum_runtime="0.1",
        protected_data=b"p",
        user_data=b"u",
        valid_until=START + 59,
        state="exhausted",
    )
    assert plain == m.EntryInfo(item=2, product_code=14, text="", quantity=1)


@pytest.mark.parametrize(
    ("options", "state"),
    [
        ({}, "valid"),
        ({"expiration": START + 1}, "valid"),
        ({"expiration": START}, "expired"),
        ({"activation": START + 1}, "inactive"),
        ({"usage": Allowance(5), "usage_start": START - 5}, "usage_over"),
        ({"units": Allowance(5), "units_used": 5}, "exhausted"),
        ({"minimum_runtime": Runtime(9, 0)}, "needs_newer_server"),
        ({"maintenance": Period(START - 5, START)}, "valid"),
    ],
)
def test_the_state_of_a_license(options: dict[str, Any], state: str) -> None:
    """The same word in both listings."""
    scene = Scene(container(item(**options)))
    (row,) = views.license_page(scene.table, m.NetCluster(), 0, START, local=True).licenses
    (firm_item,) = views.contents(scene.table.containers[ContainerId("3-1")], 0, START, local=True).firm_items
    assert row.state == firm_item.entries[0].state == state
    assert row.valid_until == firm_item.entries[0].valid_until


def test_a_firm_item_that_is_not_trusted_is_listed() -> None:
    """With the reason, and nothing in it."""
    contents = Container(ContainerId("3-1"), ContainerKind.VIRTUAL, "", (FirmItem(7, unusable="Nobody knows it."),))
    scene = Scene(contents)
    (firm_item,) = views.contents(scene.table.containers[contents.id], 0, START, local=True).firm_items
    assert firm_item == m.FirmItemInfo(7, "", 0, (), "Nobody knows it.")


def test_when_accesses_end_and_what_lingers() -> None:
    """An access ends with its license unless it was forced; lingering licenses are used, and counted in no mode."""
    scene = Scene(container(item(1, 5, expiration=START + 90, linger=9), item(2, product=15)))
    session = scene.session()
    for asked in ({}, {"force": True}, {"product": 15}):
        scene.access(session, **asked)
    lingered = [scene.access(session, USER_LIMIT), scene.access(session, STATION_SHARE)]
    for held in lingered:
        scene.lingered(held)
        scene.now += 1
    scene.refer(session, HandleKind.SUBSYSTEM)
    page = views.access_page(scene.table, m.NetUsers(), 0, scene.now, local=True, only=None)
    assert [row.valid_until for row in page.accesses] == [START + 90, None, None, None]
    row, other = views.license_page(scene.table, m.NetCluster(), 0, scene.now, local=True).licenses
    assert (row.used, row.free, row.user_limit, row.station_share) == (4, 1, 2, 0)
    assert (row.lingering, row.lingering_until) == (2, START + 9)
    assert (other.lingering, other.lingering_until, other.valid_until) == (0, None, None)


def test_new_fields_are_left_out_where_there_is_nothing_to_tell() -> None:
    """A plain license costs no byte more than in the first release."""
    scene = Scene(container(item()))
    scene.access(scene.session())
    licenses = views.license_page(scene.table, m.NetCluster(), 0, START, local=True)
    accesses = views.access_page(scene.table, m.NetUsers(), 0, START, local=True, only=None)
    contents = views.contents(scene.table.containers[ContainerId("3-1")], 0, START, local=True)
    for answer in (licenses, accesses, contents):
        octets = rpc.encode_result(1, answer)
        for field in (b"valid_until", b"state", b"lingering", b"unusable", b"linger", b"data"):
            assert field not in octets


def test_a_page_is_bounded_in_bytes() -> None:
    """The longest texts, in characters of four bytes, make short pages: whoever bounds what it reads can go on."""
    longest = "\U0001f600" * 255
    scene = Scene(container(item()))
    client = Client(longest, longest, 1, longest)
    session = scene.engine.open(b"x", client, Station("pc"), "192.0.2.1", local=False)
    for _ in range(300):
        scene.access(session, NO_USER_LIMIT)
    page = views.access_page(scene.table, m.NetUsers(limit=1000), 0, 0, local=True, only=None)
    assert len(rpc.encode_result(1, page)) < 2 * views.PAGE_BYTES < rpc.FROM_SERVER.total
    assert sum(len(found) for found in pages(scene, m.NetUsers(limit=1000))) == 300
