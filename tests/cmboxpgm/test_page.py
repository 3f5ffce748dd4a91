"""`docs/licensors.md` is true: its commands give what it shows, and it leaves none out."""

from __future__ import annotations

import re

import msgspec

from cmserverd.cmboxpgm import commands, parser
from tests.cmboxpgm.page import PAGE, commands_of, renewed

TEXT = PAGE.read_text(encoding="utf-8")


def test_every_command_gives_what_the_page_shows() -> None:
    """Whoever follows the page sees what is on it (`python -m tests.cmboxpgm.page` renews it)."""
    assert renewed(TEXT) == TEXT


def test_every_command_is_on_the_page() -> None:
    """Each is run there, but for the one that removes all, which is named."""
    assert {words[0] for words in commands_of(TEXT)} == commands._COMMANDS.keys() - {"remove-firm-item"}
    assert "`remove-firm-item`" in TEXT


def test_every_option_of_an_item_is_on_the_page() -> None:
    """The table has each with what is typed for it."""
    for option in parser._OPTIONS:
        words = (option.metavar,) if isinstance(option.metavar, str) else option.metavar
        assert f"`--{option.flag} {' '.join(words)}`" in TEXT
    assert "| `--local-only` |" in TEXT


def test_the_configuration_has_the_key_that_was_made() -> None:
    """What the customer writes is what `keygen` said."""
    (block,) = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    table = msgspec.toml.decode(block)
    assert table["licensors"].keys() == {"600010"}
    assert f'600010 = "{table["licensors"]["600010"]}"\n```' in TEXT


def test_its_links_lead_somewhere() -> None:
    """Headings and pages that it names are there."""
    titles = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings
    for link in re.findall(r"\]\(([^#)]+)\)", TEXT):
        assert (PAGE.parent / link).exists()
