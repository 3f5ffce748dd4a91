"""The results of what is asked to look at a server, and the same as plain maps: a part of the table in `cases`."""

from __future__ import annotations

from msgspec import Struct

from protocol import messages as m
from protocol.watching import (
    Durability,
    EndedCount,
    Happening,
    Latency,
    LicensePeak,
    LogLine,
    ProductRefusals,
    RefusedCount,
    Setting,
)

_DENIED = RefusedCount(212, "NO_MORE_LICENSES", 3)
_DENIED_PLAIN = {"number": 212, "name": "NO_MORE_LICENSES", "count": 3}

RESULTS: list[tuple[Struct, dict[str, object]]] = [
    (
        m.Happenings(
            9,
            4,
            (
                Happening(8, 3, "ended", "3-1", 600010, 14, 2, handle=7, session=5, cause="administrator"),
                Happening(9, 4, "refused", firm_code=600010, product_code=14, session=5, number=212),
            ),
        ),
        {
            "position": 9,
            "time": 4,
            "events": [
                {
                    "position": 8,
                    "time": 3,
                    "kind": "ended",
                    "container": "3-1",
                    "firm_code": 600010,
                    "product_code": 14,
                    "item": 2,
                    "handle": 7,
                    "session": 5,
                    "cause": "administrator",
                },
                {
                    "position": 9,
                    "time": 4,
                    "kind": "refused",
                    "firm_code": 600010,
                    "product_code": 14,
                    "session": 5,
                    "number": 212,
                },
            ],
        },
    ),
    (m.Happenings(9, 4, missed=True, first=5), {"position": 9, "time": 4, "missed": True, "first": 5}),
    (
        m.LogPage(7, (LogLine(7, 1_790_000_000, "info", "stopping", "signal=SIGTERM"),), missed=True),
        {
            "number": 7,
            "lines": [
                {"number": 7, "time": 1_790_000_000, "level": "info", "event": "stopping", "fields": "signal=SIGTERM"}
            ],
            "missed": True,
        },
    ),
    (
        m.Configuration(
            "/etc/c.toml", (Setting("log", "level", '"info"', '"info"', 3, "text", "The level.", reloads=True),)
        ),
        {
            "file": "/etc/c.toml",
            "settings": [
                {
                    "section": "log",
                    "key": "level",
                    "value": '"info"',
                    "default": '"info"',
                    "line": 3,
                    "allowed": "text",
                    "meaning": "The level.",
                    "reloads": True,
                }
            ],
        },
    ),
    (m.Reloaded(("log.level",), ("server.name",)), {"taken": ["log.level"], "restart": ["server.name"]}),
    (
        m.Statistics(
            position=1,
            time=2,
            started=3,
            containers=4,
            sessions=5,
            sessions_peak=6,
            accesses=7,
            granted=8,
            released=9,
            ended=(EndedCount("silent", 10),),
            refused=(_DENIED,),
            products=(ProductRefusals(600010, 14, (_DENIED,)),),
            user_limit=11,
            no_user_limit=12,
            exclusive=13,
            station_share=14,
            latency=Latency((0.1, 1.0), (5, 4, 3), 2.5),
            durability=Durability("process", protected=True, commit=0.5, history=16),
            peaks=(LicensePeak("3-1", 600010, 14, 2, 17),),
            borrowed=18,
        ),
        {
            "position": 1,
            "time": 2,
            "started": 3,
            "containers": 4,
            "sessions": 5,
            "sessions_peak": 6,
            "accesses": 7,
            "granted": 8,
            "released": 9,
            "ended": [{"cause": "silent", "count": 10}],
            "refused": [_DENIED_PLAIN],
            "products": [{"firm_code": 600010, "product_code": 14, "refused": [_DENIED_PLAIN]}],
            "user_limit": 11,
            "no_user_limit": 12,
            "exclusive": 13,
            "station_share": 14,
            "latency": {"bounds": [0.1, 1.0], "counts": [5, 4, 3], "sum": 2.5},
            "durability": {"setting": "process", "protected": True, "commit": 0.5, "history": 16},
            "peaks": [{"container": "3-1", "firm_code": 600010, "product_code": 14, "item": 2, "peak": 17}],
            "borrowed": 18,
        },
    ),
]
