"""Why a request is refused: which number, and what was tried where (decision 11)."""

from __future__ import annotations

from typing import Final

from cmserverd.core.fitting import pins_fit, unusable, visible
from cmserverd.core.table import Table
from cmserverd.core.terms import License, Session, Want
from cmserverd.core.validity import RUNTIME
from drivers.container import ContainerId, FirmItem
from protocol.errors import ErrorNumber, text_of
from protocol.messages import EndCause, ErrorBody, Reason
from protocol.terms import AccessMode

REASONS: Final = 64
"""How many entries a refusal tells of, the first ones: more help nobody, and a product may have thousands."""


class Refused(Exception):
    """A request is refused. `detail` is for people; `cause` says why a handle ended; `reasons` what was tried."""

    def __init__(
        self,
        number: ErrorNumber,
        detail: str = "",
        *,
        cause: EndCause | None = None,
        reasons: tuple[Reason, ...] = (),
    ) -> None:
        super().__init__(text_of(number, detail))
        self.number = number
        self.cause = cause
        self.reasons = reasons

    def body(self) -> ErrorBody:
        """Return the refusal as it goes on the wire."""
        return ErrorBody(self.number, self.number.name, str(self), self.reasons, self.cause or "")


_BECAUSE = {
    EndCause.ADMINISTRATOR: "an administrator removed it",
    EndCause.CONTAINER_GONE: "its container is gone, and no other license could take its place",
    EndCause.REPROGRAMMED: "its license was changed, and no other license could take its place",
    EndCause.NOT_LOCAL: "it is for the server's own machine only, and the session came back from elsewhere",
    EndCause.SUPERSEDED: "the application was started again after its connection had closed",
    EndCause.SILENT: "nothing was heard of the client for its cleanup time",
    EndCause.MAXIMUM_LIFE: "its maximum life, which it was asked for with, is over",
    EndCause.LENT: "its license was borrowed, and no other license could take its place",
    EndCause.EXPIRED: "no other license could take its place",
    EndCause.USAGE_OVER: "no other license could take its place",
}
_NUMBERS = {
    EndCause.EXPIRED: ErrorNumber.EXPIRATION_OVERRUN,
    EndCause.USAGE_OVER: ErrorNumber.USAGE_PERIOD_OVERRUN,
}


def ended(cause: EndCause) -> Refused:
    """Return the answer to a use of a handle that the server has ended, and the error in the event that told of it."""
    return Refused(_NUMBERS.get(cause, ErrorNumber.INVALID_HANDLE), _BECAUSE[cause], cause=cause)


def no_license(
    table: Table, session: Session, firm_code: int, product_code: int, want: Want, mode: AccessMode, now: int
) -> Refused:
    """Return the refusal of a request that no license serves as the table is now.

    A firm item that is not trusted may have held the license: it is one more reason, and the only one if there is none.
    """
    product = table.products.get((firm_code, product_code))
    candidates = offered(table, firm_code, product_code, want, local=session.local)
    holding = product.holdings.find(session.station) if product and candidates else None
    if holding is not None and (holding.exclusives or (mode is AccessMode.EXCLUSIVE and holding.accesses)):
        conflict = ErrorNumber.EXCLUSIVE_CONFLICT
        return Refused(
            conflict, reasons=tuple(_reason(table, counted, conflict, "", now) for counted in candidates[:REASONS])
        )
    tried = [
        (counted, unusable(counted, mode, want, session.local, now) or ErrorNumber.NO_MORE_LICENSES, "")
        for counted in candidates
    ]
    return none_serves(table, firm_code, product_code, want, tried, now)


def offered(table: Table, firm_code: int, product_code: int, want: Want, *, local: bool) -> list[License]:
    """Return the licenses that exist for a request, in the order in which they are drawn on."""
    product = table.products.get((firm_code, product_code))
    return [
        counted
        for counted in (product.licenses if product else ())
        if visible(counted.item, local) and pins_fit(counted, want)
    ]


def none_serves(
    table: Table, firm_code: int, product_code: int, want: Want, tried: list[tuple[License, ErrorNumber, str]], now: int
) -> Refused:
    """Return the refusal of a request that none of these licenses serves, each for a reason, with what it tells more.

    What they all tell of the same number, the refusal tells too.
    """
    untrusted = _untrusted(table, firm_code, want)
    if not tried and not untrusted:
        unknown = want.container is not None and want.container not in table.containers
        number = ErrorNumber.BOX_NOT_FOUND if unknown else ErrorNumber.ENTRY_NOT_FOUND
        return unless_starting(table, Refused(number, _nothing_plugged_in(table)))
    reasons = tuple(_reason(table, *one, now) for one in tried[:REASONS])
    for container, firm_item in untrusted[: REASONS - len(reasons)]:
        reasons += (_no_trust(container, firm_item, product_code),)
    numbers = [number for _, number, _ in tried] + [ErrorNumber.FIRM_ITEM_INVALID] * len(untrusted)
    if ErrorNumber.NO_MORE_LICENSES in numbers:
        number = ErrorNumber.NO_MORE_LICENSES
    else:
        number = numbers[0] if len(set(numbers)) == 1 else ErrorNumber.SEVERAL_REASONS
    details = {detail for _, one, detail in tried if one is number}
    return unless_starting(table, Refused(number, details.pop() if len(details) == 1 else "", reasons=reasons))


def unless_starting(table: Table, refused: Refused) -> Refused:
    """Return a refusal as it must be told: while the server is starting, a license that serves may still come."""
    if table.starting:
        return Refused(ErrorNumber.SERVER_STARTING, reasons=refused.reasons)
    return refused


def _nothing_plugged_in(table: Table) -> str:
    """Say so if it is the case: it is the first thing to look at, and may be all that is wrong."""
    return "" if any(plugged.present for plugged in table.containers.values()) else "no container is plugged in"


def _untrusted(table: Table, firm_code: int, want: Want) -> list[tuple[ContainerId, FirmItem]]:
    """Return the firm items of this firm code that are listed and not used, and in which container each is."""
    return [
        (plugged.contents.id, firm_item)
        for plugged in table.containers.values()
        if want.container in (None, plugged.contents.id)
        for firm_item in plugged.contents.firm_items
        if firm_item.unusable and firm_item.firm_code == firm_code
    ]


def _no_trust(container: ContainerId, firm_item: FirmItem, product_code: int) -> Reason:
    number = ErrorNumber.FIRM_ITEM_INVALID
    text = text_of(number, firm_item.unusable)
    return Reason(container, firm_item.firm_code, product_code, 0, number, number.name, text)


def _reason(table: Table, counted: License, number: ErrorNumber, detail: str, now: int) -> Reason:
    item = counted.item
    if number is ErrorNumber.NO_MORE_LICENSES:
        detail = f"{counted.used} of {item.quantity}"
        if counted.lent:
            detail += f", {counted.lent} of them borrowed"
        if counted.lingering:
            seconds = max(table.elapsed.comes(counted.lingering[0][0]) - now, 0)
            detail += f", {len(counted.lingering)} of them lingering, the next is free in {seconds} s"
    elif number is ErrorNumber.PRODUCT_ITEM_INVALID:
        detail = item.unusable
    elif number is ErrorNumber.RUNTIME_TOO_OLD and item.minimum_runtime is not None:
        needed = item.minimum_runtime
        detail = f"the license needs server {needed.major}.{needed.minor}, this one is {RUNTIME.major}.{RUNTIME.minor}"
    return Reason(
        counted.id.container,
        counted.id.firm_code,
        item.product_code,
        counted.id.item,
        number,
        number.name,
        text_of(number, detail),
    )
