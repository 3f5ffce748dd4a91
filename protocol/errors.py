"""The one table of error numbers: the field's numbers, our names and texts (domain reference, section 7).

An error that crosses the wire, a driver's refusal, `cmu`'s message: all take number, name and text from here.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class ErrorNumber(IntEnum):
    """Every number this software gives. The values are the field's and never change."""

    FIRM_ITEM_INVALID = 21
    PRODUCT_ITEM_INVALID = 23
    FEATURE_MAP_MISSING = 29
    FEATURE_MAP_INCOMPATIBLE = 30
    BOX_LOST = 70
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
    NO_MORE_LICENSES = 212
    EXCLUSIVE_CONFLICT = 213
    WRONG_ACCESS_MODE = 223
    SEVERAL_REASONS = 230
    ACCESS_DENIED = 231
    SERVER_STARTING = 238
    NOT_IMPLEMENTED = 304
    REQUEST_OVERLOAD = 309


_TEXTS: Final[dict[ErrorNumber, str]] = {
    ErrorNumber.FIRM_ITEM_INVALID: "The firm item cannot be read or trusted",
    ErrorNumber.PRODUCT_ITEM_INVALID: "The product item cannot be used by this server",
    ErrorNumber.FEATURE_MAP_MISSING: "A feature is asked for, and the license has no feature map",
    ErrorNumber.FEATURE_MAP_INCOMPATIBLE: "The license does not include the requested feature",
    ErrorNumber.BOX_LOST: "The container has been unplugged; plug it in again",
    ErrorNumber.NETWORK_FAULT: "The connection to the license server is broken",
    ErrorNumber.SERVER_NOT_FOUND: "The license server cannot be reached",
    ErrorNumber.INTERNAL: "The license server met a fault of its own; its log says more",
    ErrorNumber.INVALID_PARAMETER: "The request has an invalid parameter",
    ErrorNumber.INVALID_HANDLE: "The handle is not valid, or is valid no longer",
    ErrorNumber.NO_MORE_HANDLES: "The client holds as many handles as it may",
    ErrorNumber.WRONG_HANDLE_TYPE: "The handle is of a kind that this request cannot use",
    ErrorNumber.SERVER_TOO_OLD: "The license server is too old for this client",
    ErrorNumber.RUNTIME_TOO_OLD: "The client is too old for this license server",
    ErrorNumber.ENTRY_NOT_FOUND: "There is no such license on this server",
    ErrorNumber.BOX_NOT_FOUND: "There is no such container on this server",
    ErrorNumber.NO_MORE_LICENSES: "All licenses are in use",
    ErrorNumber.EXCLUSIVE_CONFLICT: "An exclusive access and another one cannot stand side by side on one station",
    ErrorNumber.WRONG_ACCESS_MODE: "The license forbids this access mode",
    ErrorNumber.SEVERAL_REASONS: "No license can serve the request, for several reasons",
    ErrorNumber.ACCESS_DENIED: "The server's access permissions exclude this client",
    ErrorNumber.SERVER_STARTING: "The license server is still starting; try again in a moment",
    ErrorNumber.NOT_IMPLEMENTED: "The license server does not know this request",
    ErrorNumber.REQUEST_OVERLOAD: "Too many connections or requests from this client's address",
}


def text_of(number: ErrorNumber, detail: str = "") -> str:
    """Return the sentence for people: the table's text, a detail if there is one, and the number at its end."""
    middle = f": {detail}" if detail else ""
    return f"{_TEXTS[number]}{middle}, Error {number.value}."


def name_of(number: int) -> str:
    """Return the name of any number on the wire; a number of a newer server has none and gives `UNKNOWN`."""
    try:
        return ErrorNumber(number).name
    except ValueError:
        return "UNKNOWN"
