"""Checks that a certificate lends a license to this holder, on this machine, now: with public keys alone, and offline.

    licensor's key -> firm item -> container's key -> certificate -> holder's key

The licensor signed the firm item, as for `protocol.proof`; the container signed that it lends the license to whoever
has the holder's private key, for use at one station, until an end. `docs/protocol.md` has the steps. No I/O.
"""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from protocol import proof, signed
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import Borrowed
from protocol.proof import Wanted
from protocol.signed import Certificate, FirmItem, Terms
from protocol.terms import Station

SKEW: Final = 60
"""Seconds by which the clocks of who lends and who borrows may differ: a loan is honoured until so much before its end,
and counted by the server until so much after it (decision 21)."""


class Mine(Struct, frozen=True):
    """By what a holder knows a certificate for his own: the loan's id, his public key, and where he sits."""

    id: bytes
    holder: bytes
    station: Station


class Certified(Struct, frozen=True):
    """What is proven of a loan: this container lends this product item on these terms, from `start` to `end`.

    Both are Unix seconds; `owner` are the bytes that name the container where something is signed for it.
    """

    container: str
    owner: bytes
    firm_code: int
    product_code: int
    item: int
    update_counter: int
    quantity: int
    start: int
    end: int
    terms: Terms

    @property
    def until(self) -> int:
        """The first second at which the loan is honoured no more."""
        expiration = self.terms.expiration
        return self.end - SKEW if expiration is None else min(self.end - SKEW, expiration)


def check(lent: Borrowed, mine: Mine, wanted: Wanted, licensor: bytes | None) -> Certified:
    """Return what a certificate proves to its holder, of what he asked for; whether it is valid now, `check_time` says.

    `licensor` is the licensor's public key, 32 bytes that the program was built with. None leaves his signature to
    whoever has it: what keeps loans for other programs. Raises LicenseError 308, and says at which link it breaks.
    """
    try:
        if licensor is not None:
            proof.verify(licensor, lent.firm_signature, lent.firm_item, "the licensor did not sign the firm item")
        firm = signed.firm_item(lent.firm_item)
        proof.verify(firm.key, lent.signature, lent.message, "the container did not sign the certificate")
        said = signed.certificate(lent.message)
        _check_holder(said, mine)
        _check_license(said, firm, wanted)
        options = firm.options.get((said.item, said.product_code))
        if options is None:
            raise proof.broken("the licensor signed no such product item")
        terms = signed.terms(options)
    except signed.Malformed as error:
        raise proof.broken(str(error)) from None
    proof.check_terms(terms, wanted)
    # A usage period had begun when it was signed, so it is over at this time at the latest.
    if terms.usage is not None and said.end > said.start + terms.usage:
        raise proof.broken("the loan is longer than the usage period that the licensor signed")
    return Certified(
        firm.container,
        said.owner,
        said.firm_code,
        said.product_code,
        said.item,
        said.update_counter,
        said.quantity,
        said.start,
        said.end,
        terms,
    )


def check_time(certified: Certified, now: int, seen: int) -> None:
    """Accept a loan that is valid now; `seen` is the latest time that this machine is known to have shown.

    Both are Unix seconds. Raises LicenseError: 88 if the clock is behind, 37, 35.
    """
    latest = max(certified.start, seen)
    if now < latest - SKEW:
        raise LicenseError.of(ErrorNumber.TIME_OBSOLETE, f"it was {instant(latest)} before, and is {instant(now)}")
    if now >= certified.end - SKEW:
        raise LicenseError.of(ErrorNumber.EXPIRATION_OVERRUN, f"the loan is over since {instant(certified.until)}")
    terms = certified.terms
    if terms.activation is not None and now < terms.activation:
        raise LicenseError.of(ErrorNumber.ACTIVATION_UNDERRUN, f"it is from {instant(terms.activation)} on")
    if terms.expiration is not None and now >= terms.expiration:
        raise LicenseError.of(ErrorNumber.EXPIRATION_OVERRUN, f"it was valid until {instant(terms.expiration)}")


def instant(seconds: int) -> str:
    """Return a time for people, in UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s"  # what somebody signed may be any number


def digest(station: Station) -> bytes:
    """Return what a certificate has in the place of a station, 32 bytes: machine ids are nobody else's business."""
    return hashlib.sha256(station.machine.encode() + b"\0" + struct.pack("<I", station.seat)).digest()


def _check_holder(said: Certificate, mine: Mine) -> None:
    """Accept what was certified to this holder, at this station, of this loan."""
    if said.id != mine.id:
        raise proof.broken("the certificate is of another loan")
    if said.holder != mine.holder:
        raise proof.broken("the certificate is another borrower's")
    if said.station != digest(mine.station):
        raise proof.broken("the license was borrowed for another machine, or another seat of this one")


def _check_license(said: Certificate, firm: FirmItem, wanted: Wanted) -> None:
    """Accept a certificate of this firm item's container, about what was asked for."""
    if said.owner != firm.owner:
        raise proof.broken("what the container signed is no certificate of this container")
    if (said.firm_code, said.product_code) != (wanted.firm_code, wanted.product_code):
        raise proof.broken("the certificate is about another license")
    if wanted.container not in {None, firm.container} or wanted.item not in {None, said.item}:
        raise proof.broken("the certificate is about another container or item than was asked for")
    if (firm.firm_code, firm.update_counter) != (said.firm_code, said.update_counter):
        raise proof.broken("the firm item is not the one that the container holds")
    if said.quantity < 1:
        raise proof.broken("the certificate is of no license at all")
