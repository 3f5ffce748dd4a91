"""The table of errors, and LicenseError as something to raise."""

from __future__ import annotations

import pickle

import pytest

from protocol.address import LOOPBACK
from protocol.errors import ErrorNumber, LicenseError, text_of
from protocol.messages import ErrorBody, Reason
from protocol.opening import none_reached, not_reached


@pytest.mark.parametrize("number", ErrorNumber)
def test_every_number_has_a_sentence(number: ErrorNumber) -> None:
    """Each number has a text of one line, which ends as the field's texts do."""
    assert text_of(number).endswith(f", Error {number.value}.")
    assert text_of(number).isprintable()


def test_detail() -> None:
    """A detail stands between the table's text and the number."""
    error = LicenseError.of(ErrorNumber.SERVER_NOT_FOUND, "a:1: refused")
    assert str(error) == "The license server cannot be reached: a:1: refused, Error 101."


def test_one_number_is_said_once() -> None:
    """Of several servers each is told with its reason, what they share once; so in another error."""
    failures = [not_reached(address, "Connection refused") for address in LOOPBACK]
    error = none_reached(failures)
    assert str(error) == (
        "The license server cannot be reached: 127.0.0.1:22350: Connection refused; [::1]:22350: Connection refused, "
        "Error 101."
    )
    assert text_of(ErrorNumber.NETWORK_FAULT, str(failures[0])) == (
        "The connection to the license server is broken: The license server cannot be reached: 127.0.0.1:22350: "
        "Connection refused, Error 100."
    )


def test_nothing_is_said_twice() -> None:
    """A detail that begins as the table's text does takes its place."""
    more = "The update builds on one that the container does not have; apply that one first"
    assert text_of(ErrorNumber.UPDATE_TOO_NEW, more) == f"{more}, Error 228."


def test_printing_is_safe() -> None:
    """A server's text cannot steer the terminal that shows the error; the raw text is still there."""
    error = LicenseError(ErrorBody(212, "X", "\x1b[2Jgone\r\nnext\u202e"))
    assert str(error) == "?[2Jgone??next?"
    assert error.text == "\x1b[2Jgone\r\nnext\u202e"


def test_it_can_be_pickled() -> None:
    """A worker process can hand the error to its parent, reasons and all."""
    reason = Reason("3-1", 1, 2, 3, 212, "NO_MORE_LICENSES", "all in use")
    error = LicenseError(ErrorBody(212, "NO_MORE_LICENSES", "all in use", (reason,)))
    assert pickle.loads(pickle.dumps(error)).body == error.body  # noqa: S301
