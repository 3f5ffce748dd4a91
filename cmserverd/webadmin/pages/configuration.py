"""The configuration: each setting with its value, what may stand there and what it means; and having it read anew."""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.daemon import is_silent
from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.pages import spelling
from cmserverd.webadmin.pages.rendering import render
from cmserverd.webadmin.people import Role
from protocol.errors import LicenseError
from protocol.watching import ConfigurationRequest, Reloaded, Setting

_RESTARTS: Final = {"webadmin": "by a restart of WebAdmin"}
"""What is to be started anew for the settings of a section, where it is not the license server."""


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
    return await _show(request, visit)


async def reload(request: Request, visit: Visit) -> Response:
    """Have the settings read anew, and say what became of it."""
    try:
        done = await visit.daemon.reload(by=visit.who)
    except LicenseError as error:
        if is_silent(error):
            raise
        problem = f"Nothing was changed, for there is a fault in the settings: {spelling.refusal(error)}."
        return await _show(request, visit, problem=problem)
    return await _show(request, visit, done=reloaded(done))


def reloaded(done: Reloaded) -> tuple[str, ...]:
    """Say what is in force now, and what waits for a restart, in sentences."""
    said = []
    if done.taken:
        said.append(f"In force now: {', '.join(map(spelling.shown, done.taken))}.")
    ours = tuple(one for one in done.restart if one.startswith("webadmin."))
    its = tuple(one for one in done.restart if one not in ours)
    for who, keys in (("the license server", its), ("WebAdmin", ours)):
        if keys:
            waiting = ", ".join(map(spelling.shown, keys))
            said.append(f"Changed in the file, and in force after a restart of {who}: {waiting}.")
    return tuple(said) or ("The file was read, and says nothing new.",)


async def _show(request: Request, visit: Visit, *, problem: str = "", done: tuple[str, ...] = ()) -> Response:
    found = await visit.daemon.ask(ConfigurationRequest())
    names = dict.fromkeys(one.section for one in found.settings)
    return render(
        request,
        visit,
        "configuration.html",
        400 if problem else 200,
        problem=problem,
        done=done,
        may_act=visit.may(Role.OPERATOR),
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
        reloads="by a reload" if one.reloads else _RESTARTS.get(one.section, "by a restart"),
    )
