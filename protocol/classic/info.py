"""The options of CmGetInfo: one function for each, and one table of them. Every other option is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from protocol import messages as m
from protocol.classic import constants as cm
from protocol.classic.handles import Handle
from protocol.classic.last_error import not_supported
from protocol.classic.records import (
    CMBOXINFO,
    CMBOXTIME,
    CMCREDENTIAL,
    CMENTRYDATA,
    CMENTRYINFO,
    CMNETINFOCLUSTER,
    CMNETINFOUSER,
    CMNETINFOUSER_EXT,
    CMSYSTEM,
    CMVERSION,
)
from protocol.classic.wanted import MODES
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import AccessMode, HandleKind

Info = (
    CMBOXINFO
    | CMBOXTIME
    | CMENTRYINFO
    | CMENTRYDATA
    | CMCREDENTIAL
    | CMSYSTEM
    | CMVERSION
    | tuple[CMNETINFOCLUSTER, ...]
    | tuple[CMNETINFOUSER, ...]
    | tuple[CMNETINFOUSER_EXT, ...]
)

_FLAGS: Final = {mode.value: flag for flag, mode in MODES.items()}
_KIND_FLAGS: Final = {
    HandleKind.FIRM_ITEM.value: cm.CM_ACCESS_FIRMITEM,
    HandleKind.SUBSYSTEM.value: cm.CM_ACCESS_SUBSYSTEM,
}
_DENIALS: Final = {
    AccessMode.USER_LIMIT.value: 1,
    AccessMode.NO_USER_LIMIT.value: 2,
    AccessMode.EXCLUSIVE.value: 4,
    AccessMode.STATION_SHARE.value: 8,
}
_LOCAL_ONLY: Final = 0x400


def ask(handle: Handle, option: int) -> Info:
    """Return what an option asks of a handle, which must stand. Raises LicenseError."""
    if option not in _BRANCHES:
        name = _NAMES.get(option, "")
        raise not_supported(f"the option {option:#x} {name}".rstrip())
    return _BRANCHES[option](handle, handle.access.info())


def box_info(container: m.ContainerInfo) -> CMBOXINFO:
    """Return a container as the field's record."""
    mask, serial, part = _numbers(container.id)
    return CMBOXINFO(mask, serial, part, container.kind, container.text, container.present)


def _box_info(_: Handle, info: m.HandleInfo) -> CMBOXINFO:
    return box_info(_container(info))


def _box_time(handle: Handle, _: m.HandleInfo) -> CMBOXTIME:
    return CMBOXTIME(None, None, handle.client.call(m.KeepAlive()).time)


def _entry_info(handle: Handle, info: m.HandleInfo) -> CMENTRYINFO:
    if info.kind not in (HandleKind.ENTRY, HandleKind.FIRM_ITEM):
        raise _wrong_kind()
    firms = handle.client.contents(_container(info).id).firm_items
    firm = next((firm for firm in firms if firm.firm_code == info.firm_code), None)
    if firm is None:
        raise LicenseError.of(ErrorNumber.ENTRY_NOT_FOUND, "the container was reprogrammed just now")
    entry = info.entry
    return CMENTRYINFO(
        info.firm_code,
        firm.text,
        firm.update_counter,
        None if entry is None else entry.product_code,
        None if entry is None else entry.item,
        None if entry is None else entry.text,
        _FLAGS.get(info.mode),
    )


def _entry_data(_: Handle, info: m.HandleInfo) -> CMENTRYDATA:
    entry = info.entry
    if entry is None:
        raise _wrong_kind()
    return CMENTRYDATA(
        text=entry.text,
        license_quantity=entry.quantity,
        license_quantity_flags=sum(_DENIALS.get(mode, 0) for mode in entry.denied) + _LOCAL_ONLY * entry.local_only,
        feature_map=entry.feature_map,
        activation_time=entry.activation,
        expiration_time=entry.expiration,
        usage_period=entry.usage,
        usage_start=entry.usage_start,
        maintenance_period=entry.maintenance,
        unit_counter=entry.units_left,
        units_given=entry.units,
        linger_time=entry.linger,
        minimum_runtime_version=entry.minimum_runtime,
        protected_data=entry.protected_data,
        user_data=entry.user_data,
        valid_until=entry.valid_until,
        state=entry.state,
    )


def _system(handle: Handle, _: m.HandleInfo) -> CMSYSTEM:
    server = handle.client.greeting.server
    return CMSYSTEM(server.name, str(handle.client.address), server.software)


def _version(handle: Handle, _: m.HandleInfo) -> CMVERSION:
    text = handle.client.greeting.server.version
    numbers = [int(number) for number in re.findall(r"[0-9]{1,9}", text)[:3]]
    major, minor, build = (*numbers, 0, 0, 0)[:3]
    return CMVERSION(major, minor, build, text)


def _credential(handle: Handle, info: m.HandleInfo) -> CMCREDENTIAL:
    rows = _accesses(handle, pinned=False)
    mine = next((row for row in rows if row.handle == info.handle), None)
    if mine is None:
        raise LicenseError.of(ErrorNumber.INVALID_HANDLE, "the server does not list it any more")
    return _credential_of(mine)


def _net_cluster(handle: Handle, _: m.HandleInfo) -> tuple[CMNETINFOCLUSTER, ...]:
    return tuple(
        CMNETINFOCLUSTER(
            *_serial_and_mask(row.container),
            row.item,
            row.firm_code,
            row.product_code,
            row.feature_map,
            row.user_limit,
            row.no_user_limit,
            row.exclusive,
            row.station_share,
            row.used,
            row.free,
            row.total,
            row.quantity,
        )
        for row in _licenses(handle)
    )


def _net_user(handle: Handle, _: m.HandleInfo) -> tuple[CMNETINFOUSER, ...]:
    features = _features(handle)
    return tuple(CMNETINFOUSER(*_user(row, features)) for row in _accesses(handle))


def _net_user_ext(handle: Handle, _: m.HandleInfo) -> tuple[CMNETINFOUSER_EXT, ...]:
    features = _features(handle)
    return tuple(
        CMNETINFOUSER_EXT(
            *_user(row, features),
            ctrl=_FLAGS.get(row.mode, 0) | _KIND_FLAGS.get(row.kind, 0),
            last_access_time=row.last_access,
            client_address=row.client,
            credential=_credential_of(row),
        )
        for row in _accesses(handle)
    )


def _user(
    row: m.AccessInfo, features: dict[tuple[str, int, int], int | None]
) -> tuple[int, int, int, int, int, int | None, int, int | None, int, str]:
    return (
        *_serial_and_mask(row.container),
        row.item,
        row.firm_code,
        row.product_code,
        features.get((row.container, row.firm_code, row.item)),
        row.handle,
        _FLAGS.get(row.mode),
        row.first_access,
        row.address,
    )


def _features(handle: Handle) -> dict[tuple[str, int, int], int | None]:
    """Return the feature map of each entry, which the list of accesses does not have."""
    return {(row.container, row.firm_code, row.item): row.feature_map for row in _licenses(handle)}


def _credential_of(row: m.AccessInfo) -> CMCREDENTIAL:
    domain, _, user = row.user.rpartition("\\")
    return CMCREDENTIAL(
        pid=row.pid,
        session=row.session,
        cleanup_time=row.cleanup_time or None,
        max_life_time=row.maximum_life or None,
        creation_time=row.first_access,
        expiration_time=row.valid_until,
        user_defined_text=row.application,
        user_name=user,
        domain_name=domain,
        cm_instance_uid=row.station,
    )


def _licenses(handle: Handle) -> Iterator[m.LicenseCount]:
    container, firm_code, product_code = _filters(handle)
    return handle.client.net_cluster(container=container, firm_code=firm_code, product_code=product_code)


def _accesses(handle: Handle, *, pinned: bool = True) -> Iterator[m.AccessInfo]:
    container, firm_code, product_code = _filters(handle) if pinned else (None, None, None)
    return handle.client.net_users(container=container, firm_code=firm_code, product_code=product_code)


def _filters(handle: Handle) -> tuple[str | None, int | None, int | None]:
    """Return container, firm code and product code as the handle was asked for; None is all."""
    asked = handle.access.request
    if asked.kind is HandleKind.ENTRY:
        return asked.container, asked.firm_code, asked.product_code
    if asked.kind is HandleKind.FIRM_ITEM:
        return asked.container, asked.firm_code, None
    return asked.container, None, None


def _container(info: m.HandleInfo) -> m.ContainerInfo:
    if info.container is None:
        raise _wrong_kind()
    return info.container


def _numbers(container: str) -> tuple[int, int, int]:
    """Return mask, serial and part of a container's id; all are 0 for none."""
    mask, serial, part = (*(int(number) for number in container.split("-") if number), 0, 0, 0)[:3]
    return mask, serial, part


def _serial_and_mask(container: str) -> tuple[int, int]:
    mask, serial, _ = _numbers(container)
    return serial, mask


def _wrong_kind() -> LicenseError:
    return LicenseError.of(ErrorNumber.WRONG_HANDLE_TYPE)


_BRANCHES: Final[dict[int, Callable[[Handle, m.HandleInfo], Info]]] = {
    cm.CM_GEI_BOXINFO: _box_info,
    cm.CM_GEI_BOXTIME: _box_time,
    cm.CM_GEI_ENTRYDATA: _entry_data,
    cm.CM_GEI_ENTRYINFO: _entry_info,
    cm.CM_GEI_SYSTEM: _system,
    cm.CM_GEI_VERSION: _version,
    cm.CM_GEI_NETINFO_CLUSTER: _net_cluster,
    cm.CM_GEI_NETINFO_USER: _net_user,
    cm.CM_GEI_CREDENTIAL: _credential,
    cm.CM_GEI_NETINFO_USER_EXT: _net_user_ext,
}

_NAMES: Final = {number: name for name, number in vars(cm).items() if name.startswith("CM_GEI_")}
