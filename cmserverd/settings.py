"""The settings that are in force: told to operators, each with where it is set, and read anew while the daemon runs.

What cannot be changed while it runs stays as it was until the next start, and whoever asked is told so. What is in
`[webadmin]` waits for a start of WebAdmin, another process that reads the same file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import structlog
from msgspec import Meta, Struct
from msgspec.structs import fields, replace

from cmserverd import config
from cmserverd.config import Config, ConfigError, DriverOptions
from cmserverd.core.refusal import Refused
from drivers import tables, toml
from drivers.driver import DriverError
from protocol import messages as m
from protocol.errors import ErrorNumber
from protocol.watching import Setting

_log = structlog.get_logger("settings")

_TAKEN: Final = {
    "server": frozenset({"net_info"}),
    "sessions": frozenset({"handles", "per_address"}),
    "borrowing": frozenset(fields_of.name for fields_of in fields(config.Borrowing)),
    "log": frozenset({"level"}),
}
"""What is taken over without a restart; and all of `licensors`."""

_KEY_OF_A_LICENSOR: Final = "The public key by which this firm code's licenses are believed."

_HIDDEN: Final = "(not shown)"


class Settings:
    """The settings in force, `config`. `file` is where they are from; None: the defaults hold.

    `find` says which file that is, each time they are read; `apply` takes over what was changed.
    """

    def __init__(self, find: Callable[[], Path | None], driver_options: DriverOptions) -> None:
        """Read them. Raises ConfigError."""
        self.apply: Callable[[Config], None] = _nothing
        self._find = find
        self._driver_options = driver_options
        self.file, self.config, self._text = self._read()
        self._lines = _lines(self._text)

    def _read(self) -> tuple[Path | None, Config, str]:
        file = self._find()
        return (file, *(config.read(file, self._driver_options) if file is not None else (Config(), "")))

    def told(self) -> m.Configuration:
        """Return them as an operator is told them."""
        return m.Configuration("" if self.file is None else str(self.file), tuple(self._rows()))

    def reload(self, by: str) -> m.Reloaded:
        """Read them anew and take over what can be changed now. Raises Refused; then everything is as it was.

        `by` is who asks, for the log.
        """
        try:
            file, fresh, text = self._read()
        except ConfigError as error:
            _log.error("the settings were not read anew: there is a fault in them", reason=str(error), by=by)
            raise Refused(ErrorNumber.INVALID_PARAMETER, str(error)) from error
        changed = tuple(_differing(self.config, fresh))
        taken = tuple(f"{section}.{key}" for section, key in changed if _is_taken(section, key))
        restart = tuple(f"{section}.{key}" for section, key in changed if not _is_taken(section, key))
        self.file, self._text, self._lines = file, text, _lines(text)
        self.config = _merged(self.config, fresh)
        if taken:
            self.apply(self.config)
        webadmins = tuple(name for name in restart if name.startswith("webadmin."))
        others = tuple(name for name in restart if name not in webadmins)
        _log.info(
            "the settings were read anew",
            taken=taken,
            need_a_restart=others,
            need_a_restart_of_webadmin=webadmins,
            by=by,
        )
        return m.Reloaded(taken, restart)

    # what is told

    def _rows(self) -> Iterator[Setting]:
        for part in fields(Config):
            value = getattr(self.config, part.name)
            if isinstance(value, Struct):
                yield from self._section(part.encode_name, value)
        for code, key in self.config.licensors.items():
            line = self._lines.get(("licensors",), 0)
            allowed = tables.expected(config.Licensor)
            yield Setting("licensors", code, _spelt(key), "", line, allowed, _KEY_OF_A_LICENSOR, reloads=True)
        for name, options in self.config.drivers.items():
            try:
                kind = self._driver_options(name)
            except DriverError:  # it was there when the file was read
                continue
            yield from self._section(f"drivers.{name}", msgspec.convert(options, kind))

    def _section(self, section: str, values: Struct) -> Iterator[Setting]:
        for known in fields(values):
            described = [meta for meta in get_args(known.type)[1:] if isinstance(meta, Meta)]
            value = _spelt(getattr(values, known.name))
            default = _spelt(known.default_factory() if callable(known.default_factory) else known.default)
            if any((meta.extra or {}).get("secret") for meta in described):
                value = value if value == default else _HIDDEN
            yield Setting(
                section,
                known.encode_name,
                value,
                default,
                self._lines.get((*section.split("."), known.encode_name), 0),
                tables.expected(known.type),
                next((meta.description for meta in described if meta.description), ""),
                _is_taken(section, known.encode_name),
            )


def _nothing(_: Config) -> None:
    """Nothing runs yet that would have to be told."""


def _is_taken(section: str, key: str) -> bool:
    return section == "licensors" or key in _TAKEN.get(section, ())


def _differing(old: Config, new: Config) -> Iterator[tuple[str, str]]:
    """Yield section and key of each setting that is another one. Of drivers only the table is told."""
    for part in fields(Config):
        before, after = getattr(old, part.name), getattr(new, part.name)
        if isinstance(before, Struct):
            names = [known.encode_name for known in fields(before)]
            before, after = msgspec.structs.asdict(before), msgspec.structs.asdict(after)
        else:
            names = sorted(before.keys() | after.keys())
        for name in names:
            if before.get(name) != after.get(name):
                yield part.encode_name, name


def _merged(old: Config, new: Config) -> Config:
    """Return the old settings with what is taken over of the new ones."""
    parts = {
        section: replace(getattr(old, section), **{key: getattr(getattr(new, section), key) for key in keys})
        for section, keys in _TAKEN.items()
    }
    return replace(old, licensors=new.licensors, **parts)


def _lines(text: str) -> dict[toml.Key, int]:
    """Return on which line of a sound text each setting begins; of licensors only the line of the first."""
    raw: dict[str, Any] = toml.loads(text)
    found: dict[toml.Key, int] = {}
    for section, keys in raw.items():
        if section == "licensors":
            found[section,] = toml.line_of(text, (section,))
        elif section == "drivers":
            for name, options in keys.items():
                for key in options:
                    found[section, name, key] = toml.line_of(text, (section, name, key))
        else:
            for key in keys:
                found[section, key] = toml.line_of(text, (section, key))
    return found


def _spelt(value: object) -> str:
    """Return a value as it would stand in the file."""
    if value is None or value is msgspec.NODEFAULT:
        return ""
    return json.dumps(value, ensure_ascii=False, default=list)
