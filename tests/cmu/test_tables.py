"""How the listings look: golden files for both widths, and what holds at any width and for any text."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace
from rich.cells import cell_len
from rich.console import Console

from cmserverd.cmu import fetch, json_output, tables
from protocol.listings import EntryState
from protocol.messages import ContainerContents, EntryInfo, FirmItemInfo
from tests.cmu import golden
from tests.cmu.made_up import ACCESS, CONTAINERS, EVIL, LICENSE, NOON, SERVER, MadeUp

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
        "activation": NOON,
        "expiration": NOON,
        "usage": 60,
        "usage_start": NOON,
        "maintenance": (NOON, NOON + 60),
        "units": 77,
        "units_left": 0,
        "linger": 60,
        "minimum_runtime": "7.7",
        "protected_data": b"\x00data",
        "user_data": b"a key",
        "borrow_seconds": 86_400,
        "borrow_licenses": 3,
        "valid_until": NOON,
        "state": "expired",
    }
    needs = {
        "borrow_licenses": {"borrow_seconds": 60},
        "usage_start": {"usage": 60},
        "units_left": {"units": 77},
        "valid_until": {"expiration": 1},
    }
    assert set(others) == {field.name for field in fields(EntryInfo)}

    def contents(entry: EntryInfo) -> str:
        container = ContainerContents(1, CONTAINERS[0], (FirmItemInfo(600010, "", 0, (entry,)),))
        return shown(fetch.ContentsListing(SERVER, 1, (container,)))

    for name, value in others.items():
        without = replace(plain, **needs.get(name, {}))
        assert contents(replace(without, **{name: value})) != contents(without), name


@pytest.mark.parametrize("state", [state for state in EntryState if state is not EntryState.VALID])
def test_a_license_that_is_not_valid_stands_out(state: EntryState) -> None:
    """In both listings, in words; in colour too where there is one; and in JSON."""
    word = state.value.replace("_", " ").upper()
    entry = EntryInfo(1, 14, "Chart", 2, state=state)
    contents = ContainerContents(1, CONTAINERS[0], (FirmItemInfo(600010, "", 0, (entry,)),))
    for found in (
        fetch.ContentsListing(SERVER, 1, (contents,)),
        fetch.network(MadeUp((replace(LICENSE, state=state.value),), ()), EVERYTHING),
    ):
        assert word in " ".join(shown(found).split())
        assert f'"state": "{state.value}"' in json_output.listing(found)
        out = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")
        tables.show(out, found)
        assert isinstance(out.file, io.StringIO)
        assert f"\x1b[1;31m{word}" in out.file.getvalue()


def test_a_word_that_a_newer_server_has_is_shown() -> None:
    """Whatever it is."""
    entry = EntryInfo(1, 14, "Chart", 2, state="on_the\x1bmoon")
    contents = ContainerContents(1, CONTAINERS[0], (FirmItemInfo(600010, "", 0, (entry,)),))
    assert "ON THE?MOON" in shown(fetch.ContentsListing(SERVER, 1, (contents,)))


def test_what_lingers_is_counted_and_has_an_end() -> None:
    """A column of its own, where there is something to tell."""
    text = shown(fetch.network(MadeUp((replace(LICENSE, lingering=3, lingering_until=NOON),), ()), EVERYTHING))
    assert "Lingering  Lingering Until" in text
    assert "3  2026-09-21 14:13:20" in text
    assert "Lingering" not in shown(fetch.network(MadeUp((LICENSE,), ()), EVERYTHING))


def test_a_forced_access_is_told_from_those_that_end() -> None:
    """It outlives its license."""
    license_count = replace(LICENSE, valid_until=NOON + 60)
    found = fetch.network(MadeUp((license_count,), (replace(ACCESS, valid_until=NOON + 60),)), EVERYTHING)
    assert "Valid Until" in shown(found)
    assert "forced" not in shown(found)
    assert "forced" in shown(fetch.network(MadeUp((license_count,), (ACCESS,)), EVERYTHING))


def test_data_is_text_where_it_is_one() -> None:
    """In JSON it is hexadecimal always."""
    entry = EntryInfo(1, 14, "Chart", 2, protected_data=b"k=1", user_data=b"\x1b[2J")
    contents = ContainerContents(1, CONTAINERS[0], (FirmItemInfo(600010, "", 0, (entry,)),))
    found = fetch.ContentsListing(SERVER, 1, (contents,))
    assert "protected data 'k=1'; user data 1b5b324a" in shown(found)
    assert '"protected_data": "6b3d31"' in json_output.listing(found)


def test_a_firm_item_that_is_not_trusted_says_why() -> None:
    """In place of a table; one that has nothing says that."""
    contents = ContainerContents(1, CONTAINERS[0], (FirmItemInfo(600010, "", 0, (), "Nobody knows its licensor."),))
    text = shown(fetch.ContentsListing(SERVER, 1, (contents,)))
    assert "NOT TRUSTED: Nobody knows its licensor." in text
    assert "Product Code" not in text
    contents = replace(contents, firm_items=(FirmItemInfo(600010, "", 0, ()),))
    assert "no product items" in shown(fetch.ContentsListing(SERVER, 1, (contents,)))


def test_an_end_is_told_once() -> None:
    """The expiration stands under Valid Until, and beside it only if the usage is over before."""

    def lines(entry: EntryInfo) -> list[str]:
        contents = ContainerContents(1, CONTAINERS[0], (FirmItemInfo(600010, "", 0, (entry,)),))
        return [line for line in shown(fetch.ContentsListing(SERVER, 1, (contents,))).splitlines() if "1970" in line]

    entry = EntryInfo(item=1, product_code=14, text="Chart", quantity=2, expiration=120, valid_until=120)
    assert [line.split() for line in lines(entry)] == [["1", "1970-01-01", "00:02:00"]]
    (line,) = lines(replace(entry, usage=60, valid_until=60))
    assert "1970-01-01 00:01:00" in line
    assert "expires 1970-01-01 00:02:00" in line


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
