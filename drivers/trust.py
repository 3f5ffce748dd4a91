"""Which licensors are believed: a firm item counts only if its licensor's signature stands the test.

The container's own word does not count here: the key that lies beside a firm item is for the container, which checks
updates with it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final

from msgspec import Struct, field

from drivers import keys
from drivers.firm_item import Owner, SealedItem, owner_of

ED25519: Final = 1
"""The one algorithm of signatures that there is; 0 means that there is no signature."""


class Trust(Struct, frozen=True):
    """The licensors' public keys by firm code, and the firm codes that are believed without a signature, for trials."""

    keys: Mapping[int, bytes] = field(default_factory=dict)
    unsigned: Container[int] = frozenset()

    def complaint(self, item: SealedItem, owner: Owner) -> str:
        """Return why a firm item in the container of `owner` is not believed, as a sentence; empty if it is."""
        return self._complaint(item) or _another_container(item, owner)

    def licensor(self, item: SealedItem) -> bytes:
        """Return the key whose signature made the item believed; empty if it was believed without one."""
        return b"" if item.firm_code in self.unsigned else self.keys[item.firm_code]

    def _complaint(self, item: SealedItem) -> str:
        code = item.firm_code
        if code in self.unsigned:
            return ""
        if item.algorithm not in {0, ED25519}:
            return (
                f"Firm item {code} is signed with algorithm {item.algorithm}, which this server does not know; "
                "update the server."
            )
        known = self.keys.get(code)
        if known is None:
            shown = keys.to_text(item.licensor) if item.algorithm else "unsigned"
            return (
                f"Firm item {code} is of a licensor whom this server does not know; if it is to be believed, write "
                f'{code} = "{shown}" under [licensors]{", once the licensor told you this key" * bool(item.algorithm)}.'
            )
        if item.algorithm == 0:
            return f"Firm item {code} is not signed; have its licensor program it again."
        if not keys.verify(known, item.signature, item.octets):
            return (
                f"The signature of firm item {code} is not its licensor's; have him program it again, or correct his "
                "key under [licensors]."
            )
        return ""


NOBODY: Final = Trust()
"""Believes no licensor: enough for whoever wants to know the owner or the state."""


def _another_container(item: SealedItem, owner: Owner) -> str:
    if owner_of(item.octets) == owner:
        return ""
    return f"Firm item {item.firm_code} was made for another container; have its licensor program this one again."
