"""A dongle whose licenses can be borrowed, and borrowers: what their library does, written once more for the tests."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from hashlib import sha256
from struct import Struct as Layout

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct
from trio.testing import MockClock

from cmserverd import lending as loans
from cmserverd.clock import LicenseClock
from cmserverd.core.changes import Change
from cmserverd.devices import OpenDevice
from drivers import image
from drivers.chip.chip import Chip
from drivers.container import (
    Allowance,
    Borrowing,
    Container,
    ContainerId,
    ContainerKind,
    FirmItem,
    Loan,
    ProductItem,
    QuantityFlag,
    container_id,
)
from drivers.trust import NOBODY, Trust
from protocol import messages as m
from protocol.terms import Client, Station
from tests.daemon.harness import FIRM, MONITOR, AsyncClient, make_service, rig, until
from tests.daemon.plugs import POLL, Bench
from tests.daemon.test_crypt import PUBLIC, Stick, plugged

CHARTS, SCARCE, FIXED, UNITS, USAGE, LOCAL = 14, 15, 16, 17, 18, 19
DAY = 86_400
BOX = ContainerId("3-7")
NOW = 1_900_000_000
_SAID = Layout("<9s40s16s32s32sIIIIIqq")
_FIRM_HEAD = Layout("<8s40sII")


def lendable(*more: ProductItem, quantity: int = 2, serial: int = 7) -> Container:
    """Return a container with licenses of each kind that matters for borrowing."""
    items = (
        ProductItem(1, CHARTS, "Charts", quantity, borrowing=Borrowing(30 * DAY)),
        ProductItem(2, SCARCE, "Scarce", 5, borrowing=Borrowing(3_600, 2)),
        ProductItem(3, FIXED, "Fixed", 2),
        ProductItem(4, UNITS, "Units", 2, units=Allowance(9), borrowing=Borrowing(DAY)),
        ProductItem(5, USAGE, "Usage", 2, usage=Allowance(DAY), borrowing=Borrowing(30 * DAY)),
        ProductItem(6, LOCAL, "Local", 2, QuantityFlag.LOCAL_ONLY, borrowing=Borrowing(DAY)),
        *more,
    )
    return Container(container_id(3, serial), ContainerKind.HARDWARE, "Lends", (FirmItem(FIRM, "Works", 4, items),))


def ledger(stick: Stick) -> dict[bytes, Loan]:
    """Return what the dongle's own ledger has."""
    chip = stick.firmware._chip
    assert isinstance(chip, Chip)
    return loans_of(chip.image)


def loans_of(octets: bytes) -> dict[bytes, Loan]:
    """Return the ledger in an image."""
    return {loan.id: loan for loan in image.parse(octets, NOBODY).state.loans}


class Certificate(Struct, frozen=True):
    """What a certificate says of a loan."""

    loan: bytes
    product_code: int
    item: int
    start: int
    end: int


class Borrower:
    """Somebody who takes one license along."""

    def __init__(self, loan: bytes = b"") -> None:
        self.loan = m.LoanId(loan or secrets.token_bytes(16))
        self._private = Ed25519PrivateKey.generate()
        self.holder = self._private.public_key().public_bytes_raw()

    def asks(self, now: int, product: int = CHARTS, seconds: int = DAY, **more: object) -> m.Borrow:
        """Return a request, by a clock that says `now`."""
        wanted = {"firm_code": FIRM, "product_code": product} | more
        return m.Borrow(id=self.loan, holder=self.holder, seconds=seconds, time=now, **wanted)  # type: ignore[arg-type]

    def asks_by_file(self, product: int = CHARTS, seconds: int = DAY) -> m.Lend:
        """Return what an operator asks for somebody who has no connection."""
        return m.Lend(
            id=self.loan,
            holder=self.holder,
            seconds=seconds,
            client=Client("far away", "eve", 9, "Charts"),
            station=Station("machine-9", 3),
            firm_code=FIRM,
            product_code=product,
        )

    def checks(self, lent: m.Borrowed, station: Station, licensor: bytes = PUBLIC) -> Certificate:
        """Return what the certificate says, once the chain holds as `docs/protocol.md` has it."""
        Ed25519PublicKey.from_public_bytes(licensor).verify(lent.firm_signature, lent.firm_item)
        prefix, owner, firm_code, counter = _FIRM_HEAD.unpack_from(lent.firm_item)
        assert prefix == b"cmfirm\0\1"
        Ed25519PublicKey.from_public_bytes(owner[8:]).verify(lent.signature, lent.message)
        begins, whose, loan, at, holder, firm, product, item, signed_counter, quantity, start, end = _SAID.unpack(
            lent.message
        )
        assert begins == b"cmsign\0\1\4"
        assert (whose, loan, holder) == (owner, self.loan, self.holder)
        assert at == sha256(f"{station.machine}\0".encode() + station.seat.to_bytes(4, "little")).digest()
        assert (firm, signed_counter, quantity) == (firm_code, counter, 1)
        assert (item, end) == (lent.item, lent.end)
        return Certificate(loan, product, item, start, end)

    def gives_back(self, lent: m.Borrowed) -> m.GiveBack:
        """Return the request that gives the license back."""
        return m.GiveBack(lent.container, self.loan, self.signs(lent.message[9:49]))

    def signs(self, owner: bytes) -> bytes:
        """Return the signature under the receipt for a container."""
        return self._private.sign(b"cmreturn\0\1" + owner + self.loan)


class Hands:
    """The hands of a clock that only the test moves."""

    def __init__(self, at: int) -> None:
        self.time = float(at)

    def clock(self) -> LicenseClock:
        """Return a license clock that shows it."""
        return LicenseClock(lambda: self.time, lambda: self.time)


class Desk:
    """A server that lends from a dongle, a client who has greeted, and the clock; `changes` are all that were made."""

    def __init__(self, bench: Bench, client: AsyncClient, stick: Stick, hands: Hands, changes: list[Change]) -> None:
        self.bench = bench
        self.engine = bench.engine
        self.client = client
        self.stick = stick
        self.hands = hands
        self.changes = changes

    @property
    def opened(self) -> OpenDevice:
        """The dongle's open device."""
        return self.bench.service.devices.find(BOX)

    @property
    def now(self) -> int:
        """License time."""
        return self.engine.clock.now()

    async def passes(self, seconds: int) -> None:
        """Let license time pass, and happen what is due then."""
        self.hands.time += seconds
        while self.engine.advance(99):
            pass

    async def borrow(self, borrower: Borrower, product: int = CHARTS, seconds: int = DAY, **more: object) -> m.Borrowed:
        """Have the client borrow."""
        return await self.client.ask(borrower.asks(self.now, product, seconds, **more))

    def counts(self, item: int = 1) -> tuple[int, int]:
        """Return how many licenses of an item are used, and how many of these are borrowed."""
        (counted,) = [one for one in self.engine.table.licenses.values() if one.id.item == item]
        return counted.used, counted.lent

    async def rows(self) -> list[m.AccessInfo]:
        """Return the loans that everybody's listing shows."""
        async with rig(self.bench.service) as connections:
            monitor = await connections.client(peer=MONITOR)
            return [row for row in (await monitor.ask(m.NetUsers())).accesses if row.mode == "borrowed"]

    async def is_present(self, present: bool) -> None:
        """Wait until the dongle is seen, or missed."""

        def seen() -> bool:
            self.bench.clock.jump(POLL)
            return self.bench.containers() == {BOX: present}

        await until(seen)


@asynccontextmanager
async def lending(
    clock: MockClock,
    *more: ProductItem,
    stick: Stick | None = None,
    quantity: int = 2,
    kept: Iterable[Change] = (),
    at: int = NOW,
) -> AsyncGenerator[Desk]:
    """Serve a dongle's licenses, from this license time on; `kept` is what a journal tells of an earlier life."""
    stick = stick or Stick(lendable(*more, quantity=quantity))
    hands = Hands(at)
    service = make_service(trust=Trust({FIRM: PUBLIC}), clock=hands.clock())
    for change in kept:
        service.engine.table.apply(change)
    service.engine.restart()
    service.engine.started()
    service.engine.listen(lambda record: changes.extend(record.changes))
    loans.tell(service.engine)
    changes = list(kept)
    async with plugged(clock, stick, service) as (bench, client):
        yield Desk(bench, client, stick, hands, changes)
