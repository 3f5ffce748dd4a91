"""A license server without the server: containers, clients and an engine, in the few words that a test needs.

After every passage through the engine the whole table is counted anew (`invariants.check`), in every test.
"""

from __future__ import annotations

from typing import Any, get_args

import pytest

from cmserverd.clock import LicenseClock
from cmserverd.core.changes import Change
from cmserverd.core.refusal import Refused
from cmserverd.core.rules import Limits
from cmserverd.core.terms import Access, Allocation, Lent, License, LicenseId, Session
from cmserverd.engine import Engine, Listener, Record
from drivers.container import Container, ContainerId, ContainerKind, FirmItem, ProductItem
from protocol.messages import Access as AccessRequest
from protocol.messages import AccessKey, Borrow, Info, LoanId, Release
from protocol.terms import AccessMode, Client, HandleKind, Station
from tests.core import invariants

FIRM = 600_010
PRODUCT = 14
START = 1_800_000_000

USER_LIMIT = AccessMode.USER_LIMIT
STATION_SHARE = AccessMode.STATION_SHARE
EXCLUSIVE = AccessMode.EXCLUSIVE
NO_USER_LIMIT = AccessMode.NO_USER_LIMIT


def container(*items: ProductItem, id: str = "3-1", firm: int = FIRM) -> Container:  # noqa: A002 - the field's name
    """Return a container with these product items under one firm code."""
    return Container(ContainerId(id), ContainerKind.VIRTUAL, "", (FirmItem(firm, "", 1, items),))


def item(reference: int = 1, quantity: int = 1, product: int = PRODUCT, **options: Any) -> ProductItem:
    """Return a product item."""
    return ProductItem(reference, product, quantity=quantity, **options)


class Scene:
    """An engine with these containers plugged in. `now` is the time; `records` are all passages so far.

    Set `checking` to False where a test makes thousands of passages, and check at its end.
    """

    def __init__(self, *containers: Container, started: bool = True, limits: Limits | None = None) -> None:
        self.now = START
        self.records: list[Record] = []
        self.checking = True
        self.leapt = 0
        self.engine = Engine(LicenseClock(lambda: self.now, lambda: self.now - self.leapt), _raise, limits)
        self.engine.listen(self._watch, *get_args(Change))
        self.table = self.engine.table
        self._keys = 0
        self._sessions = 0
        for contents in containers:
            self.engine.plug(contents)
        if started:
            self.engine.started()

    def _watch(self, record: Record) -> None:
        self.records.append(record)
        if self.checking:
            invariants.check(self.table)

    @property
    def changes(self) -> list[Change]:
        """Everything that has happened to the table."""
        return [change for record in self.records for change in record.changes]

    # clients

    def session(
        self,
        machine: str = "pc",
        seat: int = 0,
        *,
        application: str = "cad",
        address: str = "192.0.2.1",
        local: bool = False,
    ) -> Session:
        """Open a session."""
        self._sessions += 1
        token_hash = self._sessions.to_bytes(32, "big")
        client = Client(machine.upper(), "fs", self._sessions, application)
        return self.engine.open(token_hash, client, Station(machine, seat), address, local)

    def request(
        self, mode: AccessMode = USER_LIMIT, key: int = 0, product: int = PRODUCT, **asked: Any
    ) -> AccessRequest:
        """Return the request for an access; without a `key`, with a new one."""
        self._keys += 1
        number = key or 1_000_000 + self._keys
        asked.setdefault("firm_code", FIRM)
        return AccessRequest(AccessKey(number.to_bytes(16, "big")), product_code=product, mode=mode, **asked)

    def access(self, session: Session, mode: AccessMode = USER_LIMIT, **asked: Any) -> Access:
        """Have a session ask for a license, and get it."""
        return self.engine.access(session, self.request(mode, **asked))

    def refused(self, session: Session, mode: AccessMode = USER_LIMIT, **asked: Any) -> Refused:
        """Have a session ask for a license, and be refused."""
        with pytest.raises(Refused) as refusal:
            self.engine.access(session, self.request(mode, **asked))
        return refusal.value

    def refer(self, session: Session, kind: HandleKind, **asked: Any) -> Access:
        """Have a session ask for a handle that allocates nothing."""
        return self.access(session, kind=kind, **asked)

    def release(self, held: Access) -> None:
        """Have the holder give a handle back."""
        self.engine.release(held.session, Release(held.handle))

    def lingered(self, held: Access) -> None:
        """Have the holder give back a handle whose license lingers then."""
        allocation = booked(held)
        self.release(held)
        assert self.table.elapsed.comes(allocation.until) == self.now + allocation.license.item.linger

    # borrowing

    def loan(self, number: int = 1, seconds: int = 100, *, holder: int = 1, **asked: Any) -> Borrow:
        """Return the request to borrow, with an id and a holder's key that these numbers stand for."""
        asked.setdefault("firm_code", FIRM)
        asked.setdefault("product_code", PRODUCT)
        key = holder.to_bytes(32, "big")
        return Borrow(id=LoanId(number.to_bytes(16, "big")), holder=key, seconds=seconds, time=self.now, **asked)

    def borrow(self, session: Session, number: int = 1, seconds: int = 100, **asked: Any) -> Lent:
        """Have a session borrow, and its container take the loan into its ledger as it was asked to."""
        lending = self.engine.borrow(session, self.loan(number, seconds, **asked))
        return self.engine.lent(lending, lending.loan.end)

    def not_lent(self, session: Session, number: int = 1, seconds: int = 100, **asked: Any) -> Refused:
        """Have a session ask to borrow, and be refused."""
        with pytest.raises(Refused) as refusal:
            self.engine.borrow(session, self.loan(number, seconds, **asked))
        return refusal.value

    def use(self, session: Session, handle: int) -> Access:
        """Have a session ask about a handle."""
        return self.engine.use(session, Info(handle))

    def gone(self, held: Access) -> Refused:
        """Return what the holder of a handle that is valid no longer hears about it."""
        with pytest.raises(Refused) as refusal:
            self.engine.use(held.session, Info(held.handle))
        return refusal.value

    def pass_time(self, seconds: int) -> None:
        """Let so many seconds pass, and what is due then happen."""
        self.now += seconds
        while self.engine.advance(2):
            pass

    def leap(self, seconds: int) -> None:
        """Set the system clock forward, which is noticed a second later."""
        self.leapt += seconds
        self.pass_time(seconds + 1)

    # what is counted

    def license(self, where: str = "3-1", reference: int = 1) -> License:
        """Return the counts of one entry."""
        return self.table.licenses[LicenseId(ContainerId(where), FIRM, reference)]

    def used(self, where: str = "3-1", reference: int = 1) -> int:
        """Return how many licenses of one entry are in use."""
        return self.license(where, reference).used


def place(held: Access) -> tuple[str, int]:
    """Return the container and the item that an access is booked on."""
    allocation = booked(held)
    return allocation.license.id.container, allocation.license.id.item


def booked(held: Access) -> Allocation:
    """Return the allocation of an access."""
    assert isinstance(held.target, Allocation)
    return held.target


def _raise(_: Listener, error: Exception) -> None:
    raise error
