"""Finds drivers by entry point, group `cmserverd.drivers`: ours by the same door as anybody's.

Nothing is imported before it is asked for, so that a driver whose libraries are missing hurts only whoever wants it.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from msgspec import Struct

from drivers.driver import DriverClass, DriverError

GROUP: Final = "cmserverd.drivers"


def available() -> list[str]:
    """Return the names of the installed drivers, in alphabetical order; imports none of them."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def load(name: str) -> DriverClass:
    """Return the driver of this name. Raises DriverError if there is none, or if it cannot be used."""
    entry = _entry(name)
    try:
        loaded = entry.load()
    except (ImportError, AttributeError) as error:
        msg = f"The driver {name!r} ({entry.value}) cannot be loaded: {error}. Install what it needs, or remove it."
        raise DriverError(msg) from error
    options = getattr(loaded, "Options", None)
    if not callable(loaded) or not isinstance(options, type) or not issubclass(options, Struct):
        msg = f"The driver {name!r} ({entry.value}) is no driver class: it has no msgspec.Struct named Options."
        raise DriverError(msg)
    return cast("DriverClass", loaded)


def _entry(name: str) -> EntryPoint:
    found = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if not found:
        names = available()
        close = get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        msg = f"There is no driver {name!r}{hint} Installed are: {', '.join(names) or 'none'}."
        raise DriverError(msg)
    if len(found) > 1:
        msg = f"Several drivers are named {name!r}: {', '.join(sorted(found))}. Uninstall all but one of them."
        raise DriverError(msg)
    return found.popitem()[1]
