"""The list of planted faults, and how one is planted in a copy of the project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

ROOT = Path(__file__).resolve().parent.parent.parent

Words = Annotated[str, Meta(min_length=1)]


class Fault(Struct, frozen=True, forbid_unknown_fields=True):
    """One slip: `old` stands exactly once in `file`, `new` takes its place, and the pytest node `test` must fail."""

    name: Words
    file: Words
    old: Words
    new: str
    test: Words

    def plant(self, root: Path) -> str:
        """Plant it in a copy of the project; return how the file was. Raises ValueError if it does not fit there."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if self.old == self.new or text.count(self.old) != 1:
            msg = f"{self.name}: its old text is {text.count(self.old)} times in {self.file}; write it anew"
            raise ValueError(msg)
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")
        return text


class _File(Struct, forbid_unknown_fields=True):
    fault: list[Fault]


def all_faults() -> list[Fault]:
    """Return the faults of all parts."""
    here = Path(__file__).parent
    return [
        fault
        for path in sorted(here.glob("*.toml"))
        for fault in msgspec.toml.decode(path.read_bytes(), type=_File).fault
    ]
