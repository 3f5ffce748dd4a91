"""The pictures in the documentation: each is made by the script, shown, and there."""

from __future__ import annotations

import re

from tests.webadmin.browser.pictures import DOCUMENTED, PHONE, PICTURES


def test_each_picture_is_made_and_shown() -> None:
    """None is left over, and none is missing."""
    made = {PHONE, *(f"{called}.png" for called in DOCUMENTED.values())}
    shown = set(re.findall(r"pictures/([\w-]+\.png)", (PICTURES.parent / "operating.md").read_text(encoding="utf-8")))
    assert {file.name for file in PICTURES.iterdir()} == made == shown
