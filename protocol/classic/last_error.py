"""The last error of each thread, and how the classic calls come to it instead of raising."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from protocol.errors import ErrorNumber, LicenseError, SettingError
from protocol.messages import ErrorBody
from protocol.terms import printable

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F")


class _Last(threading.local):
    error: LicenseError | None = None


_LAST: Final = _Last()


def CmGetLastErrorCode() -> int:
    """Return the number of the error of this thread's last call, 0 if there was none; see `ErrorNumber`."""
    return 0 if _LAST.error is None else _LAST.error.number


def CmGetLastErrorText() -> str:
    """Return the sentence for people about this thread's last call. It ends with `, Error <n>.`."""
    return "There is no error, Error 0." if _LAST.error is None else str(_LAST.error)


def reporting(failure: F) -> Callable[[Callable[P, R]], Callable[P, R | F]]:
    """Have a call return `failure` where it raises LicenseError or SettingError, and keep that for this thread."""

    def decorate(call: Callable[P, R]) -> Callable[P, R | F]:
        @wraps(call)
        def reported(*args: P.args, **kwargs: P.kwargs) -> R | F:
            _LAST.error = None
            try:
                return call(*args, **kwargs)
            except LicenseError as error:
                _LAST.error = error
            except SettingError as error:
                _LAST.error = invalid(str(error))
            return failure

        return reported

    return decorate


def invalid(why: str) -> LicenseError:
    """Return the error 105 of a parameter that makes no sense."""
    return LicenseError.of(ErrorNumber.INVALID_PARAMETER, why)


def not_supported(what: str) -> LicenseError:
    """Return the error 306 of what the field has and this project has not; its text names it."""
    number = ErrorNumber.NOT_SUPPORTED
    text = f"These calls do not support {printable(what)}, Error {number.value}."
    return LicenseError(ErrorBody(number.value, number.name, text))
