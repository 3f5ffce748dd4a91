"""What can be asked over a connection, and the answers that the engine and the table give.

One function for each method, and one table of them: it says at which door a method is offered. What is about the
connection itself, the greeting and the events, is in `conversation`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from functools import partial
from typing import Any, Final, Protocol

from msgspec import Struct

from cmserverd import crypt as challenge
from cmserverd import lending, updating, views
from cmserverd.auditor import Auditor
from cmserverd.core.refusal import Refused
from cmserverd.core.terms import Allocation, Session
from cmserverd.service import Service, Settings
from cmserverd.turns import OWN
from cmserverd.verification import Verification
from protocol import messages as m
from protocol.errors import ErrorNumber
from protocol.terms import printable


class Door(Enum):
    """Where a connection came in, and so what it may ask (decision 23)."""

    CLIENT = "client"
    MONITOR = "monitor"
    CONTROL = "control"


class Peer(Struct, frozen=True):
    """Who is at the other end, as the system says: `here` means over loopback or a Unix socket."""

    address: str
    here: bool
    door: Door = Door.CLIENT


class Asker(Protocol):
    """Who asks: a conversation, of which the answers need this."""

    service: Service
    peer: Peer
    session: Session | None


class Later(Struct, frozen=True):
    """An answer that a device has to be asked for: `run` returns it, or raises Refused.

    Its connection's further requests wait meanwhile, so that replies leave in the order of the requests; nobody
    else's do.
    """

    run: Callable[[], Awaitable[Struct]]


class Offer(Struct, frozen=True):
    """A method: its parameters, what answers it, and where. A `listing` may take some milliseconds."""

    params: type[m.Params[Any]]
    answer: Callable[[Any, Any], Struct | Later]
    doors: frozenset[Door]
    listing: bool = False


def keep_alive(asker: Asker, _: m.KeepAlive) -> m.Time:
    """Take a sign of life."""
    return m.Time(asker.service.engine.clock.now())


def access(asker: Asker, request: m.Access) -> m.Granted:
    """Grant a handle. Raises Refused."""
    held = asker.service.engine.access(_session(asker), request)
    target = held.target
    if isinstance(target, Allocation):
        asker.service.statistics.granted(target.license)
        entry = target.license.id
        return m.Granted(held.handle, entry.container, entry.item, target.id)
    return m.Granted(held.handle, target.container or "")


def release(asker: Asker, request: m.Release) -> m.Done:
    """Take a handle back. Raises Refused."""
    asker.service.engine.release(_session(asker), request)
    return m.Done()


def info(asker: Asker, request: m.Info) -> m.HandleInfo:
    """Tell what a handle refers to. Raises Refused."""
    engine = asker.service.engine
    return views.handle_info(engine.table, engine.use(_session(asker), request), engine.clock.now())


def crypt(asker: Asker, request: m.Crypt) -> Later:
    """Have the container answer a challenge. Raises Refused."""
    service = asker.service
    held = service.engine.use(_session(asker), m.Info(request.handle))
    challenge.check(held, request, service.engine.clock.now())
    return Later(partial(challenge.answer, service.engine, service.devices, held, request, service.complain))


def borrow(asker: Asker, request: m.Borrow) -> Later:
    """Lend a license that is taken along. Raises Refused."""
    service = asker.service
    return Later(partial(lending.borrow, service.engine, service.devices, _session(asker), request))


def lend(asker: Asker, request: m.Lend) -> Later:
    """Lend a license to somebody who asked in a file. Raises Refused."""
    service = asker.service
    return Later(partial(lending.lend, service.engine, service.devices, request, _by(asker, request.by)))


def give_back(asker: Asker, request: m.GiveBack) -> Later:
    """Take a borrowed license back. Raises Refused."""
    service = asker.service
    turn = asker.peer.address if asker.peer.door is Door.CLIENT else OWN
    return Later(partial(lending.give_back, service.engine, service.devices, request, turn, _by(asker, request.by)))


def containers(asker: Asker, _: m.Containers) -> m.ContainerList:
    """List the containers."""
    engine = asker.service.engine
    return views.containers(engine.table, engine.position)


def contents(asker: Asker, request: m.Contents) -> m.ContainerContents:
    """Show a container's contents. Raises Refused."""
    return asker.service.contents(request.container, local=_is_local(asker))


def net_cluster(asker: Asker, request: m.NetCluster) -> m.LicensePage:
    """Count the licenses."""
    engine = asker.service.engine
    return views.license_page(engine.table, request, engine.position, engine.clock.now(), local=_is_local(asker))


def net_users(asker: Asker, request: m.NetUsers) -> m.AccessPage:
    """List who holds what: all, or the asker's own, as the configuration says."""
    engine = asker.service.engine
    peer = asker.peer
    everybody = peer.door is not Door.CLIENT or asker.service.shows_everybody(here=peer.here)
    only = None if everybody else asker.session
    local = _is_local(asker)
    return views.access_page(engine.table, request, engine.position, engine.clock.now(), local=local, only=only)


def context(asker: Asker, request: m.Context) -> Later:
    """Make a container's request file for its licensor. Raises Refused."""
    service = asker.service
    return Later(partial(updating.context, service.engine, service.devices, request, _by(asker, request.by)))


def import_update(asker: Asker, request: m.Import) -> Later:
    """Apply a licensor's update. Raises Refused."""
    service = asker.service
    return Later(partial(updating.apply, service.engine, service.devices, request.update, _by(asker, request.by)))


def deallocate(asker: Asker, request: m.Deallocate) -> m.Deallocated:
    """Take a license from who holds it. Raises Refused."""
    return asker.service.deallocate(request, _by(asker, request.by))


def server_info(asker: Asker, _: m.ServerInfoRequest) -> m.ServerInfo:
    """Show the server's state."""
    return asker.service.info()


def tracking(asker: Asker, request: m.TrackingRequest) -> Later:
    """Tell who had which license when. Raises Refused."""
    return Later(partial(_auditor(asker).ask, request, m.TrackingPage))


def usage(asker: Asker, request: m.UsageRequest) -> Later:
    """Tell how much of each license was used, by hour, day or month. Raises Refused."""
    return Later(partial(_auditor(asker).ask, request, m.UsagePage))


def verify_tracking(asker: Asker, _: m.VerifyTracking) -> Later:
    """Tell up to where license tracking is as it was written. Raises Refused."""
    asked = Verification(asker.service.devices.keys())
    return Later(partial(_auditor(asker).ask, asked, m.TrackingProof))


def happened(asker: Asker, request: m.Happened) -> Later:
    """Tell what happened after a position."""
    return Later(partial(asker.service.happenings.answer, request))


def log(asker: Asker, request: m.LogRequest) -> Later:
    """Tell the last lines of the log."""
    return Later(partial(asker.service.logbook.answer, request))


def configuration(asker: Asker, _: m.ConfigurationRequest) -> m.Configuration:
    """Tell the settings that are in force. Raises Refused."""
    return _settings(asker).told()


def reload(asker: Asker, request: m.Reload) -> m.Reloaded:
    """Read the settings anew. Raises Refused."""
    return _settings(asker).reload(_by(asker, request.by))


def statistics(asker: Asker, _: m.StatisticsRequest) -> m.Statistics:
    """Tell the figures since the start."""
    return asker.service.statistics.answer()


def _by(asker: Asker, named: str) -> str:
    """Return who acts, for the log: what the system says comes first, whatever name is behind it (decision 23)."""
    address = asker.peer.address
    return f"{address} for {printable(named)}" if named and asker.peer.door is Door.CONTROL else address


def _settings(asker: Asker) -> Settings:
    settings = asker.service.settings
    if settings is None:
        raise Refused(ErrorNumber.NOT_SUPPORTED, "this server has no settings")
    return settings


def _auditor(asker: Asker) -> Auditor:
    auditor = asker.service.auditor
    if auditor is None:
        raise Refused(ErrorNumber.NOT_SUPPORTED, "this server keeps no journal ([journal] durability)")
    return auditor


def _is_local(asker: Asker) -> bool:
    return asker.peer.door is not Door.CLIENT or _session(asker).local


def _session(asker: Asker) -> Session:
    assert asker.session is not None  # the client door opens one with the greeting, and ends with it
    return asker.session


_ALL: Final = frozenset(Door)
_CLIENTS: Final = frozenset({Door.CLIENT})
_OPERATORS: Final = frozenset({Door.CONTROL})
_LOOKERS: Final = frozenset({Door.MONITOR})
_READERS: Final = frozenset({Door.CLIENT, Door.MONITOR})

OFFERS: Final = (
    Offer(m.KeepAlive, keep_alive, _ALL),
    Offer(m.Access, access, _CLIENTS),
    Offer(m.Release, release, _CLIENTS),
    Offer(m.Info, info, _CLIENTS),
    Offer(m.Crypt, crypt, _CLIENTS),
    Offer(m.Borrow, borrow, _CLIENTS),
    Offer(m.GiveBack, give_back, _CLIENTS | _OPERATORS),
    Offer(m.Containers, containers, _READERS, listing=True),
    Offer(m.Contents, contents, _READERS, listing=True),
    Offer(m.NetCluster, net_cluster, _READERS, listing=True),
    Offer(m.NetUsers, net_users, _READERS, listing=True),
    Offer(m.ServerInfoRequest, server_info, _ALL),
    Offer(m.TrackingRequest, tracking, _LOOKERS),
    Offer(m.UsageRequest, usage, _LOOKERS),
    Offer(m.VerifyTracking, verify_tracking, _LOOKERS),
    Offer(m.Happened, happened, _LOOKERS, listing=True),
    Offer(m.LogRequest, log, _LOOKERS, listing=True),
    Offer(m.ConfigurationRequest, configuration, _LOOKERS, listing=True),
    Offer(m.StatisticsRequest, statistics, _LOOKERS, listing=True),
    Offer(m.Reload, reload, _OPERATORS, listing=True),
    Offer(m.Context, context, _OPERATORS),
    Offer(m.Import, import_update, _OPERATORS),
    Offer(m.Lend, lend, _OPERATORS),
    Offer(m.Deallocate, deallocate, _OPERATORS, listing=True),
)
