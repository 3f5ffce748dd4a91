"""Why a request is refused: which number, and what was tried where (decision 11)."""

from __future__ import annotations

from typing import Final

from cmserverd.core.fitting import pins_fit, unusable, visible
from cmserverd.core.table import Table
from cmserverd.core.terms import License, Session, Want
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
}


def ended(cause: EndCause) -> Refused:
    """Return the answer to a use of a handle that the server has ended, and the error in the event that told of it."""
    return Refused(ErrorNumber.INVALID_HANDLE, _BECAUSE[cause], cause=cause)


def no_license(
    table: Table, session: Session, firm_code: int, product_code: int, want: Want, mode: AccessMode
) -> Refused:
    """Return the refusal of a request that no license serves as the table is now."""
    product = table.products.get((firm_code, product_code))
    candidates = [
        counted
        for counted in (product.licenses if product else ())
        if visible(counted.item, session.local) and pins_fit(counted, want)
    ]
    if product is None or not candidates:
        unknown = want.container is not None and want.container not in table.containers
        number = ErrorNumber.BOX_NOT_FOUND if unknown else ErrorNumber.ENTRY_NOT_FOUND
        return unless_starting(table, Refused(number))
    holding = product.holdings.find(session.station)
    if holding is not None and (holding.exclusives or mode is AccessMode.EXCLUSIVE):
        conflict = ErrorNumber.EXCLUSIVE_CONFLICT
        return Refused(conflict, reasons=tuple(_reason(counted, conflict) for counted in candidates[:REASONS]))
    numbers = [unusable(counted, mode, want, session.local) or ErrorNumber.NO_MORE_LICENSES for counted in candidates]
    reasons = tuple(map(_reason, candidates[:REASONS], numbers))
    if ErrorNumber.NO_MORE_LICENSES in numbers:
        number = ErrorNumber.NO_MORE_LICENSES
    else:
        number = numbers[0] if len(set(numbers)) == 1 else ErrorNumber.SEVERAL_REASONS
    return unless_starting(table, Refused(number, reasons=reasons))


def unless_starting(table: Table, refused: Refused) -> Refused:
    """Return a refusal as it must be told: while the server is starting, a license that serves may still come."""
    if table.starting:
        return Refused(ErrorNumber.SERVER_STARTING, reasons=refused.reasons)
    return refused


def _reason(counted: License, number: ErrorNumber) -> Reason:
    item = counted.item
    detail = ""
    if number is ErrorNumber.NO_MORE_LICENSES:
        detail = f"{counted.used} of {item.quantity}"
    elif number is ErrorNumber.PRODUCT_ITEM_INVALID:
        detail = item.unusable
    return Reason(
        counted.id.container,
        counted.id.firm_code,
        item.product_code,
        counted.id.item,
        number,
        number.name,
        text_of(number, detail),
    )
