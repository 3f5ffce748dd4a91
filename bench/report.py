"""The rows of the one table that a run prints, and the document that keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

BEGIN: Final = "<!-- bench: begin -->"
END: Final = "<!-- bench: end -->"

_HEAD: Final = ("what", "figure", "spread", "aim", "met", "remarks")


class Row(Struct, frozen=True):
    """One figure. `met` is None where there is no aim; `valid` is False if the row measured something else."""

    what: str
    figure: str
    spread: str = ""
    aim: str = ""
    met: bool | None = None
    remarks: str = ""
    valid: bool = True


def judged(what: str, value: float, unit: str, aim: float, spread: str = "", remarks: str = "") -> Row:
    """Return the row of a figure that should stay at or below `aim`."""
    return Row(what, f"{shown(value)}{unit}", spread, f"at most {aim:g}{unit}", value <= aim, remarks)


def shown(value: float) -> str:
    """Spell a figure with the digits that mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> str:
    """Spell the range of a figure over the rounds."""
    return f"{shown(min(values))} to {shown(max(values))}"


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a table that is readable in a terminal and is Markdown."""
    cells = [_HEAD, *((row.what, row.figure, row.spread, row.aim, _MET[row.met], row.remarks) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


_MET: Final = {None: "", True: "yes", False: "**no**"}


def replace_block(document: Path, block: str) -> None:
    """Put a block of text between the two markers of a document. Raises ValueError if it has not both."""
    text = document.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        msg = f"{document} lacks the lines {BEGIN} and {END}, between which the table goes; put them in"
        raise ValueError(msg)
    document.write_text(f"{before}{BEGIN}\n{block}\n{END}{after}")
