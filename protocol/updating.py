"""Bringing a licensor's update to a container, over the control socket; `docs/protocol.md` has it for people."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from protocol.params import By, Params
from protocol.terms import ContainerText

LONGEST_UPDATE = 65_536
"""Bytes of an update file."""


class Context(Params["ContextFile"], frozen=True, gc=False):
    """Asks for a container's request file, which its licensor answers with an update; `time`: with a certified time."""

    method: ClassVar[str] = "context"
    container: ContainerText
    time: bool = False
    by: By = ""


class ContextFile(Struct, frozen=True, gc=False):
    """The request file."""

    request: bytes


class Import(Params["Imported"], frozen=True, gc=False):
    """Applies a licensor's update file."""

    method: ClassVar[str] = "import"
    update: Annotated[bytes, Meta(max_length=LONGEST_UPDATE)]
    by: By = ""


class Imported(Struct, frozen=True, gc=False, omit_defaults=True):
    """What the update brought: a firm item with its update counter, or a license time."""

    container: str
    firm_code: int = 0
    update_counter: int = 0
    time: int = 0
