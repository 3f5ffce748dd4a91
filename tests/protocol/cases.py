"""One table of messages for both directions: the value, and the same as plain maps and arrays.

The plain form is what the wire carries; `msgpack` makes its bytes, an encoder that the package itself does not use.
"""

from __future__ import annotations

import msgpack
from msgspec import Struct

from protocol import messages as m
from protocol import rpc
from protocol.terms import AccessMode, Client, HandleKind, Station
from protocol.tracking import TrackedFrom, TrackingLine
from protocol.usage import UsageRow, UsedFrom
from tests.protocol import watching

KEY = bytes(range(16))
LOAN = m.LoanId(KEY)
TOKEN = "0123456789abcdef" * 4

REASON = m.Reason("3-3448482", 600010, 14, 2, 212, "NO_MORE_LICENSES", "All licenses are in use, Error 212.")
REASON_PLAIN = {
    "container": "3-3448482",
    "firm_code": 600010,
    "product_code": 14,
    "item": 2,
    "number": 212,
    "name": "NO_MORE_LICENSES",
    "text": "All licenses are in use, Error 212.",
}
ERROR = m.ErrorBody(212, "NO_MORE_LICENSES", "All licenses are in use, Error 212.", (REASON,))
ERROR_PLAIN = {
    "number": 212,
    "name": "NO_MORE_LICENSES",
    "text": "All licenses are in use, Error 212.",
    "reasons": [REASON_PLAIN],
}
ENDED = m.ErrorBody(106, "INVALID_HANDLE", "It was removed, Error 106.", cause=m.EndCause.ADMINISTRATOR)
ENDED_PLAIN = {
    "number": 106,
    "name": "INVALID_HANDLE",
    "text": "It was removed, Error 106.",
    "cause": "administrator",
}
SERVER = m.Server("licenses", "cmserverd", "0.1.0")
SERVER_PLAIN = {"name": "licenses", "software": "cmserverd", "version": "0.1.0"}
GREETING = m.Greeting(
    version=1,
    session=7,
    token=TOKEN,
    server=SERVER,
    keep_alive=40.0,
    timeout=120.0,
    time=1_790_000_000,
    limits=m.Limits(requests=64, message=16_384, handles=1_024),
)
GREETING_PLAIN = {
    "version": 1,
    "session": 7,
    "token": TOKEN,
    "server": SERVER_PLAIN,
    "keep_alive": 40.0,
    "timeout": 120.0,
    "time": 1_790_000_000,
    "limits": {"requests": 64, "message": 16_384, "handles": 1_024},
}
CONTAINER = m.ContainerInfo("3-3448482", "hardware", "Bench", present=True, firm_items=1)
CONTAINER_PLAIN = {"id": "3-3448482", "kind": "hardware", "text": "Bench", "present": True, "firm_items": 1}
ENTRY = m.EntryInfo(2, 14, "Chart Processing", 2, ("exclusive",), local_only=True, feature_map=5, unusable="no")
ENTRY_PLAIN = {
    "item": 2,
    "product_code": 14,
    "text": "Chart Processing",
    "quantity": 2,
    "denied": ["exclusive"],
    "local_only": True,
    "feature_map": 5,
    "unusable": "no",
}
ACCESS_INFO_PLAIN = {
    "handle": 9,
    "allocation": 4,
    "kind": "entry",
    "mode": "station_share",
    "container": "3-3448482",
    "firm_code": 600010,
    "product_code": 14,
    "item": 2,
    "client": "::1(WIBU \\ fs)",
    "address": "::1",
    "host": "WIBU",
    "user": "fs",
    "pid": 4711,
    "application": "Chart Processing",
    "session": 7,
    "station": "e67d72ef48cb484084af99470b19eac2/0",
    "first_access": 1_790_000_000,
    "last_access": 1_790_000_060,
    "attached": True,
}
COUNT_PLAIN = {
    "container": "3-3448482",
    "firm_code": 600010,
    "product_code": 14,
    "item": 2,
    "text": "Chart Processing",
    "feature_map": None,
    "present": True,
    "quantity": 2,
    "total": 2,
    "used": 1,
    "free": 1,
    "user_limit": 0,
    "no_user_limit": 0,
    "exclusive": 0,
    "station_share": 1,
}

REQUESTS: list[tuple[m.Params, dict[str, object]]] = [
    (
        m.Hello((1, 1), Client("WIBU", "fs", 4711, "Chart Processing"), Station("e67d72ef", 3), "push"),
        {
            "versions": [1, 1],
            "client": {"host": "WIBU", "user": "fs", "pid": 4711, "application": "Chart Processing"},
            "station": {"machine": "e67d72ef", "seat": 3},
            "events": "push",
        },
    ),
    (m.Resume((1, 2), TOKEN), {"versions": [1, 2], "token": TOKEN}),
    (m.Resume((1, 2), TOKEN, "push"), {"versions": [1, 2], "token": TOKEN, "events": "push"}),
    (m.KeepAlive(), {}),
    (m.Goodbye(), {}),
    (m.Access(m.AccessKey(KEY)), {"key": KEY}),
    (
        m.Access(
            m.AccessKey(KEY),
            600010,
            14,
            AccessMode.STATION_SHARE,
            HandleKind.FIRM_ITEM,
            2**32 - 1,
            "3-3448482",
            2,
        ),
        {
            "key": KEY,
            "firm_code": 600010,
            "product_code": 14,
            "mode": "station_share",
            "kind": "firm_item",
            "feature_code": 2**32 - 1,
            "container": "3-3448482",
            "item": 2,
        },
    ),
    (
        m.Access(m.AccessKey(KEY), maximum_life=2**32 - 1, cleanup_time=86_400),
        {"key": KEY, "maximum_life": 2**32 - 1, "cleanup_time": 86_400},
    ),
    (m.Release(1), {"handle": 1}),
    (m.Release(2**53 - 1), {"handle": 2**53 - 1}),
    (m.Info(9), {"handle": 9}),
    (m.Context("3-1"), {"container": "3-1"}),
    (m.Context("3-1", time=True), {"container": "3-1", "time": True}),
    (m.Import(b"update"), {"update": b"update"}),
    (m.Deallocate(9), {"handle": 9}),
    (m.Deallocate(9, "session", (8, 9), 60), {"handle": 9, "what": "session", "seen": [8, 9], "hold_off": 60}),
    (m.Crypt(9, b"n" * 16), {"handle": 9, "nonce": b"n" * 16}),
    (
        m.Crypt(9, b"n" * 64, 3, m.AccessKey(KEY), AccessMode.STATION_SHARE),
        {"handle": 9, "nonce": b"n" * 64, "units": 3, "key": KEY, "mode": "station_share"},
    ),
    (
        m.Borrow(id=LOAN, holder=b"h" * 32, seconds=86_400, time=1_790_000_000, handle=9),
        {"id": KEY, "holder": b"h" * 32, "seconds": 86_400, "time": 1_790_000_000, "handle": 9},
    ),
    (
        m.Borrow(
            id=LOAN,
            holder=b"h" * 32,
            seconds=2**32 - 1,
            time=0,
            firm_code=600010,
            product_code=14,
            feature_code=4,
            container="3-3448482",
            item=2,
            release_date=1_700_000_000,
        ),
        {
            "id": KEY,
            "holder": b"h" * 32,
            "seconds": 2**32 - 1,
            "time": 0,
            "firm_code": 600010,
            "product_code": 14,
            "feature_code": 4,
            "container": "3-3448482",
            "item": 2,
            "release_date": 1_700_000_000,
        },
    ),
    (
        m.Lend(
            id=LOAN,
            holder=b"h" * 32,
            seconds=60,
            client=Client("WIBU", "fs", 4711),
            station=Station("e67d72ef"),
            firm_code=600010,
            product_code=14,
        ),
        {
            "id": KEY,
            "holder": b"h" * 32,
            "seconds": 60,
            "client": {"host": "WIBU", "user": "fs", "pid": 4711, "application": ""},
            "station": {"machine": "e67d72ef", "seat": 0},
            "firm_code": 600010,
            "product_code": 14,
        },
    ),
    (
        m.GiveBack("3-3448482", LOAN, b"s" * 64),
        {"container": "3-3448482", "id": KEY, "signature": b"s" * 64},
    ),
    (m.Containers(), {}),
    (m.Contents("140-560129638-1439315497"), {"container": "140-560129638-1439315497"}),
    (m.NetCluster(), {}),
    (
        m.NetCluster("3-3448482", 600010, 14, 5, 1),
        {"container": "3-3448482", "firm_code": 600010, "product_code": 14, "cursor": 5, "limit": 1},
    ),
    (m.NetUsers(), {}),
    (
        m.NetUsers("3-3448482", 600010, 14, relevant=True, cursor=2**53 - 1, limit=1000),
        {
            "container": "3-3448482",
            "firm_code": 600010,
            "product_code": 14,
            "relevant": True,
            "cursor": 2**53 - 1,
            "limit": 1000,
        },
    ),
    (m.ServerInfoRequest(), {}),
    (m.TrackingRequest(), {}),
    (
        m.TrackingRequest(5, 9, TrackedFrom(3, 17)),
        {"since": 5, "until": 9, "cursor": {"segment": 3, "lines": 17}},
    ),
    (m.VerifyTracking(), {}),
    (m.Deallocate(9), {"handle": 9}),
    (
        m.Deallocate(9, "session", (9, 10), 60),
        {"handle": 9, "what": "session", "seen": [9, 10], "hold_off": 60},
    ),
    (m.UsageRequest(), {}),
    (
        m.UsageRequest("hour", 5, 9, UsedFrom(7, 2)),
        {"by": "hour", "since": 5, "until": 9, "cursor": {"start": 7, "rows": 2}},
    ),
    (m.Events(), {}),
    (m.Events(60), {"wait": 60}),
    (m.Happened(), {}),
    (m.Happened(7, 60), {"since": 7, "wait": 60}),
    (m.LogRequest(), {}),
    (m.LogRequest(7, 60), {"since": 7, "wait": 60}),
    (m.ConfigurationRequest(), {}),
    (m.StatisticsRequest(), {}),
    (m.Reload(), {}),
    (m.Reload("anna"), {"by": "anna"}),
]

RESULTS: list[tuple[Struct, dict[str, object]]] = [
    (GREETING, GREETING_PLAIN),
    (
        m.Greeting(
            version=1,
            session=7,
            token=TOKEN,
            server=SERVER,
            keep_alive=0.5,
            timeout=1.5,
            time=0,
            limits=m.Limits(1, 2, 3),
            handles=(9, 10),
            ended=(m.EndedHandle(11, ENDED),),
        ),
        GREETING_PLAIN
        | {"keep_alive": 0.5, "timeout": 1.5, "time": 0, "limits": {"requests": 1, "message": 2, "handles": 3}}
        | {"handles": [9, 10], "ended": [{"handle": 11, "error": ENDED_PLAIN}]},
    ),
    (m.Time(1_790_000_000), {"time": 1_790_000_000}),
    (m.Done(), {}),
    (m.Granted(1), {"handle": 1}),
    (m.Granted(9, "3-3448482", 2, 4), {"handle": 9, "container": "3-3448482", "item": 2, "allocation": 4}),
    (
        m.HandleInfo(9, "subsystem", 1_790_000_000, 1_790_000_060),
        {"handle": 9, "kind": "subsystem", "first_access": 1_790_000_000, "last_access": 1_790_000_060},
    ),
    (m.ContextFile(b"request"), {"request": b"request"}),
    (
        m.Deallocated((m.DeallocatedAccess(9, "::1(WIBU \\ fs)", 7, "chart"),), 1),
        {
            "accesses": [{"handle": 9, "client": "::1(WIBU \\ fs)", "pid": 7, "application": "chart"}],
            "licenses": 1,
        },
    ),
    (
        m.TrackingPage(
            9, 5, (TrackingLine(9, 5, "release", "3-1", 10, 14, 1, 7, 8, 1, reason="silent"),), TrackedFrom(3, 17)
        ),
        {
            "position": 9,
            "time": 5,
            "lines": [
                {
                    "position": 9,
                    "time": 5,
                    "event": "release",
                    "container": "3-1",
                    "firm_code": 10,
                    "product_code": 14,
                    "item": 1,
                    "allocation": 7,
                    "handle": 8,
                    "units": 1,
                    "reason": "silent",
                }
            ],
            "next": {"segment": 3, "lines": 17},
        },
    ),
    (
        m.UsagePage(9, 5, (UsageRow(3_600, 900, "3-1", 10, 14, 1, 2, 1_000),), UsedFrom(3_600, 1)),
        {
            "position": 9,
            "time": 5,
            "rows": [
                {
                    "start": 3_600,
                    "seconds": 900,
                    "container": "3-1",
                    "firm_code": 10,
                    "product_code": 14,
                    "item": 1,
                    "peak": 2,
                    "unit_seconds": 1_000,
                }
            ],
            "next": {"start": 3_600, "rows": 1},
        },
    ),
    (
        m.TrackingProof(False, 0, 9, 5, 2, 8, 30, "damaged"),
        {
            "sound": False,
            "first": 0,
            "position": 9,
            "time": 5,
            "segments": 2,
            "entries": 8,
            "lines": 30,
            "text": "damaged",
        },
    ),
    (m.Imported("3-1", 600010, 5), {"container": "3-1", "firm_code": 600010, "update_counter": 5}),
    (m.Imported("3-1", time=9), {"container": "3-1", "time": 9}),
    (
        m.Deallocated((m.DeallocatedAccess(9, "::1(pc \\ fs)", 7, "cad"),), 1),
        {
            "accesses": [{"handle": 9, "client": "::1(pc \\ fs)", "pid": 7, "application": "cad"}],
            "licenses": 1,
        },
    ),
    (
        m.CryptAnswer(b"message", b"s" * 64, b"firm item", b"t" * 64, 97, 1_790_000_000),
        {
            "message": b"message",
            "signature": b"s" * 64,
            "firm_item": b"firm item",
            "firm_signature": b"t" * 64,
            "units_left": 97,
            "usage_start": 1_790_000_000,
        },
    ),
    (
        m.Borrowed("3-3448482", 2, 17, 1_790_086_400, b"message", b"s" * 64, b"firm item", b"t" * 64),
        {
            "container": "3-3448482",
            "item": 2,
            "number": 17,
            "end": 1_790_086_400,
            "message": b"message",
            "signature": b"s" * 64,
            "firm_item": b"firm item",
            "firm_signature": b"t" * 64,
        },
    ),
    (m.GivenBack(stood=True), {"stood": True}),
    (
        m.HandleInfo(9, "entry", 1, 2, "station_share", 4, 600010, CONTAINER, ENTRY),
        {
            "handle": 9,
            "kind": "entry",
            "first_access": 1,
            "last_access": 2,
            "mode": "station_share",
            "allocation": 4,
            "firm_code": 600010,
            "container": CONTAINER_PLAIN,
            "entry": ENTRY_PLAIN,
        },
    ),
    (m.ContainerList(3, (CONTAINER,)), {"position": 3, "containers": [CONTAINER_PLAIN]}),
    (
        m.ContainerContents(3, CONTAINER, (m.FirmItemInfo(600010, "Charts", 12, (ENTRY,)),)),
        {
            "position": 3,
            "container": CONTAINER_PLAIN,
            "firm_items": [{"firm_code": 600010, "text": "Charts", "update_counter": 12, "entries": [ENTRY_PLAIN]}],
        },
    ),
    (
        m.LicensePage(
            3,
            1_790_000_000,
            (m.LicenseCount("3-3448482", 600010, 14, 2, "Chart Processing", None, True, 2, 2, 1, 1, 0, 0, 0, 1),),
        ),
        {"position": 3, "time": 1_790_000_000, "licenses": [COUNT_PLAIN]},
    ),
    (m.LicensePage(3, 4, (), 5), {"position": 3, "time": 4, "licenses": [], "next": 5}),
    (
        m.AccessPage(
            3,
            4,
            (
                m.AccessInfo(
                    handle=9,
                    allocation=4,
                    kind="entry",
                    mode="station_share",
                    container="3-3448482",
                    firm_code=600010,
                    product_code=14,
                    item=2,
                    client="::1(WIBU \\ fs)",
                    address="::1",
                    host="WIBU",
                    user="fs",
                    pid=4711,
                    application="Chart Processing",
                    session=7,
                    station="e67d72ef48cb484084af99470b19eac2/0",
                    first_access=1_790_000_000,
                    last_access=1_790_000_060,
                    attached=True,
                ),
            ),
            6,
        ),
        {"position": 3, "time": 4, "accesses": [ACCESS_INFO_PLAIN], "next": 6},
    ),
    (m.AccessPage(3, 4, ()), {"position": 3, "time": 4, "accesses": []}),
    (
        m.ServerInfo(
            server=SERVER,
            listening=("0.0.0.0:22350", "[::1]:22350"),
            position=3,
            time=4,
            started=2,
            starting=False,
            containers=1,
            sessions=2,
            accesses=3,
        ),
        {
            "server": SERVER_PLAIN,
            "listening": ["0.0.0.0:22350", "[::1]:22350"],
            "position": 3,
            "time": 4,
            "started": 2,
            "starting": False,
            "containers": 1,
            "sessions": 2,
            "accesses": 3,
        },
    ),
    (
        m.EventList((m.Event("rebooked", 5, 9, container="3-1", item=1), m.Event("ended", 6, 9, ENDED))),
        {
            "events": [
                {"event": "rebooked", "position": 5, "handle": 9, "container": "3-1", "item": 1},
                {"event": "ended", "position": 6, "handle": 9, "error": ENDED_PLAIN},
            ]
        },
    ),
    *watching.RESULTS,
]

NOTIFICATIONS: list[tuple[m.Event | m.Farewell, dict[str, object]]] = [
    (m.Event("ended", 6, 9, ENDED), {"event": "ended", "position": 6, "handle": 9, "error": ENDED_PLAIN}),
    (
        m.Event("rebooked", 5, 9, container="3-1", item=1),
        {"event": "rebooked", "position": 5, "handle": 9, "container": "3-1", "item": 1},
    ),
    (m.Farewell(ERROR), {"error": ERROR_PLAIN}),
]


class Case:
    """A message: what encodes it, what it is on the wire, what the reader must give, and as which class it is read."""

    def __init__(self, written: bytes, plain: object, read: rpc.Message, body: Struct, body_plain: object) -> None:
        self.written = written
        self.wire: bytes = msgpack.packb(plain)
        self.read = read
        self.body = body
        self.body_plain = body_plain


def _all() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for number, (params, plain) in enumerate(REQUESTS):
        cases[f"{params.method}-{number}"] = Case(
            rpc.encode_request(number, params),
            [0, number, params.method, [plain]],
            rpc.Request(number, params.method, [plain]),
            params,
            plain,
        )
    for number, (result, plain) in enumerate(RESULTS):
        cases[f"{type(result).__name__}-{number}"] = Case(
            rpc.encode_result(2**32 - 1 - number, result),
            [1, 2**32 - 1 - number, None, plain],
            rpc.Response(2**32 - 1 - number, None, plain),
            result,
            plain,
        )
    for number, (notification, plain) in enumerate(NOTIFICATIONS):
        cases[f"{notification.method}-notification-{number}"] = Case(
            rpc.encode_notification(notification.method, notification),
            [2, notification.method, [plain]],
            rpc.Notification(notification.method, [plain]),
            notification,
            plain,
        )
    for number, (error, plain) in enumerate([(ERROR, ERROR_PLAIN), (ENDED, ENDED_PLAIN)]):
        cases[f"error-{number}"] = Case(
            rpc.encode_error(number, error),
            [1, number, plain, None],
            rpc.Response(number, plain, None),
            error,
            plain,
        )
    return cases


CASES = _all()
