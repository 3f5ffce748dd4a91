"""What an operator does to containers: has a request made for their licensor, and applies the update that comes back.

An update is applied wholly or not at all: the container sees to it. Live accesses go on where the new contents serve
them, and are moved or ended where not.
"""

from __future__ import annotations

import structlog

from cmserverd.core.refusal import Refused
from cmserverd.devices import Devices, OpenDevice
from cmserverd.engine import Engine
from drivers import driver, image, request, update
from drivers.container import ContainerId, container_id
from drivers.driver import Device
from drivers.image import Image
from drivers.trust import Trust
from drivers.update import FirmUpdate, TimeUpdate
from protocol import messages as m
from protocol.errors import ErrorNumber

_log = structlog.get_logger("updating")


async def context(devices: Devices, asked: m.Context, by: str) -> m.ContextFile:
    """Return a container's request file. Raises Refused. `by` is who asks, for the log."""

    def make(device: Device) -> bytes:
        if asked.time:
            device.nonce()
        return request.make(device)

    octets = await devices.ask(ContainerId(asked.container), make)
    _log.info("request file made", container=asked.container, time=asked.time, by=by)
    return m.ContextFile(octets)


async def apply(engine: Engine, devices: Devices, octets: bytes, by: str) -> m.Imported:
    """Apply an update file. Raises Refused; then the container has what it had. `by` is who asks, for the log."""
    try:
        brought = update.decode(octets)
    except driver.DriverError as error:
        raise Refused(ErrorNumber.UPDATE_FAILED, str(error).rstrip(".")) from error
    container = container_id(brought.owner.mask, brought.owner.serial)
    opened = _addressed(engine, devices, container)
    if isinstance(brought, FirmUpdate):
        _check_trust(devices.trust, brought)
    read, floor = await devices.ask(container, lambda device: _applied(device, octets, devices.trust))
    opened.image = read
    engine.plug(read.container)
    if isinstance(brought, TimeUpdate):
        engine.set_time(floor)
        _log.warning("license time was set by a certified update", container=container, time=floor, by=by)
        return m.Imported(container, time=floor)
    firm_code, counter = brought.item.firm_code, brought.item.update_counter
    _log.info("update applied", container=container, firm_code=firm_code, update_counter=counter, by=by)
    return m.Imported(container, firm_code, counter)


def _addressed(engine: Engine, devices: Devices, container: ContainerId) -> OpenDevice:
    if container not in engine.table.containers:
        raise Refused(ErrorNumber.BOX_NOT_FOUND, f"the update is for {container}")
    return devices.find(container)


def _check_trust(trust: Trust, brought: FirmUpdate) -> None:
    """Refuse what would be listed and not believed, before it takes the place of something that is."""
    known = trust.keys.get(brought.item.firm_code)
    if known is None and brought.item.firm_code not in trust.unsigned:
        raise Refused(
            ErrorNumber.FIRM_ITEM_INVALID,
            f"firm code {brought.item.firm_code} is not believed here; write its licensor's key under [licensors]",
        )
    if known is not None and known != brought.licensor:
        raise Refused(ErrorNumber.VALIDATION_FAILED, "the update is of another licensor than [licensors] names")


def _applied(device: Device, octets: bytes, trust: Trust) -> tuple[Image, int]:
    device.apply(octets)
    return image.parse(device.read(), trust), device.time(0)
