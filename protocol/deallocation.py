"""Taking a license from who holds it, over the control socket (decision 22); `docs/protocol.md` has it for people."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from protocol.params import By, Params

MOST_SEEN = 16_384
"""How many handles can be named as seen."""

LONGEST_HOLD_OFF = 86_400
"""Seconds: who should have no license for longer needs another means."""

Handle = Annotated[int, Meta(ge=1, le=2**53 - 1)]


class Deallocate(Params["Deallocated"], frozen=True, gc=False):
    """Removes the allocation that a handle is on, with all its instances; or this one access; or all of its session.

    `seen` are the handles that the operator was shown; if there is another one by now, nothing is removed. For
    `hold_off` seconds its station gets no new license of the product.
    """

    method: ClassVar[str] = "deallocate"
    handle: Handle
    what: Literal["allocation", "access", "session"] = "allocation"
    seen: Annotated[tuple[Handle, ...], Meta(max_length=MOST_SEEN)] = ()
    hold_off: Annotated[int, Meta(ge=0, le=LONGEST_HOLD_OFF)] = 0
    by: By = ""


class DeallocatedAccess(Struct, frozen=True, gc=False):
    r"""An access that was removed; `client` is `address(host \ user)`."""

    handle: int
    client: str
    pid: int
    application: str


class Deallocated(Struct, frozen=True, gc=False):
    """What was removed, and how many licenses are free by that."""

    accesses: tuple[DeallocatedAccess, ...]
    licenses: int
