"""What a user keeps of his loans, offline: found, checked, and given back before anybody hears of it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from protocol.certificate import SKEW
from protocol.errors import ErrorNumber, LicenseError, SettingError
from protocol.loan_files import KEPT, RECEIPT
from protocol.loans import Loan, Loans, LoanState
from protocol.messages import Borrow
from protocol.proof import Wanted
from protocol.terms import Station
from tests.protocol.lender import CHARTS, DAY, FIRM, HOME, NOW, WANTED, Clock, Lender, loans

LENDER = Lender()


@pytest.fixture
def clock() -> Clock:
    """A clock that the test sets."""
    return Clock()


@pytest.fixture
def kept(tmp_path: Path, clock: Clock) -> Loans:
    """A place for loans, empty."""
    return loans(tmp_path, clock)


def borrow(kept: Loans, seconds: int = DAY, lender: Lender = LENDER, **said: Any) -> Borrow:
    """Borrow a license; return what was asked."""
    with kept.asking(WANTED, seconds, "alpha:22350") as asked:
        kept.keep(asked.id, lender.lend(asked, **{"now": asked.time, **said}), lender.public)
    return asked


def number(kept: Loans, licensor: bytes = LENDER.public, **wanted: Any) -> int:
    """Return the number with which nothing is found, 0 if something is."""
    try:
        assert kept.find(FIRM, CHARTS, licensor, **wanted) is not None
    except LicenseError as error:
        return error.number
    return 0


def test_a_loan_is_found_offline(kept: Loans, tmp_path: Path, clock: Clock) -> None:
    """By who knows the licensor's key; another process finds it too."""
    assert kept.find(FIRM, CHARTS, LENDER.public) is None
    asked = borrow(kept)
    for there in (kept, loans(tmp_path, clock)):
        loan = there.find(FIRM, CHARTS, LENDER.public)
        assert loan is not None
        assert (loan.id, loan.until, loan.certified.container) == (asked.id, NOW + DAY - SKEW, "3-7")
        loan.check()
    assert kept.find(FIRM, CHARTS + 1, LENDER.public) is None
    assert number(kept, Lender().public) == ErrorNumber.VERIFY_FAILED


def test_it_is_private(kept: Loans, tmp_path: Path) -> None:
    """The key is the user's own; nothing else is left in the place."""
    before = os.umask(0)
    try:
        asked = borrow(kept)
    finally:
        os.umask(before)
    place = tmp_path / "loans"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {
        f"{asked.id.hex()}.loan": 0o600,
        "clock": 0o600,
    }


def test_it_ends_by_itself(kept: Loans, clock: Clock) -> None:
    """A minute before its end, to the second, and says so."""
    borrow(kept)
    loan = kept.find(FIRM, CHARTS, LENDER.public)
    assert loan is not None
    clock.now = NOW + DAY - SKEW - 1
    loan.check()
    clock.now += 1
    with pytest.raises(LicenseError, match="the loan is over since 2027-01-16 07:59:00 UTC") as refusal:
        loan.check()
    assert refusal.value.number == ErrorNumber.EXPIRATION_OVERRUN
    assert number(kept) == ErrorNumber.EXPIRATION_OVERRUN


def test_a_clock_that_is_set_back(kept: Loans, clock: Clock, tmp_path: Path) -> None:
    """What was seen once is not forgotten: neither by this process nor by the next one, nor by one that uses others."""
    borrow(kept)
    clock.now = NOW + DAY - SKEW - 1
    assert number(kept) == 0
    clock.now -= SKEW
    assert number(kept) == 0
    clock.now -= 1
    assert number(kept) == number(loans(tmp_path, clock)) == ErrorNumber.TIME_OBSOLETE
    clock.now = NOW - SKEW - 1
    assert number(kept) == ErrorNumber.TIME_OBSOLETE


def test_a_clock_that_was_wrong_is_mended_by_a_server(kept: Loans, clock: Clock) -> None:
    """Which compares it with its own before it lends; a file from an operator does not."""
    borrow(kept)
    clock.now = NOW + DAY // 2
    assert number(kept) == 0
    clock.now = NOW + 5
    assert number(kept) == ErrorNumber.TIME_OBSOLETE
    loan = Loan(kept, kept.extension(kept_id(kept), DAY).id, LENDER.public)
    extended = LENDER.lend(kept.extension(loan.id, DAY), now=clock.now)
    kept.keep(loan.id, extended, LENDER.public, online=False)
    assert number(kept) == ErrorNumber.TIME_OBSOLETE
    kept.keep(loan.id, extended, LENDER.public)
    assert number(kept) == 0


def kept_id(kept: Loans) -> Any:
    """Return the id of the only loan."""
    (info,) = kept.list()
    return bytes.fromhex(info.id)


def test_another_machine_s_copy(kept: Loans, tmp_path: Path, clock: Clock) -> None:
    """A copy of the files is worth nothing elsewhere, and the text says why; no more on another seat."""
    borrow(kept)
    shutil.copytree(tmp_path / "loans", tmp_path / "laptop" / "loans")
    assert number(loans(tmp_path / "laptop", clock)) == 0
    for elsewhere in (Station("laptop"), Station(HOME.machine, 1)):
        there = loans(tmp_path / "laptop", clock, elsewhere)
        with pytest.raises(LicenseError, match="was borrowed for another machine, or another seat") as refusal:
            there.find(FIRM, CHARTS, LENDER.public)
        assert refusal.value.number == ErrorNumber.VERIFY_FAILED
        assert there.list()[0].state == LoanState.NOT_VALID


def test_the_software_s_own_terms(kept: Loans) -> None:
    """They are held against the license at each start: the software may be a newer one than that which borrowed."""
    borrow(kept)
    assert number(kept, feature_code=1) == ErrorNumber.VERIFY_FAILED
    assert number(kept, release_date=NOW) == 0


def test_the_best_one_is_taken(kept: Loans, clock: Clock) -> None:
    """Of several, one that is valid; if none is, the reason of the one that ends last."""
    borrow(kept, lender=Lender())
    borrow(kept, seconds=2 * SKEW)
    assert number(kept) == 0
    clock.now = NOW + SKEW
    assert number(kept) == ErrorNumber.VERIFY_FAILED
    borrow(kept)
    assert number(kept) == 0


# --- asking -------------------------------------------------------------------------------------------------------


def test_key_and_id_are_kept_before_the_request_leaves(kept: Loans, tmp_path: Path) -> None:
    """So that the one who asks may die, and the same is asked for again."""
    with pytest.raises(KeyboardInterrupt), kept.asking(WANTED, DAY, "alpha:22350") as first:
        raise KeyboardInterrupt
    assert kept.list()[0].state == LoanState.ASKED
    assert kept.find(FIRM, CHARTS, LENDER.public) is None
    later = loans(tmp_path, Clock(NOW + 9))
    with later.asking(WANTED, 2 * DAY, "alpha:22350") as again:
        assert (again.id, again.holder, again.seconds, again.time) == (first.id, first.holder, 2 * DAY, NOW + 9)
        later.keep(again.id, LENDER.lend(again, now=NOW + 9), LENDER.public)
    with later.asking(WANTED, DAY, "alpha:22350") as another:
        assert another.id != first.id


@pytest.mark.parametrize(
    ("wanted", "server"),
    [(Wanted(FIRM, CHARTS, 1), "alpha:22350"), (Wanted(FIRM, CHARTS, item=2), "alpha:22350"), (WANTED, "beta:22350")],
)
def test_something_else_is_another_loan(kept: Loans, wanted: Wanted, server: str) -> None:
    """Of another server or on other terms, it is no repetition."""
    with pytest.raises(KeyboardInterrupt), kept.asking(WANTED, DAY, "alpha:22350") as first:
        raise KeyboardInterrupt
    with kept.asking(wanted, DAY, server) as second:
        assert second.id != first.id
        assert second.holder != first.holder


@pytest.mark.parametrize(
    ("refused", "left"),
    [
        (ErrorNumber.NO_MORE_LICENSES, 0),
        (ErrorNumber.BORROW_FAILED, 0),
        (ErrorNumber.BORROW_CLOCK_DIFFERENCE, 0),
        (ErrorNumber.NETWORK_FAULT, 1),
        (ErrorNumber.BOX_BUSY, 1),
        (ErrorNumber.INTERNAL, 1),
        (ErrorNumber.VERIFY_FAILED, 1),
    ],
)
def test_a_refusal_leaves_nothing_unless_it_is_uncertain(kept: Loans, refused: ErrorNumber, left: int) -> None:
    """What may have been lent all the same can still be had."""
    with pytest.raises(LicenseError), kept.asking(WANTED, DAY, "alpha:22350"):
        raise LicenseError.of(refused)
    assert len(kept.list()) == left
    with pytest.raises(LicenseError), kept.asking(WANTED, DAY, "alpha:22350"):
        raise LicenseError.of(ErrorNumber.NO_MORE_LICENSES)
    assert len(kept.list()) == left


def test_what_proves_nothing_is_not_kept(kept: Loans) -> None:
    """Neither as a loan, nor in the place of one that does."""
    with pytest.raises(LicenseError, match="another borrower's"):
        borrow(kept, holder=b"h" * 32)
    assert number_of_nothing(kept)
    asked = borrow(kept)
    for lender in (Lender(), Lender(licensor=LENDER.licensor, serial=8)):
        with pytest.raises(LicenseError) as refusal:
            kept.keep(asked.id, lender.lend(asked), LENDER.public)
        assert refusal.value.number == ErrorNumber.VERIFY_FAILED
    assert number(kept) == 0


def number_of_nothing(kept: Loans) -> bool:
    """Whether nothing is found."""
    return kept.find(FIRM, CHARTS, LENDER.public) is None


def test_what_is_long_over_is_forgotten(kept: Loans, clock: Clock) -> None:
    """Once the server does not count it any more, and only when a server has agreed to the clock."""
    borrow(kept)
    with pytest.raises(KeyboardInterrupt), kept.asking(WANTED, DAY, "beta:22350"):
        raise KeyboardInterrupt
    clock.now = NOW + DAY + SKEW
    assert [one.state for one in kept.list()] == [LoanState.OVER, LoanState.ASKED]
    asked = borrow(kept)
    assert [one.id for one in kept.list()] == [asked.id.hex()]


# --- giving back --------------------------------------------------------------------------------------------------


def test_it_is_unusable_before_the_receipt_leaves(kept: Loans, tmp_path: Path, clock: Clock) -> None:
    """In every process, whatever becomes of the connection; the receipt is the same each time."""
    asked = borrow(kept)
    loan = kept.find(FIRM, CHARTS, LENDER.public)
    assert loan is not None
    with pytest.raises(LicenseError) as failure, kept.returning(asked.id) as receipt:
        raise unreached(loans(tmp_path, clock))
    assert LENDER.takes(receipt, asked.holder)
    assert str(failure.value) == (
        "The connection to the license server is broken: no answer within 10 seconds; the loan cannot be used any "
        "more, and its receipt is kept: give it back again when the server can be reached, Error 100."
    )
    with pytest.raises(LicenseError, match="was given back"):
        loan.check()
    with pytest.raises(LicenseError, match="was given back"):
        kept.extension(asked.id, DAY)
    assert kept.list()[0].state == LoanState.GIVEN_BACK
    with kept.returning(asked.id) as again:
        assert again == receipt
    assert kept.list() == ()
    assert list((tmp_path / "loans").glob("*.receipt")) == []


def unreached(another: Loans) -> LicenseError:
    """Return what no server answers with; by then another process finds no loan any more."""
    assert number_of_nothing(another)
    return LicenseError.of(ErrorNumber.NETWORK_FAULT, "no answer within 10 seconds")


def test_a_receipt_that_cannot_be_kept_is_not_sent(
    kept: Loans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the loan stands: else it could be used and be free at the same time."""
    asked = borrow(kept)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SettingError, match=r"loans, which cannot be written: No space left on device"):
        kept.receipt(asked.id)
    assert number(kept) == 0
    assert sorted(path.suffix for path in (tmp_path / "loans").iterdir()) == ["", ".loan"]


def test_a_return_that_is_cut_short(kept: Loans, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server has answered, and the process dies while it tidies up: at no moment is the loan usable."""
    asked = borrow(kept)
    unlink = Path.unlink

    def once(path: Path, *, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", once)
    with pytest.raises(KeyboardInterrupt), kept.returning(asked.id):
        pass
    assert number_of_nothing(kept)


def test_what_was_not_answered_cannot_be_given_back(kept: Loans) -> None:
    """Nobody knows where to; it can be asked for again. Nor can what is none."""
    with pytest.raises(KeyboardInterrupt), kept.asking(WANTED, DAY) as asked:
        raise KeyboardInterrupt
    with pytest.raises(LicenseError, match="ask for it again first"):
        kept.receipt(asked.id)
    with pytest.raises(LicenseError, match="no such loan"):
        kept.receipt(type(asked.id)(bytes(16)))


def test_a_receipt_names_the_container_that_the_licensor_signed(kept: Loans, tmp_path: Path) -> None:
    """Whatever stands beside that: a receipt that cannot be read again could not be given back again."""
    asked = borrow(kept)
    path = tmp_path / "loans" / f"{asked.id.hex()}.loan"
    known = KEPT.decode(path.read_bytes())
    assert known.lent is not None
    path.write_bytes(KEPT.encode(replace(known, lent=replace(known.lent, container="the desk's"))))
    receipt = kept.receipt(asked.id)
    assert receipt.container == "3-7"
    assert kept.receipt(asked.id) == receipt


def test_the_receipt_of_another_loan_is_not_sent_for_this_one(kept: Loans, tmp_path: Path) -> None:
    """That one may still be in use."""
    first, second = borrow(kept), borrow(kept)
    receipt = kept.receipt(first.id)
    (tmp_path / "loans" / f"{second.id.hex()}.receipt").write_bytes(RECEIPT.encode(receipt))
    with pytest.raises(LicenseError, match="is damaged: it is that of another loan"):
        kept.receipt(second.id)


# --- files that are none ------------------------------------------------------------------------------------------


def test_a_damaged_file_is_told_and_disturbs_nobody(kept: Loans, tmp_path: Path) -> None:
    """Whatever lies there; what is no loan by its name is not looked at."""
    place = tmp_path / "loans"
    asked = borrow(kept)
    for at, name in enumerate(("0", "1", "2", "3")):
        (place / f"{name * 32}.loan").write_bytes(b"cmloan\0"[: 3 * at])
    (place / "readme.loan").write_text("none")
    os.mkfifo(place / f"{'a' * 32}.loan")
    (place / f"{'b' * 32}.loan").symlink_to("/etc/hostname")
    shutil.copy(place / f"{asked.id.hex()}.loan", place / f"{'c' * 32}.loan")
    assert number(kept) == 0
    states = {one.id[0] if one.state == LoanState.UNREADABLE else "loan": one.text for one in kept.list()}
    assert sorted(states) == ["0", "1", "2", "3", "a", "b", "c", "loan"]
    assert f"{place}/{'c' * 32}.loan is damaged: it is that of another loan" in states["c"]
    assert "is no file" in states["a"]
    (place / "clock").write_bytes(b"\xff")
    assert number(kept) == 0


def test_a_full_disk_takes_no_license_away(kept: Loans, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that was seen cannot be written down, and that is all."""
    borrow(kept)
    clock.now += 2 * SKEW

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert number(kept) == 0


def test_what_is_kept_has_no_more_than_it_needs(kept: Loans, tmp_path: Path) -> None:
    """The private key is of this loan only, and the certificate names no machine."""
    asked = borrow(kept)
    octets = (tmp_path / "loans" / f"{asked.id.hex()}.loan").read_bytes()
    assert KEPT.decode(octets).asked == asked
    assert HOME.machine.encode() not in octets
