"""Devices that lend, with one fault each, which the conformance check must reject; `KeyedDevice` is the sound one."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from drivers import image, keys
from drivers.container import Loan
from drivers.driver import Purpose, Refused
from drivers.state import State
from drivers.trust import NOBODY as _NOBODY
from tests.drivers.chips import CONTAINER, KEYS, MONTH, NOW
from tests.drivers.samples import CONTAINER_KEY
from tests.drivers.specimens import KeyedDevice, SoundDriver, with_device


class _LendsForEver(KeyedDevice):
    def borrow(self, loan: Loan, now: int) -> Any:
        return super().borrow(replace(loan, end=min(loan.end, MONTH)), now)


class _LendsUnknownItems(KeyedDevice):
    def borrow(self, loan: Loan, now: int) -> Any:
        return super().borrow(replace(loan, reference=loan.reference or 1), now)


class _RefusesAndLends(KeyedDevice):
    def borrow(self, loan: Loan, now: int) -> Any:
        try:
            return super().borrow(loan, now)
        except Refused as refusal:
            if refusal.number == 226:
                super().borrow(replace(loan, id=loan.id[::-1], end=now + 1), now)
            raise


class _LendsTwice(KeyedDevice):
    lent = 0

    def borrow(self, loan: Loan, now: int) -> Any:
        self.lent += 1
        return super().borrow(replace(loan, id=bytes([self.lent]) + loan.id[1:]), now)


class _NeverExtends(KeyedDevice):
    def borrow(self, loan: Loan, now: int) -> Any:
        known = {each.id: each.end for each in image.parse(self.chip.image, _NOBODY).state.loans}
        super().borrow(loan if loan.id not in known else replace(loan, end=known[loan.id]), now)
        return loan.end


class _Shortens(KeyedDevice):
    def borrow(self, loan: Loan, now: int) -> Any:
        super().borrow(loan, now)
        return loan.end


class _SaysNothing(KeyedDevice):
    def borrow(self, loan: Loan, now: int) -> Any:
        super().borrow(loan, now)


class _KeepsNoLedger(KeyedDevice):
    def read(self) -> bytes:
        return super().read() and image.encode(CONTAINER, State(1, NOW), KEYS)


class _RefusesWithoutNumber(KeyedDevice):
    def sign(self, purpose: Purpose, body: bytes) -> Any:
        try:
            return super().sign(purpose, body)
        except Refused as error:
            raise Refused(str(error), 104 if purpose is Purpose.BORROW else error.number) from error


class _CertifiesElsewhere(KeyedDevice):
    def sign(self, purpose: Purpose, body: bytes) -> Any:
        return super().sign(purpose, body[:16] + bytes(32) if purpose is Purpose.BORROW else body)


class _LendsToAnother(KeyedDevice):
    """Certifies a holder whom it did not lend to: its ledger, as it is read, has the right one."""

    def sign(self, purpose: Purpose, body: bytes) -> Any:
        if purpose is not Purpose.BORROW or not image.parse(self.chip.image, _NOBODY).state.loans:
            return super().sign(purpose, body)
        signed = super().sign(purpose, body)
        message = signed.message[:-68] + bytes(32) + signed.message[-36:]
        return type(signed)(message, keys.sign(CONTAINER_KEY, message))


class _TakesAnybodys(KeyedDevice):
    def give_back(self, loan: bytes, signature: bytes, now: int) -> Any:
        try:
            return super().give_back(loan, signature, now)
        except Refused:
            return True


class _RefusesTheSecondReturn(KeyedDevice):
    def give_back(self, loan: bytes, signature: bytes, now: int) -> Any:
        if not super().give_back(loan, signature, now):
            raise Refused("there is no such loan", 28)
        return True


class _TakesItBackTwice(KeyedDevice):
    def give_back(self, loan: bytes, signature: bytes, now: int) -> Any:
        super().give_back(loan, signature, now)
        return True


class _CountsReturns(KeyedDevice):
    def give_back(self, loan: bytes, signature: bytes, now: int) -> Any:
        return int(super().give_back(loan, signature, now))


class _KeepsIt(KeyedDevice):
    def give_back(self, loan: bytes, signature: bytes, now: int) -> Any:
        super().give_back(loan, signature, now)
        super().borrow(Loan(loan, CONTAINER.firm_items[0].firm_code, 1, 1, now + 5, bytes(32)), now)
        return True


class _KeepsOneInTheLongRun(KeyedDevice):
    given_back = 0

    def give_back(self, loan: bytes, signature: bytes, now: int) -> Any:
        stood = super().give_back(loan, signature, now)
        self.given_back += stood
        if self.given_back == 60:
            super().borrow(Loan(loan, CONTAINER.firm_items[0].firm_code, 1, 1, now + 5, bytes(32)), now)
        return stood


class _LosesLoansInTheLongRun(_KeepsOneInTheLongRun):
    def give_back(self, loan: bytes, signature: bytes, now: int) -> Any:
        return super().give_back(loan, signature, now) and self.given_back < 60


class _WritesTwice(KeyedDevice):
    """Raises its own clock with each loan, in a change of its own."""

    seconds = 0

    def borrow(self, loan: Loan, now: int) -> Any:
        end = super().borrow(loan, now)
        self.seconds += 1
        self.time(now + self.seconds)
        return end


LENDERS: dict[str, tuple[type[SoundDriver], str]] = {
    "lends for ever": (with_device(_LendsForEver), "borrow for longer than is allowed gave"),
    "lends what is not there": (with_device(_LendsUnknownItems), "borrow of an unknown item"),
    "refuses and lends": (with_device(_RefusesAndLends), "after a refused loan the image shows another ledger"),
    "lends once more for each question": (with_device(_LendsTwice), "after borrow the image shows another ledger"),
    "never extends": (with_device(_NeverExtends), "after borrow until later the image shows another ledger"),
    "shortens": (with_device(_Shortens), "borrow until earlier returned"),
    "does not say until when": (with_device(_SaysNothing), "borrow returned None"),
    "shows nothing of it": (with_device(_KeepsNoLedger), "after borrow the image shows another ledger"),
    "refuses without a number": (with_device(_RefusesWithoutNumber), "sign for an unknown loan gave Refused"),
    "certifies for another station": (with_device(_CertifiesElsewhere), "signed something that it was not asked for"),
    "certifies another holder": (with_device(_LendsToAnother), "says something else than was borrowed"),
    "takes back from anybody": (with_device(_TakesAnybodys), "give_back by somebody else gave True"),
    "refuses the second return": (with_device(_RefusesTheSecondReturn), "give_back once more raised Refused"),
    "takes it back twice": (with_device(_TakesItBackTwice), "give_back once more returned True"),
    "says a number": (with_device(_CountsReturns), "give_back returned 1"),
    "keeps it": (with_device(_KeepsIt), "after give_back the image shows another ledger"),
    "keeps a loan in the long run": (
        with_device(_KeepsOneInTheLongRun),
        "after many loans the image shows another ledger",
    ),
    "loses a loan in the long run": (with_device(_LosesLoansInTheLongRun), "give_back did not find the last one"),
    "writes more than it should": (with_device(_WritesTwice), "rose by 300 in 200 changes"),
    "does not sign at all": (SoundDriver, "does not sign, and so cannot lend"),
}
"""What is wrong, the driver, and what the check must say of it."""
