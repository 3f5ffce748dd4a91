"""How the listings look: golden files for both widths, and what holds at any width and for any text."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace
from rich.cells import cell_len

from cmserverd.cmu import fetch, tables
from protocol.messages import ContainerContents, EntryInfo, FirmItemInfo
from tests.cmu import golden
from tests.cmu.made_up import ACCESS, CONTAINERS, EVIL, LICENSE, SERVER, MadeUp

EVERYTHING = fetch.Selection()


def shown(found: fetch.Listing, width: int = 160) -> str:
    """Return a listing as it is printed."""
    out = io.StringIO()
    console = tables.console(out)
    console.width = width
    tables.show(console, found)
    return out.getvalue()


@pytest.mark.parametrize("width", golden.WIDTHS)
@pytest.mark.parametrize("name", golden.NAMES)
def test_a_listing_looks_as_it_did(name: str, width: int) -> None:
    """Each listing is the kept file, letter by letter."""
    assert golden.rendered(name, width) == golden.path(name, width).read_text()


@pytest.mark.parametrize("width", golden.WIDTHS)
@pytest.mark.parametrize("name", golden.NAMES)
def test_a_listing_fits_the_terminal(name: str, width: int) -> None:
    """No line is wider than the terminal."""
    assert max(map(cell_len, golden.rendered(name, width).splitlines())) <= width


def test_the_page_of_the_users_help() -> None:
    """The example of the field's page reads as there: two in all, one available, four accesses of one client."""
    lines = golden.path("page", 160).read_text().splitlines()
    upper = next(line.split() for line in lines if "3-3448482" in line)
    assert upper == ["600010", "14", "Chart", "Processing", "3-3448482", "1", "2", "1", "0", "0", "0", "1"]
    assert sum(r"::1(WIBU \ fs)" in line and "Station Share" in line for line in lines) == 4
    assert lines[-1] == "Result: 1 license(s) listed."


@given(st.integers(1, 300), st.text(max_size=60), st.text(max_size=60))
def test_nothing_is_cut_off_at_any_width(width: int, name: str, application: str) -> None:
    """Every letter of a name, id and number is on the screen, however narrow it is, and nothing of it steers it."""
    license_count = replace(LICENSE, text=name, firm_code=4294967295, product_code=1234567890)
    access = replace(ACCESS, application=application, handle=9007199254740991, firm_code=4294967295)
    found = fetch.network(MadeUp((license_count,), (access,)), EVERYTHING)
    text = shown(found, width)
    assert text.replace("\n", "").isprintable()
    for whole in ("4294967295", "1234567890", "3-3448482", "9007199254740991", "4711"):
        assert whole in text
    squeezed = "".join(text.split())
    for letter in (name + application + access.client).replace(" ", ""):
        assert letter in squeezed or not letter.isprintable()


def test_text_from_clients_is_text() -> None:
    """Markup is shown as it is written, control characters and direction marks as question marks."""
    text = shown(
        fetch.network(MadeUp((LICENSE,), (replace(ACCESS, client=EVIL, application="[red]:boom:[/red]"),)), EVERYTHING)
    )
    assert "a[bold]b?[2Jc??d?e" in text
    assert "[red]:boom:[/red]" in text


def test_every_option_of_an_entry_is_shown() -> None:
    """Whatever field an entry has: giving it another value changes what `-x` prints."""
    plain = EntryInfo(item=1, product_code=14, text="Chart", quantity=2)
    others: dict[str, object] = {
        "item": 77,
        "product_code": 77,
        "text": "another",
        "quantity": 77,
        "denied": ("exclusive",),
        "local_only": True,
        "feature_map": 77,
        "unusable": "for a reason",
    }
    assert set(others) == {field.name for field in fields(EntryInfo)}

    def contents(entry: EntryInfo) -> str:
        container = ContainerContents(1, CONTAINERS[0], (FirmItemInfo(600010, "", 0, (entry,)),))
        return shown(fetch.ContentsListing(SERVER, 1, (container,)))

    for name, value in others.items():
        assert contents(replace(plain, **{name: value})) != contents(plain), name


def test_what_needs_attention_stands_out_without_colours() -> None:
    """Unusable entries, unplugged containers and clients that are cut off are told in words."""
    assert "UNUSABLE: The option 77 is not known" in " ".join(shown(fetch.contents(MadeUp(), EVERYTHING)).split())
    network = shown(fetch.network(MadeUp(), EVERYTHING))
    assert "130-4294967295 (unplugged)" in network
    assert "cut off: " in network
    assert "\x1b" not in network


def test_an_entry_access_without_its_license_is_not_lost() -> None:
    """A license that came between the two readings is not listed yet; the access to it is."""
    text = shown(fetch.network(MadeUp((), (ACCESS,)), EVERYTHING))
    assert "Firm Code 600010, Product Code 14 in 3-3448482" in text


def test_a_time_that_is_none_is_shown_as_a_number() -> None:
    """A server may send any number."""
    assert str(2**60) in shown(fetch.network(MadeUp((LICENSE,), (replace(ACCESS, first_access=2**60),)), EVERYTHING))


@pytest.mark.parametrize(("columns", "width"), [("100", 100), ("0", 160), ("wide", 160), ("", 160), ("-5", 160)])
def test_the_width_without_a_terminal(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`COLUMNS` decides if it is a number, else it is 160."""
    monkeypatch.setenv("COLUMNS", columns)
    assert tables.console(io.StringIO()).width == width
