"""The one table of error numbers: the field's numbers, our names and texts (domain reference, section 7).

An error that crosses the wire, a driver's refusal, `cmu`'s message: all take number, name and text from here.
What a client raises:

    LicenseError          the server refused, or cannot be reached: the number says which; a program expects it
    SettingError          an address, a station id or a configuration file is no good; the text says what to change
    ProtocolError
      LocalProtocolError  the program used the client wrongly: a fault to be mended in the program
      RemoteProtocolError the server broke the protocol; to the users of a client this is a LicenseError 100
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final

from protocol.messages import ErrorBody, Reason
from protocol.terms import printable


class ErrorNumber(IntEnum):
    """The numbers of this protocol; some are given by later versions only. The values are the field's, for ever."""

    FIRM_ITEM_INVALID = 21
    PRODUCT_ITEM_INVALID = 23
    FEATURE_MAP_MISSING = 29
    FEATURE_MAP_INCOMPATIBLE = 30
    PRODUCT_CODE_WRONG = 28
    UNIT_COUNTER_MISSING = 31
    UNIT_COUNTER_ZERO = 32
    UNIT_COUNTER_UNDERRUN = 33
    EXPIRATION_OVERRUN = 35
    ACTIVATION_UNDERRUN = 37
    BOX_BUSY = 64
    ACCESS_MODE_MISMATCH = 69
    BOX_LOST = 70
    USAGE_PERIOD_OVERRUN = 71
    MAINTENANCE_UNDERRUN = 77
    MAINTENANCE_OVERRUN = 78
    TIME_OBSOLETE = 88
    NETWORK_FAULT = 100
    SERVER_NOT_FOUND = 101
    INTERNAL = 104
    INVALID_PARAMETER = 105
    INVALID_HANDLE = 106
    NO_MORE_HANDLES = 107
    WRONG_HANDLE_TYPE = 115
    SERVER_TOO_OLD = 125
    RUNTIME_TOO_OLD = 129
    ENTRY_NOT_FOUND = 200
    BOX_NOT_FOUND = 201
    VALIDATION_FAILED = 211
    NO_MORE_LICENSES = 212
    EXCLUSIVE_CONFLICT = 213
    WRONG_ACCESS_MODE = 223
    BORROW_FAILED = 226
    UPDATE_TOO_NEW = 228
    UPDATE_TOO_OLD = 229
    SEVERAL_REASONS = 230
    ACCESS_DENIED = 231
    BORROW_CLOCK_DIFFERENCE = 232
    UPDATE_FAILED = 233
    SERVER_STARTING = 238
    COMMAND_FAILED = 303
    NOT_IMPLEMENTED = 304
    NOT_SUPPORTED = 306
    VERIFY_FAILED = 308
    REQUEST_OVERLOAD = 309


_TEXTS: Final[dict[ErrorNumber, str]] = {
    ErrorNumber.FIRM_ITEM_INVALID: "The firm item cannot be read or trusted",
    ErrorNumber.PRODUCT_ITEM_INVALID: "The product item cannot be used by this server",
    ErrorNumber.PRODUCT_CODE_WRONG: "The container has no such product item",
    ErrorNumber.FEATURE_MAP_MISSING: "A feature is asked for, and the license has no feature map",
    ErrorNumber.FEATURE_MAP_INCOMPATIBLE: "The license does not include the requested feature",
    ErrorNumber.UNIT_COUNTER_MISSING: "The license has no units that could be counted",
    ErrorNumber.UNIT_COUNTER_ZERO: "The units of the license are used up",
    ErrorNumber.UNIT_COUNTER_UNDERRUN: "The license has fewer units left than are asked for",
    ErrorNumber.EXPIRATION_OVERRUN: "The license has expired",
    ErrorNumber.ACTIVATION_UNDERRUN: "The license is not valid yet",
    ErrorNumber.BOX_BUSY: "The container does not answer in time; try again in a moment",
    ErrorNumber.ACCESS_MODE_MISMATCH: "The handle has another access mode than is needed",
    ErrorNumber.BOX_LOST: "The container has been unplugged; plug it in again",
    ErrorNumber.USAGE_PERIOD_OVERRUN: "The usage period of the license is over",
    ErrorNumber.MAINTENANCE_UNDERRUN: "The software was released before the maintenance period of the license",
    ErrorNumber.MAINTENANCE_OVERRUN: "The software was released after the maintenance period of the license",
    ErrorNumber.TIME_OBSOLETE: "This machine's clock is behind a time that it has shown before; set it right",
    ErrorNumber.NETWORK_FAULT: "The connection to the license server is broken",
    ErrorNumber.SERVER_NOT_FOUND: "The license server cannot be reached",
    ErrorNumber.INTERNAL: "The license server met a fault of its own; its log says more",
    ErrorNumber.INVALID_PARAMETER: "The request has an invalid parameter",
    ErrorNumber.INVALID_HANDLE: "The handle is not valid, or is valid no longer",
    ErrorNumber.NO_MORE_HANDLES: "The client holds as many handles as it may",
    ErrorNumber.WRONG_HANDLE_TYPE: "The handle is of a kind that this request cannot use",
    ErrorNumber.SERVER_TOO_OLD: "The license server is too old for this client",
    ErrorNumber.RUNTIME_TOO_OLD: "The software is older than it must be",
    ErrorNumber.ENTRY_NOT_FOUND: "There is no such license on this server",
    ErrorNumber.BOX_NOT_FOUND: "There is no such container on this server",
    ErrorNumber.VALIDATION_FAILED: "The signature is not the licensor's",
    ErrorNumber.NO_MORE_LICENSES: "All licenses are in use",
    ErrorNumber.EXCLUSIVE_CONFLICT: "An exclusive access and another one cannot stand side by side on one station",
    ErrorNumber.WRONG_ACCESS_MODE: "The license forbids this access mode",
    ErrorNumber.BORROW_FAILED: "The license cannot be borrowed",
    ErrorNumber.UPDATE_TOO_NEW: "The update builds on one that the container does not have",
    ErrorNumber.UPDATE_TOO_OLD: "The container has this update already, or a later one",
    ErrorNumber.SEVERAL_REASONS: "No license can serve the request, for several reasons",
    ErrorNumber.ACCESS_DENIED: "The server's access permissions exclude this client",
    ErrorNumber.BORROW_CLOCK_DIFFERENCE: (
        "The clocks of client and server differ too much to borrow; set the wrong one right"
    ),
    ErrorNumber.UPDATE_FAILED: "The update cannot be applied",
    ErrorNumber.SERVER_STARTING: "The license server is still starting; try again in a moment",
    ErrorNumber.COMMAND_FAILED: "The container answers wrongly",
    ErrorNumber.NOT_IMPLEMENTED: "The license server does not know this request",
    ErrorNumber.NOT_SUPPORTED: "The container cannot do what is asked",
    ErrorNumber.VERIFY_FAILED: "What the server answered is no proof of a license",
    ErrorNumber.REQUEST_OVERLOAD: "Too many connections or requests from this client's address",
}


def text_of(number: ErrorNumber, detail: str = "") -> str:
    """Return the sentence for people: the table's text, a detail if there is one, and the number at its end.

    A detail that is such a sentence itself loses its number: there is one, and it is this one's. One that begins with
    the table's text stands alone: nothing is said twice.
    """
    said, more = _TEXTS[number], _NUMBER.sub("", detail)
    if more:
        said = more if more.startswith(said) else f"{said}: {more}"
    return f"{said}, Error {number.value}."


def detail_of(number: ErrorNumber, sentence: str) -> str:
    """Return what a sentence of this number tells beyond the table's text; another one without its number."""
    return _NUMBER.sub("", sentence).removeprefix(f"{_TEXTS[number]}: ")


_NUMBER: Final = re.compile(r", Error [0-9]+\.?\Z")


class LicenseError(Exception):
    """A refusal, as a value that can be raised: the server's, or the client's own (100, 101) when no server answers.

    `number` may be one that this package does not know (a newer server's); its name is then the server's.
    `str()` gives the sentence for people, safe to print; `text` is the server's own spelling.
    """

    def __init__(self, body: ErrorBody) -> None:
        super().__init__(body)
        self.body = body

    @classmethod
    def of(cls, number: ErrorNumber, detail: str = "") -> LicenseError:
        """Return the error with the table's text for a number."""
        return cls(ErrorBody(number.value, number.name, text_of(number, detail)))

    @property
    def number(self) -> int:
        """The field's number: compare it with `ErrorNumber`."""
        return self.body.number

    @property
    def name(self) -> str:
        """The number's name."""
        return self.body.name

    @property
    def text(self) -> str:
        """The sentence, as the server spelled it."""
        return self.body.text

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """What was tried, entry by entry, and why it did not serve."""
        return self.body.reasons

    @property
    def cause(self) -> str:
        """Why a handle ended (an `EndCause`, or a newer server's word), else the empty string."""
        return self.body.cause

    def __str__(self) -> str:
        return printable(self.body.text) or f"Error {self.body.number}."


class SettingError(ValueError):
    """A setting of the client is no good; the text names where it was found and says what to write instead."""


class ProtocolError(Exception):
    """One side does not keep to the protocol. Only the two subclasses are raised: they say which side."""


class LocalProtocolError(ProtocolError):
    """We do not: the program uses the client in a way that the protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """The server does not; its connection cannot be used further."""
