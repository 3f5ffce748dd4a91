"""The words of a container: ids and texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.container import KNOWN_FLAGS, QuantityFlag, check_text, container_id, mask_and_serial


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1))
def test_an_id_is_read_back(mask: int, serial: int) -> None:
    """What `container_id` prints, `mask_and_serial` reads."""
    assert mask_and_serial(container_id(mask, serial)) == (mask, serial)


@pytest.mark.parametrize(
    "wrong", ["", "3", "3-", "-1", "03-1", "3-01", "65536-1", "3-4294967296", "3-1-1", "3-1\n", "\u0663-1", "3--1"]
)
def test_a_wrong_id_is_refused_with_an_example(wrong: str) -> None:
    """Every id has one spelling, so that two spellings never name one container."""
    with pytest.raises(ValueError, match="write mask-serial, as in 3-3448482"):
        mask_and_serial(wrong)


@pytest.mark.parametrize("wrong", ["\x00", "a\x1b[31m", "line\nfeed", "\x7f", "\x9b", "\u2028", "\u202egnp", "x" * 256])
def test_a_text_that_would_upset_a_terminal_is_refused(wrong: str) -> None:
    """Control characters, line separators, direction marks and overlong texts never reach a listing."""
    with pytest.raises(ValueError, match="the text has"):
        check_text(wrong)


@pytest.mark.parametrize(
    "wrong", ["Chart\u200b Works", "\ufeffx", "\u00ad", "\u2060", "\u3164", "\U000e0041", "\u034f"]
)
def test_a_text_that_is_not_what_it_looks_like_is_refused(wrong: str) -> None:
    """A character that nobody sees would make two texts of one."""
    with pytest.raises(ValueError, match=r"the text has the invisible character U\+"):
        check_text(wrong)


@pytest.mark.parametrize(
    "right", ["می\u200cشود", "", "Chart Processing", "Gerät\u00a0№ 5", "ライセンス", "👩\u200d🔧", "x" * 255]
)
def test_a_text_in_any_script_is_fine(right: str) -> None:
    """What people write is accepted, joined emoji and no-break spaces included."""
    check_text(right)


def test_known_flags_are_the_fields() -> None:
    """The four denials and local only, with the field's values."""
    assert KNOWN_FLAGS.value == 0x40F
    assert QuantityFlag.DENY_EXCLUSIVE in KNOWN_FLAGS
