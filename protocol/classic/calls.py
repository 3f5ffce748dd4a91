"""The field's calls over the blocking client. What they return on an error is said of each; the last error says why."""

from __future__ import annotations

import secrets
from typing import Final, cast

from protocol import messages, proof
from protocol.classic import constants as cm
from protocol.classic import info, servers
from protocol.classic.handles import HANDLES, Handle
from protocol.classic.last_error import invalid, not_supported, reporting
from protocol.classic.records import CMACCESS2, CMBOXINFO, CMCRYPT2, CMPROOF
from protocol.classic.wanted import checked, wanted
from protocol.errors import ErrorNumber, LicenseError
from protocol.held import Call
from protocol.messages import AccessKey, Crypt, CryptAnswer
from protocol.terms import AccessMode

_FINAL: Final = frozenset({ErrorNumber.INVALID_PARAMETER, ErrorNumber.EXCLUSIVE_CONFLICT})
"""Refusals that no other server may answer otherwise: a faulty request, and an exclusive access on this station."""

_UNITS: Final = 0x3FFF
_REQUIRED: Final = 0xF0000
_REQUIRED_MODES: Final = {
    cm.CM_CRYPT_SAUNLIMITED: None,
    cm.CM_CRYPT_SASTATIONSHARE: AccessMode.STATION_SHARE,
    cm.CM_CRYPT_SAUSERLIMIT: AccessMode.USER_LIMIT,
    cm.CM_CRYPT_SAEXCLUSIVE: AccessMode.EXCLUSIVE,
}
_PORTS: Final = {cm.CM_GB_DONGLE: "hardware", cm.CM_GB_SIM: "embedded", cm.CM_GB_ACT: "virtual"}


@reporting(0)
def CmAccess2(flags: int, access: CMACCESS2) -> int:
    """Return a new handle, 0 on an error.

    The servers of the location are asked in order until one grants it. With StationShare, one at which this process
    holds a share of the product already is asked first.
    """
    asked = wanted(flags, access)
    record = asked.record
    order = servers.at(asked.location, record.server_name)
    if asked.mode is AccessMode.STATION_SHARE:
        order = tuple(
            sorted(order, key=lambda server: not HANDLES.shares(server, record.firm_code, record.product_code))
        )
    failures = []
    for server in order:
        try:
            client = HANDLES.client(server, record.credential.user_defined_text)
            return HANDLES.add(Handle(server, client, asked.ask(client)))
        except LicenseError as error:
            if error.number in _FINAL:
                raise
            failures.append(error)
    raise servers.refused_by_all(failures)


@reporting(failure=False)
def CmRelease(handle: int) -> bool:
    """Give a handle back, which is none from then on, and return whether it was one and the server has it back.

    After 100, no answer in time, the session goes on trying.
    """
    HANDLES.take(handle).access.release()
    return True


@reporting(None)
def CmGetInfo(handle: int, option: int) -> info.Info:
    """Return the record of one of the CM_GEI_..., or a tuple of records for those that list; None on an error.

    It counts as a use of the handle.
    """
    return info.ask(HANDLES.get(handle), option)


@reporting(None)
def CmCrypt2(handle: int, crypt: CMCRYPT2) -> CMPROOF:
    """Have the container answer a challenge, and count units; None on an error.

    This is our own challenge, none of the field's ciphers: nothing is encrypted. Error 308 if there is a licensor's key
    and the answer proves nothing.
    """
    held = HANDLES.get(handle)
    crypt = checked(crypt)
    if crypt.ctrl is not None:
        raise not_supported(f"the field's ciphers (ctrl {crypt.ctrl:#x}); CmCrypt2 takes a nonce and gives a proof")
    units = crypt.encryption_code_options & _UNITS
    required = crypt.encryption_code_options & _REQUIRED
    if unknown := crypt.encryption_code_options & ~(_UNITS | _REQUIRED):
        raise not_supported(f"the encryption code option {unknown:#x}")
    if required not in _REQUIRED_MODES:
        raise invalid(f"the encryption code option {required:#x} is no access mode")
    question = Crypt(
        held.access.handle,
        crypt.nonce or secrets.token_bytes(32),
        units,
        AccessKey(crypt.key or secrets.token_bytes(16)),
        _REQUIRED_MODES[required],
    )
    call = Call(question, held=held.access)
    answer = cast("CryptAnswer", held.client._ask(call))  # noqa: SLF001 - a question of the access's, as its own
    question = cast("Crypt", call.params)  # with the number that the handle has now
    proven = None if crypt.licensor is None else proof.check(answer, question, held.access.request, crypt.licensor)
    counted = proven or answer  # what is proven goes before what the server says
    return CMPROOF(
        question.nonce,
        question.handle,
        answer.message,
        answer.signature,
        answer.firm_item,
        answer.firm_signature,
        counted.units_left,
        counted.usage_start or None,
        proven,
    )


@reporting(())
def CmGetBoxes(handle: int, port: int = cm.CM_GB_ALLPORTS) -> tuple[CMBOXINFO, ...]:
    """Return the containers of the handle's server: all, or those of one or more kinds. Empty on an error, too.

    Dongles are at CM_GB_DONGLE, embedded ones at CM_GB_SIM, virtual containers at CM_GB_ACT.
    """
    held = HANDLES.get(handle)
    if port & ~(cm.CM_GB_DONGLE | cm.CM_GB_SIM | cm.CM_GB_ACT):
        raise invalid(f"{port:#x} is no port of CmGetBoxes")
    kinds = {kind for bit, kind in _PORTS.items() if port & bit}
    held.access.info()
    found = held.client.call(messages.Containers()).containers
    return tuple(info.box_info(one) for one in found if not port or one.kind in kinds)


@reporting(())
def CmGetServers(option: int = cm.CM_GS_LIST) -> tuple[str, ...]:
    """Return the servers of this client's configuration, as it names them; none is asked. Empty on an error, too.

    Those of other machines only, or with CM_GS_ALL_SERVERS this machine's too.
    """
    if unknown := option & ~(cm.CM_GS_ALL_SERVERS | cm.CM_GS_REMOTE_SERVERS_ONLY):
        raise not_supported(f"the option {unknown:#x} of CmGetServers")
    location = cm.CM_ACCESS_LOCAL_LAN if option & cm.CM_GS_ALL_SERVERS else cm.CM_ACCESS_LAN
    return tuple(str(address) for server in servers.at(location) for address in server)
