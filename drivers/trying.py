"""A driver's functions, called as the conformance checks call them: each in a thread of its own, and not for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

from drivers import image, statement
from drivers.driver import Device, DriverError, Faulty, Purpose, Refused, Signed
from drivers.firm_item import Owner
from drivers.trust import Trust

_T = TypeVar("_T")
_PATIENCE: Final = 60.0
"""Seconds after which a function that has not returned is taken to hang."""


class NonConforming(AssertionError):
    """The driver breaks its contract; the message says where."""


def fail(what: str) -> NoReturn:
    """Say what is broken."""
    raise NonConforming(f"The driver breaks its contract: {what}.")


def tried(function: Callable[[], _T], what: str) -> _T | DriverError:
    """Return what a function returns, or the DriverError it raises; it is called in a thread of its own."""
    outcomes: list[_T | BaseException] = []

    def run() -> None:
        try:
            outcomes.append(function())
        except BaseException as error:
            outcomes.append(error)

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if not outcomes:
        fail(f"{what} did not return within {_PATIENCE:.0f} s")
    outcome = outcomes[0]
    if isinstance(outcome, BaseException) and not isinstance(outcome, DriverError):
        msg = f"The driver breaks its contract: {what} raised {outcome!r}, which is no DriverError."
        raise NonConforming(msg) from outcome
    return outcome


def call(function: Callable[[], _T], what: str) -> _T:
    """Return what a function returns, which must raise nothing."""
    outcome = tried(function, what)
    if isinstance(outcome, DriverError):
        msg = f"The driver breaks its contract: {what} raised {outcome!r}."
        raise NonConforming(msg) from outcome
    return outcome


def expect(expected: tuple[type[DriverError], ...], function: Callable[[], object], what: str) -> None:
    """Have a function raise one of these errors, with a sentence."""
    words = " or ".join(each.__name__ for each in expected)
    outcome = tried(function, what)
    if not isinstance(outcome, DriverError):
        fail(f"{what} raised nothing; it must raise {words}")
    if not isinstance(outcome, expected):
        msg = f"The driver breaks its contract: {what} raised {outcome!r}; it must raise {words}."
        raise NonConforming(msg) from outcome
    if not str(outcome):
        fail(f"{what} raised {words} without a word about what the operator can do")


def check_statement(purpose: Purpose, body: bytes, owner: Owner, signed: Signed) -> None:
    """Accept what `sign` returned when it was asked for this."""
    if type(signed) is not Signed:
        fail(f"sign returned a {type(signed).__name__}; it must return a Signed")
    try:
        statement.check(purpose, body, owner, signed)
    except Faulty as error:
        msg = f"The driver breaks its contract: sign returned what it should have refused. {error}"
        raise NonConforming(msg) from error


def image_of(device: Device) -> image.Image:
    """Return what the device holds; of its firm items none is believed."""
    return image.parse(call(device.read, "read"), Trust())


def expect_refused(number: int, function: Callable[[], object], what: str) -> None:
    """Have a function raise Refused with this number."""
    outcome = tried(function, what)
    if not isinstance(outcome, Refused) or outcome.number != number:
        fail(f"{what} gave {outcome!r}; it must raise Refused with the number {number}")
