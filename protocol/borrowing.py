"""Taking a license along, and giving it back; `docs/protocol.md` has it for people.

A loan has an id and a key pair, both of the borrower's making: the container signs a certificate over his public key,
and he signs the receipt by which he gives the license back.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, NewType

from msgspec import Meta, Struct

from protocol.params import By, Instant, Params
from protocol.terms import U32, Client, ContainerText, Station

LoanId = NewType("LoanId", bytes)
"""The 128-bit id of a loan: asking again with the same one gives the same loan, or extends it.

On the wire 16 bytes, or 32 hexadecimal digits for clients that have no byte strings.
"""

_Id = Annotated[LoanId, Meta(min_length=16, max_length=16)]
_PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
_Duration = Annotated[int, Meta(ge=1, le=2**32 - 1)]


class Borrow(Params["Borrowed"], frozen=True, gc=False, kw_only=True):
    """Asks to take a license along for so many `seconds` from now on; `holder` is the borrower's public key.

    With a `handle`, the license that it holds becomes the borrowed one, and the handle ends. Else one is chosen as for
    an access. `time` is the client's clock. With the id of a loan that stands, it is extended, by its holder only.
    """

    method: ClassVar[str] = "borrow"
    id: _Id
    holder: _PublicKey
    seconds: _Duration
    time: Instant
    handle: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 0
    firm_code: U32 = 0
    product_code: U32 = 0
    feature_code: U32 = 0
    container: ContainerText | None = None
    item: U32 | None = None
    release_date: Instant | None = None


class Lend(Params["Borrowed"], frozen=True, gc=False, kw_only=True):
    """Borrows for somebody who has no connection, and asked in a file: over the control socket.

    The fields are those of `borrow`; `client` and `station` are his. His clock is not looked at: the file took its
    time.
    """

    method: ClassVar[str] = "lend"
    id: _Id
    holder: _PublicKey
    seconds: _Duration
    client: Client
    station: Station
    firm_code: U32
    product_code: U32
    feature_code: U32 = 0
    container: ContainerText | None = None
    item: U32 | None = None
    release_date: Instant | None = None
    by: By = ""


class Borrowed(Struct, frozen=True, gc=False):
    """A loan, which ends at `end`; `number` is its ID in listings.

    The certificate is what the container composed and signed, and the firm item as its licensor signed it.
    """

    container: str
    item: int
    number: int
    end: int
    message: bytes
    signature: bytes
    firm_item: bytes
    firm_signature: bytes


class GiveBack(Params["GivenBack"], frozen=True, gc=False):
    """Gives a borrowed license back; `signature` is the holder's, over the receipt."""

    method: ClassVar[str] = "give_back"
    container: ContainerText
    id: _Id
    signature: _Signature
    by: By = ""


class GivenBack(Struct, frozen=True, gc=False):
    """Whether the loan stood until now: one that is over, or was given back before, stands no longer."""

    stood: bool
