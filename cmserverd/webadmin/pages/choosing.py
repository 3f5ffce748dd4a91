"""What the address of a page chooses: codes, a container, where a list goes on. Strangers write addresses, too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

import msgspec
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request

from protocol.terms import ContainerText

MOST_CURSOR: Final = 2**53 - 1


class NotUnderstood(HTTPException):
    """A page's address, or a form, says something that cannot be. The text says what would be right."""

    def __init__(self, text: str) -> None:
        super().__init__(400, text)


class Chosen(Struct, frozen=True):
    """Which licenses and accesses a page is about; None: all. `cursor` is where its list begins."""

    container: str | None = None
    firm_code: int | None = None
    product_code: int | None = None
    relevant: bool = False
    cursor: int = 0

    @property
    def firm_code_text(self) -> str:
        """What the field of the form has."""
        return "" if self.firm_code is None else str(self.firm_code)

    @property
    def product_code_text(self) -> str:
        """What the field of the form has."""
        return "" if self.product_code is None else str(self.product_code)

    @property
    def container_text(self) -> str:
        """What the field of the form has."""
        return self.container or ""

    @property
    def filtered(self) -> bool:
        """Whether it leaves anything out."""
        return (self.container, self.firm_code, self.product_code) != (None, None, None)

    def address(self, path: str, cursor: int = 0) -> str:
        """Return the address of this choice's page that begins there."""
        fields = {
            "container": self.container,
            "firm_code": self.firm_code,
            "product_code": self.product_code,
            "relevant": "1" if self.relevant else None,
            "cursor": cursor or None,
        }
        return with_query(path, fields)


def chosen(request: Request) -> Chosen:
    """Return what a request's query and path choose. Raises NotUnderstood."""
    said = {**request.query_params, **request.path_params}
    return Chosen(
        container=container(said.get("container", "")),
        firm_code=code(said.get("firm_code", ""), "Firm Code"),
        product_code=code(said.get("product_code", ""), "Product Code"),
        relevant=said.get("relevant") == "1",
        cursor=number(said.get("cursor", "0"), MOST_CURSOR, "the place in the list") or 0,
    )


def container(text: str) -> str | None:
    """Return the container that a text names, None if it names none. Raises NotUnderstood."""
    if not text.strip():
        return None
    try:
        return msgspec.convert(text.strip(), ContainerText)
    except msgspec.ValidationError:
        raise NotUnderstood("a CmContainer is written like 3-3448482: mask, hyphen, serial number") from None


def code(text: str, what: str) -> int | None:
    """Return the code that a text is, None if it is empty. Raises NotUnderstood."""
    return number(text, 2**32 - 1, f"a {what}")


def number(text: str, most: int, what: str) -> int | None:
    """Return the number from 0 to `most` that a text is, None if it is empty. Raises NotUnderstood."""
    text = text.strip()
    if not text:
        return None
    if not re.fullmatch(r"\d{1,16}", text, re.ASCII) or int(text) > most:
        raise NotUnderstood(f"{what} is a whole number from 0 to {most}")
    return int(text)


def with_query(path: str, fields: Mapping[str, object]) -> str:
    """Return a path with those fields that are not None."""
    said = {name: value for name, value in fields.items() if value is not None}
    return f"{path}?{urlencode(said)}" if said else path
