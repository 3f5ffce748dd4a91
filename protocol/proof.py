"""Checks that an answer comes from a container that holds the license, with the licensor's public key alone.

    licensor's key -> firm item -> container's key -> answer

The licensor signed the firm item, which names the product, its options and the container's public key; the container
signed the answer, which has the nonce that was just made, and what it counted for this use. Both are held against what
the program asked for. So a server without the container cannot answer, and one that asks it for less than it was asked
itself, or overlooks an expiration, is found out. What nobody signed is the access mode, and how many accesses there
are: for that the server's word must do. `docs/protocol.md` has the steps. No I/O.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from protocol import signed
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import Access, AccessKey, Crypt, CryptAnswer
from protocol.signed import NO_KEY, Answer, FirmItem, Terms
from protocol.terms import AccessMode


class Wanted(Struct, frozen=True):
    """What license is asked for, in the words of an access; `container` and `item` narrow it down."""

    firm_code: int
    product_code: int
    feature_code: int = 0
    container: str | None = None
    item: int | None = None
    release_date: int | None = None


class Proof(Struct, frozen=True):
    """What is proven: this container holds this product item, which is valid at this license time (Unix seconds).

    `units` were taken by this use, and `units_left` were left then, None for an item without. `usage_start` is when the
    usage period began (Unix seconds, 0 if there is none).
    """

    container: str
    firm_code: int
    product_code: int
    item: int
    update_counter: int
    time: int
    units: int
    units_left: int | None
    usage_start: int


def challenge(handle: int, units: int, key: AccessKey | None, mode: AccessMode | None) -> Crypt:
    """Return a question that nobody can have heard before; units are taken with a key of their own if none is given."""
    return Crypt(handle, secrets.token_bytes(32), units, key or AccessKey(secrets.token_bytes(16)), mode)


def check(answer: CryptAnswer, question: Crypt, access: Access, licensor: bytes) -> Proof:
    """Return what the answer proves of an access that was asked for so.

    `licensor` is the licensor's public key, 32 bytes that the program was built with. Only what is signed counts, and
    only an item that is valid: an access with `force` is held against its dates like any other. Raises LicenseError
    308, and says at which link the chain breaks.
    """
    try:
        verify(licensor, answer.firm_signature, answer.firm_item, "the licensor did not sign the firm item")
        firm = signed.firm_item(answer.firm_item)
        verify(firm.key, answer.signature, answer.message, "the container did not sign the answer")
        said = signed.answer(answer.message)
        _check_question(said, question, firm, access)
        options = firm.options.get((said.item, said.product_code))
        if options is None:
            raise broken("the licensor signed no such product item")
        terms = signed.terms(options)
    except signed.Malformed as error:
        raise broken(str(error)) from None
    check_terms(terms, access)
    _check_valid(terms, said)
    return Proof(
        firm.container,
        said.firm_code,
        said.product_code,
        said.item,
        said.update_counter,
        said.time,
        said.units,
        said.units_left,
        said.usage_start,
    )


def _check_question(said: Answer, question: Crypt, firm: FirmItem, access: Access) -> None:
    """Accept an answer of this firm item's container to this question, about what the access was asked for."""
    if said.owner != firm.owner:
        raise broken("what the container signed is no answer of this container")
    if said.nonce != question.nonce:
        raise broken("the answer is to another question")
    if (said.firm_code, said.product_code, said.handle) != (access.firm_code, access.product_code, question.handle):
        raise broken("the answer is about another license")
    if access.container not in {None, firm.container} or access.item not in {None, said.item}:
        raise broken("the answer is about another container or item than was asked for")
    if (firm.firm_code, firm.update_counter) != (said.firm_code, said.update_counter):
        raise broken("the firm item is not the one that the container holds")
    if said.key != (question.key or NO_KEY):
        raise broken("the answer is about another use")
    if said.units != question.units:
        raise broken(f"the container took {said.units} units for this use, and {question.units} were to be taken")


def check_terms(terms: Terms, access: Access | Wanted) -> None:
    """Accept what has the features that were asked for, and serves software of this release date.

    Raises LicenseError 308.
    """
    if access.feature_code & ~(terms.feature_map or 0):
        raise broken("the licensor signed other features than were asked for")
    if access.release_date is not None and terms.maintenance is not None:
        start, end = terms.maintenance
        if not start <= access.release_date < end:
            raise broken("the software was not released in the maintenance period that the licensor signed")


def _check_valid(terms: Terms, said: Answer) -> None:
    """Accept what is valid at the time that the container signed."""
    too_early = terms.activation is not None and said.time < terms.activation
    expired = terms.expiration is not None and said.time >= terms.expiration
    if too_early or expired:
        raise broken("the license is not valid at the time that the container signed")
    # It may begin later than now: a certified time has set the clock back since.
    if terms.usage is not None and not (said.usage_start > 0 and said.time < said.usage_start + terms.usage):
        raise broken("the usage period has not begun, or is over, at the time that the container signed")


def verify(key: bytes, signature: bytes, message: bytes, otherwise: str) -> None:
    """Accept what was signed with a key. Raises LicenseError 308, which says `otherwise`."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise broken(otherwise) from None


def broken(why: str) -> LicenseError:
    """Return the error of a chain that breaks, and why it does."""
    return LicenseError.of(ErrorNumber.VERIFY_FAILED, why)
