"""What a command makes of a firm item, as values."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from cmserverd.cmboxpgm import changes
from drivers.container import Allowance, FirmItem, ProductItem
from tests.drivers.samples import FIRM_ITEMS, NUMBER

COUNTER = st.integers(0, 2**31)


@given(FIRM_ITEMS, NUMBER)
def test_each_change_raises_the_update_counter_by_one(firm: FirmItem, reference: int) -> None:
    """And what it does not concern stays."""
    assume(_find(firm, reference) is None)
    after = changes.item(firm, reference, 14, {}, ())
    assert after.update_counter == changes.named(firm, "x").update_counter == firm.update_counter + 1
    assert _find(after, reference) == ProductItem(reference, 14)
    assert set(changes.without_item(after, reference).products) == set(firm.products)


@given(COUNTER, st.integers(0, 2**31), st.sampled_from(["units", "usage"]))
def test_a_new_allowance_is_of_a_generation_that_never_was(counter: int, generation: int, name: str) -> None:
    """Above the last one, whoever programmed that, and above all that this tool has ever given."""
    options: dict[str, Any] = {name: Allowance(9, generation)}
    firm = FirmItem(600010, update_counter=counter, products=(ProductItem(1, 14, **options),))
    for reference in (1, 2):
        after = changes.item(firm, reference, 14, {name: 9}, ())
        new = getattr(_find(after, reference), name)
        assert new.amount == 9
        assert new.generation > counter
        assert reference == 2 or new.generation > generation


def _find(firm: FirmItem, reference: int) -> ProductItem | None:
    return next((each for each in firm.products if each.reference == reference), None)
