"""How the pages spell and draw what the daemon tells: times, states, strangers' words, bars, charts."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from cmserverd.webadmin import charts
from cmserverd.webadmin.charts import Span
from cmserverd.webadmin.pages import asking, choosing, containers, dashboard, licenses, rows, sessions, spelling, usage
from cmserverd.webadmin.pages.choosing import NotUnderstood
from protocol.messages import ContainerContents, ContainerInfo, EntryInfo, FirmItemInfo
from protocol.usage import UsageRow
from protocol.watching import Durability
from tests.cmu.made_up import ACCESS, ALL_ACCESSES, ALL_COUNTS, CONTAINERS, EVIL, LICENSE, NOON

DAY = 86_400


def test_the_users_license_and_access_as_rows() -> None:
    """The page's figures: Total 2, Available 1, one station by Station Share; the client as the field writes it."""
    license_row, access_row = rows.license_row(LICENSE), rows.access_row(ACCESS)
    assert (license_row.name, license_row.container) == ("Chart Processing", "3-3448482")
    assert (license_row.total, license_row.available, license_row.station_share) == (2, 1, 1)
    assert (license_row.user_limit, license_row.valid_until, license_row.remarks) == ("0", "never", ())
    assert access_row.client == "::1(WIBU \\ fs)"
    assert (access_row.pid, access_row.mode, access_row.valid_until) == (4711, "Station Share", "never")
    assert access_row.first_access == access_row.last_access == "2026-09-21 14:13:20"
    assert access_row.removable


def test_borrowed() -> None:
    """What is borrowed stands in brackets beside User Limit; its row says until when, and cannot be removed."""
    assert rows.license_row(replace(LICENSE, user_limit=3, borrowed=2)).user_limit == "3 (2)"
    row = rows.access_row(replace(ACCESS, mode="borrowed", allocation=0, borrowed_until=NOON + DAY))
    assert (row.borrowed_until, row.removable) == ("2026-09-22 14:13:20", False)


def test_an_access_ends_with_the_first_of_its_ends() -> None:
    """Its license's end, or its own maximum life."""
    row = rows.access_row(replace(ACCESS, valid_until=NOON + DAY, life_until=NOON + 3_600))
    assert row.valid_until == spelling.instant(NOON + 3_600)


def test_remarks() -> None:
    """What an administrator should know of a license stands in its row."""
    assert rows.license_row(ALL_COUNTS[2]).remarks == ("container unplugged",)
    assert rows.license_row(replace(LICENSE, state="expired")).remarks == ("expired",)
    assert rows.license_row(replace(LICENSE, state="on_loan_to_mars")).remarks == ("on loan to mars",)
    assert rows.license_row(ALL_COUNTS[1]).remarks[0].startswith("2 lingering")


def test_strangers_words_are_made_visible() -> None:
    """What steers a terminal or the reading direction becomes a sign that is seen."""
    assert spelling.shown(EVIL) == "a[bold]b?[2Jc??d?e"
    assert rows.access_row(replace(ACCESS, client=EVIL, application=EVIL)).client == "a[bold]b?[2Jc??d?e"


def test_licenses_are_grouped_by_licensor_and_ordered_by_product() -> None:
    """By firm code, then by product code."""
    other = replace(LICENSE, firm_code=5000, product_code=9)
    groups = licenses.grouped((ALL_COUNTS[1], ALL_COUNTS[0], other), {600010: "WIBU"})
    assert [(group.firm_code, group.name, [row.product_code for row in group.rows]) for group in groups] == [
        (5000, "", [9]),
        (600010, "WIBU", [14, 15]),
    ]


def test_only_licensors_who_are_believed_name_themselves() -> None:
    """The first text that there is counts; whoever is not believed could take another's name."""
    stranger = FirmItemInfo(600010, "Stranger", 1, (), "its licensor is not listed")
    wibu, later, silent = (
        FirmItemInfo(600010, "WIBU", 1, ()),
        FirmItemInfo(600010, "x", 1, ()),
        FirmItemInfo(5, "", 1, ()),
    )
    found = (
        ContainerContents(1, CONTAINERS[0], (stranger, silent, wibu)),
        ContainerContents(1, CONTAINERS[1], (later,)),
    )
    assert asking.licensors(found) == {600010: "WIBU"}


def test_like_accesses_of_a_session_are_one_row() -> None:
    """Four accesses of one client to one license are one row; what is no entry says what it is."""
    names = {("3-3448482", 600010, 1): "Chart Processing"}
    found = sessions.session_rows(ALL_ACCESSES[:4] + ALL_ACCESSES[-2:], names)
    assert [(row.accesses, row.product_item) for row in found] == [
        (4, "14 Chart Processing"),
        (1, "Firm Code 600010 in 3-3448482"),
        (1, "the license server itself"),
    ]
    assert found[0].where == "/licenses/3-3448482/600010/14"


def test_alive_and_protected_are_two_things() -> None:
    """Protected is only what the journal keeps; else the page says what is wrong."""
    assert dashboard.protection(Durability("power", protected=True)).word == "Protected"
    off = dashboard.protection(Durability("off", protected=False))
    assert (off.good, off.word) == (False, "Not protected")
    assert "a restart forgets" in off.text
    full = dashboard.protection(Durability("process", protected=False, why="the disk is full"))
    assert full.text.endswith("nothing new is granted: the disk is full")


@pytest.mark.parametrize(("licenses", "told"), [(None, "for 30 d at most"), (2, "for 30 d at most, 2 at a time")])
def test_that_a_license_may_be_borrowed_is_one_of_its_options(licenses: int | None, told: str) -> None:
    """And for how long; what may not says nothing of it."""
    entry = EntryInfo(1, 14, "Plots", 3, borrow_seconds=30 * DAY, borrow_licenses=licenses)
    row = containers.entry_row("3-1", 600_010, entry)
    assert [(one.name, one.value) for one in row.options] == [("Borrowing", told)]
    assert not containers.entry_row("3-1", 600_010, EntryInfo(1, 14, "Plots", 3)).options


def test_what_ends_soon_or_runs_out() -> None:
    """The dashboard warns of what has no license free, ends within 30 days, has ended, or has few units left."""
    taken = replace(LICENSE, used=2, free=0)
    assert [one.text for one in dashboard.running_out((LICENSE, taken))] == ["all 2 in use"]
    soon, later, over = (
        replace(LICENSE, valid_until=NOON + 3 * DAY + 3_600),
        replace(LICENSE, valid_until=NOON + 31 * DAY),
        replace(LICENSE, valid_until=NOON - 1, state="expired"),
    )
    assert [one.text for one in dashboard.ending((later, soon, over, LICENSE), NOON)] == [
        "expired",
        "ends in 3 d 1 h, at 2026-09-24 15:13:20 UTC",
    ]
    entries = tuple(EntryInfo(item, 14, "Plots", 1, units=100, units_left=left) for item, left in ((1, 10), (2, 11)))
    contents = ContainerContents(
        1, ContainerInfo("3-1", "virtual", "", True, 1), (FirmItemInfo(600010, "", 0, entries),)
    )
    assert [one.text for one in dashboard.used_up((contents,))] == ["10 of 100 units left"]


def test_the_fullest_licenses_are_shown_first() -> None:
    """By the part that is in use, not by the number."""
    many = replace(LICENSE, item=2, total=100, used=40, free=60, text="Many")
    assert [row.name for row in dashboard.fullest((many, LICENSE))] == ["Chart Processing", "Many"]


def test_a_bar_says_what_it_shows() -> None:
    """Its label has the figures; its width is the part that is used; a license without a unit has an empty one."""
    assert 'aria-label="Charts: 1 of 4 in use"' in charts.bar(1, 4, "Charts")
    assert 'class="fill" width="25.0"' in charts.bar(1, 4, "Charts")
    assert 'class="bar full"' in charts.bar(4, 4, "Charts")
    assert 'width="0.0"' in charts.bar(0, 0, "Charts")
    assert "&lt;b&gt;" in charts.bar(1, 4, "<b>")
    assert "<b>" not in charts.bar(1, 4, "<b>")


def test_a_chart_has_a_bar_for_each_known_span_and_a_mark_for_denials() -> None:
    """Unknown spans are left empty; no attribute is a style, which the pages may not have."""
    spans = (Span("10:00", known=False), Span("11:00", 2, 0.5, 1), Span("12:00", 1, 1.0))
    drawn = charts.history(spans, "<Charts>")
    assert drawn.count('class="peak"') == 2
    assert drawn.count('class="denial"') == 1
    assert "<title>11:00: peak 2, mean 0.50, denials 1</title>" in drawn
    assert "&lt;Charts&gt;" in drawn
    assert "style=" not in drawn


def row(start: int, container: str = "3-1", item: int = 1, **figures: int) -> UsageRow:
    """Return the use of a license in an hour."""
    return UsageRow(start, 3_600, container, 600010, 14, item, **figures)


def test_denials_are_those_of_the_only_license_of_a_product() -> None:
    """A product with one license has one chart; with two, denials that named none have their own."""
    starts = (0, 3_600)
    denied = row(3_600, "", 0, denials=3)
    one = list(usage.drawn("hour", starts, (row(0, peak=2, unit_seconds=1_800), denied), {(600010, 14): "Charts"}))
    assert [(chart.name, chart.place) for chart in one] == [("Charts", "in CmContainer 3-1, item 1")]
    assert [(span.peak, span.mean, span.denials) for span in one[0].spans] == [(2, 0.5, 0), (0, 0.0, 3)]
    two = list(usage.drawn("hour", starts, (row(0, peak=2), row(0, item=2, peak=1), denied), {}))
    assert [chart.place for chart in two] == [
        "asked for anywhere",
        "in CmContainer 3-1, item 1",
        "in CmContainer 3-1, item 2",
    ]


def test_the_spans_that_are_shown() -> None:
    """Without a choice the last ones, the present one among them; with one, those from then on; never too many."""
    assert [spelling.instant(start) for start in usage.span_starts("month", None, None, NOON)[-2:]] == [
        "2026-08-01 00:00:00",
        "2026-09-01 00:00:00",
    ]
    assert len(usage.span_starts("hour", None, None, NOON)) == 48
    since = NOON - 2 * DAY
    assert [spelling.instant(start)[:10] for start in usage.span_starts("day", since, None, NOON)] == [
        "2026-09-20",
        "2026-09-21",
    ]
    assert usage.span_starts("day", NOON + DAY, None, NOON) == ()
    with pytest.raises(NotUnderstood):
        usage.span_starts("hour", 0, None, NOON)


@pytest.mark.parametrize("text", ["x", "-1", "4294967296", "1" * 30, "٣"])
def test_a_code_is_a_number_in_its_range(text: str) -> None:
    """Everything else is refused with what would be right."""
    with pytest.raises(NotUnderstood, match="from 0 to 4294967295"):
        choosing.code(text, "Firm Code")


@pytest.mark.parametrize("text", ["3", "3-", "3-1'", "../1-1", "3-1-2-3"])
def test_a_container_is_spelt_as_the_field_does(text: str) -> None:
    """Everything else is refused."""
    with pytest.raises(NotUnderstood):
        choosing.container(text)


def test_times_of_a_form() -> None:
    """In UTC unless it says other; empty is none; what is no time is refused."""
    assert spelling.moment("2026-09-21T14:13:20") == NOON
    assert spelling.moment("2026-09-21 16:13:20+02:00") == NOON
    assert spelling.moment(" ") is None
    for text in ("yesterday", "1900-01-01", "9" * 50):
        with pytest.raises(ValueError, match="no time"):
            spelling.moment(text)


def test_any_number_is_a_time_that_can_be_shown() -> None:
    """A server may send any number."""
    assert spelling.instant(2**60) == str(2**60)
    assert [spelling.about(seconds) for seconds in (0, 59, 3_600, 90_061)] == ["0 s", "59 s", "1 h", "1 d 1 h"]
