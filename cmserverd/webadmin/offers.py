"""What WebAdmin offers, as values that a module lists: each says its path, its handler, and who may have it.

`Page` is seen, `Action` does something (POST), `Stream` tells an open page what is new, `Api` is for machines, `Open`
is for everybody. `guard` makes routes out of them and holds everybody to what they say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.daemon import Daemon
from cmserverd.webadmin.people import Role

ANYBODY: Final = "anybody"
"""Who is named in the log where no log-in is demanded."""


@dataclass(frozen=True)
class Visit:
    """Who asks, and what a handler may use for the answer.

    `user` is empty for who is not logged in; `role` is then None, unless anybody may look. `csrf` is what each form
    carries. A stream ends when `stands` says that the log-in is over.
    """

    user: str
    role: Role | None
    csrf: str = field(repr=False)
    daemon: Daemon = field(repr=False)
    render: Callable[..., Response] = field(repr=False)
    """`render("licenses.html", 200, rows=rows)`: the page of a template; the status may be left out."""
    stands: Callable[[], bool] = field(repr=False)

    def may(self, needed: Role) -> bool:
        """Tell whether he may do what needs a role."""
        return self.role is not None and self.role.covers(needed)

    @property
    def who(self) -> str:
        """Return how the log and the daemon are told who did something."""
        return self.user or ANYBODY


Handler = Callable[[Request, Visit], Awaitable[Response]]


@dataclass(frozen=True)
class Page:
    """A page that is seen (GET), by everybody who has the role; `menu` is its text in the navigation, if any.

    Of what `reads_history`, which is long, few are worked on at once, and none for who does not wait for it any more.
    """

    path: str
    handler: Handler
    role: Role = Role.VIEWER
    menu: str = ""
    reads_history: bool = False


@dataclass(frozen=True)
class Action:
    """Something that is done by a form (POST), by everybody who has the role. `reads_history` as of a page."""

    path: str
    handler: Handler
    role: Role = Role.OPERATOR
    reads_history: bool = False


@dataclass(frozen=True)
class Stream:
    """An answer that goes on (GET) for as long as a page stands open, for everybody who has the role."""

    path: str
    handler: Handler
    role: Role = Role.VIEWER


@dataclass(frozen=True)
class Open:
    """What everybody may have: logging in, the files, the health."""

    path: str
    handler: Handler
    method: Literal["GET", "POST"] = "GET"


@dataclass(frozen=True)
class Api:
    """What a machine asks with a token, or a page with its log-in; refusals are not led to the log-in page."""

    path: str
    handler: Handler
    role: Role = Role.VIEWER
    method: Literal["GET", "POST", "DELETE"] = "GET"
    reads_history: bool = False


Offer = Page | Action | Stream | Open | Api
