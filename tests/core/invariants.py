"""What must hold of every table at any time: laws 1, 5 and 6, and that each index says what a recount says.

Everything is counted anew from the accesses and sessions; nothing of the table's own counting is trusted.
"""

from __future__ import annotations

from collections import Counter

from cmserverd.core.table import REMEMBERED_ENDINGS, Table
from cmserverd.core.terms import Access, Allocation, License, LicenseId, SessionState
from protocol.hosts import host_of
from protocol.terms import AccessMode, HandleKind


def check(table: Table) -> None:
    """Raise AssertionError, naming what is wrong, unless the table is sound."""
    _check_accesses(table)
    _check_sessions(table)
    for counted in table.licenses.values():
        _check_license(table, counted)
    _check_loans(table)
    _check_products(table)
    _check_containers(table)
    _check_instants(table)
    _check_numbers(table)


def _check_accesses(table: Table) -> None:
    """Law 6: every access points to a live allocation that points back; every handle has exactly one session."""
    for handle, held in table.accesses.items():
        assert held.handle == handle
        assert held.first <= held.last
        assert table.sessions[held.session.id] is held.session
        assert held.session.accesses[held.key] is held
        target = held.target
        if isinstance(target, Allocation):
            assert target.accesses[handle] is held
            assert target.license.allocations[target.id] is target
            assert table.licenses[target.license.id] is target.license
            assert target.station == held.session.station
        elif target.container is None:
            assert target.kind is HandleKind.SUBSYSTEM
        else:
            assert table.containers[target.container].references[handle] is held
    holders = Counter(held.handle for session in table.sessions.values() for held in session.accesses.values())
    assert holders == dict.fromkeys(table.accesses, 1), "every handle has exactly one session"


def _check_sessions(table: Table) -> None:
    for number, session in table.sessions.items():
        assert session.id == number
        assert table.tokens[session.token_hash] is session
        assert all(held.key == key for key, held in session.accesses.items())
        ended = session.ended or {}
        assert not session.accesses.keys() & ended.keys(), "a key is held or ended"
        assert len(ended) <= REMEMBERED_ENDINGS
        assert not {gone.handle for gone in ended.values()} & table.accesses.keys()
    assert len(table.tokens) == len(table.sessions)
    assert table.addresses == Counter(session.address for session in table.sessions.values())
    ghosts = {(name, number) for name, sessions in table.ghosts.items() for number in sessions}
    assert all(table.ghosts.values()), "a station without ghosts is not listed"
    assert ghosts == {
        ((session.station, session.client.application), session.id)
        for session in table.sessions.values()
        if session.state is SessionState.CLOSED
    }


def _check_license(table: Table, counted: License) -> None:
    """Law 1: `used` is the sum of the weights, and what is lent; allocations never take more than is left beside that.

    Law 5: an allocation is held, or lingers.
    """
    item = counted.item
    for number, allocation in counted.allocations.items():
        assert allocation.id == number
        assert allocation.license is counted
        assert bool(allocation.accesses) != bool(allocation.until), (
            "an allocation that nobody holds, or one that is held"
        )
        assert all(table.accesses.get(handle) is held for handle, held in allocation.accesses.items())
        assert all(held.target is allocation for held in allocation.accesses.values())
        assert allocation.mode is AccessMode.STATION_SHARE or len(allocation.accesses) <= 1
        lent = bool(table.converting.keys() & allocation.accesses.keys())
        counts = allocation.mode is not AccessMode.NO_USER_LIMIT and item.quantity > 0 and not lent
        assert allocation.weight == int(counts), "what an allocation counts"
    modes = Counter(allocation.mode for allocation in counted.allocations.values() if not allocation.until)
    assert counted.user_limit == modes[AccessMode.USER_LIMIT]
    assert counted.no_user_limit == modes[AccessMode.NO_USER_LIMIT]
    assert counted.exclusive == modes[AccessMode.EXCLUSIVE]
    assert counted.station_share == modes[AccessMode.STATION_SHARE]
    allocated = sum(allocation.weight for allocation in counted.allocations.values())
    assert counted.lent == sum(loan.quantity for loan in table.lent.values() if loan.license == counted.id)
    assert counted.used == allocated + counted.lent
    assert allocated <= max(item.quantity - counted.lent, 0), "more licenses are in use than there are"
    lingering = [(one.until, number, one) for number, one in counted.allocations.items() if one.until]
    assert counted.lingering == sorted(lingering, key=lambda entry: entry[:2])
    assert AccessMode.NO_USER_LIMIT not in {one.mode for _, _, one in lingering}
    sharing = [a.station for a in counted.allocations.values() if a.mode is AccessMode.STATION_SHARE and not a.until]
    assert len(sharing) == len(set(sharing)), "one station counts twice on one license"


def _check_loans(table: Table) -> None:
    """Each loan is listed where it is counted and where it ends; they are in the order of their numbers."""
    for name, loan in table.lent.items():
        assert name == (loan.license.container, loan.id)
        assert (loan.station is None) == (loan.client is None)
        assert loan.until == loan.end + 60 + loan.later
        assert loan.later >= 0
    out: Counter[LicenseId] = Counter()
    for loan in table.lent.values():
        out[loan.license] += loan.quantity
    assert table.out == {name: units for name, units in out.items() if units}
    ends = {loan.number: loan.until for loan in table.lent.values()}
    assert [(until, number) for until, number, _ in table.returns] == sorted((end, no) for no, end in ends.items())
    assert all(table.lent[loan.name] is loan and loan.number == number for _, number, loan in table.returns)
    assert table.borrowers == Counter(host_of(loan.address) for loan in table.lent.values())
    numbers = [loan.number for loan in table.lent.values()]
    assert numbers == sorted(set(numbers))
    assert not table.accesses.keys() & set(numbers)
    for handle, name in table.converting.items():
        target = table.accesses[handle].target
        assert isinstance(target, Allocation)
        assert list(target.accesses) == [handle], "nobody shares what is taken along"
        assert table.lent[name].license == target.license.id, "the loan has its unit"
    assert len(set(table.converting.values())) == len(table.converting), "one access becomes one loan"


def _check_products(table: Table) -> None:
    licenses = [counted for product in table.products.values() for counted in product.licenses]
    assert sorted(counted.number for counted in licenses) == sorted(c.number for c in table.licenses.values())
    for codes, product in table.products.items():
        assert codes == (product.firm_code, product.product_code)
        assert product.licenses, "a product without licenses is not listed"
        turns = [counted.turn for counted in product.licenses]
        assert turns == sorted(turns), "they are drawn on in turn, and found by it"
        for counted in product.licenses:
            assert counted.product is product
            assert table.licenses[counted.id] is counted
            assert codes == (counted.id.firm_code, counted.item.product_code)
        holders: dict[object, list[Access]] = {}
        for held in table.accesses.values():
            if isinstance(held.target, Allocation) and held.target.license.product is product:
                holders.setdefault(held.session.station, []).append(held)
        lingering: dict[object, set[int]] = {}
        for _, number, allocation in (entry for counted in product.licenses for entry in counted.lingering):
            lingering.setdefault(allocation.station, set()).add(number)
        assert holders.keys() | lingering.keys() == product.holdings.keys()
        for station, holding in product.holdings.items():
            targets = [held.target for held in holders.get(station, ()) if isinstance(held.target, Allocation)]
            assert len(holding.lingering or ()) == len(lingering.get(station, ()))
            assert {left.id for left in holding.lingering or ()} == lingering.get(station, set())
            shares = {target.id for target in targets if target.mode is AccessMode.STATION_SHARE}
            exclusives = sum(target.mode is AccessMode.EXCLUSIVE for target in targets)
            assert holding.accesses == len(targets)
            assert holding.exclusives == exclusives
            assert len(holding.shares) == len(shares)
            assert {share.id for share in holding.shares} == shares
            assert not exclusives or len(targets) == 1, "an exclusive access beside another one"


def _check_containers(table: Table) -> None:
    offered = set()
    for name, plugged in table.containers.items():
        assert plugged.contents.id == name
        for firm_item in plugged.contents.firm_items:
            for item in firm_item.products:
                offered.add((name, firm_item.firm_code, item.reference, item))
        for handle, held in plugged.references.items():
            assert table.accesses[handle] is held
    assert offered == {(c.id.container, c.id.firm_code, c.id.item, c.item) for c in table.licenses.values()}
    for license_id, counted in table.licenses.items():
        assert counted.id == license_id
        assert counted.present == table.containers[license_id.container].present


def _check_instants(table: Table) -> None:
    """What time does next: the ends of the licenses that have one, unless it has been seen to, and all that lingers."""
    lingering = [entry for counted in table.licenses.values() for entry in counted.lingering]
    assert table.lingers == sorted(lingering, key=lambda entry: entry[:2])
    lives = [(h.first + h.want.maximum_life, number) for number, h in table.accesses.items() if h.want.maximum_life]
    assert [entry[:2] for entry in table.lives] == sorted(lives)
    assert all(table.accesses[number] is held for _, number, held in table.lives)
    assert [entry[:2] for entry in table.expiries] == sorted(entry[:2] for entry in table.expiries)
    coming = {counted.id for _, _, counted in table.expiries}
    assert len(coming) == len(table.expiries)
    assert table.expired == sorted(
        ((end, counted.id, counted) for counted in table.licenses.values() if (end := _ended(counted, coming))),
        key=lambda entry: entry[:2],
    )
    for end, name, counted in table.expiries:
        assert counted.id == name
        assert table.licenses[counted.id] is counted
        assert end == _end(counted)
    for counted in table.licenses.values():
        if _end(counted) is not None and counted.id not in coming:
            holders = [held for one in counted.allocations.values() for held in one.accesses.values()]
            assert all(held.want.force for held in holders), "a license that is over has only who needs no valid one"


def _ended(counted: License, coming: set[LicenseId]) -> int | None:
    return None if counted.id in coming else _end(counted)


def _end(counted: License) -> int | None:
    item = counted.item
    ends = [] if item.expiration is None else [item.expiration]
    if item.usage is not None and item.usage_start:
        ends.append(item.usage_start + item.usage.amount)
    return min(ends, default=None)


def _check_numbers(table: Table) -> None:
    """Handles and numbers only grow, and listings rely on their order."""
    assert list(table.accesses) == sorted(table.accesses)
    numbers = [counted.number for counted in table.licenses.values()]
    assert numbers == sorted(set(numbers))
    assert all(handle < table.next_handle for handle in table.accesses)
    assert all(loan.number < table.next_handle for loan in table.lent.values())
    assert all(number < table.next_license for number in numbers)
    assert all(number < table.next_session for number in table.sessions)
    allocations = [number for counted in table.licenses.values() for number in counted.allocations]
    assert len(allocations) == len(set(allocations))
    assert all(number < table.next_allocation for number in allocations)
