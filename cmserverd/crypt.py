"""Has a container answer a client's challenge, and counts what it uses up (domain reference, section 8; decision 4).

Here licensing is enforced at use: the units, the usage period, the access mode that the application insists on.
"""

from __future__ import annotations

import os

from cmserverd.core import rules
from cmserverd.core.refusal import Refused
from cmserverd.core.terms import Access, Allocation, LicenseId
from cmserverd.core.validity import barred, over
from cmserverd.devices import Devices
from cmserverd.engine import Engine
from drivers import statement
from drivers.container import ProductItem
from drivers.driver import Purpose, Signed, Used
from protocol import messages as m
from protocol.errors import ErrorNumber


def check(held: Access, request: m.Crypt, now: int) -> Allocation:
    """Return the allocation that a use is of, if the license allows it now. Raises Refused."""
    target = held.target
    if not isinstance(target, Allocation):
        raise Refused(ErrorNumber.WRONG_HANDLE_TYPE, "only an access to an entry can be used")
    if request.mode is not None and request.mode is not target.mode:
        raise Refused(ErrorNumber.ACCESS_MODE_MISMATCH, f"the handle's is {target.mode}, and {request.mode} is needed")
    if request.units and request.key is None:
        raise Refused(ErrorNumber.INVALID_PARAMETER, "units are only taken with a key, so that asking twice takes once")
    item = target.license.item
    # Whether units are left the container says: it knows by its key a use that took the last ones.
    if not held.want.force and (number := barred(item, now, held.want) or over(item, now)):
        raise Refused(number)
    if request.units and item.units is None:
        raise Refused(ErrorNumber.UNIT_COUNTER_MISSING)
    return target


async def answer(engine: Engine, devices: Devices, held: Access, request: m.Crypt) -> m.CryptAnswer:
    """Count the use, have the container sign the answer, and return it. Raises Refused.

    What is used is counted first: an answer means that it was. If the signing fails then, asking again with the same
    key takes nothing more.
    """
    target = check(held, request, engine.clock.now())
    where, item = target.license.id, target.license.item
    used = await _count(engine, devices, where, item, request)
    now = engine.clock.now()
    body = statement.crypt_body(request.nonce, where.firm_code, where.item, now, held.handle)
    signed: Signed = await devices.ask(where.container, lambda device: device.sign(Purpose.CRYPT, body))
    rules.held_by(engine.table, held.session, held.handle)  # it may have ended meanwhile
    sealed = devices.sealed(where.container, where.firm_code)
    return m.CryptAnswer(
        message=signed.message,
        signature=signed.signature,
        firm_item=sealed.octets,
        firm_signature=sealed.signature,
        units_left=used.units_left,
        usage_start=used.usage_start,
    )


async def _count(engine: Engine, devices: Devices, where: LicenseId, item: ProductItem, request: m.Crypt) -> Used:
    """Have the container count a use, if there is anything to count."""
    left = None if item.units is None else max(item.units.amount - item.units_used, 0)
    if not request.units and (item.usage is None or item.usage_start):
        return Used(left, item.usage_start)
    key = request.key or os.urandom(16)  # without units a use may be counted twice: its period begins once
    now = engine.clock.now()
    used = await devices.ask(
        where.container,
        lambda device: device.consume(where.firm_code, where.item, request.units, key, now),
    )
    taken = item.units.amount - used.units_left if item.units and used.units_left is not None else item.units_used
    engine.consumed(where, taken, used.usage_start)
    return used
