"""Has a container answer a client's challenge, and counts what it uses up (domain reference, section 8; decision 4).

Here licensing is enforced at use: the units, the usage period, the access mode that the application insists on.
"""

from __future__ import annotations

from collections.abc import Callable

from cmserverd.core import rules
from cmserverd.core.refusal import Refused
from cmserverd.core.terms import Access, Allocation
from cmserverd.core.validity import barred, over
from cmserverd.devices import Devices
from cmserverd.engine import Engine
from drivers import driver, statement
from drivers.driver import Device, Purpose, Signed, Used
from protocol import messages as m
from protocol.errors import ErrorNumber


def check(held: Access, request: m.Crypt, now: int) -> Allocation:
    """Return the allocation that a use is of, if the license allows it now. Raises Refused."""
    target = held.target
    if not isinstance(target, Allocation):
        raise Refused(ErrorNumber.WRONG_HANDLE_TYPE, "only an access to an entry can be used")
    if request.mode is not None and request.mode is not target.mode:
        raise Refused(ErrorNumber.ACCESS_MODE_MISMATCH, f"the handle's is {target.mode}, and {request.mode} is needed")
    if request.units and request.key in {None, statement.NO_KEY}:
        raise Refused(ErrorNumber.INVALID_PARAMETER, "units are only taken with a key, so that asking twice takes once")
    item = target.license.item
    # Whether units are left the container says: it knows by its key a use that took the last ones.
    if not held.want.force and (number := barred(item, now, held.want) or over(item, now)):
        raise Refused(number)
    if request.units and item.units is None:
        raise Refused(ErrorNumber.UNIT_COUNTER_MISSING)
    return target


async def answer(
    engine: Engine, devices: Devices, held: Access, request: m.Crypt, complain: Callable[..., None]
) -> m.CryptAnswer:
    """Count the use, have the container sign the answer, and return it. Raises Refused; `complain` tells the log.

    What is used is counted first: an answer means that it was. If the signing fails then, asking again with the same
    key takes nothing more.
    """
    now = engine.clock.now()
    target = check(held, request, now)
    where = target.license.id
    use = _Use(target, held.handle, request, now)
    address = held.session.address  # as it is now: the session may be taken over from elsewhere meanwhile
    charge = int(use.counts)
    try:
        devices.uses.take(address, charge)
    except Refused as refused:
        complain("a client would wear a container out", container=where.container, address=address, reason=str(refused))
        raise
    try:
        signed = await devices.ask(where.container, use, address)
    finally:
        if not use.written:
            devices.uses.give_back(address, charge)
        if use.counted is not None:
            engine.consumed(where, use.counted.units_used, use.counted.usage_start)
    rules.held_by(engine.table, held.session, held.handle)  # it may have ended meanwhile
    sealed = devices.sealed(where.container, where.firm_code)
    counts = statement.counts(signed)
    return m.CryptAnswer(
        message=signed.message,
        signature=signed.signature,
        firm_item=sealed.octets,
        firm_signature=sealed.signature,
        units_left=counts.units_left,
        usage_start=counts.usage_start,
    )


class _Use:
    """One use of a license, as its container is asked for it: in one turn, so that nothing comes in between.

    The container signs what it took for the key, and knows that of its last 64 keys only. `counts`: there is something
    to count; `counted` is what it counted, None if it did not, or had nothing to; `written`: it may have been written.
    """

    def __init__(self, target: Allocation, handle: int, request: m.Crypt, now: int) -> None:
        item = target.license.item
        self.counted: Used | None = None
        self.written = False
        self._where = target.license.id
        self._units = request.units
        self._key = request.key or statement.NO_KEY
        self.counts = bool(request.units) or (item.usage is not None and not item.usage_start)
        self._now = now
        self._body = statement.crypt_body(
            request.nonce, self._where.firm_code, self._where.item, now, handle, self._key
        )

    def __call__(self, device: Device) -> Signed:
        """Count it in this device, and have that signed. Raises DriverError."""
        if self.counts:
            # Without units a use may be counted twice: its period begins once.
            key = self._key if self._units else statement.NO_KEY
            self.written = True
            try:
                self.counted = device.consume(self._where.firm_code, self._where.item, self._units, key, self._now)
            except (driver.Refused, driver.Unsupported):
                self.written = False  # it has what it had
                raise
        return device.sign(Purpose.CRYPT, self._body)
