"""What a certificate is held against, link by link and to the second, properly signed; and bytes that are none."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol import certificate
from protocol.certificate import SKEW, Certified, Mine
from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import Borrow, Borrowed, LoanId
from protocol.signed import Terms
from protocol.terms import Station
from tests.protocol.lender import (
    ACTIVATION,
    CHARTS,
    DAY,
    EXPIRATION,
    FEATURES,
    FIRM,
    HOME,
    ITEM,
    MAINTENANCE,
    NOW,
    USAGE,
    WANTED,
    Lender,
    option,
)

HOLDER = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
MINE = Mine(b"i" * 16, HOLDER, HOME)
ASKED = Borrow(id=LoanId(MINE.id), holder=HOLDER, seconds=DAY, time=NOW, firm_code=FIRM, product_code=CHARTS)
LENDER = Lender()


def why(lent: Borrowed, lender: Lender = LENDER, mine: Mine = MINE, **wanted: Any) -> str:
    """Return why a certificate proves nothing, with number 308 at its end; empty if it proves what was asked."""
    try:
        certificate.check(lent, mine, replace(WANTED, **wanted), lender.public)
    except LicenseError as error:
        return str(error)
    return ""


def test_all_that_is_proven() -> None:
    """Each word of it is signed."""
    proven = certificate.check(LENDER.lend(ASKED), MINE, WANTED, LENDER.public)
    assert proven == Certified("3-7", LENDER.owner, FIRM, CHARTS, ITEM, 4, 1, NOW, NOW + DAY, Terms())
    assert proven.until == NOW + DAY - SKEW


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"id": b"j" * 16}, "of another loan"),
        ({"holder": Ed25519PrivateKey.generate().public_key().public_bytes_raw()}, "another borrower's"),
        ({"station": certificate.digest(Station("laptop"))}, "for another machine"),
        ({"station": certificate.digest(Station("desk-4", 1))}, "another seat"),
        ({"owner": Lender(serial=8).owner}, "no certificate of this container"),
        ({"firm_code": FIRM + 1}, "another license"),
        ({"product_code": CHARTS + 1}, "another license"),
        ({"update_counter": 3}, "not the one that the container holds"),
        ({"item": ITEM + 1}, "signed no such product item"),
        ({"quantity": 0}, "of no license at all"),
    ],
)
def test_what_was_certified_of_something_else(said: dict[str, Any], told: str) -> None:
    """The container's own signature does not make it mine, or what was asked for."""
    reason = why(LENDER.lend(ASKED, **said))
    assert told in reason
    assert reason.endswith(", Error 308.")


def test_each_signature_counts() -> None:
    """Another licensor's firm item, a certificate that another container signed: neither is believed."""
    assert "the licensor did not sign" in why(LENDER.lend(ASKED), Lender())
    forged = Lender(licensor=LENDER.licensor)
    assert not why(forged.lend(ASKED))
    assert "the container did not sign" in why(replace(forged.lend(ASKED), message=LENDER.lend(ASKED).message))
    assert "the licensor did not sign" in why(replace(LENDER.lend(ASKED), firm_item=forged.firm_item))


def test_who_keeps_it_for_others_need_not_know_the_licensor() -> None:
    """All else is checked all the same."""
    stranger = Lender()
    assert certificate.check(stranger.lend(ASKED), MINE, WANTED, None).container == "3-7"
    with pytest.raises(LicenseError, match="container did not sign"):
        certificate.check(replace(stranger.lend(ASKED), signature=bytes(64)), MINE, WANTED, None)


@pytest.mark.parametrize(
    ("pins", "fits"),
    [({"container": "3-7"}, True), ({"container": "3-8"}, False), ({"item": ITEM}, True), ({"item": 1}, False)],
)
def test_pins(pins: dict[str, Any], *, fits: bool) -> None:
    """Container and item are those that were asked for."""
    assert (not why(LENDER.lend(ASKED), **pins)) == fits


@pytest.mark.parametrize(("wanted", "fits"), [(0, True), (0b100, True), (0b110, False)])
def test_features(wanted: int, *, fits: bool) -> None:
    """Each bit that is wanted is signed."""
    lender = Lender(option(FEATURES, "<I", 0b101))
    assert (not why(lender.lend(ASKED), lender, feature_code=wanted)) == fits


@pytest.mark.parametrize(("released", "fits"), [(99, False), (100, True), (199, True), (200, False), (None, True)])
def test_maintenance(released: int | None, *, fits: bool) -> None:
    """From the first second on, up to and without the last."""
    lender = Lender(option(MAINTENANCE, "<qq", 100, 200))
    assert (not why(lender.lend(ASKED), lender, release_date=released)) == fits


@pytest.mark.parametrize(("usage", "fits"), [(DAY - 1, False), (DAY, True)])
def test_usage(usage: int, *, fits: bool) -> None:
    """It had begun when it was lent, so no loan is longer than the whole period."""
    lender = Lender(option(USAGE, "<II", usage, 1))
    assert (not why(lender.lend(ASKED), lender)) == fits


@pytest.mark.parametrize(
    ("options", "now", "seen", "number"),
    [
        (b"", NOW, 0, 0),
        (b"", NOW - SKEW, 0, 0),
        (b"", NOW - SKEW - 1, 0, ErrorNumber.TIME_OBSOLETE),
        (b"", NOW + DAY - SKEW - 1, 0, 0),
        (b"", NOW + DAY - SKEW, 0, ErrorNumber.EXPIRATION_OVERRUN),
        (b"", NOW + 500, NOW + 500 + SKEW, 0),
        (b"", NOW + 500, NOW + 501 + SKEW, ErrorNumber.TIME_OBSOLETE),
        (b"", NOW, NOW + DAY, ErrorNumber.TIME_OBSOLETE),
        (option(ACTIVATION, "<q", NOW + 9), NOW + 8, 0, ErrorNumber.ACTIVATION_UNDERRUN),
        (option(ACTIVATION, "<q", NOW + 9), NOW + 9, 0, 0),
        (option(EXPIRATION, "<q", NOW + 9), NOW + 8, 0, 0),
        (option(EXPIRATION, "<q", NOW + 9), NOW + 9, 0, ErrorNumber.EXPIRATION_OVERRUN),
    ],
)
def test_time(options: bytes, now: int, seen: int, number: int) -> None:
    """To the second: a minute before its end at the latest, and not where the clock goes back."""
    lender = Lender(options)
    certified = certificate.check(lender.lend(ASKED), MINE, WANTED, lender.public)
    if not number:
        certificate.check_time(certified, now, seen)
        return
    with pytest.raises(LicenseError) as refusal:
        certificate.check_time(certified, now, seen)
    assert refusal.value.number == number


def test_until_when() -> None:
    """A minute before the loan's end, or at the license's own."""
    lender = Lender(option(EXPIRATION, "<q", NOW + 9))
    assert certificate.check(lender.lend(ASKED), MINE, WANTED, lender.public).until == NOW + 9


def test_when_it_was_over_is_told() -> None:
    """In words, and whatever number stands there."""
    certified = certificate.check(LENDER.lend(ASKED), MINE, WANTED, LENDER.public)
    with pytest.raises(LicenseError, match=r"the loan is over since 2027-01-16 07:59:00 UTC, Error 35\."):
        certificate.check_time(certified, NOW + DAY, 0)
    assert certificate.instant(2**62) == f"{2**62} s"


@given(st.data())
def test_bytes_that_are_no_certificate(data: st.DataObject) -> None:
    """However they are cut, or one of them changed, there is no other error than the one."""
    lender = Lender(option(FEATURES, "<I", 1) + option(USAGE, "<II", DAY, 1))
    parts = [lender.firm_item, lender.lend(ASKED).message]
    which = data.draw(st.sampled_from([0, 1]))
    octets = parts[which]
    at = data.draw(st.integers(0, len(octets) - 1))
    before, changed, after = octets[:at], bytes([octets[at] ^ 1]), octets[at + 1 :]
    parts[which] = data.draw(st.sampled_from([before, before + after, before + changed + after, octets + changed]))
    reason = why(lender.sign(parts[1], firm_item=parts[0]), lender)
    assert reason == "" or reason.endswith(", Error 308.")
