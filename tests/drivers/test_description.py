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
from drivers.container import (
    Allowance,
    Borrowing,
    Container,
    ContainerKind,
    FirmItem,
    Period,
    ProductItem,
    QuantityFlag,
    Runtime,
)
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
activation = 2026-01-01T00:00:00Z
expiration = 2027-01-01T01:00:00+01:00
usage = { seconds = 2592000 }
maintenance = { start = 2026-01-01T00:00:00Z, end = 2027-01-01T00:00:00Z }
units = { count = 100, generation = 1 }
linger = 120
borrow = { seconds = 2592000, licenses = 5 }
minimum_runtime = "0.2"
protected_data = "what applications read"
user_data = "é"

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
    full = ProductItem(
        1,
        14,
        "Chart Processing",
        2,
        flags,
        5,
        activation=1_767_225_600,
        expiration=1_798_761_600,
        usage=Allowance(2_592_000),
        maintenance=Period(1_767_225_600, 1_798_761_600),
        units=Allowance(100, 1),
        linger=120,
        borrowing=Borrowing(2_592_000, 5),
        minimum_runtime=Runtime(0, 2),
        protected_data=b"what applications read",
        user_data=b"\xc3\xa9",
    )
    assert parse(FULL) == (
        Container(
            parse('id = "3-3448482"')[0].id,
            ContainerKind.VIRTUAL,
            "Demo",
            (FirmItem(600010, "Chart Works", 3, (full, ProductItem(2, 14))),),
        ),
    )


def test_what_lends_all_of_its_licenses() -> None:
    """A number of licenses may be left out: as many as there are, also after an update."""
    (container,) = parse(FULL.replace(", licenses = 5", ""))
    assert container.firm_items[0].products[0].borrowing == Borrowing(2_592_000, 2**32 - 1)


def test_several_containers_in_one_file() -> None:
    """A file may describe many."""
    both = parse('[[containers]]\nid = "3-1"\n[[containers]]\nid = "3-2"\n')
    assert [container.id for container in both] == ["3-1", "3-2"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ("quantity = 2", "quantiy = 2"),
            "demo.toml:14: firm_items[0].products[0].quantiy: there is no such key; did you mean quantity or units?",
        ),
        (("text =", "colour ="), "demo.toml:3: colour: there is no such key; known are id, text, firm_items"),
        (("[[firm_items]]", "[[firmitems]]"), "demo.toml:5: firmitems: there is no such key; did you mean firm_items?"),
        (
            ("quantity = 2", "quantity = -1"),
            "demo.toml:14: firm_items[0].products[0].quantity: expected a whole number from 0 to 4294967295, got -1",
        ),
        (("quantity = 2", "quantity = true"), "quantity: expected a whole number from 0 to 4294967295, got true"),
        (("quantity = 2", "quantity = 2.0"), "quantity: expected a whole number from 0 to 4294967295, got 2.0"),
        (
            ("quantity = 2", "quantity = 1979-05-27"),
            "quantity: expected a whole number from 0 to 4294967295, got 1979-05-27",
        ),
        (
            ("quantity = 2", "quantity = 4294967296"),
            "quantity: expected a whole number from 0 to 4294967295, got 4294967296",
        ),
        (
            ("seconds =", "second ="),
            "demo.toml:20: firm_items[0].products[0].usage.second: there is no such key; did you mean seconds?",
        ),
        (("count =", "cont ="), "units.cont: there is no such key; did you mean count?"),
        (("start =", "begin ="), "maintenance.begin: there is no such key; did you mean end?"),
        (
            ("activation = 2026-01-01T00:00:00Z", "activation = 2026-01-01T00:00:00"),
            "activation: expected a date with time and zone, as in 2027-01-01T00:00:00Z",
        ),
        (("activation = 2026-01-01T00:00:00Z", "activation = 2026-01-01"), "Z, got 2026-01-01"),
        (("licenses = 5", "licenses = 0"), "borrow.licenses: expected a whole number from 1 to 4294967295, got 0"),
        (("{ seconds = 2592000, l", "{ l"), "borrow: the key seconds is missing"),
        (("linger = 120", "linger = -1"), "linger: expected a whole number from 0 to 4294967295, got -1"),
        (('"0.2"', '"0.2.1"'), 'minimum_runtime: expected a version of two numbers, as in "0.2", got'),
        (('"what applications read"', f'"{"x" * 65}"'), "protected_data: expected a text of 0 to 64 characters, got"),
        (("item = 1", "item = 0"), "item: expected a whole number from 1 to 4294967295, got 0"),
        (
            ("item = 1\n", ""),
            "demo.toml:10: firm_items[0].products[0]: the key item is missing; expected a whole number from 1 to",
        ),
        (("item = 2", "item = 1"), "demo.toml:5: firm_items[0]: item = 1 is there 2 times; give each its own"),
        (
            ('"exclusive"', '"exclusiv"'),
            'demo.toml:15: firm_items[0].products[0].denied[0]: expected "user_limit", "no_user_limit", ',
        ),
        (('"exclusive"', '"\\u001b[2J"'), "or \"station_share\", got '\\x1b[2J'"),
        (('"3-3448482"', '"3_3448482"'), "'3_3448482' is no container id: write mask-serial, as in 3-3448482"),
        (('"Demo"', '"De\\u0007mo"'), "the text has the control character U+0007; leave it out"),
        (('id = "3-3448482"', ""), "demo.toml:1: the key id is missing; expected a text"),
        (('text = "Demo"', 'text = "Demo'), "demo.toml:3: is not TOML:"),
        (("quantity = 2", "quantity = " + "9" * 5000), "demo.toml:14: is not TOML: A number has far too many digits"),
        (("quantity = 2", "quantity = " + "[" * 5000), "demo.toml: has arrays or tables nested too deep"),
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
    with pytest.raises(Faulty, match="text: there is no such key; known are containers"):
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
