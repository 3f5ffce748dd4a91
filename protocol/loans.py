"""The licenses that this user has taken along: honoured offline, until they are over or given back.

    loan = Loans().find(600010, 14, LICENSOR)    # no connection is needed
    if loan is not None:
        loan.check()                             # before each piece of work

`Client.borrow` and `Access.borrow` bring them here, `Client.extend` and `Client.give_back` take a Loan. A loan belongs
to a machine and a seat, as a share of a station does: every process of its user there may use it. Nothing here
connects.

A key pair and an id are on the disk before a request leaves, so that a request whose answer was lost is repeated and
not made twice. The receipt of a return is on the disk, and the loan unusable, before that is sent.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from msgspec.structs import replace

from protocol import certificate, proof, signed
from protocol.borrowing import Borrow, Borrowed, GiveBack, LoanId
from protocol.certificate import SKEW, Certified, Mine
from protocol.errors import ErrorNumber, LicenseError, SettingError
from protocol.loan_files import Kept, Unreadable
from protocol.loan_store import LoanStore
from protocol.messages import ErrorBody
from protocol.proof import Wanted
from protocol.station import station as this_station
from protocol.terms import Station, printable

_UNCERTAIN: Final = frozenset(
    {
        ErrorNumber.BOX_BUSY,
        ErrorNumber.BOX_LOST,
        ErrorNumber.NETWORK_FAULT,
        ErrorNumber.INTERNAL,
        ErrorNumber.COMMAND_FAILED,
        ErrorNumber.VERIFY_FAILED,
    }
)
"""After these it may be lent all the same: the id is kept, and asked for again."""


class LoanState(StrEnum):
    """What became of what was borrowed."""

    ASKED = "asked"
    """Asked for, and not answered."""
    BORROWED = "borrowed"
    NOT_VALID = "not_valid"
    """Borrowed, and of no use here and now; the text says why."""
    OVER = "over"
    GIVEN_BACK = "given_back"
    """It cannot be used any more, and the server has not said yet that it knows."""
    UNREADABLE = "unreadable"


class LoanInfo(Struct, frozen=True):
    """A loan in a listing. What was lent is None while it is not answered, `server` if it was asked for in a file.

    `until` is the first second at which it is honoured no more, `end` when it ends in the ledger (Unix seconds).
    `number` is its ID in the server's listings, `text` says more of its state.
    """

    id: str
    state: str
    text: str = ""
    firm_code: int | None = None
    product_code: int | None = None
    container: str | None = None
    item: int | None = None
    number: int | None = None
    server: str | None = None
    until: int | None = None
    end: int | None = None


class Loan:
    """One borrowed license, whose certificate was checked against the licensor's key."""

    def __init__(self, loans: Loans, loan: LoanId, licensor: bytes, wanted: Wanted | None = None) -> None:
        self.loans = loans
        self._licensor = licensor
        self._wanted = wanted
        self.id = loan
        self.certified = self._verified()
        """What is proven of it."""

    @property
    def until(self) -> int:
        """The first second at which it is honoured no more (Unix seconds)."""
        return self.certified.until

    def check(self) -> None:
        """Return only if the license may be used now: all is verified again, and the files are looked at anew.

        Raises LicenseError: 35 once the loan is over, 88 if the clock was set back, 106 if it was given back, 308 if
        what is kept proves nothing, as on another machine; and SettingError.
        """
        self.certified = self._verified()
        self.loans.check_time(self.certified)

    def keep(self, lent: Borrowed) -> None:
        """Keep what its server lent anew, with a later end. Raises LicenseError 308; then it is as it was."""
        self.certified = self.loans.keep(self.id, lent, self._licensor)

    def _verified(self) -> Certified:
        return self.loans.verified(self.id, self._licensor, self._wanted)


class Loans:
    """What this user has borrowed. `station` is as for a client, `clock` gives Unix seconds."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        station: Station | str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = LoanStore(directory)
        self._station = station if isinstance(station, Station) else this_station(station)
        self._clock = clock

    # offline

    def list(self) -> tuple[LoanInfo, ...]:
        """Return all there is, those that end last first. Raises SettingError."""
        found = [self.info(LoanId(loan)) for loan in self._store.ids()]
        return tuple(sorted(found, key=lambda one: (-(one.end or 0), one.id)))

    def find(
        self,
        firm_code: int,
        product_code: int,
        licensor: bytes,
        *,
        feature_code: int = 0,
        release_date: int | None = None,
    ) -> Loan | None:
        """Return a loan of this product that is valid now, or None if there is none at all.

        Parameters are those of an access; `licensor` is the licensor's public key. Raises LicenseError if there are
        some and none is valid: the reason of the one that ends last; and SettingError.
        """
        wanted = Wanted(firm_code, product_code, feature_code, release_date=release_date)
        reasons: list[tuple[int, LicenseError]] = []
        for loan in self._store.ids():
            with suppress(Unreadable):
                kept = self._store.kept(loan)
                asked = kept and (kept.asked.firm_code, kept.asked.product_code)
                if kept is None or kept.lent is None or asked != (firm_code, product_code):
                    continue
                if self._store.given_back(loan):
                    continue
                try:
                    found = Loan(self, LoanId(loan), licensor, wanted)
                    found.check()
                except LicenseError as error:
                    reasons.append((kept.lent.end, error))
                else:
                    return found
        if reasons:
            raise max(reasons, key=lambda reason: reason[0])[1]
        return None

    def verified(self, loan: LoanId, licensor: bytes | None, wanted: Wanted | None = None) -> Certified:
        """Return what a loan's certificate proves, of what was asked for or of this. Raises LicenseError."""
        kept = self._kept(loan)
        if self._store.given_back(loan):
            raise _given_back()
        if kept.lent is None:
            raise LicenseError.of(ErrorNumber.BORROW_FAILED, "the server has not answered; ask for it again")
        return certificate.check(kept.lent, self._mine(kept), wanted or terms_of(kept.asked), licensor)

    def check_time(self, certified: Certified) -> None:
        """Accept a loan that is valid now, and remember the time. Raises LicenseError 88, 35, 37."""
        now, seen = self._now(), self._store.seen()
        certificate.check_time(certified, now, seen)
        if now >= seen + SKEW:
            self._see(now)

    # asking

    @contextmanager
    def asking(self, wanted: Wanted, seconds: int, server: str = "") -> Iterator[Borrow]:
        """Give a request that is on the disk; the block asks it of `server`, and keeps the answer (`keep`).

        The same was asked there before and not answered: then it is that request again, with its id. A refusal in the
        block ends it, unless that leaves open whether it was lent. Raises SettingError.
        """
        earlier = self._unanswered(wanted, server)
        if earlier is None:
            key = Ed25519PrivateKey.generate()
            kept = Kept(
                key.private_bytes_raw(),
                Borrow(
                    id=LoanId(secrets.token_bytes(16)),
                    holder=key.public_key().public_bytes_raw(),
                    seconds=seconds,
                    time=self._now(),
                    firm_code=wanted.firm_code,
                    product_code=wanted.product_code,
                    feature_code=wanted.feature_code,
                    container=wanted.container,
                    item=wanted.item,
                    release_date=wanted.release_date,
                ),
                server,
            )
        else:
            kept = replace(earlier, asked=replace(earlier.asked, seconds=seconds, time=self._now()))
        self._store.keep(kept)
        try:
            yield kept.asked
        except LicenseError as refusal:
            if earlier is None and refusal.number not in _UNCERTAIN:
                self._store.forget(kept.asked.id)
            raise

    def extension(self, loan: LoanId, seconds: int) -> Borrow:
        """Return what asks for a later end: so many seconds from now on. Raises LicenseError."""
        kept = self._kept(loan)
        if self._store.given_back(loan):
            raise _given_back()
        return replace(kept.asked, seconds=seconds, time=self._now())

    def keep(self, loan: LoanId, lent: Borrowed, licensor: bytes | None, *, online: bool = True) -> Certified:
        """Keep what was lent, and return what it proves. Raises LicenseError: 308, and 106 if it was given back;
        then what was kept before stands.

        `online`: its server has just compared this clock with its own, so whatever was seen of times before is wrong.
        """
        kept = self._kept(loan)
        if self._store.given_back(loan):
            raise _given_back()
        certified = certificate.check(lent, self._mine(kept), terms_of(kept.asked), licensor)
        if lent.container != certified.container or (kept.lent and kept.lent.container != certified.container):
            raise proof.broken("the certificate is about another container")
        self._store.keep(replace(kept, lent=lent))
        if online:
            self._see(self._now())
            self._forget_old()  # only now: the clock is right
        return certified

    # giving back

    def receipt(self, loan: LoanId) -> GiveBack:
        """Give a loan back as far as this machine is concerned: return the receipt, which is on the disk by then.

        Doing so twice gives the same receipt. Raises LicenseError, SettingError; then the loan is still there.
        """
        kept = self._kept(loan)
        try:
            if earlier := self._store.receipt(loan):
                return earlier
            if kept.lent is None:
                raise LicenseError.of(ErrorNumber.BORROW_FAILED, "the server has not answered; ask for it again first")
            firm = signed.firm_item(kept.lent.firm_item)
        except (Unreadable, signed.Malformed) as error:
            raise proof.broken(f"what is kept of the loan {loan.hex()} {error}") from None
        key = Ed25519PrivateKey.from_private_bytes(kept.key)
        receipt = GiveBack(firm.container, loan, key.sign(signed.receipt(firm.owner, loan)))
        self._store.give_back(receipt)
        return receipt

    @contextmanager
    def returning(self, loan: LoanId) -> Iterator[GiveBack]:
        """Give a receipt, which the block sends; once that is answered nothing is left. Raises as `receipt` does."""
        receipt = self.receipt(loan)
        try:
            yield receipt
        except LicenseError as error:
            end = f", Error {error.number}."
            text = (
                f"{error.text.removesuffix(end)}; the loan cannot be used any more, and its receipt is kept: give it \
back again when the server can be reached{end}"
            )
            raise LicenseError(ErrorBody(error.number, error.name, text, error.reasons)) from None
        self._store.forget(loan)

    def info(self, loan: LoanId) -> LoanInfo:
        """Return what a listing says of a loan."""
        try:
            kept = self._kept(loan)
        except LicenseError as error:
            return LoanInfo(loan.hex(), LoanState.UNREADABLE, str(error))
        asked, lent = kept.asked, kept.lent
        server = kept.server or None
        info = LoanInfo(loan.hex(), LoanState.ASKED, "", asked.firm_code, asked.product_code, server=server)
        if lent is None:
            return info
        info = replace(info, container=printable(lent.container), item=lent.item, number=lent.number, end=lent.end)
        if self._store.given_back(loan):
            return replace(info, state=LoanState.GIVEN_BACK)
        state, text = LoanState.BORROWED, ""
        try:
            certified = self.verified(loan, None)
            info = replace(info, until=certified.until, end=certified.end)
            self.check_time(certified)
        except LicenseError as error:
            over = error.number == ErrorNumber.EXPIRATION_OVERRUN
            state, text = LoanState.OVER if over else LoanState.NOT_VALID, str(error)
        return replace(info, state=state, text=text)

    # the parts

    def _now(self) -> int:
        return int(self._clock())

    def _see(self, now: int) -> None:
        with suppress(SettingError):  # a full disk takes nobody's license away
            self._store.see(now)

    def _mine(self, kept: Kept) -> Mine:
        holder = Ed25519PrivateKey.from_private_bytes(kept.key).public_key().public_bytes_raw()
        return Mine(kept.asked.id, holder, self._station)

    def _kept(self, loan: LoanId) -> Kept:
        try:
            kept = self._store.kept(loan)
        except Unreadable as error:
            raise proof.broken(f"{self._store.path(loan)} {error}") from None
        if kept is None:
            raise LicenseError.of(ErrorNumber.INVALID_HANDLE, "this user has no such loan")
        return kept

    def _unanswered(self, wanted: Wanted, server: str) -> Kept | None:
        for loan in self._store.ids():
            with suppress(Unreadable):
                kept = self._store.kept(loan)
                if kept and kept.lent is None and kept.server == server and terms_of(kept.asked) == wanted:
                    return kept
        return None

    def _forget_old(self) -> None:
        """Forget what nobody can use or give back any more: its time is over on the server, too."""
        for loan in self._store.ids():
            with suppress(Unreadable):
                if (kept := self._store.kept(loan)) and _end(kept) + SKEW <= self._now():
                    self._store.forget(loan)


def terms_of(asked: Borrow) -> Wanted:
    """Return what license a request asks for."""
    return Wanted(
        asked.firm_code, asked.product_code, asked.feature_code, asked.container, asked.item, asked.release_date
    )


def _end(kept: Kept) -> int:
    return kept.asked.time + kept.asked.seconds if kept.lent is None else kept.lent.end


def _given_back() -> LicenseError:
    return LicenseError.of(ErrorNumber.INVALID_HANDLE, "the loan was given back")
