"""Lends licenses to clients that take them along, and takes them back (domain reference, section 10; decision 21).

The container's own ledger decides what is lent: it is written there before the client has his certificate, and struck
off before the license counts as free. What this server knows of it follows. Where it is not known whether the container
did what it was asked to, it is read anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

from cmserverd.core import changes as c
from cmserverd.core.borrowing import Lending
from cmserverd.core.refusal import Refused
from cmserverd.core.terms import Lent, Session
from cmserverd.devices import Devices, OpenDevice
from cmserverd.engine import Engine, Record
from cmserverd.turns import OWN
from drivers import driver, statement
from drivers.container import LOAN_SKEW, ContainerId, Loan
from drivers.driver import Device, Faulty, Purpose, Signed, Used
from protocol import certificate
from protocol import messages as m
from protocol.errors import ErrorNumber
from protocol.terms import Station, shown_client

T = TypeVar("T")

_log = structlog.get_logger("lending")


async def borrow(engine: Engine, devices: Devices, session: Session, request: m.Borrow) -> m.Borrowed:
    """Lend a session's client a license, or for longer. Raises Refused: 232 if its clock is not right."""
    _check_clock(request.time, engine.clock.now())
    _check_id(request.id)
    async with devices.alone(request.id):
        address = session.address  # as it is now: the session may be taken over from elsewhere meanwhile
        charge = engine.writes(request) / engine.limits.borrow_per_address
        devices.wear.take(address, charge)
        writing: _Writing | None = None
        try:
            lending = engine.borrow(session, request)
            writing = _writing(engine, lending, session.station)
            return await _write(engine, devices, lending, writing, address)
        finally:
            if writing is None or not writing.written:
                devices.wear.give_back(address, charge)


async def lend(engine: Engine, devices: Devices, request: m.Lend, by: str) -> m.Borrowed:
    """Lend a license to somebody who asked in a file. Raises Refused. `by` is the operator's address."""
    _check_id(request.id)
    async with devices.alone(request.id):
        lending = engine.lend(request, by)
        return await _write(engine, devices, lending, _writing(engine, lending, request.station), OWN)


async def give_back(engine: Engine, devices: Devices, request: m.GiveBack, asker: str, by: str) -> m.GivenBack:
    """Take a license back by its holder's receipt. Raises Refused: 70 if its container is not there.

    `asker` has his turn at the container; `by` is who that is, for the log.
    """
    _check_id(request.id)
    async with devices.alone(request.id):  # what is just being lent with it would count for nobody otherwise
        opened = devices.find(ContainerId(request.container))
        striking = _Striking(request.id, request.signature, engine.clock.now())
        try:
            stood = await devices.ask(opened.container, striking, asker)
        except BaseException:
            _doubt(opened, striking)
            raise
        if devices.has(opened):
            engine.given_back(opened.container, request.id)
    if stood:
        _log.info("a borrowed license was given back", container=opened.container, loan=request.id.hex(), by=by)
    return m.GivenBack(stood)


def _writing(engine: Engine, lending: Lending, station: Station) -> _Writing:
    """Return what is to be asked of the container, which certifies the loan to its holder at this station."""
    begins = _begins_usage(engine, lending)
    return _Writing(lending.loan, certificate.digest(station), engine.clock.now(), begins=begins)


async def _write(engine: Engine, devices: Devices, lending: Lending, writing: _Writing, asker: str) -> m.Borrowed:
    """Have the container write the loan, and certify it. Raises Refused.

    What happens on the way decides what this server knows of it: nothing awaits between the container's word and that.
    """
    where = lending.license
    try:
        opened = devices.find(where.container)
    except Refused:
        engine.not_lent(lending)
        raise
    opened.writing.append(lending)
    try:
        signed = await devices.ask(where.container, writing, asker)
    finally:
        opened.writing.remove(lending)
        _settle(engine, devices, opened, lending, writing)
    lent = engine.table.lent.get((where.container, lending.loan.id))
    if lent is None or not devices.has(opened):  # it was pulled out in the very moment; its ledger has the loan
        raise Refused(ErrorNumber.BOX_LOST)
    sealed = opened.image.sealed[where.firm_code]
    return m.Borrowed(
        container=where.container,
        item=where.item,
        number=lent.number,
        end=lent.end,
        message=signed.message,
        signature=signed.signature,
        firm_item=sealed.octets,
        firm_signature=sealed.signature,
    )


def _settle(engine: Engine, devices: Devices, opened: OpenDevice, lending: Lending, writing: _Writing) -> None:
    """Take up what the container did: it lent, it did not, or nobody knows."""
    if not writing.certain:
        _doubt(opened, writing)
    elif writing.end is None:
        engine.not_lent(lending)
        if not lending.new and lending.loan.id not in {loan.id for loan in opened.loans}:
            opened.doubtful = True  # it was asked for again, and may never have been written
    elif devices.has(opened):  # else its ledger tells when it is plugged in again
        if writing.used is not None:
            engine.consumed(lending.license, writing.used.units_used, writing.used.usage_start)
        known = engine.table.lent.get((opened.container, lending.loan.id))
        before = known.end if known is not None and not lending.new else None
        lent = engine.lent(lending, writing.end)
        if lent.end != before:
            event = "license borrowed" if before is None else "loan extended"
            _log.info(event, **_facts(lent), by=lending.asker.address)


def tell(engine: Engine) -> None:
    """Have the log tell from now on what becomes of loans without anybody's asking for it here."""
    engine.listen(_say, c.Borrowed, c.Returned)


def _say(record: Record) -> None:
    for change in record.changes:
        if type(change) is c.Borrowed and change.client is None:
            _log.info(
                "a container's ledger has a loan; nobody knows here whose it is",
                container=change.license.container,
                loan=change.id.hex(),
                until=certificate.instant(change.end),
            )
        elif type(change) is c.Returned and change.cause is not None:
            _log.info("a loan stands no longer", container=change.container, loan=change.id.hex(), why=change.cause)


def _facts(lent: Lent) -> dict[str, object]:
    """Return what the log tells of a loan."""
    client = lent.client
    return {
        "container": lent.license.container,
        "firm_code": lent.license.firm_code,
        "item": lent.license.item,
        "number": lent.number,
        "client": shown_client(lent.address, client.host, client.user) if client is not None else "",
        "until": certificate.instant(lent.end),
        "loan": lent.id.hex(),
    }


def _doubt(opened: OpenDevice, change: _LedgerChange) -> None:
    """Have a container read anew of which it is not known whether its ledger was changed."""
    if not change.certain:
        opened.doubtful = True
        _log.warning(
            "a change of what is borrowed may have come through or not; the container is read anew",
            container=opened.container,
        )


class _LedgerChange:
    """A change of a container's ledger. `certain`: it is known whether it was made."""

    def __init__(self) -> None:
        self.certain = True

    def make(self, change: Callable[[], T]) -> T:
        """Make it. Raises DriverError."""
        self.certain = False
        try:
            made = change()
        except (driver.Refused, driver.Unsupported):
            self.certain = True  # it has what it had
            raise
        self.certain = True
        return made


class _Writing(_LedgerChange):
    """Writes a loan, begins the usage period of its license if that is to come, and has the loan certified.

    All that is one turn, so that nothing comes in between. `end` is the one in force once the container has the loan,
    `used` what it counted then.
    """

    def __init__(self, loan: Loan, station: bytes, now: int, *, begins: bool) -> None:
        super().__init__()
        self.end: int | None = None
        self.used: Used | None = None
        self._loan = loan
        self._body = statement.borrow_body(loan.id, station)
        self._now = now
        self._begins = begins

    @property
    def written(self) -> bool:
        """Whether the container was made to write, for all that is known."""
        return not self.certain or self.end is not None

    def __call__(self, device: Device) -> Signed:
        """Do it in this device. Raises DriverError."""
        loan = self._loan
        self.end = self.make(lambda: device.borrow(loan, self._now))
        if self._begins:
            self.used = device.consume(loan.firm_code, loan.reference, 0, statement.NO_KEY, self._now)
        signed = device.sign(Purpose.BORROW, self._body)
        said = statement.lent(signed)
        if Loan(said.id, said.firm_code, said.reference, said.quantity, said.end, said.holder) != Loan(
            loan.id, loan.firm_code, loan.reference, loan.quantity, self.end, loan.holder
        ):
            msg = "The container certified another loan than it was asked to; unplug it, and have it exchanged."
            raise Faulty(msg)
        return signed


class _Striking(_LedgerChange):
    """Strikes a loan off; its holder signed that. Says whether it stood."""

    def __init__(self, loan: bytes, signature: bytes, now: int) -> None:
        super().__init__()
        self._loan = loan
        self._signature = signature
        self._now = now

    def __call__(self, device: Device) -> bool:
        """Do it in this device. Raises DriverError."""
        return self.make(lambda: device.give_back(self._loan, self._signature, self._now))


def _begins_usage(engine: Engine, lending: Lending) -> bool:
    """Whether the usage period of a license begins with a loan: taking it along is its first use."""
    item = engine.table.licenses[lending.license].item
    return item.usage is not None and not item.usage_start


def _check_clock(theirs: int, now: int) -> None:
    if abs(theirs - now) > LOAN_SKEW:
        detail = (
            f"the client's says {certificate.instant(theirs)}, the server's license time is {certificate.instant(now)}"
        )
        raise Refused(ErrorNumber.BORROW_CLOCK_DIFFERENCE, detail)


def _check_id(loan: bytes) -> None:
    if not any(loan):
        raise Refused(ErrorNumber.INVALID_PARAMETER, "the id of a loan is 16 random bytes, and not all zeros")
