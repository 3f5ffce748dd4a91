"""The rows of the tables of License Monitoring, spelt: what is counted for a license, and the accesses to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from markupsafe import Markup
from msgspec import Struct

from cmserverd.webadmin import charts
from cmserverd.webadmin.pages import spelling
from protocol.messages import AccessInfo, LicenseCount
from protocol.terms import HandleKind


class LicenseRow(Struct, frozen=True, gc=False):
    """A license with its counts. `where` is the path of its details, `remarks` what an administrator should know."""

    id: str
    where: str
    container: str
    firm_code: int
    product_code: int
    item: int
    name: str
    feature_map: str
    quantity: int
    total: int
    available: int
    user_limit: str
    no_user_limit: int
    exclusive: int
    station_share: int
    valid_until: str
    remarks: tuple[str, ...]
    fill: Markup


class AccessRow(Struct, frozen=True, gc=False):
    """An access, or a loan, which is `borrowed_until` then and nobody can remove. `share`: its license is shared."""

    handle: int
    allocation: int
    client: str
    pid: int
    application: str
    mode: str
    first_access: str
    last_access: str
    valid_until: str
    borrowed_until: str
    attached: bool
    container: str
    firm_code: int
    product_code: int
    session: int
    target: str

    @property
    def removable(self) -> bool:
        """Whether an operator can take it away."""
        return not self.borrowed_until


def details_path(container: str, firm_code: int, product_code: int) -> str:
    """Return where the details of a license are."""
    return f"/licenses/{quote(container, safe='')}/{firm_code}/{product_code}"


def license_row(counts: LicenseCount) -> LicenseRow:
    """Return a license as a row."""
    name = spelling.shown(counts.text) or f"Product Code {counts.product_code}"
    return LicenseRow(
        id=f"{counts.container}-{counts.firm_code}-{counts.item}",
        where=details_path(counts.container, counts.firm_code, counts.product_code),
        container=spelling.shown(counts.container),
        firm_code=counts.firm_code,
        product_code=counts.product_code,
        item=counts.item,
        name=name,
        feature_map=spelling.feature_map(counts.feature_map),
        quantity=counts.quantity,
        total=counts.total,
        available=counts.free,
        user_limit=f"{counts.user_limit} ({counts.borrowed})" if counts.borrowed else str(counts.user_limit),
        no_user_limit=counts.no_user_limit,
        exclusive=counts.exclusive,
        station_share=counts.station_share,
        valid_until=spelling.until(counts.valid_until),
        remarks=_remarks(counts),
        fill=charts.bar(counts.used, counts.total, name),
    )


def _remarks(counts: LicenseCount) -> tuple[str, ...]:
    remarks = []
    if not counts.present:
        remarks.append("container unplugged")
    if state := spelling.state(counts.state):
        remarks.append(state)
    if counts.lingering_until is not None:
        remarks.append(f"{counts.lingering} lingering, the next is free at {spelling.instant(counts.lingering_until)}")
    return tuple(remarks)


def access_row(access: AccessInfo) -> AccessRow:
    """Return an access as a row."""
    ends = [end for end in (access.valid_until, access.life_until) if end is not None]
    return AccessRow(
        handle=access.handle,
        allocation=access.allocation,
        client=spelling.shown(access.client),
        pid=access.pid,
        application=spelling.shown(access.application),
        mode=spelling.mode(access.mode),
        first_access=spelling.instant(access.first_access),
        last_access=spelling.instant(access.last_access),
        valid_until=spelling.until(min(ends, default=None)),
        borrowed_until="" if access.borrowed_until is None else spelling.instant(access.borrowed_until),
        attached=access.attached,
        container=spelling.shown(access.container),
        firm_code=access.firm_code,
        product_code=access.product_code,
        session=access.session,
        target=_target(access),
    )


def _target(access: AccessInfo) -> str:
    """Say what an access refers to."""
    match access.kind:
        case HandleKind.CONTAINER:
            return f"CmContainer {spelling.shown(access.container)}"
        case HandleKind.FIRM_ITEM:
            return f"Firm Code {access.firm_code} in {spelling.shown(access.container)}"
        case HandleKind.SUBSYSTEM:
            return "the license server itself"
        case _:
            return f"Product Code {access.product_code}"


def access_rows(accesses: Iterable[AccessInfo]) -> tuple[AccessRow, ...]:
    """Return accesses as rows."""
    return tuple(map(access_row, accesses))


def product_name(licenses: Sequence[LicenseCount], product_code: int) -> str:
    """Return what a product is called: as its first license says, else by its code."""
    return next((spelling.shown(one.text) for one in licenses if one.text), f"Product Code {product_code}")
