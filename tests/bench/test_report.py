"""The table and the document that keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import PARTS, main
from bench.report import BEGIN, END, Row, judged, replace_block, spread, table

DOCUMENT = Path(__file__).parents[2] / "docs" / "performance.md"


def test_the_table_has_all_cells_in_columns_of_one_width() -> None:
    """A table is Markdown, and readable as it is."""
    lines = table([Row("short", "1"), Row("much longer", "2 µs", "1 to 3", "at most 3 µs", True, "fine")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == [
        "much longer",
        "2 µs",
        "1 to 3",
        "at most 3 µs",
        "yes",
        "fine",
    ]


def test_an_aim_is_met_up_to_its_value_and_not_above() -> None:
    """A figure is judged by its aim, not by how it is spelled."""
    assert judged("x", 8.0, " µs", 8.0).met is True
    assert judged("x", 8.0001, " µs", 8.0).met is False
    assert "**no**" in table([judged("x", 9.0, " µs", 8.0)])


def test_the_spread_is_the_lowest_and_the_highest() -> None:
    """Whatever the order of the rounds."""
    assert spread([3.0, 1234.0, 0.5]) == "0.50 to 1,234"


def test_a_block_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    """Writing twice is as writing once."""
    document = tmp_path / "document.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    replace_block(document, "middle")
    replace_block(document, "new")
    assert document.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["nothing", BEGIN, f"{END}\n{BEGIN}"])
def test_a_document_without_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    """What to do is said instead."""
    document = tmp_path / "document.md"
    document.write_text(text)
    with pytest.raises(ValueError, match="put them in"):
        replace_block(document, "new")
    assert document.read_text() == text


def test_the_document_has_markers_and_explains_every_part() -> None:
    """`docs/performance.md` is the one that `--write` is meant for."""
    text = DOCUMENT.read_text()
    assert text.index(BEGIN) < text.index(END)
    for part in PARTS:
        assert f"\n### {part}\n" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["wires"], "known are wire, core, memory, stall, listing"),
        (["--write", "x.md", "--quick"], "leave out --quick"),
        (["--write", "x.md", "core"], "leave out --quick"),
    ],
)
def test_wrong_usage_says_what_would_be_right(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is measured then."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
