"""What an operator does to containers: has a request made for their licensor, and applies the update that comes back.

An update is applied wholly or not at all: the container sees to it. Live accesses go on where the new contents serve
them, and are moved or ended where not.
"""

from __future__ import annotations

import structlog

from cmserverd.core.refusal import Refused
from cmserverd.devices import Devices, OpenDevice
from cmserverd.engine import Engine
from drivers import driver, presence, request, update
from drivers.container import ContainerId, container_id
from drivers.driver import Device
from drivers.image import Image
from drivers.trust import Trust
from drivers.update import FirmUpdate, TimeUpdate
from protocol import messages as m
from protocol.errors import ErrorNumber
from protocol.terms import shown_instant

_log = structlog.get_logger("updating")


async def context(engine: Engine, devices: Devices, asked: m.Context, by: str) -> m.ContextFile:
    """Return a container's request file. Raises Refused. `by` is who asks, for the log."""
    now = engine.clock.now()

    def make(device: Device) -> bytes:
        if asked.time:
            device.time(now)  # what passes from here on is added to the time that comes back
            device.nonce()
        return request.make(device)

    octets = await devices.ask(ContainerId(asked.container), make)
    _log.info("request file made", container=asked.container, certified_time=asked.time, by=by)
    return m.ContextFile(octets)


async def apply(engine: Engine, devices: Devices, octets: bytes, by: str) -> m.Imported:
    """Apply an update file. Raises Refused; then the container has what it had, or is read anew to see what it has.

    `by` is who asks, for the log. If the container was pulled out meanwhile, it is read when it comes back.
    """
    try:
        brought = update.decode(octets)
    except driver.DriverError as error:
        raise Refused(ErrorNumber.UPDATE_FAILED, str(error).rstrip(".")) from error
    container = container_id(brought.owner.mask, brought.owner.serial)
    opened = _addressed(engine, devices, container)
    if isinstance(brought, FirmUpdate):
        _check_trust(devices.trust, brought)
    else:
        _check_clock(opened.image, brought)
    application = _Application(octets, devices.trust, engine.clock.now() if isinstance(brought, TimeUpdate) else 0)
    try:
        read, opened.floor = await devices.ask(container, application)
    except BaseException:
        if not application.certain:
            opened.doubtful = True
            _log.warning("an update may have come through or not; the container is read anew", container=container)
        raise
    opened.image, opened.doubtful = read, False
    if devices.has(opened):
        engine.plug(read.container, opened.loans, opened.on_the_way)
    if isinstance(brought, TimeUpdate):
        return _set_time(engine, devices, opened, by)
    firm_code, counter = brought.item.firm_code, brought.item.update_counter
    _log.info("update applied", container=container, firm_code=firm_code, update_counter=counter, by=by)
    return m.Imported(container, firm_code, counter)


def _set_time(engine: Engine, devices: Devices, opened: OpenDevice, by: str) -> m.Imported:
    """Set the license time to what a container was certified, but not to before what another one knows of."""
    time = max(opened.floor, devices.floor())
    engine.set_time(time)
    _log.warning(
        "license time was set by a certified update",
        container=opened.container,
        certified=shown_instant(opened.floor),
        license_time=shown_instant(time),
        by=by,
    )
    return m.Imported(opened.container, time=time)


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


def _check_clock(read: Image, brought: TimeUpdate) -> None:
    """Refuse a time by a licensor who is not believed here: the container's clock may be his, this server's is not."""
    first = next(iter(read.container.firm_items), None)
    if first is None or first.unusable:
        raise Refused(
            ErrorNumber.FIRM_ITEM_INVALID,
            "the licensor of the container's first firm item certifies its time, and is not believed here; "
            "write his key under [licensors]",
        )
    if first.licensor not in {b"", brought.licensor}:  # empty: believed without a signature, for trials
        raise Refused(ErrorNumber.VALIDATION_FAILED, "the time is certified by another licensor than [licensors] names")


class _Application:
    """Applies an update, and returns what the container holds then, and the license time that it knows of.

    `now` is told to it before, if it is not 0. `certain`: it is known what the container holds.
    """

    def __init__(self, octets: bytes, trust: Trust, now: int) -> None:
        self.certain = True
        self._octets = octets
        self._trust = trust
        self._now = now

    def __call__(self, device: Device) -> tuple[Image, int]:
        """Apply it in this device. Raises DriverError."""
        if self._now:
            device.time(self._now)
        self.certain = False
        try:
            device.apply(self._octets)
        except (driver.Refused, driver.Unsupported):
            self.certain = True  # it has what it had
            raise
        read, floor = presence.read(device, self._trust), device.time(0)
        self.certain = True
        return read, floor
