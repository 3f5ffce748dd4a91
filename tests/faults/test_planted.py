"""The list of faults does not rot."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.faults.planted import ROOT, Fault, all_faults

FAULTS = all_faults()


def test_there_are_faults_of_every_kind() -> None:
    """The list is no mere beginning, no two faults have one name, and the tests themselves stay as they are."""
    assert len(FAULTS) >= 30
    assert max(Counter(fault.name for fault in FAULTS).values()) == 1
    assert not [fault.name for fault in FAULTS if fault.file.startswith("tests/")]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_still_fits(fault: Fault, tmp_path: Path) -> None:
    """Its old text stands exactly once where it is to be planted, the result is Python, and its test is there."""
    copy = tmp_path / fault.file
    copy.parent.mkdir(parents=True)
    copy.write_text((ROOT / fault.file).read_text(encoding="utf-8"), encoding="utf-8")
    fault.plant(tmp_path)
    if copy.suffix == ".py":
        assert shape(copy) != healthy_shape(fault.file), "the fault changes nothing but comments"
    test_file, function = fault.test.split("[")[0].split("::")
    assert f"def {function}(" in (ROOT / test_file).read_text(encoding="utf-8")


def shape(path: Path) -> str:
    """Return what Python understands of a module."""
    return ast.dump(ast.parse(path.read_text(encoding="utf-8")))


@cache
def healthy_shape(file: str) -> str:
    """Return the same of a module as it is; many faults are planted in one."""
    return shape(ROOT / file)


def test_a_fault_that_does_not_fit_is_told(tmp_path: Path) -> None:
    """A fault whose text is not there, or twice, or changes nothing, is no fault."""
    (tmp_path / "some.py").write_text("one = 1\ntwo = 1\n")
    for old, new in (("three", "four"), ("= 1", "= 2"), ("one", "one")):
        with pytest.raises(ValueError, match=r"a slip: its old text is . times in some.py"):
            Fault("a slip", "some.py", old, new, "test").plant(tmp_path)
