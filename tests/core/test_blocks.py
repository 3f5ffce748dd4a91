"""The mapping of all accesses: in the order of their handles, block by block."""

from __future__ import annotations

import pytest

from cmserverd.core.blocks import Numbered
from cmserverd.core.terms import Access
from protocol.terms import HandleKind
from tests.core.scene import Scene


def many(*handles: int) -> tuple[Numbered[Access], dict[int, Access]]:
    """Return a mapping with accesses of these handles, and the same as a dictionary."""
    scene = Scene()
    held = scene.refer(scene.session(), HandleKind.SUBSYSTEM)
    accesses: Numbered[Access] = Numbered()
    plain: dict[int, Access] = {}
    for handle in handles:
        plain[handle] = Access(handle, b"", held.session, held.target, held.want, 0, 0)
        accesses.add(handle, plain[handle])
    return accesses, plain


HANDLES = (1, 2, 1023, 1024, 1025, 2048, 9000, 9001)


def test_it_is_a_mapping_in_the_order_of_the_handles() -> None:
    """It has what was added, under its handle, and finds nothing else."""
    accesses, plain = many(*HANDLES)
    assert accesses == plain
    assert list(accesses) == list(HANDLES)
    assert len(accesses) == len(HANDLES)
    assert accesses.find(1024) is plain[1024]
    assert [accesses.find(handle) for handle in (0, 3, 5000, 9002)] == [None] * 4


@pytest.mark.parametrize("handle", [0, 1, 1022, 1023, 1024, 2047, 5000, 8999, 9000, 9001, 20_000])
def test_after_goes_on_where_a_page_ended(handle: int) -> None:
    """What comes after a handle is what is higher, whether that handle is still there or not."""
    accesses, plain = many(*HANDLES)
    assert list(accesses.after(handle)) == [held for number, held in plain.items() if number > handle]


def test_what_is_removed_is_gone() -> None:
    """Blocks that become empty go too, and the others stay in order."""
    accesses, plain = many(*HANDLES)
    for handle in (1024, 1025, 1, 9001):
        accesses.remove(handle)
        del plain[handle]
        assert accesses == plain
        assert list(accesses) == list(plain)
        assert len(accesses) == len(plain)
    with pytest.raises(KeyError):
        accesses.remove(1024)
