"""How a client begins: what it says of itself, and what it raises if no server answers."""

from __future__ import annotations

from protocol.address import Address
from protocol.connection import VERSIONS
from protocol.errors import ErrorNumber, LicenseError, detail_of
from protocol.messages import Hello
from protocol.station import client as this_client
from protocol.station import station as this_station
from protocol.terms import Station


def introduction(application: str | None, station: Station | str | None) -> Hello:
    """Return the greeting of a new session. Raises SettingError if this machine cannot be told."""
    place = station if isinstance(station, Station) else this_station(station)
    return Hello(versions=VERSIONS, client=this_client(application), station=place, events="push")


def not_reached(address: Address, reason: object) -> LicenseError:
    """Return the error of a server that cannot be connected to."""
    return LicenseError.of(ErrorNumber.SERVER_NOT_FOUND, f"{address}: {reason}")


def none_reached(failures: list[LicenseError]) -> LicenseError:
    """Return the one error for the failures of all servers that were tried."""
    if len(failures) == 1:
        return failures[0]
    number = ErrorNumber.SERVER_NOT_FOUND
    return LicenseError.of(number, "; ".join(detail_of(number, str(error)) for error in failures))
