"""Thousands of made-up histories, in which the server and the naive model must agree at every step (laws 1 to 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from cmserverd.clock import LicenseClock
from cmserverd.core import changes as c
from cmserverd.core import history
from cmserverd.core.borrowing import Lending
from cmserverd.core.changes import Change
from cmserverd.core.refusal import Refused
from cmserverd.core.rules import Limits
from cmserverd.core.terms import Access, Allocation, Lent, LicenseId, Session, SessionState
from cmserverd.engine import Engine, Listener, Record
from cmserverd.store import Entry
from drivers.container import (
    Allowance,
    Borrowing,
    Container,
    ContainerId,
    ContainerKind,
    FirmItem,
    Loan,
    Period,
    ProductItem,
    QuantityFlag,
    Runtime,
)
from protocol.errors import ErrorNumber
from protocol.messages import Access as Request
from protocol.messages import AccessKey, Borrow, EndCause, Info, Lend, LoanId, Release
from protocol.terms import AccessMode, Client, HandleKind, Station
from tests.core import invariants, lending, model, tracked
from tests.core.replay import Kept, dump, facts, replayed

T = TypeVar("T")

HANDLES = 8
SESSIONS_PER_ADDRESS = 4
CONTAINERS = ("3-1", "3-2", "3-3")
ADDRESSES = ("192.0.2.1", "2001:db8::1", "2001:db8::2")

START = 1_800_000_000
"""Which time it is at first; it passes by up to a hundred seconds at a time."""

ANY = st.integers(0, 1_000)
"""Which of those that there are: taken modulo their number."""

NO_FLAGS = [QuantityFlag.NONE] * 6
OTHER_FLAGS = [
    QuantityFlag.DENY_USER_LIMIT,
    QuantityFlag.DENY_STATION_SHARE | QuantityFlag.DENY_NO_USER_LIMIT,
    QuantityFlag.DENY_EXCLUSIVE | QuantityFlag.LOCAL_ONLY,
]
ITEMS = st.builds(
    ProductItem,
    reference=st.sampled_from([1, 2, 3]),
    product_code=st.sampled_from([14, 14, 14, 14, 15]),
    quantity=st.sampled_from([2, 2, 2, 1, 1, 3, 0]),
    flags=st.sampled_from(NO_FLAGS + OTHER_FLAGS),
    feature_map=st.sampled_from([0b11, 0b11, 0b01, None]),
    activation=st.sampled_from([*[None] * 9, START - 9, START + 40]),
    expiration=st.sampled_from([*[None] * 6, START + 20, START + 90, START + 250]),
    usage=st.sampled_from([*[None] * 6, Allowance(60)]),
    usage_start=st.sampled_from([0, 0, START - 20]),
    maintenance=st.sampled_from([*[None] * 7, Period(START - 100, START)]),
    units=st.sampled_from([*[None] * 6, Allowance(2)]),
    units_used=st.sampled_from([0, 1, 2]),
    minimum_runtime=st.sampled_from([*[None] * 9, Runtime(0, 1), Runtime(0, 2)]),
    linger=st.sampled_from([0, 0, 0, 30, 100]),
    borrowing=st.sampled_from([Borrowing(120, 2), Borrowing(500, 5), Borrowing(120, 1), None]),
    unusable=st.sampled_from([*[""] * 9, "an option of the future"]),
)
CONTENTS = st.lists(ITEMS, min_size=1, max_size=3, unique_by=lambda item: item.reference)
FIRM_CODES = st.sampled_from([10] * 7 + [20])
PINS = st.sampled_from([*[None] * 9, *CONTAINERS, "3-9"])

WISHES = st.tuples(
    ANY,
    st.sampled_from([AccessMode.STATION_SHARE, *AccessMode]),
    st.sampled_from([14] * 7 + [15]),
    st.sampled_from([0] * 6 + [0b01, 0b10, 0b11]),
    PINS,
    st.sampled_from([None] * 6 + [1, 2]),
    st.sampled_from([None] * 6 + [START - 200, START - 50, START]),
    st.sampled_from([False] * 7 + [True]),
    st.sampled_from([False] * 5 + [True]),
    st.sampled_from([0] * 5 + [1, 40, 100]),
)
"""An access: who, mode, product code, feature code, pinned container and item, release date, force, linger ignored,
maximum life.
"""

Wish = tuple[int, AccessMode, int, int, str | None, int | None, int | None, bool, bool, int]


def container(name: str, firm_code: int, items: list[ProductItem], trusted: bool = True) -> Container:
    """Return a container with these items, or with a firm item that has none since nobody vouches for it."""
    firm_item = FirmItem(firm_code, "", 1, tuple(items)) if trusted else FirmItem(firm_code, unusable="not trusted")
    return Container(ContainerId(name), ContainerKind.VIRTUAL, "", (firm_item,))


LOANS = st.tuples(
    ANY,
    st.sampled_from(["connected", "connected", "handle", "handle", "file"]),
    st.sampled_from([14] * 7 + [15]),
    st.sampled_from([0] * 6 + [0b01, 0b10]),
    PINS,
    st.sampled_from([1, 30, 60, 90, 120, 300]),
    st.sampled_from(["taken"] * 5 + ["later"] * 2 + ["refused", "lost"]),
)
"""A loan: who, how he asks, product code, feature code, pinned container, seconds, and what the container does."""


class Server(RuleBasedStateMachine):
    """The engine and the model, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.limits = Limits(HANDLES, SESSIONS_PER_ADDRESS)
        self.ledgers: dict[str, dict[bytes, Loan]] = {}
        self.ids = 0
        self.leaps = 0
        self._begin()

    def _begin(self) -> None:
        """Begin with nothing, at the time that it is."""
        self.engine = self._engine()
        self.engine.listen(self._record, *get_args(Change))
        self.model = model.Model(HANDLES, SESSIONS_PER_ADDRESS)
        self.model.now = self.now
        self.changes: list[Change] = []
        self.entries: list[Entry] = []
        self.last: Record | None = None
        self.requests: list[tuple[int, Request]] = []
        self.tokens: list[bytes] = []
        self.handles = 0
        self.writing: list[Lending] = []

    def _engine(self) -> Engine:
        return Engine(LicenseClock(lambda: self.now, lambda: self.now - self.leaps), _raise, self.limits)

    def _record(self, record: Record) -> None:
        self.changes += record.changes
        denied = record.request if record.refusal and record.refusal.number is ErrorNumber.NO_MORE_LICENSES else None
        assert denied is None or isinstance(denied, Request)
        self.entries.append(Entry(record.position, record.at, record.session, record.changes, denied))
        self.last = record

    @initialize(
        contents=st.tuples(CONTENTS, CONTENTS),
        started=st.sampled_from([True, True, True, False]),
        most=st.sampled_from([2**32 - 1] * 4 + [60, 0]),
        keep=st.sampled_from([0, 0, 0, 1]),
        each=st.sampled_from([20, 20, 20, 2]),
    )
    def two_containers(
        self, contents: tuple[list[ProductItem], list[ProductItem]], started: bool, most: int, keep: int, each: int
    ) -> None:
        """Begin with two containers, mostly of one product."""
        self.limits = self.engine.limits = replace(
            self.limits, borrow_maximum=most, borrow_keep=keep, borrow_per_address=each
        )
        for name, items in zip(CONTAINERS, contents, strict=False):
            self._plug(container(name, 10, items))
        if started:
            self._start()

    # sessions

    @rule(
        machine=st.sampled_from(["a", "b", "c"]),
        seat=st.sampled_from([0, 0, 0, 1]),
        application=st.sampled_from(["cad", "cad", "cam"]),
        address=st.sampled_from(ADDRESSES),
        local=st.booleans(),
    )
    def open(self, machine: str, seat: int, application: str, address: str, local: bool) -> None:
        """A client greets."""
        self._open(machine, seat, application, address, local)

    def _open(self, machine: str, seat: int, application: str, address: str, local: bool) -> Session | None:
        token_hash = len(self.tokens).to_bytes(32, "big")
        self.tokens.append(token_hash)
        client, station = Client(machine, "fs", 1, application), Station(machine, seat)
        crowded = self.model.crowded(address)
        session, why = _asked(lambda: self.engine.open(token_hash, client, station, address, local))
        assert why == ((ErrorNumber.REQUEST_OVERLOAD, None, ()) if crowded else None)
        if session is not None:
            self.model.clients.append(model.Client(session.id, station, application, address, local))
        return session

    def _someone(self, which: int) -> Session:
        """Return a client that is connected; if there is none, one comes."""
        table = self.engine.table
        here = [session for session in table.sessions.values() if session.state is SessionState.ATTACHED]
        if here:
            return here[which % len(here)]
        session = self._open("a", 0, "cad", f"198.51.100.{len(self.tokens)}", local=False)
        assert session is not None
        return session

    @precondition(lambda self: self.model.clients)
    @rule(which=ANY, how=st.sampled_from(["closed", "closed", "silent", "over"]))
    def leave(self, which: int, how: str) -> None:
        """A connection goes: closed, or without a word; or a session is over."""
        client = self._one(self.model.clients, which)
        session = self.engine.table.sessions[client.number]
        if how == "over":
            self.engine.close(session)
            self.model.closed(client)
        else:
            self.engine.detach(session, closed=how == "closed")
            if client.state == "attached":
                client.state = how

    @rule(which=ANY, address=st.sampled_from(ADDRESSES), local=st.booleans())
    def resume(self, which: int, address: str, local: bool) -> None:
        """A client comes back with its token, or takes its session over, or has a token of old."""
        token_hash = self._one([*self.tokens[-6:], b"?" * 32], which)
        number = next((s.id for s in self.engine.table.sessions.values() if s.token_hash == token_hash), None)
        session, why = _asked(lambda: self.engine.resume(token_hash, address, local))
        assert why == (None if number else (ErrorNumber.INVALID_HANDLE, None, ()))
        if session is not None:
            assert session.id == number
            client = self.model.client(session.id)
            self.model.resumed(client, address, local)

    # accesses

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=4))
    def access(self, wishes: list[Wish]) -> None:
        """Clients ask for licenses."""
        for who, mode, product_code, feature_code, pin, item, released, force, ignores, life in wishes:
            asked = Request(self._key(), 10, product_code, mode, HandleKind.ENTRY, feature_code, pin, item)
            asked = replace(asked, release_date=released, force=force, ignore_linger=ignores, maximum_life=life)
            self._ask(self._someone(who), asked)

    @rule(who=ANY, mode=st.sampled_from([AccessMode.STATION_SHARE, *AccessMode]), instances=st.integers(2, 4))
    def instances(self, who: int, mode: AccessMode, instances: int) -> None:
        """Several instances of one application start."""
        session = self._someone(who)
        for _ in range(instances):
            self._ask(session, Request(self._key(), 10, 14, mode))

    def _key(self) -> AccessKey:
        return AccessKey(len(self.requests).to_bytes(16, "big"))

    @rule(
        who=ANY,
        kind=st.sampled_from([HandleKind.FIRM_ITEM, HandleKind.CONTAINER, HandleKind.SUBSYSTEM]),
        firm_code=st.sampled_from([0, 10, 20, 30]),
        pin=PINS,
        life=st.sampled_from([0, 0, 40]),
    )
    def refer(self, who: int, kind: HandleKind, firm_code: int, pin: str | None, life: int) -> None:
        """A client asks for a handle of another kind."""
        asked = Request(self._key(), firm_code, kind=kind, container=pin, maximum_life=life)
        self._ask(self._someone(who), asked)

    @precondition(lambda self: self.requests)
    @rule(
        which=ANY,
        other=st.sampled_from(
            [
                {},
                {},
                {"mode": AccessMode.EXCLUSIVE},
                {"container": "3-1"},
                {"container": None},
                {"firm_code": 0},
                {"kind": HandleKind.CONTAINER},
                {"feature_code": 1},
                {"release_date": START - 50},
                {"force": True},
                {"ignore_linger": True},
                {"maximum_life": 40},
                {"cleanup_time": 40},
            ]
        ),
    )
    def again(self, which: int, other: dict[str, Any]) -> None:
        """A client repeats a request, or uses its key for another one."""
        number, request = self._one(self.requests, which)
        session = self.engine.table.sessions.get(number)
        if session is not None and session.state is SessionState.ATTACHED:
            self._ask(session, replace(request, **other))

    def _ask(self, session: Session, request: Request) -> None:
        client = self.model.client(session.id)
        self.requests.append((session.id, request))
        expected = self.model.refusal(client, request)
        known = self.model.held(client, request.key)
        changes = len(self.changes)
        held, why = _asked(lambda: self.engine.access(session, request))
        assert why == expected
        if held is None:
            assert len(self.changes) == changes, "a refusal changes nothing"
            return
        if known is not None:
            assert held.handle == known.handle, "the same key, the same handle"
            assert len(self.changes) == changes
            return
        assert self.last is not None
        endings = self.last.changes
        ended = [change.handle for change in endings if isinstance(change, c.Left | c.Freed | c.Lingering)]
        self.model.superseded(client, request, ended)
        assert held.handle > self.handles, "no handle is given twice"
        self.handles = held.handle
        self.model.granted(client, request, held.handle, self.now, _place(held))

    @rule(who=ANY, handle=ANY, own=st.sampled_from([True, True, True, False]), releases=st.booleans())
    def handle(self, who: int, handle: int, own: bool, releases: bool) -> None:
        """A client gives back a handle, or asks about it: one of its own, or anyone's, live or not."""
        session, number, expected = self._some_handle(who, handle, own)
        if releases:
            _, why = _asked(lambda: self.engine.release(session, Release(number)))
            assert why == expected
            if why is None:
                self.model.let_go(self.model.hold(number))
        else:
            held, why = _asked(lambda: self.engine.use(session, Info(number)))
            assert why == expected
            if held is not None:
                assert held.handle == number
                self.model.hold(number).last = self.now

    def _some_handle(self, who: int, handle: int, own: bool) -> tuple[Session, int, model.Why | None]:
        session = self._someone(who)
        client = self.model.client(session.id)
        mine = self.model.handles_of(client)
        number = self._one(mine, handle) if own and mine else 1 + handle % (self.handles + 1)
        return session, number, self.model.refusal_of_handle(client, number)

    @precondition(lambda self: self.model.holds)
    @rule(which=ANY, how=st.sampled_from(["allocation", "access", "session"]), hold_off=st.sampled_from([0, 40, 400]))
    def deallocate(self, which: int, how: str, hold_off: int) -> None:
        """An operator takes an allocation, one access, or all of a session; what others have of it stands."""
        hold = self._one(self.model.holds, which)
        going = {
            "allocation": self.model.instances(hold),
            "access": [hold],
            "session": [one for one in self.model.holds if one.client is hold.client],
        }[how]
        handles = frozenset(one.handle for one in going)
        seen = frozenset[int]() if which % 2 else handles
        if how == "session":
            done = self.engine.deallocate_all(hold.client.number, seen=seen, hold_off=hold_off)
        else:
            done = self.engine.deallocate(hold.handle, alone=how == "access", seen=seen, hold_off=hold_off)
        before = self.model.occupancy()
        self.model.deallocated(going, hold_off)
        assert {handle for handle, _, _ in done.accesses} == handles
        assert done.licenses == before - self.model.occupancy()

    # borrowing

    @rule(loans=st.lists(LOANS, min_size=1, max_size=3))
    def borrow(self, loans: list[tuple[int, str, int, int, str | None, int, str]]) -> None:
        """Clients take licenses along, or have them sent in a file; each has an id and a key of its own."""
        for who, how, product_code, feature_code, pin, seconds, when in loans:
            asked = self._loan_asked(seconds)
            asked |= {"product_code": product_code, "feature_code": feature_code, "container": pin}
            session = self._someone(who)
            if how == "file":
                request: Borrow | Lend = Lend(client=Client("far", "fs", 1), station=Station("far"), **asked)
            else:
                mine = self.model.handles_of(self.model.client(session.id))
                handle = self._one(mine, who) if how == "handle" and mine else 0
                request = Borrow(time=self.now, handle=handle, **asked)
            self._borrow(session, request, when)

    def _loan_asked(self, seconds: int) -> dict[str, Any]:
        self.ids += 1
        name = LoanId(self.ids.to_bytes(16, "big"))
        return {"id": name, "holder": self.ids.to_bytes(32, "big"), "seconds": seconds, "firm_code": 10}

    @rule(
        who=ANY,
        mode=st.sampled_from(AccessMode),
        instances=st.sampled_from([1, 1, 1, 2]),
        gone=st.booleans(),
        others=st.integers(0, 3),
        how=st.sampled_from(["taken", "taken", "refused", "later", "lost"]),
    )
    def convert(self, who: int, mode: AccessMode, instances: int, gone: bool, others: int, how: str) -> None:
        """A client borrows what it holds; before the container has it, it may lose it, and others come."""
        session = self._someone(who)
        for _ in range(instances):
            self._ask(session, Request(self._key(), 10, 14, mode))
        mine = self.model.handles_of(self.model.client(session.id))
        if not mine:
            return
        self._borrow(session, Borrow(time=self.now, handle=mine[-1], **self._loan_asked(60)), "later")
        if gone and mine[-1] in self.engine.table.accesses:
            self.engine.release(session, Release(mine[-1]))
            self.model.let_go(self.model.hold(mine[-1]))
        for other in range(others):
            self._ask(self._someone(who + other), Request(self._key(), 10, 14, mode))
        if self.writing and how != "later":
            self._settle(self.writing[-1], how, 0)

    @precondition(lambda self: self.model.boxes)
    @rule(
        which=ANY,
        how=st.sampled_from(["lent", "lent", "given back", "longer", "another"]),
        item=ANY,
        quantity=st.sampled_from([1, 1, 2]),
        seconds=st.sampled_from([10, 100, 300]),
    )
    def elsewhere(self, which: int, how: str, item: int, quantity: int, seconds: int) -> None:
        """A container was at another server, or in its place is an older copy: its ledger is another one."""
        box = self._one(list(self.model.boxes.values()), which)
        ledger = self.ledgers.setdefault(box.contents.id, {})
        name = self._one(list(ledger), which) if ledger else b""
        if how == "given back" and ledger:
            del ledger[name]
        elif how == "longer" and ledger:
            ledger[name] = replace(ledger[name], end=ledger[name].end + seconds)
        else:
            asked = self._loan_asked(seconds)
            name = name if how == "another" and ledger else asked["id"]
            ledger[name] = Loan(name, 10, 1 + item % 3, quantity, self.now + seconds, asked["holder"])
        self._plug(box.contents)

    @precondition(lambda self: self.model.loans)
    @rule(
        who=ANY,
        which=ANY,
        seconds=st.sampled_from([1, 30, 90, 120]),
        own=st.sampled_from([True] * 5 + [False]),
        when=st.sampled_from(["taken", "taken", "later", "refused", "lost"]),
    )
    def borrow_for_longer(self, who: int, which: int, seconds: int, own: bool, when: str) -> None:
        """A loan is asked for again, by its holder on its station, or by whom it may be, also as it is on its way."""
        loan = self._one(self.model.loans, which)
        holder = loan.holder if own else bytes(32)
        client, station = Client("far", "fs", 1), Station("far")
        if own and loan.station is not None:
            client, station = Client(loan.host, "fs", 1), loan.station
        asked = Lend(
            id=loan.id, holder=holder, seconds=seconds, client=client, station=station, firm_code=10, product_code=14
        )
        self._borrow(self._someone(who), asked, when)

    def _borrow(self, session: Session, request: Borrow | Lend, when: str) -> None:
        asker = None
        if isinstance(request, Lend):
            station, host = request.station, request.client.host
        else:
            station, host = session.station, session.client.host
            asker = self.model.client(session.id)
        limits = self.limits
        expected = lending.decided(
            self.model,
            asker,
            station,
            request,
            limits.borrow_maximum,
            limits.borrow_keep,
            limits.borrow_per_address,
        )
        changes = len(self.changes)
        lends, why = _asked(
            lambda: (
                self.engine.borrow(session, request) if isinstance(request, Borrow) else self.engine.lend(request, "")
            )
        )
        if lends is None:
            assert why == expected
            assert len(self.changes) == changes, "a refusal changes nothing"
            return
        assert isinstance(expected, lending.Choice), expected
        entry, loan = expected.entry, lends.loan
        assert (lends.license.container, loan.firm_code, loan.reference) == entry
        known = [one for one in self.model.loans if one.id == request.id]
        if known:
            assert loan.end == lending.prolonged(self.model, known[0], request.seconds)
        else:
            assert loan.end == lending.end_of(self.model, entry, request.seconds)
        quantity = known[0].quantity if known else 1
        assert (loan.id, loan.quantity, loan.holder) == (request.id, quantity, request.holder)
        assert lends.new == (not known)
        if lends.new:
            self._lent_is(lends, entry, station, host, loan.end)
            if not expected.needs_unit:
                self.model.converting[lends.handle] = (entry[0], loan.id)
        assert (len(self.changes) > changes) == lends.new, "what need not be reserved changes nothing"
        self.writing.append(lends)
        if when != "later":
            self._settle(lends, when, 0)

    def _lent_is(self, lends: Lending, entry: model.Entry, station: Station, host: str, last: int) -> None:
        """Take in a new loan."""
        number = self.engine.table.lent[lends.license.container, lends.loan.id].number
        assert number > self.handles, "no handle is given twice, nor the number of a loan"
        self.handles = number
        self.model.loans.append(
            model.Out(
                lends.loan.id,
                entry,
                number,
                lends.loan.quantity,
                last,
                lends.loan.holder,
                station,
                host,
                lends.asker.address,
                self.now,
            )
        )

    @precondition(lambda self: self.writing)
    @rule(which=ANY, how=st.sampled_from(["taken", "taken", "taken", "refused", "lost"]), longer=st.integers(0, 1))
    def settle(self, which: int, how: str, longer: int) -> None:
        """A container writes a loan into its ledger, or refuses it; or it does and nobody learns of it.

        It refuses what has the id of another one in its ledger.
        """
        self._settle(self._one(self.writing, which), how, longer)

    def _settle(self, lends: Lending, how: str, longer: int) -> None:
        self.writing.remove(lends)
        loan = lends.loan
        ledger = self.ledgers.setdefault(lends.license.container, {})
        if loan.id in ledger and replace(ledger[loan.id], end=loan.end) != loan:
            how = "refused"
        if how == "refused":
            self.engine.not_lent(lends)
            known = self._loan(lends.license.container, loan.id)
            if lends.new and known is not None and (known.quantity, known.holder) == (loan.quantity, loan.holder):
                self.model.struck(known)
            return
        last = max(loan.end + longer, ledger[loan.id].end if loan.id in ledger else 0)
        ledger[loan.id] = replace(loan, end=last)
        if how == "taken":
            self._taken(lends, last)

    def _taken(self, lends: Lending, last: int) -> None:
        """The server learns that a container has a loan: somebody may have to leave for it."""
        name = lends.license.container, lends.loan.id
        becoming = [handle for handle, loan in self.model.converting.items() if loan == name]
        for hold in [hold for hold in self.model.holds if hold.handle in (lends.handle, *becoming)]:
            asker = lends.asker.session
            self.model.end(hold, None if asker is not None and asker.id == hold.client.number else EndCause.LENT)
        before = {handle: session for handle, session in self._handles().items() if self._is_held(handle)}
        loan = self.engine.lent(lends, last)
        assert loan.end == last
        entry = (str(lends.license.container), lends.license.firm_code, lends.license.item)
        station, host = lends.asker.station, lends.asker.client.host
        known = self._loan(lends.license.container, loan.id)
        if known is None:
            self._lent_is(lends, entry, station, host, last)
            if self.model.item(entry) is not None:
                self.model.crowd_out(entry, self._outcome(before), self._lefts())
        elif (known.end, known.station is None) != (last, False):
            known.address = lends.asker.address if known.station is None else known.address
            known.end, known.station, known.host = last, station, host

    def _is_held(self, handle: int) -> bool:
        return any(hold.handle == handle for hold in self.model.holds)

    def _loan(self, container: str, name: bytes) -> model.Out | None:
        """Return what the model knows of a loan."""
        return next((one for one in self.model.loans if (one.entry[0], one.id) == (container, name)), None)

    @precondition(lambda self: any(self.ledgers.values()))
    @rule(which=ANY)
    def give_back(self, which: int) -> None:
        """A container strikes off a loan that its holder gave back; doing so again changes nothing."""
        where = [(container, loan) for container, ledger in self.ledgers.items() for loan in ledger]
        container, loan = self._one(where, which)
        del self.ledgers[container][loan]
        known = self._loan(container, loan)
        assert self.engine.given_back(ContainerId(container), loan) == (known is not None)
        if known is not None:
            self.model.struck(known)
        position = self.engine.position
        assert not self.engine.given_back(ContainerId(container), loan)
        assert self.engine.position == position

    @precondition(lambda self: self.model.loans)
    @rule(sure=st.integers(0, 3))
    def wipe(self, sure: int) -> None:
        """The server's state is lost; what is lent stands in the ledgers, and counts when the containers are read."""
        if sure:  # now and then will do: all else is lost with it
            return
        boxes = [box.contents for box in self.model.boxes.values()]
        self._begin()
        for contents in boxes:
            self._plug(contents)
        self._start()

    @rule(short=st.booleans())
    def restart(self, short: bool) -> None:
        """The server is killed and begins anew with what its journal has, compacted or not."""
        self.writing.clear()
        table, position = self.engine.table, self.engine.position
        self.changes = list(history.shortest(table)) if short else self.changes
        self.engine = self._engine()
        self.engine.restore(Kept(self.changes, position, self.now))
        assert facts(self.engine.table) == facts(table)
        self.engine.listen(self._record, *get_args(Change))
        self.engine.restart()
        self.model.restarted()

    # containers

    @precondition(lambda self: self.model.starting)
    @rule()
    def start(self) -> None:
        """Every driver has looked once."""
        self._start()

    def _start(self) -> None:
        self.engine.started()
        self.model.starting = False

    @precondition(lambda self: self.model.boxes)
    @rule(which=ANY, how=st.sampled_from(["missing", "missing", "gone"]), slice_=st.integers(1, 3))
    def pull(self, which: int, how: str, slice_: int) -> None:
        """A container is pulled out, or is gone for good."""
        name = self._one(list(self.model.boxes), which)
        if how == "missing":
            self.engine.unplug(ContainerId(name))
            self.model.missed(name)
        else:
            before = self._handles()
            while self.engine.vacate(ContainerId(name), slice_):
                invariants.check(self.engine.table)
            self.engine.remove(ContainerId(name))
            self.model.unplugged(name, self._outcome(before), self._lefts())

    @precondition(lambda self: not all(box.present for box in self.model.boxes.values()))
    @rule(which=ANY)
    def put_back(self, which: int) -> None:
        """A container that was pulled out comes back as it was."""
        self._plug(self._one([box for box in self.model.boxes.values() if not box.present], which).contents)

    @rule(
        name=st.sampled_from(CONTAINERS),
        firm_code=FIRM_CODES,
        items=CONTENTS,
        trusted=st.sampled_from([True] * 9 + [False]),
    )
    def program(self, name: str, firm_code: int, items: list[ProductItem], trusted: bool) -> None:
        """A container comes, new or again, or is changed where it is."""
        self._plug(container(name, firm_code, items, trusted))

    @precondition(lambda self: self.model.boxes)
    @rule(which=ANY, item=ANY, quantity=st.sampled_from([0, 1, 2, 3]), other=st.none() | ITEMS)
    def change(self, which: int, item: int, quantity: int, other: ProductItem | None) -> None:
        """One item of a container gets another quantity, or other options."""
        contents = self._one(list(self.model.boxes.values()), which).contents
        items = list(contents.firm_items[0].products)
        if not items:
            return
        at = item % len(items)
        items[at] = replace(other or items[at], reference=items[at].reference, quantity=quantity)
        self._plug(container(contents.id, contents.firm_items[0].firm_code, items))

    def _plug(self, contents: Container) -> None:
        before = self._handles()
        ledger = dict(self.ledgers.get(contents.id, {}))
        writing = {lends.loan.id for lends in self.writing if lends.license.container == contents.id}
        self.engine.plug(contents, ledger.values(), writing)
        lent = self.engine.table.lent.values()
        numbers = {loan.id: loan.number for loan in lent if loan.license.container == contents.id}
        loans = lending.reconciled(self.model, contents.id, ledger.values(), writing, numbers)
        self.handles = max([self.handles, *(loan.number for loan in loans)])
        self.model.plugged(contents, loans, self._outcome(before), self._lefts())

    @precondition(lambda self: self.engine.table.licenses)
    @rule(which=ANY, units=st.integers(0, 2), begins=st.booleans())
    def consume(self, which: int, units: int, begins: bool) -> None:
        """A container counts a use."""
        license_id: LicenseId = self._one(list(self.engine.table.licenses), which)
        item = self.engine.table.licenses[license_id].item
        used, start = item.units_used + units, item.usage_start or (self.now if begins else 0)
        self.engine.consumed(license_id, used, start)
        self.model.consumed((license_id.container, license_id.firm_code, license_id.item), used, start)

    def _lefts(self) -> list[model.Left]:
        """Return what lingers in the server."""
        return [
            model.Left(_entry(allocation), allocation.station, allocation.mode, self.engine.table.elapsed.comes(until))
            for until, _, allocation in self.engine.table.lingers
        ]

    def _handles(self) -> dict[int, Session]:
        return {held.handle: held.session for held in self.engine.table.accesses.values()}

    def _outcome(self, before: dict[int, Session]) -> model.Outcome:
        """Return what the server made of the accesses that there were."""
        touched = [
            change.handle
            for change in (self.last.changes if self.last else ())
            if isinstance(change, c.Moved | c.Left | c.Freed)
        ]
        assert len(touched) == len(set(touched)), "nobody is moved twice, or moved and then ended"
        outcome: model.Outcome = {}
        for handle, session in before.items():
            held = self.engine.table.accesses.get(handle)
            if held is None:
                outcome[handle] = next(e.cause for e in (session.ended or {}).values() if e.handle == handle)
            else:
                place = _place(held)
                outcome[handle] = place if isinstance(place, tuple) else None
        return outcome

    @rule(seconds=st.integers(1, 100), late=st.sampled_from([False, False, True]), slice_=st.sampled_from([1, 2, 100]))
    def time_passes(self, seconds: int, late: bool, slice_: int) -> None:
        """Time passes, and what is due happens; or that comes late."""
        self.now += seconds
        self.model.now = self.now
        if not late:
            before = self._handles()
            while self.engine.advance(slice_):
                invariants.check(self.engine.table)
            self.model.passed(self._outcome(before), self._lefts())
            due = self.engine.due()
            assert due is None or due > self.now

    @rule(seconds=st.integers(3, 150), slice_=st.sampled_from([1, 100]))
    def time_leaps(self, seconds: int, slice_: int) -> None:
        """Somebody sets the system clock forward, which is noticed within a second; what is due then happens."""
        self.now += seconds + 1
        self.leaps += seconds
        self.model.leapt(seconds)
        self.model.now = self.now
        before = self._handles()
        while self.engine.advance(slice_):
            invariants.check(self.engine.table)
        self.model.passed(self._outcome(before), self._lefts())

    @rule(seconds=st.integers(1, 150))
    def time_is_set(self, seconds: int) -> None:
        """A certified update sets the license time back."""
        assert self.engine.clock.now() == self.now
        self.now -= seconds
        self.engine.set_time(self.now)
        self.model.time_set(self.now)

    # what must hold

    @invariant()
    def sound(self) -> None:
        """The table is sound by itself: laws 1, 5 and 6."""
        invariants.check(self.engine.table)

    @invariant()
    def agreed(self) -> None:
        """Server and model know the same clients, accesses and containers, and count the same."""
        table, model_ = self.engine.table, self.model
        was, comes = table.elapsed.was, table.elapsed.comes
        assert {
            held.handle: (held.session.id, held.key, _place(held), was(held.first), was(held.last))
            for held in table.accesses.values()
        } == {
            hold.handle: (hold.client.number, hold.request.key, hold.entry or hold.container, hold.first, hold.last)
            for hold in model_.holds
        }
        assert {handle: comes(end) for end, handle, _ in table.lives} == {
            hold.handle: hold.ends for hold in model_.holds if hold.request.maximum_life
        }
        assert {
            (s.id, s.station, s.client.application, s.address, s.local, s.state.value) for s in table.sessions.values()
        } == {(s.number, s.station, s.application, s.address, s.local, s.state) for s in model_.clients}
        assert {name: (box.contents, box.present) for name, box in table.containers.items()} == {
            name: (box.contents, box.present) for name, box in model_.boxes.items()
        }
        for counted in table.licenses.values():
            entry = (str(counted.id.container), counted.id.firm_code, counted.id.item)
            used = model_.used(entry, model_.taken)
            assert counted.used == used
            assert used <= max(counted.item.quantity, model_.out(entry)), "law 1"
            assert counted.lent == model_.out(entry)
            assert counted.item == model_.item(entry)
        assert sorted(self._lefts(), key=repr) == sorted(model_.lefts, key=repr)
        assert {_facts(loan) for loan in table.lent.values()} == {
            (*_facts_of(loan), loan.station, loan.host, loan.address) for loan in model_.loans
        }
        assert {
            handle: (str(container), loan) for handle, (container, loan) in table.converting.items()
        } == model_.converting
        for product in table.products.values():
            order = [(str(one.id.container), one.id.firm_code, one.id.item) for one in product.licenses]
            assert order == model_.entries(product.firm_code, product.product_code)

    def teardown(self) -> None:
        """Law 7: all changes, through bytes and back, give the same table; so does the shortest history."""
        assert dump(replayed(self.changes)) == dump(self.engine.table)
        assert facts(replayed(history.shortest(self.engine.table))) == facts(self.engine.table)
        tracked.check(self.entries, self.engine.table)

    # small words

    @staticmethod
    def _one(among: list[Any], which: int) -> Any:
        return among[which % len(among)]


def _place(held: Access) -> model.Entry | str | None:
    target = held.target
    return _entry(target) if isinstance(target, Allocation) else target.container


def _entry(allocation: Allocation) -> model.Entry:
    entry = allocation.license.id
    return str(entry.container), entry.firm_code, entry.item


def _facts(loan: Lent) -> tuple[object, ...]:
    name = loan.license
    entry = (str(name.container), name.firm_code, name.item)
    host = loan.client.host if loan.client else None
    return (
        loan.id,
        entry,
        loan.number,
        loan.quantity,
        loan.end,
        loan.holder,
        loan.first,
        loan.station,
        host,
        loan.address,
    )


def _facts_of(loan: model.Out) -> tuple[object, ...]:
    return loan.id, loan.entry, loan.number, loan.quantity, loan.end, loan.holder, loan.first


def _asked(ask: Callable[[], T]) -> tuple[T | None, model.Why | None]:
    """Return the server's answer, or how it refuses."""
    try:
        return ask(), None
    except Refused as refused:
        reasons = tuple((r.container, r.firm_code, r.product_code, r.item, r.number) for r in refused.reasons)
        return None, (refused.number, refused.cause, reasons)


def _raise(_: Listener, error: Exception) -> None:
    raise error


def test_server_and_model_agree() -> None:
    """Fifteen times as many histories as the profile has examples, each of up to fifty steps (`tests/conftest.py`)."""
    profile = settings()
    run_state_machine_as_test(
        Server, settings=settings(profile, max_examples=15 * profile.max_examples, stateful_step_count=50)
    )
