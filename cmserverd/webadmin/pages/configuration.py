"""The configuration, to be read: each setting with its value, what may stand there, and what it means."""

from __future__ import annotations

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.guard import Visit
from cmserverd.webadmin.pages import spelling
from cmserverd.webadmin.pages.rendering import render
from protocol.watching import ConfigurationRequest, Setting


class SettingRow(Struct, frozen=True, gc=False):
    """A setting; `changed` if it is not the default."""

    key: str
    value: str
    default: str
    changed: bool
    origin: str
    allowed: str
    meaning: str
    reloads: str


class Section(Struct, frozen=True, gc=False):
    """The settings of a table of the file."""

    name: str
    rows: tuple[SettingRow, ...]


async def configuration(request: Request, visit: Visit) -> Response:
    """Show the settings that are in force."""
    found = await visit.daemon.ask(ConfigurationRequest())
    names = dict.fromkeys(one.section for one in found.settings)
    return render(
        request,
        visit,
        "configuration.html",
        file=spelling.shown(found.file),
        sections=tuple(
            Section(spelling.shown(name), tuple(setting_row(one) for one in found.settings if one.section == name))
            for name in names
        ),
    )


def setting_row(one: Setting) -> SettingRow:
    """Return a setting as a row."""
    return SettingRow(
        key=spelling.shown(one.key),
        value=spelling.shown(one.value),
        default=spelling.shown(one.default),
        changed=one.value != one.default,
        origin=f"line {one.line}" if one.line else "default",
        allowed=spelling.shown(one.allowed),
        meaning=spelling.shown(one.meaning.replace("`", "")),
        reloads="by a reload" if one.reloads else "by a restart",
    )
