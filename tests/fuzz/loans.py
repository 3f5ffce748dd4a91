"""What must hold of a borrower's side for whatever bytes come: the files of borrowing, certificates, what is kept.

Files come by mail, and a certificate from whoever says that he is the server; what is kept was written by ourselves,
and lies on a disk that may be damaged. As in `targets`, the first byte says whether an input is sealed before that.
"""

from __future__ import annotations

import struct
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from drivers import firm_item, keys
from drivers.driver import ImageError
from drivers.statement import borrow_body
from protocol import certificate, signed
from protocol.borrowing import Borrow, Borrowed, GiveBack, Lend, LoanId
from protocol.certificate import SKEW, Certified, Mine
from protocol.errors import ErrorNumber, LicenseError
from protocol.loan_files import GRANT, KEPT, LIMIT, RECEIPT, REQUEST, Kept, Kind, Unreadable
from protocol.loan_store import LoanStore
from protocol.loans import Loans
from protocol.proof import Wanted
from protocol.terms import Client, Station
from tests.drivers.chips import NOW
from tests.drivers.samples import CONTAINER_KEY, FIRM_CODE, LICENSOR, LICENSOR_KEY, OWNER

AS_IT_IS, SEALED = b"\0", b"\1"
KINDS: Final[tuple[Kind[Any], ...]] = (KEPT, REQUEST, GRANT, RECEIPT)

PRODUCT: Final = 14
ID: Final = LoanId(b"l" * 16)
HOLDER_KEY: Final = bytes(range(32))
HOLDER: Final = keys.public_of(HOLDER_KEY)
HOME: Final = Station("desk-4")
ASKED: Final = Borrow(id=ID, holder=HOLDER, seconds=3600, time=NOW, firm_code=FIRM_CODE, product_code=PRODUCT)

_HEAD: Final = struct.Struct("<7sBBI")
_LENGTH: Final = struct.Struct("<H")
_TERMS: Final = struct.Struct("<32sIIIIIqq")
_TIMES: Final = (-(2**63), 0, NOW - SKEW, NOW, NOW + 3600 - SKEW, 2**63 - 1)
_NAMES: Final = (f"{ID.hex()}.loan", f"{ID.hex()}.receipt", "clock")


# --- the files ------------------------------------------------------------------------------------------------------


def loan_file(octets: bytes) -> bytes:
    """Return a file whose length and hash are right."""
    if len(octets) < _HEAD.size + 32:
        return octets
    body = octets[_HEAD.size : -32]
    head = octets[: _HEAD.size - 4] + struct.pack("<I", len(body))
    return head + body + sha256(head + body).digest()


def loan_file_target(octets: bytes) -> bool:
    """A file of borrowing: one of the four kinds at most, and what is read can be written, and is then the same."""
    octets = loan_file(octets[1:]) if octets[:1] == SEALED else octets[1:]
    accepted = [kind for kind in KINDS if _reads(kind, octets)]
    assert len(accepted) <= 1
    for kind in accepted:
        found = kind.decode(octets)
        written = kind.encode(found)
        assert len(written) <= LIMIT
        assert kind.decode(written) == found
    return bool(accepted)


def _reads(kind: Kind[Any], octets: bytes) -> bool:
    try:
        kind.decode(octets)
    except Unreadable:
        return False
    return True


# --- what is certified ----------------------------------------------------------------------------------------------


def certificate_target(octets: bytes) -> bool:
    """A firm item and a certificate, signed or not: what is proven was signed, and is what the daemon reads there."""
    sealed, body = octets[:1] == SEALED, octets[1:]
    if len(body) < _LENGTH.size:
        return False
    (length,) = _LENGTH.unpack_from(body)
    firm, message = body[_LENGTH.size :][:length], body[_LENGTH.size :][length:]
    try:
        certified = certificate.check(
            lent(firm, message, sealed=sealed), Mine(ID, HOLDER, HOME), Wanted(FIRM_CODE, PRODUCT), LICENSOR
        )
    except LicenseError as error:
        return _refused(error, ErrorNumber.VERIFY_FAILED)
    assert sealed, "nobody signed it"
    _check_certified(certified, firm, message)
    for now in _TIMES:
        for seen in _TIMES:
            _check_time(certified, now, seen)
    return True


def _refused(error: LicenseError, *numbers: ErrorNumber) -> bool:
    assert error.number in numbers
    return False


def lent(firm: bytes, message: bytes, *, sealed: bool = True) -> Borrowed:
    """Return an answer with these bytes, which their signers have signed if it is sealed."""
    signature = keys.sign(CONTAINER_KEY, message) if sealed else bytes(keys.SIGNATURE_LENGTH)
    firm_signature = keys.sign(LICENSOR_KEY, firm) if sealed else bytes(keys.SIGNATURE_LENGTH)
    return Borrowed(f"{OWNER.mask}-{OWNER.serial}", 1, 7, NOW + 3600, message, signature, firm, firm_signature)


def _check_certified(certified: Certified, firm: bytes, message: bytes) -> None:
    """It says what the container signed, on the terms that the daemon would give there."""
    assert (certified.firm_code, certified.product_code) == (FIRM_CODE, PRODUCT)
    said = _TERMS.pack(
        HOLDER,
        FIRM_CODE,
        PRODUCT,
        certified.item,
        certified.update_counter,
        certified.quantity,
        certified.start,
        certified.end,
    )
    asked = borrow_body(ID, certificate.digest(HOME))
    assert message == b"cmsign\0\1\4" + certified.owner + asked + said
    assert certified.quantity
    try:
        [item] = [one for one in firm_item.decode(firm).products if one.reference == certified.item]
    except ImageError:
        return
    if not item.unusable:
        terms = certified.terms
        assert (item.product_code, item.feature_map) == (PRODUCT, terms.feature_map)
        assert (item.activation, item.expiration) == (terms.activation, terms.expiration)
        assert terms.usage == (item.usage.amount if item.usage else None)
        assert terms.maintenance == ((item.maintenance.start, item.maintenance.end) if item.maintenance else None)


def _check_time(certified: Certified, now: int, seen: int) -> None:
    """It is honoured within its time only, and not where the clock was later before."""
    try:
        certificate.check_time(certified, now, seen)
    except LicenseError as error:
        times = ErrorNumber.TIME_OBSOLETE, ErrorNumber.EXPIRATION_OVERRUN, ErrorNumber.ACTIVATION_UNDERRUN
        _refused(error, *times)
    else:
        assert max(certified.start, seen) - SKEW <= now < certified.until


# --- what is kept ---------------------------------------------------------------------------------------------------


def loan_store_target(octets: bytes) -> bool:
    """A damaged file among those that are kept: all the others stand, and nothing is honoured that is not proven."""
    number, kind, body = octets[:1], octets[1:2], octets[2:]
    name = _NAMES[int.from_bytes(number) % len(_NAMES)]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        store, loans = LoanStore(Path(scratch)), Loans(Path(scratch), station=HOME, clock=lambda: NOW)
        other = LoanId(b"o" * 16)
        for loan in (ID, other):
            (Path(scratch) / f"{loan.hex()}.loan").write_bytes(KEPT.encode(Kept(HOLDER_KEY, replace(ASKED, id=loan))))
        (Path(scratch) / name).write_bytes(loan_file(body) if kind == SEALED else body)
        assert sorted(store.ids()) == sorted((ID, other))
        assert loans.info(other).state == "asked", "it stands whatever is beside it"
        assert len(loans.list()) == 2
        seen = store.seen()
        assert 0 <= seen < 10**15
        _check_found(loans)
        return _check_receipt(store, loans) or (name == "clock" and seen > 0)


def _check_found(loans: Loans) -> None:
    """Only what licensor and container signed is found."""
    try:
        found = loans.find(FIRM_CODE, PRODUCT, LICENSOR)
    except LicenseError:
        return
    if found is not None:
        assert found.id == ID
        assert found.certified.start - SKEW <= NOW < found.until


def _check_receipt(store: LoanStore, loans: Loans) -> bool:
    """A receipt is given or not; given once, it stays the same, and there is no loan any more. Return whether it is."""
    kept = None
    with suppress(Unreadable):
        kept = store.kept(ID)
    known = store.given_back(ID)
    try:
        receipt = loans.receipt(ID)
    except LicenseError:
        return kept is not None and kept.lent is not None
    assert loans.receipt(ID) == receipt
    assert receipt.id == ID
    assert kept is not None
    assert store.given_back(ID)
    if kept.lent is not None and not known:
        _check_signed(receipt, kept.lent, kept.key)
    return True


def _check_signed(receipt: GiveBack, lent_: Borrowed, key: bytes) -> None:
    """A receipt that was made just now is signed by the loan's holder, for the container of the firm item."""
    with suppress(signed.Malformed):
        said = signed.receipt(signed.firm_item(lent_.firm_item).owner, ID)
        assert keys.verify(keys.public_of(key), receipt.signature, said)


# --- seeds ----------------------------------------------------------------------------------------------------------


def seeds(firm: bytes) -> dict[str, list[bytes]]:
    """Return inputs for each target, by its name, of a signed firm item that has product 14 as its item 1."""
    counter = struct.unpack_from("<I", firm, 8 + 40 + 4)[0]
    said = _TERMS.pack(HOLDER, FIRM_CODE, PRODUCT, 1, counter, 1, NOW, NOW + 3600)
    message = b"cmsign\0\1\4" + firm_item.encode_owner(OWNER) + borrow_body(ID, certificate.digest(HOME)) + said
    answer = lent(firm, message)
    receipt = GiveBack(
        answer.container, ID, keys.sign(HOLDER_KEY, signed.receipt(firm_item.encode_owner(OWNER), ID)), "fs"
    )
    lend = Lend(
        id=ID,
        holder=HOLDER,
        seconds=3600,
        client=Client("WIBU", "fs", 7),
        station=HOME,
        firm_code=FIRM_CODE,
        product_code=PRODUCT,
    )
    kept = KEPT.encode(Kept(HOLDER_KEY, ASKED, "alpha:22350", answer))
    files = [kept, REQUEST.encode(lend), GRANT.encode(answer), RECEIPT.encode(receipt)]
    return {
        "loan_file": [kind + octets for kind in (AS_IT_IS, SEALED) for octets in files],
        "certificate": [SEALED + _LENGTH.pack(len(firm)) + firm + message],
        "loan_store": [
            b"\0" + SEALED + kept,
            b"\1" + AS_IT_IS + RECEIPT.encode(receipt),
            b"\2" + AS_IT_IS + b"%d\n" % NOW,
        ],
    }
