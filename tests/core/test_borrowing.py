"""Borrowing by examples written by hand: who may, until when, how it comes back (section 10, behaviours 16 to 18)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from cmserverd import views
from cmserverd.core import borrowing, history
from cmserverd.core.changes import Converting
from cmserverd.core.refusal import Refused
from cmserverd.core.rules import Limits
from cmserverd.core.terms import Access, Lent
from drivers.container import Allowance, Borrowing, ContainerId, Loan, ProductItem, QuantityFlag
from protocol import messages as m
from protocol.errors import ErrorNumber
from protocol.messages import EndCause
from protocol.terms import Client, HandleKind, Station
from tests.core.replay import Kept, replayed
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

BOX = ContainerId("3-1")
EVERY = Borrowing(1_000, 2**32 - 1)


def lendable(reference: int = 1, quantity: int = 2, **options: Any) -> ProductItem:
    """Return a product item that may be borrowed."""
    options.setdefault("borrowing", EVERY)
    return item(reference, quantity, **options)


def row(loan: Lent) -> Loan:
    """Return a loan as its container's ledger has it."""
    return Loan(loan.id, FIRM, loan.license.item, loan.quantity, loan.end, loan.holder)


def shown(scene: Scene) -> list[m.AccessInfo]:
    """Return the rows of the listing of accesses."""
    return list(views.access_page(scene.table, m.NetUsers(), 1, scene.now, local=True, only=None).accesses)


def test_behaviour_16_what_is_borrowed_cannot_be_deallocated() -> None:
    """The refusal says until when; the borrower's session, and a restart, are no matter to it."""
    scene = Scene(container(lendable()))
    session = scene.session()
    loan = scene.borrow(session)
    with pytest.raises(Refused, match=r"borrowed until 2027-01-15 08:01:40 UTC.*Error 226") as refusal:
        scene.engine.deallocate(loan.number, alone=False, seen=frozenset(), hold_off=0)
    assert refusal.value.number is ErrorNumber.BORROW_FAILED
    scene.engine.deallocate_all(session.id, seen=frozenset(), hold_off=0)
    scene.engine.close(session)
    scene.engine.restart()
    assert (scene.used(), scene.license().lent) == (1, 1)


@pytest.mark.parametrize(("seconds", "granted"), [(1, True), (1_000, True), (1_001, False)])
def test_behaviour_17_from_a_second_to_the_licensors_maximum(seconds: int, granted: bool) -> None:
    """The refusal says for how long at most."""
    scene = Scene(container(lendable()))
    if granted:
        assert scene.borrow(scene.session(), seconds=seconds).end == START + seconds
    else:
        refused = scene.not_lent(scene.session(), seconds=seconds)
        assert refused.number is ErrorNumber.BORROW_FAILED
        assert "for 1000 s at most" in str(refused)


def test_behaviour_17_the_operator_can_allow_less_and_nothing() -> None:
    """Never more than the licensor; 0 is nothing at all."""
    scene = Scene(container(lendable()), limits=Limits(borrow_maximum=60))
    assert "for 1 min at most" in str(scene.not_lent(scene.session(), seconds=61))
    scene.borrow(scene.session(), seconds=60)
    forbidden = Scene(container(lendable()), limits=Limits(borrow_maximum=0))
    assert "the operator allows no borrowing" in str(forbidden.not_lent(forbidden.session(), seconds=1))


def test_behaviour_17_a_loan_is_free_a_minute_after_its_end_without_contact() -> None:
    """So late may the borrower's clock be; not a second before, and even while its container is away."""
    scene = Scene(container(lendable(quantity=1)))
    scene.borrow(scene.session(), seconds=10)
    scene.engine.unplug(BOX)
    assert scene.engine.due() == START + 70
    scene.pass_time(69)
    assert scene.used() == 1
    scene.pass_time(1)
    assert (scene.used(), scene.engine.due(), scene.table.lent) == (0, None, {})


def test_behaviour_17_an_early_return_frees_at_once_and_a_replayed_one_changes_nothing() -> None:
    """Whoever has the license by then keeps it."""
    scene = Scene(container(lendable(quantity=1)))
    loan = scene.borrow(scene.session())
    assert scene.refused(scene.session("other")).number is ErrorNumber.NO_MORE_LICENSES
    assert scene.engine.given_back(BOX, loan.id)
    held = scene.access(scene.session("other"))
    position = scene.engine.position
    assert not scene.engine.given_back(BOX, loan.id)
    assert (scene.engine.position, scene.used()) == (position, 1)
    scene.use(held.session, held.handle)


def test_behaviour_18_a_server_that_knows_nothing_counts_what_the_ledger_says() -> None:
    """Until its end, and no longer; what is over counts no more."""
    scene = Scene(started=False)
    ledger = [Loan(b"a" * 16, FIRM, 1, 1, START + 100, b"h" * 32), Loan(b"b" * 16, FIRM, 1, 1, START - 60, b"h" * 32)]
    scene.engine.plug(container(lendable(quantity=2)), ledger)
    scene.engine.started()
    assert scene.used() == 1
    scene.access(scene.session())
    assert scene.refused(scene.session("other")).number is ErrorNumber.NO_MORE_LICENSES
    scene.pass_time(160)
    assert scene.used() == 1
    scene.access(scene.session("other"))


def test_behaviour_18_a_server_restored_from_a_backup_believes_the_ledger() -> None:
    """A loan that is not in it is no more, and one that was extended ends later, with the names that were known."""
    scene = Scene(container(lendable(quantity=3)))
    gone, longer = (scene.borrow(scene.session(), number) for number in (1, 2))
    scene.engine.plug(container(lendable(quantity=3)), [Loan(longer.id, FIRM, 1, 1, START + 500, longer.holder)])
    assert gone.name not in scene.table.lent
    assert (longer.end, longer.client is not None, scene.used(), scene.engine.due()) == (
        START + 500,
        True,
        1,
        START + 560,
    )


def test_a_loan_that_the_server_did_not_know_of_makes_room_for_itself() -> None:
    """What lingers goes first, then the newest accesses: to another license if there is one, else they end."""
    contents = container(lendable(1, 3, linger=60), item(2, 1, product=15))
    scene = Scene(contents)
    old, new = scene.access(scene.session("a")), scene.access(scene.session("b"))
    scene.lingered(scene.access(scene.session("c")))
    scene.engine.plug(contents, [Loan(b"n" * 16, FIRM, 1, 1, START + 9, b"n" * 32)])
    assert (scene.license().lingering, len(scene.table.accesses)) == ([], 2)
    scene.engine.plug(contents, [Loan(b"n" * 16, FIRM, 1, 2, START + 9, b"n" * 32)])
    assert scene.gone(new).cause == EndCause.LENT
    assert "its license was borrowed" in str(scene.gone(new))
    scene.use(old.session, old.handle)
    assert (scene.license().lent, scene.used()) == (2, 3)


def test_a_loan_outlives_its_license_and_counts_again_when_that_comes_back() -> None:
    """With its holder's names, whatever the server was told of the container meanwhile."""
    scene = Scene(container(lendable()))
    loan = scene.borrow(scene.session())
    scene.engine.remove(BOX)
    assert [(one.mode, one.product_code) for one in shown(scene)] == [("borrowed", 0)]
    assert scene.not_lent(scene.session()).number is ErrorNumber.BOX_LOST
    scene.engine.plug(container(lendable()), [row(loan)])
    assert (scene.used(), scene.table.lent[loan.name].client) == (1, loan.client)


def test_who_holds_the_last_license_can_borrow_it() -> None:
    """His access ends, with nothing lingering and no event, once the container has the loan; until then it stands."""
    scene = Scene(container(lendable(quantity=1, linger=60)))
    session = scene.session()
    held = scene.access(session)
    lending = scene.engine.borrow(session, scene.loan(handle=held.handle))
    assert (lending.handle, lending.new, scene.used(), scene.license().lent) == (held.handle, True, 1, 1)
    assert scene.use(session, held.handle) is held
    loan = scene.engine.lent(lending, lending.loan.end)
    assert (scene.used(), scene.license().lent, scene.license().lingering) == (1, 1, [])
    assert (scene.gone(held).cause, loan.end) == (None, START + 100)


def test_a_container_that_refuses_leaves_the_access_and_frees_what_was_reserved() -> None:
    """As if nobody had asked."""
    scene = Scene(container(lendable(quantity=1)))
    session = scene.session()
    held = scene.access(session)
    scene.engine.not_lent(scene.engine.borrow(session, scene.loan(handle=held.handle)))
    scene.use(session, held.handle)
    scene.release(held)
    lending = scene.engine.borrow(session, scene.loan())
    assert (lending.new, scene.used()) == (True, 1)
    scene.engine.not_lent(lending)
    assert (scene.used(), scene.table.lent) == (0, {})


def test_one_of_a_share_needs_a_license_more() -> None:
    """The others go on with theirs; so does one who counts nothing."""
    scene = Scene(container(lendable(quantity=1)))
    session = scene.session()
    shares = [scene.access(session, STATION_SHARE) for _ in range(2)]
    uncounted = scene.access(session, NO_USER_LIMIT)
    for held in (shares[0], uncounted):
        assert scene.not_lent(session, handle=held.handle).number is ErrorNumber.NO_MORE_LICENSES
    scene.engine.plug(container(lendable(quantity=2)))
    scene.borrow(session, handle=shares[0].handle)
    assert (scene.used(), scene.license().station_share) == (2, 1)
    assert scene.refused(scene.session("other")).number is ErrorNumber.NO_MORE_LICENSES


def test_what_the_container_has_written_down_is_out_whoever_took_the_license_meanwhile() -> None:
    """The newest allocation leaves for it."""
    scene = Scene(container(lendable(quantity=1)))
    session = scene.session()
    lending = scene.engine.borrow(session, scene.loan())
    scene.engine.given_back(BOX, lending.loan.id)
    other = scene.access(scene.session("other"))
    scene.engine.lent(lending, lending.loan.end)
    assert (scene.gone(other).cause, scene.used()) == (EndCause.LENT, 1)


ENDINGS: dict[str, Callable[[Scene, Access], None]] = {
    "released": lambda scene, held: scene.release(held),
    "closed": lambda scene, held: scene.engine.close(held.session),
    "silent": lambda scene, held: scene.engine.clean_up(held.session, [held]),
    "over": lambda scene, _: scene.pass_time(30),
    "deallocated": lambda scene, held: deallocated(scene, held.handle),
    "elsewhere": lambda scene, _: moved_away(scene),
}
"""How an access may end, or leave its license."""


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("how", ENDINGS)
def test_a_loan_on_its_way_has_the_unit_of_its_access_whatever_becomes_of_that(how: str, taken: bool) -> None:
    """Nobody is given it meanwhile, nobody leaves for the loan, and nothing lingers. It is free if there is no loan."""
    scene = Scene(container(lendable(quantity=1, linger=60), lendable(2, quantity=1)))
    session, other = scene.session(local=True), scene.session("other")
    held = scene.access(session, maximum_life=30, item=None)
    lending = scene.engine.borrow(session, scene.loan(handle=held.handle))
    ENDINGS[how](scene, held)
    assert (scene.used(), scene.license().lingering) == (1, [])
    assert scene.refused(other, item=1).number is ErrorNumber.NO_MORE_LICENSES
    if taken:
        scene.engine.lent(lending, lending.loan.end)
        assert (scene.used(), scene.license().lent, scene.table.converting) == (1, 1, {})
    else:
        scene.engine.not_lent(lending)
        assert (scene.used(), scene.license().lent, scene.table.converting) == (0, 0, {})
        scene.access(other, item=1)


def deallocated(scene: Scene, handle: int) -> None:
    """Have an operator take an access; he is told that no license is free by that."""
    assert scene.engine.deallocate(handle, alone=True, seen=frozenset(), hold_off=0).licenses == 0


def moved_away(scene: Scene) -> None:
    """Have the first item deny the mode of an access, which goes to the second one."""
    denies = lendable(quantity=1, linger=60, flags=QuantityFlag.DENY_USER_LIMIT)
    coming = {loan for _, loan in scene.table.converting.values()}
    scene.engine.plug(container(denies, lendable(2, quantity=1)), [], coming)
    assert scene.used(reference=2) == 1
    scene.engine.plug(container(lendable(quantity=1, linger=60), lendable(2, quantity=1)), [], coming)


def test_a_ghost_that_becomes_a_loan_gives_its_station_nothing() -> None:
    """Its unit is the loan's; it stands until that is certain."""
    scene = Scene(container(lendable(quantity=1)))
    session = scene.session()
    held = scene.access(session)
    lending = scene.engine.borrow(session, scene.loan(handle=held.handle))
    scene.engine.detach(session, closed=True)
    assert scene.refused(scene.session(), STATION_SHARE).number is ErrorNumber.NO_MORE_LICENSES
    scene.engine.not_lent(lending)
    scene.access(scene.session(), STATION_SHARE)
    assert scene.gone(held).cause == EndCause.SUPERSEDED


def test_an_access_has_its_unit_again_when_its_loan_is_refused() -> None:
    """There is one for it, whoever had to leave meanwhile, unless more is lent than there is by then."""
    scene = Scene(container(lendable(quantity=3)))
    session = scene.session()
    other = scene.access(scene.session("other"))
    held = scene.access(session)
    loan = scene.borrow(session, 2)
    lending = scene.engine.borrow(session, scene.loan(handle=held.handle))
    scene.engine.plug(container(lendable(quantity=2)), [row(loan)], {lending.loan.id})
    assert scene.gone(other).cause == EndCause.REPROGRAMMED
    scene.engine.not_lent(lending)
    assert (scene.used(), scene.use(session, held.handle)) == (2, held)
    lending = scene.engine.borrow(session, scene.loan(3, handle=held.handle))
    scene.engine.plug(container(lendable(quantity=1)), [row(loan)], {lending.loan.id})
    assert (scene.used(), scene.use(session, held.handle)) == (2, held)
    scene.engine.not_lent(lending)
    assert (scene.used(), scene.gone(held).cause) == (1, EndCause.LENT)


def test_who_has_to_leave_does_not_join_a_share_that_becomes_a_loan() -> None:
    """Nor is he given a license of the same entry beside it: the station would have two there if that is refused."""
    left, right = container(lendable(1, 2), id="3-1"), container(lendable(1, 2), id="3-2")
    scene = Scene(left, right)
    session = scene.session()
    goes = scene.access(session, STATION_SHARE)
    taken = scene.access(session, STATION_SHARE, container="3-2")
    lending = scene.engine.borrow(session, scene.loan(handle=taken.handle))
    scene.engine.remove(BOX)
    assert scene.gone(goes).cause == EndCause.CONTAINER_GONE
    scene.engine.lent(lending, lending.loan.end)
    assert (scene.used("3-2"), len(scene.table.accesses)) == (1, 0)


def test_nobody_joins_a_share_that_becomes_a_loan() -> None:
    """He would keep the license that the loan takes, and somebody else lose his. What else the station has he joins."""
    scene = Scene(container(lendable(quantity=3, feature_map=1), lendable(2, 1, feature_map=2)))
    session = scene.session()
    held = scene.access(session, STATION_SHARE, feature_code=1)
    others = [scene.access(scene.session(name)) for name in ("a", "b")]
    lending = scene.engine.borrow(session, scene.loan(handle=held.handle))
    refused = scene.refused(session, STATION_SHARE)
    assert (refused.number, "being taken along" in str(refused)) == (ErrorNumber.BOX_BUSY, True)
    second = scene.access(session, STATION_SHARE, feature_code=2)
    assert scene.access(session, STATION_SHARE).target is second.target
    scene.engine.lent(lending, lending.loan.end)
    assert [scene.use(one.session, one.handle) for one in others] == others
    assert (scene.used(), scene.license().lent) == (3, 1)


def test_loans_are_counted_by_the_host_they_count_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through an extension, a return, and a history made short: a refusal looks at no loan of others."""
    scene = Scene(container(lendable(quantity=9)))
    first, second = scene.session(address="2001:db8::1"), scene.session("b", address="2001:db8::2")
    loan = scene.borrow(first)
    scene.borrow(second, 2)
    scene.borrow(first, seconds=200)
    assert scene.table.borrowers == {"2001:db8::/64": 2}
    scene.engine.given_back(*loan.name)
    assert replayed(history.shortest(scene.table)).borrowers == scene.table.borrowers == {"2001:db8::/64": 1}
    looked_at: list[str] = []
    monkeypatch.setattr(borrowing, "host_of", looked_at.append)
    scene.not_lent(first, 3, seconds=2_000)
    assert looked_at == ["2001:db8::1"]


@pytest.mark.parametrize(
    ("options", "number", "text"),
    [
        ({"borrowing": None}, ErrorNumber.BORROW_FAILED, "its licensor allows no borrowing"),
        ({"units": Allowance(9)}, ErrorNumber.BORROW_FAILED, "cannot be counted elsewhere"),
        ({"borrowing": Borrowing(1_000, 1)}, ErrorNumber.BORROW_FAILED, "1 are borrowed, of 1 that may be"),
        ({"quantity": 1}, ErrorNumber.NO_MORE_LICENSES, "All licenses are in use"),
        ({"quantity": 0}, ErrorNumber.ENTRY_NOT_FOUND, "no such license"),
        ({"flags": QuantityFlag.LOCAL_ONLY}, ErrorNumber.ENTRY_NOT_FOUND, "no such license"),
        ({"unusable": "too new"}, ErrorNumber.PRODUCT_ITEM_INVALID, "too new"),
        ({"feature_map": 1}, ErrorNumber.FEATURE_MAP_INCOMPATIBLE, "feature"),
        ({"expiration": START}, ErrorNumber.EXPIRATION_OVERRUN, "expired"),
        ({"product": 15}, ErrorNumber.ENTRY_NOT_FOUND, "no such license"),
    ],
)
def test_what_is_not_lent(options: dict[str, Any], number: ErrorNumber, text: str) -> None:
    """Each for its reason, which the text tells; for a client of the server's own machine too."""
    scene = Scene(container(lendable()))
    scene.borrow(scene.session())
    ledger = [row(loan) for loan in scene.table.lent.values()]
    scene.engine.plug(container(lendable(**options)), ledger)
    refused = scene.not_lent(scene.session("other", local=True), 2, feature_code=2 if "feature_map" in options else 0)
    assert refused.number is number
    assert text in str(refused)


def test_denied_access_modes_do_not_matter() -> None:
    """Nobody counts in which mode it is used elsewhere."""
    scene = Scene(container(lendable(flags=QuantityFlag.DENY_USER_LIMIT | QuantityFlag.DENY_STATION_SHARE)))
    scene.borrow(scene.session())
    assert scene.used() == 1


def test_some_are_kept_from_being_borrowed() -> None:
    """So many of each entry; whoever holds one of those cannot take it along either."""
    scene = Scene(container(lendable(quantity=3)), limits=Limits(borrow_keep=2))
    session = scene.session()
    scene.borrow(session)
    held = scene.access(session)
    for asked in ({}, {"handle": held.handle}):
        assert "the operator keeps 2 of 3 here" in str(scene.not_lent(session, 2, **asked))


def test_the_first_license_that_serves_is_lent_and_a_refusal_tells_of_each() -> None:
    """In the order of the containers and items."""
    first, second = container(item(1), id="3-1"), container(lendable(1, 1), id="3-2")
    scene = Scene(first, second)
    assert scene.borrow(scene.session()).license.container == "3-2"
    refused = scene.not_lent(scene.session(), 2)
    assert [(reason.container, reason.number) for reason in refused.reasons] == [("3-1", 226), ("3-2", 212)]
    assert "1 of 1, 1 of them borrowed" in refused.reasons[1].text
    assert refused.number is ErrorNumber.NO_MORE_LICENSES
    scene.engine.unplug(ContainerId("3-2"))
    assert scene.not_lent(scene.session(), 2, container="3-2").number is ErrorNumber.BOX_LOST


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ({"expiration": START + 30}, START + 30),
        ({"usage": Allowance(20)}, START + 20),
        ({"usage": Allowance(50), "usage_start": START - 10}, START + 40),
        ({"usage": Allowance(500), "expiration": START + 500}, START + 100),
    ],
)
def test_a_loan_ends_with_its_license_at_the_latest(options: dict[str, Any], end: int) -> None:
    """Behaviour 22; a usage period that has not begun begins with it."""
    scene = Scene(container(lendable(**options)))
    loan = scene.borrow(scene.session())
    assert (loan.end, loan.until) == (end, end + 60)


def test_the_same_id_is_the_same_loan_and_extends_it() -> None:
    """Never shortens it; it takes no license more, and keeps its number."""
    scene = Scene(container(lendable(quantity=1)), limits=Limits(borrow_maximum=500))
    session = scene.session()
    loan = scene.borrow(session)
    scene.now += 50
    lending = scene.engine.borrow(session, scene.loan(seconds=10))
    position = scene.engine.position
    assert scene.engine.lent(lending, loan.end) is loan  # the container says which end is in force
    assert scene.engine.position == position
    assert not lending.new
    assert (scene.borrow(session, seconds=400), loan.end, loan.number, scene.used()) == (loan, START + 450, 1, 1)
    assert scene.engine.due() == START + 510
    assert scene.not_lent(session, seconds=501).number is ErrorNumber.BORROW_FAILED


def test_nobody_else_extends_a_loan() -> None:
    """Neither with another key nor for another station: a certificate for that would be a second license."""
    scene = Scene(container(lendable()))
    scene.borrow(scene.session())
    assert scene.not_lent(scene.session(), holder=2).number is ErrorNumber.INVALID_PARAMETER
    assert scene.not_lent(scene.session("other")).number is ErrorNumber.INVALID_PARAMETER


def test_who_extends_a_loan_that_the_ledger_alone_told_of_is_known_then() -> None:
    """Until then only the loan's id is, which his own machine shows as well."""
    scene = Scene()
    number = 0x3CA7979F << 96
    asked = scene.loan(number)
    scene.engine.plug(container(lendable()), [Loan(asked.id, FIRM, 1, 1, START + 9, asked.holder)])
    assert [(one.client, one.station) for one in shown(scene)] == [("unknown (loan 3ca7979f)", "")]
    scene.borrow(scene.session(), number)
    assert [(one.client, one.station) for one in shown(scene)] == [("192.0.2.1(PC \\ fs)", "pc")]


def test_nothing_is_borrowed_for_longer_of_which_there_is_less_by_now() -> None:
    """A licensor's update may lower the quantity below what is out: then that is all, and it comes back."""
    scene = Scene(container(lendable(quantity=3)))
    session = scene.session()
    held = scene.access(scene.session("other"))
    loans = [scene.borrow(session, number) for number in (1, 2)]
    scene.engine.plug(container(lendable(quantity=1)), map(row, loans))
    assert (scene.gone(held).cause, scene.used()) == (EndCause.REPROGRAMMED, 2)
    (count,) = views.license_page(scene.table, m.NetCluster(), 1, scene.now, local=True).licenses
    assert (count.quantity, count.total, count.used, count.free, count.borrowed) == (1, 2, 2, 0, 2)
    assert scene.not_lent(session, seconds=200).number is ErrorNumber.BORROW_FAILED
    scene.engine.given_back(BOX, loans[0].id)
    assert scene.borrow(session, 2, 200).end == START + 200
    assert scene.refused(session).number is ErrorNumber.NO_MORE_LICENSES


def test_two_containers_may_have_loans_with_one_id() -> None:
    """It is of the borrower's making: who makes two of one counts twice, and gives each back where it is from."""
    contents = container(lendable(), id="3-1"), container(lendable(), id="3-2")
    scene = Scene(*contents)
    loan = scene.borrow(scene.session(), container="3-1")
    scene.engine.plug(contents[1], [row(loan)])
    assert (scene.used("3-1"), scene.used("3-2")) == (1, 1)
    assert scene.engine.given_back(BOX, loan.id)
    assert (scene.used("3-1"), scene.used("3-2")) == (0, 1)


def test_a_loan_that_somebody_else_reserved_with_the_same_id_gives_way_to_that_in_the_ledger() -> None:
    """The container takes one of them, and says which; the access that was to become the other one stands."""
    scene = Scene(container(lendable(1), lendable(2)))
    session, other = scene.session(), scene.session("other")
    first = scene.engine.borrow(session, scene.loan(item=1))
    scene.engine.given_back(BOX, first.loan.id)
    held = scene.access(other, item=2)
    second = scene.engine.borrow(other, scene.loan(handle=held.handle, holder=2))
    assert scene.engine.lent(first, first.loan.end).license.item == 1
    scene.engine.not_lent(second)
    assert (scene.used(reference=1), scene.used(reference=2), scene.use(other, held.handle)) == (1, 1, held)


def test_who_is_held_off_borrows_nothing_new() -> None:
    """Neither would one of a share be another license; what he holds alone he may take along."""
    scene = Scene(container(lendable(quantity=5)))
    session = scene.session()
    single, *shares = (scene.access(session, mode) for mode in (USER_LIMIT, STATION_SHARE, STATION_SHARE))
    taken = scene.access(session)
    scene.engine.deallocate(taken.handle, alone=False, seen=frozenset(), hold_off=30)
    for asked in ({}, {"handle": shares[0].handle}):
        refused = scene.not_lent(session, **asked)
        assert (refused.number, "may be had in 30 s" in str(refused)) == (ErrorNumber.ACCESS_DENIED, True)
    scene.borrow(session, handle=single.handle)
    scene.now += 30
    scene.borrow(session, 2)


def test_only_an_own_handle_of_a_license_becomes_a_loan() -> None:
    """Others, and those of other kinds, are refused as everywhere."""
    scene = Scene(container(lendable(quantity=9)))
    session = scene.session()
    other, box = scene.access(scene.session("other")), scene.refer(session, HandleKind.CONTAINER)
    assert scene.not_lent(session, handle=other.handle).number is ErrorNumber.INVALID_HANDLE
    assert scene.not_lent(session, handle=box.handle).number is ErrorNumber.WRONG_HANDLE_TYPE


def test_somebody_without_a_connection_borrows_by_an_operator() -> None:
    """With his own names and station."""
    scene = Scene(container(lendable()))
    lending = scene.engine.lend(by_file(scene), "")
    loan = scene.engine.lent(lending, lending.loan.end)
    assert (loan.station, loan.client) == (Station("far"), Client("FAR", "fs", 7))


def by_file(scene: Scene) -> m.Lend:
    """Return the request of somebody who is far away."""
    asked = scene.loan()
    return m.Lend(
        id=asked.id,
        holder=asked.holder,
        seconds=asked.seconds,
        client=Client("FAR", "fs", 7),
        station=Station("far"),
        firm_code=FIRM,
        product_code=14,
    )


def test_a_sealed_server_lends_nothing_and_takes_in_what_the_container_did() -> None:
    """What was on its way is written down there."""
    scene = Scene(container(lendable()))
    session = scene.session()
    lending = scene.engine.borrow(session, scene.loan())
    scene.engine.sealed = "the disk is full"
    assert scene.not_lent(session, 2).number is ErrorNumber.INTERNAL
    scene.engine.lent(lending, START + 200)
    assert scene.engine.due() == START + 260


def test_a_time_that_is_set_back_leaves_loans_alone() -> None:
    """Their certificates say until when they are."""
    scene = Scene(container(lendable()))
    loan = scene.borrow(scene.session())
    scene.now -= 1_000
    scene.engine.set_time(scene.now)
    assert (loan.end, scene.engine.due(), scene.used()) == (START + 100, START + 160, 1)


def test_so_many_loans_are_over_at_a_time() -> None:
    """No more than asked for in one passage; what they free takes who had to leave."""
    scene = Scene(container(lendable(1, 3, expiration=START + 160), lendable(2, 3)))
    for number in range(1, 4):
        scene.borrow(scene.session(), number, item=2)
    held = scene.access(scene.session(), item=None)
    assert place(held) == ("3-1", 1)
    scene.now += 160
    assert scene.engine.advance(2)
    assert len(scene.table.lent) == 1
    scene.pass_time(0)
    assert (scene.table.lent, place(held)) == ({}, ("3-1", 2))


@pytest.mark.parametrize("limit", [1, 2, 3, 9])
def test_loans_are_listed_among_the_accesses(limit: int) -> None:
    """By their numbers, with the end, and on one page each; who sees only his own accesses sees none."""
    scene = Scene(container(lendable(quantity=9)))
    session = scene.session()
    scene.access(session)
    loan = scene.borrow(session)
    scene.access(session)
    scene.borrow(session, 2)
    found: list[m.AccessInfo] = []
    cursor: int | None = 0
    while cursor is not None:
        page = views.access_page(
            scene.table, m.NetUsers(cursor=cursor, limit=limit), 1, scene.now, local=False, only=None
        )
        found += page.accesses
        cursor = page.next
    assert [(one.handle, one.mode) for one in found] == [
        (1, "user_limit"),
        (2, "borrowed"),
        (3, "user_limit"),
        (4, "borrowed"),
    ]
    assert (found[1].borrowed_until, found[1].valid_until, found[1].allocation) == (loan.end, loan.end, 0)
    own = views.access_page(scene.table, m.NetUsers(), 1, scene.now, local=False, only=session)
    assert [one.handle for one in own.accesses] == [1, 3]
    for request, count in ((m.NetUsers(product_code=14), 4), (m.NetUsers(product_code=15), 0)):
        page = views.access_page(scene.table, request, 1, scene.now, local=False, only=None)
        assert len(page.accesses) == count


def test_while_the_server_starts_a_license_to_be_lent_may_still_come() -> None:
    """238, as for an access."""
    scene = Scene(container(item()), started=False)
    assert scene.not_lent(scene.session()).number is ErrorNumber.SERVER_STARTING


def test_a_conversion_whose_answer_was_lost_harms_nobody_else() -> None:
    """The ledger has the loan when the container is read anew: the access that it was ends for it, and no newer one."""
    scene = Scene(container(lendable(quantity=2)))
    session = scene.session()
    held, other = scene.access(session), scene.access(scene.session("other"))
    asked = scene.loan(handle=held.handle)
    lending = scene.engine.borrow(session, asked)
    scene.engine.plug(container(lendable(quantity=2)), [lending.loan])
    assert (scene.gone(held).cause, scene.used(), scene.license().lent) == (EndCause.LENT, 2, 1)
    scene.use(other.session, other.handle)
    again = scene.engine.borrow(session, asked)
    assert scene.engine.lent(again, again.loan.end).client == session.client
    assert (scene.used(), scene.table.converting) == (2, {})


def test_a_conversion_is_in_doubt_through_a_restart() -> None:
    """The journal has it, shortened or not."""
    scene = Scene(container(lendable(quantity=2)))
    session = scene.session()
    held, other = scene.access(session), scene.access(scene.session("other"))
    lending = scene.engine.borrow(session, scene.loan(handle=held.handle))
    for changes in (scene.changes, list(history.shortest(scene.table))):
        after = Scene(started=False)
        after.engine.restore(Kept(changes, 1, START))
        after.engine.restart()
        after.engine.plug(container(lendable(quantity=2)), [lending.loan])
        assert list(after.table.accesses) == [other.handle]


def test_an_access_becomes_only_what_its_own_client_made_of_it() -> None:
    """A loan in the ledger that has the id, and another holder or another license, is not it."""
    contents = container(lendable(1, 5), lendable(2, 5))
    scene = Scene(contents)
    session = scene.session()
    held = scene.access(session)
    own = scene.engine.borrow(session, scene.loan(handle=held.handle)).loan
    for loan in (replace(own, holder=bytes(32)), replace(own, reference=2)):
        scene.engine.plug(contents, [loan], {own.id})
        assert (scene.use(session, held.handle), scene.table.converting) == (held, {})
        scene.engine.given_back(BOX, loan.id)
        scene.engine.borrow(session, scene.loan(handle=held.handle))
    scene.engine.plug(contents, [own], {own.id})
    assert (scene.gone(held).cause, scene.table.converting, scene.used()) == (EndCause.LENT, {}, 1)


def test_an_access_becomes_one_loan_only() -> None:
    """For as long as it is not known that it did not become the first; asking for that again is no other one."""
    scene = Scene(container(lendable()))
    session = scene.session()
    held = scene.access(session)
    lending = scene.engine.borrow(session, scene.loan(handle=held.handle))
    scene.engine.plug(container(lendable()), [], {lending.loan.id})  # it was read before that was written
    refused = scene.not_lent(session, 2, handle=held.handle)
    assert (refused.number, "as another loan" in str(refused)) == (ErrorNumber.BOX_BUSY, True)
    again = scene.engine.borrow(session, scene.loan(handle=held.handle))
    assert (again.new, again.handle, scene.used()) == (False, held.handle, 1)
    scene.engine.not_lent(lending)
    scene.engine.borrow(session, scene.loan(2, handle=held.handle))
    scene.engine.plug(container(lendable()))  # it is not in the ledger, nor on its way
    third = scene.engine.borrow(session, scene.loan(3, handle=held.handle))
    scene.engine.not_lent(lending)
    assert scene.table.converting[held.handle] == (BOX, third.loan.id)
    assert scene.engine.lent(third, third.loan.end).number
    assert (scene.used(), len(session.accesses)) == (1, 0)


def test_an_access_that_moves_is_not_what_becomes_the_loan() -> None:
    """That is of the license that it left: it keeps the one that it has by then."""
    first, second = container(lendable(1, 1), id="3-1"), container(lendable(1, 1), id="3-2")
    scene = Scene(first, second)
    session = scene.session()
    held = scene.access(session)
    lending = scene.engine.borrow(session, scene.loan(handle=held.handle))
    scene.engine.remove(BOX)
    scene.engine.plug(first, [lending.loan])
    assert (place(held), scene.used(), scene.used("3-2")) == (("3-2", 1), 1, 1)
    scene.borrow(session, 2, handle=held.handle)


def test_one_of_a_share_leaves_it_when_its_conversion_is_asked_for_again() -> None:
    """The loan has a license of its own, answer or not."""
    scene = Scene(container(lendable()))
    session = scene.session()
    shares = [scene.access(session, STATION_SHARE) for _ in range(2)]
    asked = scene.loan(handle=shares[0].handle)
    lending = scene.engine.borrow(session, asked)
    scene.engine.plug(container(lendable()), [lending.loan])
    assert (scene.used(), len(session.accesses)) == (2, 2)
    again = scene.engine.borrow(session, asked)
    scene.engine.lent(again, again.loan.end)
    assert (scene.used(), list(session.accesses.values())) == (2, shares[1:])


def test_one_host_cannot_have_all_that_may_be_borrowed() -> None:
    """Its loans count, and accesses on their way to become some; other hosts have theirs. The text says what to do."""
    scene = Scene(container(lendable(quantity=9)), limits=Limits(borrow_per_address=2))
    own, neighbour = scene.session(address="2001:db8::1"), scene.session("b", address="2001:db8::2")
    held = scene.access(own)
    first = scene.borrow(neighbour)
    becoming = scene.engine.borrow(own, scene.loan(2, handle=held.handle))
    text = r"2 are borrowed from 2001:db8::/64, .*give one back, or .*raise \[borrowing\] per_address.* Error 226"
    for session in (own, neighbour):
        assert re.search(text, str(scene.not_lent(session, 3)))
    assert scene.engine.borrow(own, scene.loan(2, handle=held.handle)).loan == becoming.loan
    scene.borrow(scene.session("c", address="2001:db8:0:1::1"), 4)
    scene.engine.given_back(*first.name)
    scene.borrow(own, 5)


def test_what_an_operator_lends_and_what_a_ledger_tells_of_is_no_hosts() -> None:
    """He may lend more than clients could borrow; it is theirs no more when they extend it."""
    scene = Scene(container(lendable(quantity=9)), limits=Limits(borrow_per_address=1))
    session = scene.session("far")
    ledger = [Loan(scene.loan(3).id, FIRM, 1, 1, START + 9, scene.loan().holder)]
    scene.engine.plug(container(lendable(quantity=9)), ledger)
    for number in (5, 1):
        lending = scene.engine.lend(replace(by_file(scene), id=scene.loan(number).id), "unix:0")
        scene.engine.lent(lending, lending.loan.end)
    assert scene.borrow(session, 1, 200).address == "unix:0"
    scene.borrow(session, 2)
    assert scene.not_lent(session, 4).number is ErrorNumber.BORROW_FAILED
    assert scene.borrow(session, 3).address == "192.0.2.1"


def test_a_loan_counts_for_the_address_that_borrowed_it() -> None:
    """Else two could extend each other's in turn, and borrow without end."""
    scene = Scene(container(lendable(quantity=9)), limits=Limits(borrow_per_address=1))
    session, elsewhere = scene.session(), scene.session(address="192.0.2.2")
    scene.borrow(session)
    assert scene.borrow(elsewhere, seconds=200).address == "192.0.2.1"
    assert scene.not_lent(session, 2).number is ErrorNumber.BORROW_FAILED
    scene.borrow(elsewhere, 2)


@pytest.mark.parametrize(
    ("passed", "options", "end", "writes"),
    [
        (9, {}, 1_000, 0),
        (10, {}, 1_010, 1),
        (0, {"seconds": 1}, 1_000, 0),
        (990, {"expiration": START + 1_001}, 1_001, 1),
    ],
)
def test_nothing_is_written_for_an_extension_that_gains_hardly_anything(
    passed: int, options: dict[str, int], end: int, writes: int
) -> None:
    """A hundredth of the time that it would be for is something; then the end that stands is the answer."""
    seconds = options.pop("seconds", 1_000)
    scene = Scene(container(lendable()))
    assert scene.engine.writes(scene.loan()) == 2
    loan = scene.borrow(scene.session(), seconds=1_000)
    scene.engine.plug(container(lendable(**options)), [row(loan)])
    scene.now += passed
    assert scene.engine.writes(scene.loan(seconds=seconds)) == writes
    assert scene.engine.borrow(scene.session(), scene.loan(seconds=seconds)).loan.end == START + end


def test_a_loan_is_not_listed_later_than_the_time_was_set_back_to() -> None:
    """It was borrowed by a clock that was wrong; its end is in the container, by whatever clock."""
    scene = Scene(container(lendable()))
    loan = scene.borrow(scene.session())
    scene.engine.set_time(START - 100)
    [listed] = views.access_page(scene.table, m.NetUsers(), 1, START - 100, local=True, only=None).accesses
    assert (listed.first_access, listed.last_access, listed.borrowed_until) == (START - 100, START - 100, loan.end)


@pytest.mark.parametrize("second", ["none", "another"])
def test_a_second_try_ends_the_access_that_became_the_loan_whatever_handle_it_names(second: str) -> None:
    """Else that would stand beside the loan and count nothing."""
    scene = Scene(container(lendable(quantity=3)))
    session = scene.session()
    held, other = scene.access(session), scene.access(session)
    scene.engine.borrow(session, scene.loan(handle=held.handle))  # its answer is lost
    again = scene.engine.borrow(session, scene.loan(handle=other.handle if second == "another" else 0))
    scene.engine.lent(again, again.loan.end)
    assert (scene.gone(held).cause, scene.use(session, other.handle), scene.used()) == (None, other, 2)


def test_a_loan_that_an_operator_asks_for_again_ends_the_access_that_becomes_it() -> None:
    """Its client is told why."""
    scene = Scene(container(lendable()))
    session = scene.session("far")
    held = scene.access(session)
    scene.engine.borrow(session, scene.loan(handle=held.handle))
    lending = scene.engine.lend(by_file(scene), "")
    scene.engine.lent(lending, lending.loan.end)
    assert (scene.gone(held).cause, scene.used()) == (EndCause.LENT, 1)


def test_a_loan_whose_time_is_over_is_not_extended() -> None:
    """While that is written it may be struck off, and somebody else be given its license."""
    scene = Scene(container(lendable(quantity=1)))
    session = scene.session()
    scene.borrow(session)
    scene.pass_time(99)
    assert scene.borrow(session, seconds=50).end == START + 149
    scene.pass_time(50)
    refused = scene.not_lent(session)
    assert (refused.number, "borrow anew" in str(refused)) == (ErrorNumber.BORROW_FAILED, True)


def test_an_older_journal_s_access_that_may_be_a_loan_counts_until_that_is_known() -> None:
    """There was no loan of it in the table then."""
    scene = Scene(container(lendable(quantity=1)))
    held = scene.access(scene.session())
    scene.checking = False
    scene.table.apply(Converting(held.handle, BOX, scene.loan().id))
    scene.engine.restart()
    scene.checking = True
    assert (scene.used(), scene.table.converting) == (1, {})
    scene.use(held.session, held.handle)


def test_who_joins_a_large_share_does_not_wait_for_anybody_s_conversion() -> None:
    """Whether a share is taken along is seen at one of its accesses, however many there are."""
    scene = Scene(container(lendable()))
    session, other = scene.session(), scene.session("other")
    share = [scene.access(session, STATION_SHARE) for _ in range(3)]
    scene.engine.borrow(other, scene.loan(handle=scene.access(other).handle))
    looked_at: list[int] = []

    class Watched(dict[int, tuple[ContainerId, bytes]]):
        def __contains__(self, handle: object) -> bool:
            looked_at.append(0)
            return super().__contains__(handle)

    scene.checking = False
    scene.table.converting = Watched(scene.table.converting)
    assert scene.table.weight(booked(share[0]), scene.license().item) == 1
    assert not looked_at
