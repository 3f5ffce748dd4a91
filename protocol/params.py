"""What every request is made of: its parameters, which know the class of its result, and numbers with their bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Generic

from msgspec import Meta, Struct

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    R = TypeVar("R", bound=Struct, covariant=True, default=Struct)
else:
    from typing import TypeVar  # knows defaults from Python 3.13 on; only a type checker needs them

    R = TypeVar("R", bound=Struct, covariant=True)

Cursor = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Instant = Annotated[int, Meta(ge=0, le=2**53 - 1)]
By = Annotated[str, Meta(max_length=64)]
"""For whom an operator's program asks, for the log: its own word, beside the user that the system says it runs as."""


class Params(Struct, Generic[R], frozen=True, gc=False, omit_defaults=True):
    """The parameters of one request; each subclass names its method, and in brackets the class of its result.

    A field that has its default is not sent.
    """

    method: ClassVar[str]


class Done(Struct, frozen=True, gc=False):
    """The empty result."""
