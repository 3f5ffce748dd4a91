"""The JSON API under /api/v1: what the pages show, and what operators do on them, for machines with a token.

An operation is a line of `OPERATIONS`; its parameters are checked by the protocol's own types, so that nothing reaches
the license server that it would not take. `docs/api.md` has the same for people.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.offers import Api, Handler, Offer, Visit
from cmserverd.webadmin.openapi import Operation, document
from cmserverd.webadmin.people import Role
from protocol import messages as m
from protocol.deallocation import LONGEST_HOLD_OFF, MOST_SEEN, Handle
from protocol.errors import ErrorNumber, LicenseError
from protocol.params import Cursor, Instant
from protocol.terms import ContainerText
from protocol.tracking import TrackedFrom
from protocol.updating import LONGEST_UPDATE
from protocol.usage import SpanName, UsedFrom

PREFIX: Final = "/api/v1"

P = TypeVar("P", bound=Struct)


# --- parameters where they are not the protocol's -----------------------------------------------------------------


class TrackingQuery(Struct, frozen=True):
    """Which lines of license tracking; `segment` and `lines` are those of a page's `next`."""

    since: Instant | None = None
    until: Instant | None = None
    segment: Cursor | None = None
    lines: Cursor | None = None


class UsageQuery(Struct, frozen=True):
    """Which rows of the usage history; `start` and `rows` are those of a page's `next`."""

    by: SpanName = "day"
    since: Instant | None = None
    until: Instant | None = None
    start: Instant | None = None
    rows: Cursor | None = None


class EventsQuery(Struct, frozen=True):
    """After which position; without it: from now on. The answer says with which to go on."""

    since: Instant | None = None


class RequestFile(Struct, frozen=True, forbid_unknown_fields=True):
    """Has a container make its request file, for its licensor; `time`: who is asked for a certified time, too."""

    container: ContainerText
    time: bool = False


class Update(Struct, frozen=True, forbid_unknown_fields=True):
    """Applies a licensor's update file, in Base64. It says itself which container it is for."""

    update: Annotated[bytes, Meta(max_length=LONGEST_UPDATE)]


class Reloading(Struct, frozen=True, forbid_unknown_fields=True):
    """Has the license server read its settings anew; there is nothing to say."""


class Removal(Struct, frozen=True, forbid_unknown_fields=True):
    """Removes the allocation that a handle is on, with all its instances; or this one access; or all of its session.

    If there is another handle by now than those in `seen`, nothing is removed; an empty `seen` asks for no such check.
    For `hold_off` seconds its station gets no new license of the product.
    """

    handle: Handle
    what: Literal["allocation", "access", "session"] = "allocation"
    seen: Annotated[tuple[Handle, ...], Meta(max_length=MOST_SEEN)] = ()
    hold_off: Annotated[int, Meta(ge=0, le=LONGEST_HOLD_OFF)] = 0


# --- operations ---------------------------------------------------------------------------------------------------


async def _ask(visit: Visit, params: m.Params[Struct]) -> Struct:
    return await visit.daemon.ask(params)


async def _tracking(visit: Visit, query: TrackingQuery) -> m.TrackingPage:
    place = None if query.segment is None else TrackedFrom(query.segment, query.lines or 0)
    return await visit.daemon.tracking(query.since, query.until, place)


async def _usage(visit: Visit, query: UsageQuery) -> m.UsagePage:
    place = None if query.start is None else UsedFrom(query.start, query.rows or 0)
    return await visit.daemon.usage(query.by, query.since, query.until, place)


async def _events(visit: Visit, query: EventsQuery) -> m.Happenings:
    return await visit.daemon.ask(m.Happened(query.since))


async def _deallocate(visit: Visit, asked: Removal) -> m.Deallocated:
    return await visit.daemon.deallocate(
        asked.handle, asked.what, seen=asked.seen, hold_off=asked.hold_off, by=visit.who
    )


async def _request_file(visit: Visit, asked: RequestFile) -> m.ContextFile:
    return await visit.daemon.request_file(asked.container, time=asked.time, by=visit.who)


async def _import(visit: Visit, asked: Update) -> m.Imported:
    return await visit.daemon.import_update(asked.update, by=visit.who)


async def _reload(visit: Visit, _: Reloading) -> m.Reloaded:
    return await visit.daemon.reload(by=visit.who)


OPERATIONS: Final = (
    Operation(f"{PREFIX}/server", "The server's state", m.ServerInfoRequest, m.ServerInfo, _ask),
    Operation(f"{PREFIX}/containers", "The containers", m.Containers, m.ContainerList, _ask),
    Operation(f"{PREFIX}/containers/{{container}}", "What a container has", m.Contents, m.ContainerContents, _ask),
    Operation(f"{PREFIX}/licenses", "The counts of each license", m.NetCluster, m.LicensePage, _ask),
    Operation(f"{PREFIX}/accesses", "Who holds what", m.NetUsers, m.AccessPage, _ask),
    Operation(f"{PREFIX}/tracking", "License tracking", TrackingQuery, m.TrackingPage, _tracking, reads_history=True),
    Operation(f"{PREFIX}/usage", "The usage history", UsageQuery, m.UsagePage, _usage, reads_history=True),
    Operation(f"{PREFIX}/statistics", "The figures since the start", m.StatisticsRequest, m.Statistics, _ask),
    Operation(f"{PREFIX}/events", "What happened after a position", EventsQuery, m.Happenings, _events),
    Operation(
        f"{PREFIX}/deallocate", "Remove an allocation", Removal, m.Deallocated, _deallocate, Role.OPERATOR, "POST"
    ),
    Operation(
        f"{PREFIX}/context",
        "A container's request file",
        RequestFile,
        m.ContextFile,
        _request_file,
        Role.OPERATOR,
        "POST",
    ),
    Operation(f"{PREFIX}/import", "Apply an update file", Update, m.Imported, _import, Role.OPERATOR, "POST"),
    Operation(f"{PREFIX}/reload", "Read the settings anew", Reloading, m.Reloaded, _reload, Role.OPERATOR, "POST"),
)


# --- over HTTP ----------------------------------------------------------------------------------------------------


def _handler(operation: Operation) -> Handler:
    async def handle(request: Request, visit: Visit) -> Response:
        if operation.method == "POST":
            params = await _body(request, operation.params)
        else:
            params = from_query(operation.params, request.query_params, request.path_params)
        return _json(await operation.ask(visit, params))

    return handle


def from_query(kind: type[P], query: QueryParams, path: Mapping[str, str]) -> P:
    """Return what query and path say. Raises LicenseError 105 for what is unknown, said twice, or out of bounds."""
    said: dict[str, object] = dict(path)
    names = [field for field in kind.__struct_fields__ if field not in path]
    for name, text in query.multi_items():
        if name not in names:
            known = f"there are {', '.join(names)}" if names else "there is none"
            raise _wrong(f"{name[:64]!a} is no parameter of this; {known}")
        if name in said:
            raise _wrong(f"{name} is there twice")
        said[name] = _value(text)
    try:
        return msgspec.convert(said, kind)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from None


def _value(text: str) -> object:
    """Return what a text is in JSON: a number, a truth value, or else itself."""
    if re.fullmatch(r"0|[1-9]\d{0,15}", text, re.ASCII):
        return int(text)
    return {"true": True, "false": False}.get(text, text)


async def _body(request: Request, kind: type[P]) -> P:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Send a JSON object, with Content-Type: application/json.")
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # a ValidationError is a DecodeError
        raise _wrong(str(error)) from None


def _wrong(text: str) -> LicenseError:
    return LicenseError.of(ErrorNumber.INVALID_PARAMETER, text)


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


async def _describe(_: Request, __: Visit) -> Response:
    return _json(document(OPERATIONS))


ROUTES: Final[tuple[Offer, ...]] = (
    Api(f"{PREFIX}/openapi.json", _describe),
    *(Api(one.path, _handler(one), one.role, one.method, one.reads_history) for one in OPERATIONS),
)
