"""TOML tables as values of Structs: each fault is one key's, in plain words. For descriptions and settings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from datetime import date, datetime, time
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from drivers.toml import Key

T = TypeVar("T", bound=Struct)


class Fault(Exception):
    """What is wrong with a key (`drivers.toml.line_of` has its line)."""

    def __init__(self, key: Key, text: str) -> None:
        super().__init__(f"{_dotted(key)}: {text}" if key else text)
        self.key = key


class Explained(ValueError):
    """Raised by a check that says itself what is wrong with a value, better than what is expected would."""


def checked(expected: str, check: Callable[[Any], object]) -> Meta:
    """Describe a value by a check, which raises ValueError, and by what it should be."""
    return Meta(extra={"expected": expected, "check": check})


def convert(raw: object, kind: type[T], key: Key = ()) -> T:
    """Return a table as a value of `kind`. Each value is converted by itself, so that a fault is that of one key."""
    if not isinstance(raw, dict):
        raise Fault(key, f"expected a table, got {_shown(raw)}")
    fields = {known.encode_name: known for known in msgspec.structs.fields(kind)}
    values = {}
    for name, value in raw.items():
        if name not in fields:
            raise Fault((*key, name), f"there is no such key; {_nearest(name, fields)}")
        values[fields[name].name] = _value(value, fields[name].type, (*key, name))
    for name, wanted in fields.items():
        if wanted.required and name not in raw:
            raise Fault(key, f"the key {name} is missing; expected {expected(wanted.type)}")
    try:
        return kind(**values)
    except ValueError as error:  # a rule that joins several keys
        raise Fault(key, str(error)) from None


def _value(raw: object, hint: object, key: Key) -> object:
    """Return a value as what an annotation asks for: its parts first, so that a fault is told as closely as can be."""
    kind, described = _parts(hint)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return convert(raw, kind, key)
    if get_origin(kind) in (tuple, list) and get_args(kind)[1:] in ((), (...,)) and isinstance(raw, list):
        for place, item in enumerate(raw):
            _value(item, get_args(kind)[0], (*key, place))
    if get_origin(kind) is dict and isinstance(raw, dict):
        for name, item in raw.items():
            _value(item, get_args(kind)[1], (*key, name))
    try:
        value = msgspec.convert(raw, hint)
        for meta in described:
            if meta.extra and "check" in meta.extra:
                meta.extra["check"](value)
    except Explained as error:
        raise Fault(key, str(error)) from None
    except ValueError:  # msgspec.ValidationError is one
        raise Fault(key, f"expected {expected(hint)}, got {_shown(raw)}") from None
    return value


# --- words for people ---------------------------------------------------------------------------------------------


def expected(hint: object) -> str:
    """Say what an annotation allows."""
    kind, described = _parts(hint)
    told = {name: value for meta in described for name in _TOLD if (value := getattr(meta, name)) is not None}
    extra = told.get("extra", {})
    arguments = get_args(kind)
    if "expected" in extra:
        return str(extra["expected"])
    if get_origin(kind) is Literal:
        return _either([f'"{value}"' for value in arguments])
    if get_origin(kind) in (Union, UnionType):
        return _either([expected(one) for one in arguments if one is not type(None)])
    if get_origin(kind) in (list, tuple):
        return f"a list, each part of it {expected(arguments[0])}"
    if kind in (int, float):
        words = "a whole number" if kind is int else "a number"
        return words + (f" of {extra['unit']}" if "unit" in extra else "") + _range(told)
    if kind is str:
        low, high = told.get("min_length", 0), told.get("max_length")
        return "a text" + (f" of {low} to {high} characters" if high is not None else "")
    if kind is bool:
        return "true or false"
    if kind is datetime:
        return "a date with time and zone, as in 2027-01-01T00:00:00Z"
    if get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, Struct)):
        return "a table"
    return f"a value of type {getattr(kind, '__name__', kind)}"


_TOLD: Final = ("ge", "gt", "le", "lt", "min_length", "max_length", "extra")


def _parts(hint: object) -> tuple[Any, list[Meta]]:
    """Return an annotation's type and what is said of it. TOML has no null: of `X | None` these are X's."""
    if get_origin(hint) in (Union, UnionType):
        some = [one for one in get_args(hint) if one is not type(None)]
        return _parts(some[0]) if len(some) == 1 else (hint, [])
    if get_origin(hint) is not Annotated:
        return hint, []
    kind, *described = get_args(hint)
    return kind, [meta for meta in described if isinstance(meta, Meta)]


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1])] * (len(words) > 1) + words[-1:])


def _range(told: dict[str, Any]) -> str:
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    return "".join(f" {word} {told[name]}" for name, word in words.items() if told.get(name) is not None)


def _shown(value: object) -> str:
    """Spell a value as the file has it, on one line and not at length."""
    if isinstance(value, dict):
        return "a table"
    try:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
        if isinstance(value, date | time):
            text = value.isoformat()
    except ValueError:  # a hexadecimal number may be larger than what Python writes out
        return "a number too large to show"
    return text if len(text) <= 60 else text[:57] + "..."


def _dotted(key: Key) -> str:
    """Spell a dotted key."""
    parts = (
        f"[{part}]" if isinstance(part, int) else part if re.fullmatch(r"[\w-]+", part) else repr(part) for part in key
    )
    return ".".join(parts).replace(".[", "[")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known are {', '.join(known)}" if known else "none is known here"
