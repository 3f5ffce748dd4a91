"""TOML within bounds: long keys are refused wherever they stand, and nothing else; statements end where they end."""

from __future__ import annotations

import tomllib

import pytest

from drivers import toml

LONG = "a" + " . 'b'" * (toml.DOTS + 1)
"""A key with one dot too many."""

HARMLESS = [
    "x.y = 1 # " + LONG,
    f'x = "{LONG}"',
    "x = " + '"""' + f"\n{LONG} \\" + '"""' + f"\n{LONG}" + '"""""',
    f"x = '''\n{LONG} = 1\\'''",
    "a" + ".b" * toml.DOTS + " = 1",
    'x = [ 1.5, "a.b", 1979-05-27T07:32:00.999 ]\n[a.b]\ny = {c.d = 1}',
]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_a_long_key_is_read(text: str) -> None:
    """In comments and texts of all kinds, and in a key that has just as many dots as it may."""
    assert toml.loads(text) == tomllib.loads(text)


@pytest.mark.parametrize("before", ["", *(f"{text}\n" for text in HARMLESS)])
@pytest.mark.parametrize("form", ["{} = 1", "[{}]", "[[{}]]", 'k = {{ l = """""""", m = "", {} = "" }}'])
def test_a_long_key_is_refused_wherever_it_stands(before: str, form: str) -> None:
    """Before the parser sees it, and with its place; what stands before does not hide it."""
    text = before + form.format(LONG)
    with pytest.raises(ValueError, match=rf"more than 16 dots \(at line {text.count(chr(10)) + 1}, column \d+\)"):
        toml.loads(text)


def test_where_statements_end() -> None:
    """Each line is an end but those inside of a value."""
    text = 'a = 1\n\n[t] # [\nb = [\n1, # ]\n]\nc = """\n]\n"""\nd = { e = 1 }'
    assert toml.ends(text) == [0, 1, 2, 3, 6, 9, 10]
    assert toml.ends("") == [0, 1]
    assert toml.ends("a = 1\nb = [\n1,\n") == [0, 1, 4]


@pytest.mark.parametrize("opening", ['"', '"""', "'", "'''"])
def test_a_text_that_does_not_end_is_one_token(opening: str) -> None:
    """It is not tried anew from each quote in it, which would take time quadratic in its length."""
    text = opening + ('\\"' if '"' in opening else '"') * 1_000 + "\\"
    assert [token[0] for token in toml._TOKEN.finditer(text)] == [text]
