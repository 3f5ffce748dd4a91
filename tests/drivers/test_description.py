"""Containers described in TOML: what is right is read, what is wrong is refused with what would be right."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers import description
from drivers.container import Container, ContainerKind, FirmItem, ProductItem, QuantityFlag
from drivers.driver import DriverError, Faulty, NoPermission, Vanished

FULL = """
id = "3-3448482"
text = "Demo"

[[firm_items]]
firm_code = 600010
text = "Chart Works"
update_counter = 3

[[firm_items.products]]
item = 1
product_code = 14
text = "Chart Processing"
quantity = 2
denied = ["exclusive", "no_user_limit"]
local_only = true
feature_map = 0x5

[[firm_items.products]]
item = 2
product_code = 14
"""


def parse(text: str) -> tuple[Container, ...]:
    """Return what a description named demo.toml describes."""
    return description.parse(text.encode(), "demo.toml", ContainerKind.VIRTUAL)


def test_everything_that_can_be_described() -> None:
    """Each key has its place in the container; what is left out has its default."""
    flags = QuantityFlag.DENY_EXCLUSIVE | QuantityFlag.DENY_NO_USER_LIMIT | QuantityFlag.LOCAL_ONLY
    full = ProductItem(1, 14, "Chart Processing", 2, flags, 5)
    assert parse(FULL) == (
        Container(
            parse('id = "3-3448482"')[0].id,
            ContainerKind.VIRTUAL,
            "Demo",
            (FirmItem(600010, "Chart Works", 3, (full, ProductItem(2, 14))),),
        ),
    )


def test_several_containers_in_one_file() -> None:
    """A file may describe many."""
    both = parse('[[containers]]\nid = "3-1"\n[[containers]]\nid = "3-2"\n')
    assert [container.id for container in both] == ["3-1", "3-2"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ("quantity = 2", "quantiy = 2"),
            "firm_items 1, products 1: there is no key 'quantiy'; did you mean 'quantity'?",
        ),
        (("text =", "colour ="), "there is no key 'colour'; what may stand here: id, text, firm_items."),
        (("[[firm_items]]", "[[firmitems]]"), "there is no key 'firmitems'; did you mean 'firm_items'?"),
        (("quantity = 2", "quantity = -1"), "firm_items 1, products 1, quantity: expected `int` >= 0."),
        (("quantity = 2", "quantity = true"), "quantity: expected `int`, got `bool`."),
        (("quantity = 2", "quantity = 2.0"), "quantity: expected `int`, got `float`."),
        (("quantity = 2", "quantity = 1979-05-27"), "quantity: expected `int`, got `date`."),
        (("quantity = 2", "quantity = 4294967296"), "quantity: expected `int` <= 4294967295."),
        (("item = 1", "item = 0"), "products 1, item: expected `int` >= 1."),
        (("item = 1\n", ""), "products 1: object missing required field `item`."),
        (("item = 2", "item = 1"), "firm_items 1: item = 1 is there 2 times; give each its own."),
        (('"exclusive"', '"exclusiv"'), "there is no access mode 'exclusiv'; did you mean 'exclusive'?"),
        (('"exclusive"', '"\\u001b[2J"'), "there is no access mode '\\x1b[2J'; what may stand here: user_limit,"),
        (('"3-3448482"', '"3_3448482"'), "'3_3448482' is no container id: write mask-serial, as in 3-3448482"),
        (('"Demo"', '"De\\u0007mo"'), "the text has the control character U+0007; leave it out."),
        (('id = "3-3448482"', ""), "demo.toml: object missing required field `id`."),
        (('text = "Demo"', 'text = "Demo'), "demo.toml is not TOML:"),
        (("quantity = 2", "quantity = " + "9" * 5000), "demo.toml is not TOML:"),
        (("quantity = 2", "quantity = " + "[" * 5000), "nested too deep."),
    ],
)
def test_a_wrong_description_says_where_and_what_would_be_right(change: tuple[str, str], sentence: str) -> None:
    """The operator need not look anything up."""
    assert change[0] in FULL
    with pytest.raises(Faulty) as refused:
        parse(FULL.replace(*change, 1))
    assert sentence in str(refused.value)
    assert str(refused.value).startswith("demo.toml")


def test_wrong_keys_beside_containers_are_refused() -> None:
    """In a file of several containers only `containers` stands at the top."""
    with pytest.raises(Faulty, match="there is no key 'text'; what may stand here: containers"):
        parse('text = "x"\n[[containers]]\nid = "3-1"\n')
    with pytest.raises(Faulty, match="id = 3-1 is there 2 times"):
        parse('[[containers]]\nid = "3-1"\n[[containers]]\nid = "3-1"\n')


@given(st.binary(max_size=200), st.integers(0, len(FULL)))
def test_nothing_but_driver_errors_comes_out(octets: bytes, place: int) -> None:
    """Whatever stands in a file, the answer is containers or a sentence."""
    with suppress(Faulty):
        description.parse(FULL.encode()[:place] + octets + FULL.encode()[place:], "demo.toml", ContainerKind.VIRTUAL)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    """It is named, and what to do."""
    with pytest.raises(Vanished, match=r"There is no file .*none\.toml; put it there"):
        description.read(tmp_path / "none.toml")


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """A directory, or a pipe that nobody writes to, is refused before it can block."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(Faulty, match="is no file"):
            description.read(path)


def test_a_file_that_is_too_long_is_not_read_whole(tmp_path: Path) -> None:
    """A gigabyte by mistake does not fill the memory."""
    path = tmp_path / "long.toml"
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(Faulty, match="more than 262144 bytes"):
        description.read(path)


@pytest.fixture
def _nobody() -> Iterator[None]:
    """Be somebody who may not read everything, where root runs the tests."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)
    yield
    if root:
        os.seteuid(0)


@pytest.mark.usefixtures("_nobody")
def test_a_file_that_may_not_be_read() -> None:
    """Permission is named as such."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "secret.toml"
        path.touch(mode=0)
        with pytest.raises(NoPermission, match="may not be read"):
            description.read(path)


def test_read_errors_are_driver_errors(tmp_path: Path) -> None:
    """A path that the system refuses for any other reason gives a sentence too."""
    with pytest.raises(DriverError, match="cannot be read"):
        description.read(tmp_path / ("x" * 300))
