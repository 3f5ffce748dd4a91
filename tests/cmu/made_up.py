"""A server's answers, made up: the page's example, and one of each kind of thing that can be listed."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import (
    AccessInfo,
    AccessPage,
    ContainerContents,
    ContainerInfo,
    ContainerList,
    Containers,
    Contents,
    EntryInfo,
    FirmItemInfo,
    LicenseCount,
    LicensePage,
    NetCluster,
    NetUsers,
    Params,
    Server,
    ServerInfo,
    ServerInfoRequest,
)
from protocol.terms import shown_client

R = TypeVar("R", bound=Struct)

NOON = 1_790_000_000
"""2026-09-21 14:13:20 UTC."""

SERVER = Server("alpha", "cmserverd", "0.1.0")
EVIL = "a[bold]b\x1b[2Jc\r\nd\u202ee"

CONTAINERS = (
    ContainerInfo("3-3448482", "hardware", "License dongle", present=True, firm_items=2),
    ContainerInfo("130-1234567890", "virtual", "", present=False, firm_items=0),
)

CONTENTS = {
    "3-3448482": ContainerContents(
        41,
        CONTAINERS[0],
        (
            FirmItemInfo(
                600010,
                "WIBU",
                7,
                (
                    EntryInfo(1, 14, "Chart Processing", 2),
                    EntryInfo(
                        2,
                        15,
                        "Chart Designer with a rather long name for people who read",
                        0,
                        denied=("exclusive", "no_user_limit"),
                        local_only=True,
                        feature_map=0x8000000F,
                    ),
                    EntryInfo(3, 16, "Plots", 1, unusable="The option 77 is not known to this software."),
                    EntryInfo(
                        4,
                        17,
                        "Trial",
                        5,
                        activation=NOON - 86_400,
                        expiration=NOON - 1,
                        usage=90 * 86_400,
                        linger=120,
                        user_data=b"edition=trial",
                        valid_until=NOON - 1,
                        state="expired",
                    ),
                    EntryInfo(
                        5,
                        18,
                        "Renderings",
                        1,
                        usage=5_400,
                        usage_start=NOON - 60,
                        maintenance=(NOON - 86_400, NOON),
                        units=100,
                        units_left=0,
                        minimum_runtime="0.1",
                        protected_data=bytes(range(20)),
                        valid_until=NOON + 5_340,
                        state="exhausted",
                    ),
                ),
            ),
            FirmItemInfo(77, "Strangers", 1, (), "Its licensor is not listed; add him under [licensors]."),
            FirmItemInfo(4294967295, "", 0, ()),
        ),
    ),
    "130-1234567890": ContainerContents(41, CONTAINERS[1], ()),
}


LICENSE = LicenseCount(
    container="3-3448482",
    firm_code=600010,
    product_code=14,
    item=1,
    text="Chart Processing",
    feature_map=None,
    present=True,
    quantity=2,
    total=2,
    used=1,
    free=1,
    user_limit=0,
    no_user_limit=0,
    exclusive=0,
    station_share=1,
)
"""The page's license."""

ACCESS = AccessInfo(
    handle=1,
    allocation=1,
    kind="entry",
    mode="station_share",
    container="3-3448482",
    firm_code=600010,
    product_code=14,
    item=1,
    client=shown_client("::1", "WIBU", "fs"),
    address="::1",
    host="WIBU",
    user="fs",
    pid=4711,
    application="Chart Processing",
    session=1,
    station="5d41402abc4b2a76b9719d911017c592",
    first_access=NOON,
    last_access=NOON,
    attached=True,
)
"""The page's first access."""

PAGE_COUNTS = (LICENSE,)
PAGE_ACCESSES = tuple(replace(ACCESS, handle=handle) for handle in (1, 2, 3, 4))

ALL_COUNTS = (
    *PAGE_COUNTS,
    replace(
        LICENSE,
        item=2,
        product_code=15,
        text="Chart Designer",
        feature_map=0xF,
        quantity=20,
        total=20,
        used=8,
        free=12,
        user_limit=6,
        no_user_limit=3,
        station_share=0,
        lingering=2,
        lingering_until=NOON + 118,
        valid_until=NOON + 86_400,
    ),
    replace(
        LICENSE,
        container="130-4294967295",
        item=7,
        product_code=4294967295,
        text="Gone",
        present=False,
        total=0,
        used=0,
        free=0,
        station_share=0,
    ),
)
ALL_ACCESSES = (
    *PAGE_ACCESSES,
    replace(
        ACCESS,
        handle=5,
        allocation=7,
        mode="user_limit",
        product_code=15,
        item=2,
        client=shown_client("fd12:3456:789a:1:2345:6789:abcd:ef01", "a-workstation-upstairs", "B. Featherstonehaugh"),
        pid=4194304,
        application="designer.exe --project 'Charts of the northern sea'",
        first_access=NOON - 86_400,
        attached=False,
        valid_until=NOON + 86_400,
    ),
    replace(
        ACCESS,
        handle=1_000_000,
        allocation=8,
        mode="no_user_limit",
        product_code=15,
        item=2,
        client=shown_client("::1", EVIL, EVIL),
        application=EVIL,
    ),
    replace(ACCESS, handle=6, allocation=0, kind="firm_item", mode="", product_code=0, item=0),
    replace(
        ACCESS,
        handle=7,
        allocation=0,
        kind="subsystem",
        mode="",
        container="",
        firm_code=0,
        product_code=0,
        item=0,
        application="",
    ),
)


class MadeUp:
    """Answers as a server at rest would, filters and pages included; `moves` is how often its table changes meanwhile.

    A page has at most `page` rows, whatever is asked for.
    """

    def __init__(
        self,
        counts: tuple[LicenseCount, ...] = ALL_COUNTS,
        accesses: tuple[AccessInfo, ...] = ALL_ACCESSES,
        *,
        page: int = 1_000,
        moves: int = 0,
    ) -> None:
        self.counts = counts
        self.accesses = accesses
        self.page = page
        self.moves = moves
        self.position = 41
        self.asked: list[Params[Any]] = []

    def answer(self, params: Params[Any]) -> Struct:
        """Return the answer to a request. Raises LicenseError."""
        self.asked.append(params)
        match params:
            case ServerInfoRequest():
                return ServerInfo(
                    server=SERVER,
                    listening=("127.0.0.1:22350",),
                    position=self.position,
                    time=NOON,
                    started=NOON - 60,
                    starting=False,
                    containers=2,
                    sessions=3,
                    accesses=8,
                )
            case Containers():
                return ContainerList(self.position, CONTAINERS)
            case Contents():
                if params.container not in CONTENTS:
                    raise LicenseError.of(ErrorNumber.BOX_NOT_FOUND)
                return CONTENTS[params.container]
            case NetCluster():
                counts = [
                    (at, one) for at, one in enumerate(self.counts, 1) if _wanted(params, one) and at > params.cursor
                ]
                page, after = self._page(counts)
                return LicensePage(self.position, NOON, tuple(page), after)
            case NetUsers():
                accesses = [
                    (one.handle, one)
                    for one in sorted(self.accesses, key=lambda one: one.handle)
                    if _wanted(params, one)
                    and one.handle > params.cursor
                    and (one.kind == "entry" or not params.relevant)
                    and params.session in (None, one.session)
                    and params.allocation in (None, one.allocation)
                ]
                found, after = self._page(accesses)
                return AccessPage(self.position, NOON, tuple(found), after)
            case _:
                raise LicenseError.of(ErrorNumber.NOT_IMPLEMENTED)

    def call(self, params: Params[R]) -> R:
        """Be the client as `fetch` sees it."""
        return cast("R", self.answer(params))

    def _page(self, rows: list[tuple[int, R]]) -> tuple[list[R], int | None]:
        if self.moves:
            self.moves -= 1
            self.position += 1
        page = rows[: self.page]
        return [one for _, one in page], page[-1][0] if len(rows) > len(page) else None


def _wanted(params: NetCluster | NetUsers, one: LicenseCount | AccessInfo) -> bool:
    return (
        params.container in (None, one.container)
        and params.firm_code in (None, one.firm_code)
        and params.product_code in (None, one.product_code)
    )
