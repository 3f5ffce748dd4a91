"""What CmAccess2 is asked for, out of its flags and its record. A flag that is not obeyed is refused by its name."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from protocol.blocking import Access, Client
from protocol.classic import constants as cm
from protocol.classic.last_error import invalid, not_supported
from protocol.classic.records import CMACCESS2
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import AccessMode, HandleKind

R = TypeVar("R", bound=Struct)

MODES: Final = {
    cm.CM_ACCESS_USERLIMIT: AccessMode.USER_LIMIT,
    cm.CM_ACCESS_NOUSERLIMIT: AccessMode.NO_USER_LIMIT,
    cm.CM_ACCESS_EXCLUSIVE: AccessMode.EXCLUSIVE,
    cm.CM_ACCESS_STATIONSHARE: AccessMode.STATION_SHARE,
}

_REFUSED: Final = (
    "CM_ACCESS_CHECK_FSB",
    "CM_ACCESS_CHECK_CTSB",
    "CM_ACCESS_BORROW_ACCESS",
    "CM_ACCESS_BORROW_RELEASE",
    "CM_ACCESS_BORROW_VALIDATE",
    "CM_ACCESS_BORROW_IGNORESTATE",
)
_WAN: Final = ("CM_ACCESS_LANWAN", "CM_ACCESS_LOCAL_LANWAN", "CM_ACCESS_LANWAN_LOCAL")
_OBEYED: Final = (
    cm.CM_ACCESS_CMDMASK
    | cm.CM_ACCESS_STRUCTMASK
    | cm.CM_ACCESS_FORCE
    | cm.CM_ACCESS_SUBSYSTEM
    | cm.CM_ACCESS_FIRMITEM
    | cm.CM_ACCESS_IGNORE_LINGERTIME
)
_CREDENTIAL: Final = frozenset({"user_defined_text", "cleanup_time", "max_life_time"})
_NO_CONTAINER: Final = frozenset({ErrorNumber.ENTRY_NOT_FOUND, ErrorNumber.BOX_NOT_FOUND})


class Wanted(Struct, frozen=True):
    """A request that makes sense: where it is asked (a location), and what."""

    location: int
    mode: AccessMode
    kind: HandleKind
    flags: int
    container: str | None
    record: CMACCESS2

    def ask(self, client: Client) -> Access:
        """Ask one server. Raises LicenseError."""
        try:
            return self._ask(client, self.kind)
        except LicenseError as error:
            if not self.flags & cm.CM_ACCESS_SUBSYSTEM or error.number not in _NO_CONTAINER:
                raise
        return self._ask(client, HandleKind.SUBSYSTEM)

    def _ask(self, client: Client, kind: HandleKind) -> Access:
        record = self.record
        return client.access(
            record.firm_code,
            record.product_code,
            self.mode,
            kind=kind,
            feature_code=record.feature_code,
            container=self.container,
            item=record.product_item_reference or None,
            release_date=record.release_date or None,
            force=bool(self.flags & cm.CM_ACCESS_FORCE),
            ignore_linger=bool(self.flags & cm.CM_ACCESS_IGNORE_LINGERTIME),
            maximum_life=record.credential.max_life_time or 0,
            cleanup_time=record.credential.cleanup_time or 0,
        )


def wanted(flags: int, record: CMACCESS2) -> Wanted:
    """Return what is asked for. Raises LicenseError 105, or 306 for what is the field's and not supported here."""
    record = checked(record)
    if record.ctrl & cm.CM_ACCESS_CMDMASK:
        raise invalid("where to ask stands in CmAccess2's first argument, not in ctrl")
    flags |= record.ctrl
    for name in _REFUSED:
        if flags & getattr(cm, name):
            raise not_supported(f"the flag {name}")
    location = flags & cm.CM_ACCESS_CMDMASK
    for name in _WAN:
        if location == getattr(cm, name):
            raise not_supported(f"the flag {name}")
    if unknown := flags & ~_OBEYED or location & ~cm.CM_ACCESS_LAN_LOCAL:
        raise invalid(f"the flag {unknown:#x} is none of CmAccess2")
    _refuse_fields(record)
    return Wanted(location, _mode(flags), _kind(flags, record), flags, _container(record), record)


def checked(record: R) -> R:
    """Return a record whose fields have the types and ranges that it says. Raises LicenseError 105."""
    try:
        return msgspec.convert(msgspec.to_builtins(record, builtin_types=(bytes,)), type(record))
    except (msgspec.ValidationError, TypeError, OverflowError) as error:
        raise invalid(str(error)) from None


def _mode(flags: int) -> AccessMode:
    number = flags & cm.CM_ACCESS_STRUCTMASK
    if number == cm.CM_ACCESS_CONVENIENT:
        return AccessMode.STATION_SHARE  # it takes the fewest licenses of those that are counted
    if number not in MODES:
        raise invalid(f"the flag {number:#x} is no access mode")
    return MODES[number]


def _kind(flags: int, record: CMACCESS2) -> HandleKind:
    nothing = not record.firm_code and not record.product_code
    if flags & cm.CM_ACCESS_SUBSYSTEM and (not nothing or flags & cm.CM_ACCESS_FIRMITEM):
        raise invalid("CM_ACCESS_SUBSYSTEM is for a request without firm code, product code and CM_ACCESS_FIRMITEM")
    if flags & cm.CM_ACCESS_FIRMITEM:
        return HandleKind.FIRM_ITEM
    return HandleKind.CONTAINER if nothing else HandleKind.ENTRY


def _container(record: CMACCESS2) -> str | None:
    if not record.serial_number:
        if record.box_mask:
            raise invalid("box_mask alone pins no container; set serial_number too")
        return None
    return f"{record.box_mask}-{record.serial_number}"


def _refuse_fields(record: CMACCESS2) -> None:
    """Refuse what is set and would have no effect."""
    for name in ("used_runtime_version", "minimum_firmware_major", "minimum_firmware_minor", "borrow_data"):
        if getattr(record, name):
            raise not_supported(f"the field {name} of CMACCESS2")
    asked: dict[str, Any] = msgspec.structs.asdict(record.credential)
    for name, value in asked.items():
        if value and name not in _CREDENTIAL:
            raise not_supported(f"the field {name} of CMCREDENTIAL in a request; the client tells it by itself")
