"""A table that fits the screen by folding, within limits: numbers, ids and dates stay whole, and nothing is cut off.

Rich's own way of narrowing a table knows no such limits: it breaks numbers and cuts off what is left over.
"""

from __future__ import annotations

from typing import Final

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from protocol.terms import printable

LEAST: Final = 12
"""Columns of the screen that a text gets before it is folded."""

Cell = str | int | Text


class FoldingTable(Table):
    """A table whose columns are marked by what must stay in one line.

    `#` a number, `=` any cell, `~` each word. A column that is not marked may be folded anywhere, once it has `LEAST`.
    """

    def __init__(self, *marked: str) -> None:
        super().__init__(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        self._marks = [name[0] if name[0] in "#=~" else "" for name in marked]
        self._most: list[int] = []
        self._least: list[int] = []
        for name in marked:
            title = name.lstrip("#=~")
            self.add_column(title, justify="right" if name[0] == "#" else "left", overflow="fold")
            self._most.append(len(title))
            self._least.append(max(map(len, title.split())))

    def row(self, *cells: Cell) -> None:
        """Add a row. What is no `Text` yet is made harmless here."""
        shown = [cell if isinstance(cell, Text) else Text(printable(str(cell))) for cell in cells]
        for at, cell in enumerate(shown):
            text = cell.plain
            together = {"#": [text], "=": [text], "~": text.split(), "": [text[:LEAST]]}[self._marks[at]]
            self._most[at] = max(self._most[at], cell.cell_len)
            self._least[at] = max(self._least[at], *map(cell_len, together), 0)
        self.add_row(*shown)

    @property
    def natural(self) -> int:
        """The width at which nothing is folded."""
        return self._with_gaps(self._most)

    def fit(self, room: int) -> int:
        """Choose the columns' widths so that the table is at most so wide, if it can be; return its width.

        The widest column gives way first: by one where it may be folded anywhere, else to where folding helps.
        """
        widths = self._most.copy()
        while self._with_gaps(widths) > room:
            foldable = [at for at, width in enumerate(widths) if width > self._least[at]]
            if not foldable:
                break
            widest = max(foldable, key=widths.__getitem__)
            widths[widest] = self._least[widest] if self._marks[widest] else widths[widest] - 1
        for column, width in zip(self.columns, widths, strict=True):
            column.width = width
        return self._with_gaps(widths)

    @staticmethod
    def _with_gaps(widths: list[int]) -> int:
        return sum(widths) + 2 * (len(widths) - 1)
