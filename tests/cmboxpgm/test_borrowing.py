"""What may be borrowed, as a licensor programs it, and what is borrowed, as he sees it."""

from __future__ import annotations

import pytest

from drivers import image, keys, statement
from drivers.container import Borrowing, Loan, ProductItem
from drivers.trust import NOBODY
from tests.cmboxpgm.bench import FIRM_CODE, NOON, Bench

HOLDER = bytes(range(96, 128))
LOAN = Loan(bytes(range(16)), FIRM_CODE, 1, 2, NOON + 3600, keys.public_of(HOLDER))


def lendable(bench: Bench, *options: str) -> ProductItem:
    """Program an item; return what is in the container."""
    bench.program("item", "--item", "1", "--product-code", "14", "--quantity", "3", *options)
    return bench.container().firm_items[0].products[0]


def test_borrowing_is_programmed_and_taken_out(bench: Bench) -> None:
    """For how long, and how many if that is said; another change leaves it."""
    bench.begin()
    assert lendable(bench, "--borrowing", "30d").borrowing == Borrowing(30 * 86_400)
    assert lendable(bench, "--text", "Charts").borrowing == Borrowing(30 * 86_400)
    assert lendable(bench, "--borrowing", "1d,2").borrowing == Borrowing(86_400, 2)
    assert lendable(bench, "--no-borrowing").borrowing is None


@pytest.mark.parametrize(
    ("typed", "document", "words"),
    [
        ("30d", {"seconds": 2_592_000, "licenses": None}, "may be borrowed for 30d"),
        ("90m,2", {"seconds": 5_400, "licenses": 2}, "may be borrowed for 90m, 2 at a time"),
    ],
)
def test_borrowing_is_listed(bench: Bench, typed: str, document: dict[str, int | None], words: str) -> None:
    """As JSON, and in words that can be typed again."""
    bench.begin()
    lendable(bench, "--borrowing", typed)
    assert bench.done("list", "--file", "box.cmc")["container"]["firm_items"][0]["items"][0]["borrowing"] == document
    bench.run("list", "--file", "box.cmc")
    assert words in [line.split("3  ")[-1].strip() for line in bench.out.splitlines()]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--units", "5"), "has units, which only its container can count"),
        (("--quantity", "0"), "is for the server's own machine only"),
        (("--local-only",), "is for the server's own machine only"),
    ],
)
def test_what_nobody_could_borrow_is_refused(bench: Bench, options: tuple[str, ...], why: str) -> None:
    """Whichever of the two comes first; and one of them may take the other's place."""
    bench.begin()
    item = bench.programming("item", "--item", "1", "--product-code", "14")
    assert f"could not be borrowed: it {why}" in bench.refused(*item, *options, "--borrowing", "1d")
    bench.done(*item, *options)
    assert why in bench.refused(*item, "--borrowing", "1d")
    bench.done(*item, f"--no-{options[0][2:]}", "--borrowing", "1d")
    assert why in bench.refused(*item, *options)


def test_what_is_out_is_listed(bench: Bench) -> None:
    """Of a container at hand and in a customer's request, until its holder gave it back."""
    bench.begin()
    lendable(bench, "--borrowing", "30d")
    shown = {
        "id": LOAN.id.hex(),
        "firm_code": FIRM_CODE,
        "item": 1,
        "quantity": 2,
        "end": NOON + 3600,
        "holder": keys.to_text(LOAN.holder),
    }
    device = bench.open()
    device.borrow(LOAN, NOON)
    device.close()
    bench.request("customer.request")
    line = f"borrowed until 2026-01-01 13:00:00 UTC: 2 of firm code {FIRM_CODE}, item 1, by holder {shown['holder']}"
    for source in (("--file", "box.cmc"), ("--request", "customer.request")):
        assert bench.done("list", *source)["container"]["loans"] == [shown]
        bench.run("list", *source)
        line = (
            f"borrowed until 2026-01-01 13:00:00 UTC: 2 of firm code {FIRM_CODE}, item 1, by holder {shown['holder']}"
        )
        assert f"  {line}" in bench.out.splitlines()
    bench.program("item", "--item", "1", "--quantity", "1")
    assert bench.done("list", "--file", "box.cmc")["container"]["loans"] == [shown], "an update keeps the ledger"
    receipt = statement.return_receipt(image.parse(bench.read(), NOBODY).owner, LOAN.id)
    device = bench.open()
    device.give_back(LOAN.id, keys.sign(HOLDER, receipt), NOON)
    device.close()
    assert bench.done("list", "--file", "box.cmc")["container"]["loans"] == []
