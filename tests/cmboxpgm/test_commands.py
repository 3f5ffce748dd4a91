"""Each command on a container at hand: what is in it afterwards, and what is said."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from cmserverd.cmboxpgm import commands
from cmserverd.cmboxpgm.main import INTERRUPTED, main
from drivers import cmc, image, keys, options, update
from drivers.container import (
    Allowance,
    Container,
    ContainerKind,
    FirmItem,
    Period,
    ProductItem,
    QuantityFlag,
    Runtime,
    container_id,
)
from drivers.driver import Refused
from drivers.image import SigningKeys
from drivers.trust import Trust
from tests.cmboxpgm.bench import FIRM_CODE, NOON, Bench


def test_keygen_makes_a_private_file_and_says_the_line(bench: Bench) -> None:
    """The file is its owner's alone, and the line is that of the daemon's configuration."""
    assert bench.run("keygen", "--firm-code", "600010", "--key", "a.key") == 0
    path = bench.directory / "a.key"
    assert path.stat().st_mode & 0o777 == 0o600
    public = keys.to_text(keys.public_of(keys.read(path)))
    assert bench.out.splitlines()[-2:] == ["[licensors]", f'600010 = "{public}"']


def test_two_keys_are_not_the_same(bench: Bench) -> None:
    """Each is made by chance."""
    first, second = (bench.done("keygen", "--firm-code", "1", "--key", name) for name in ("a", "b"))
    assert first["public_key"] != second["public_key"]


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("elsewhere"), Path.mkdir])
def test_keygen_overwrites_nothing(bench: Bench, make: object) -> None:
    """A file, a link that leads nowhere, a directory: what is there stays there."""
    path = bench.directory / "a.key"
    assert callable(make)
    make(path)
    assert "nothing is overwritten" in bench.refused("keygen", "--firm-code", "1", "--key", "a.key")
    assert [each.name for each in bench.directory.iterdir()] == ["a.key"]


def test_create_makes_an_empty_container_with_its_key(bench: Bench) -> None:
    """Both files are private; the public key said is the container's."""
    said = bench.done("create", "--id", "3-7", "--text", "Demo", "--file", "box.cmc")
    modes = {path.name: path.stat().st_mode & 0o777 for path in bench.directory.iterdir()}
    assert modes == {"box.cmc": 0o600, "box.key": 0o600}
    parsed = image.parse(bench.read(), Trust())
    assert parsed.container == Container(container_id(3, 7), ContainerKind.VIRTUAL, "Demo")
    assert said["public_key"] == keys.to_text(parsed.owner.key)


@pytest.mark.parametrize("there", ["box.cmc", "box.key"])
def test_create_overwrites_nothing(bench: Bench, there: str) -> None:
    """If either file is there, neither is made."""
    (bench.directory / there).write_text("mine")
    assert there in bench.refused("create", "--id", "3-7", "--file", "box.cmc")
    assert bench.files() == {there: b"mine"}


def test_create_wants_the_name_of_a_virtual_container(bench: Bench) -> None:
    """The daemon knows them by their ending."""
    assert "ends in .cmc" in bench.refused("create", "--id", "3-7", "--file", "box.toml")
    assert not bench.files()


EVERYTHING = (
    *("--text", "Chart Processing", "--quantity", "2", "--denied", "exclusive,user_limit", "--local-only"),
    *("--feature-map", "0x80000003", "--activation", "2026-01-01", "--expiration", "2030-01-01T02:00:00+02:00"),
    *("--usage", "30d", "--maintenance", "2026-01-01", "2027-01-01T00:00:00Z", "--units", "100", "--linger", "2m"),
    *("--minimum-runtime", "0.2", "--protected-data", "for applications", "--user-data", "@data"),
)
JANUARY_2026, JANUARY_2027, JANUARY_2030 = 1_767_225_600, 1_798_761_600, 1_893_456_000


def test_an_item_with_every_option(bench: Bench) -> None:
    """What was typed is what a server reads."""
    bench.begin()
    (bench.directory / "data").write_bytes(b"\x00\xff")
    said = bench.program("item", "--item", "5", "--product-code", "14", *EVERYTHING)
    item = ProductItem(
        5,
        14,
        "Chart Processing",
        2,
        QuantityFlag.DENY_EXCLUSIVE | QuantityFlag.DENY_USER_LIMIT | QuantityFlag.LOCAL_ONLY,
        0x80000003,
        JANUARY_2026,
        JANUARY_2030,
        Allowance(30 * 86_400, 1),
        Period(JANUARY_2026, JANUARY_2027),
        Allowance(100, 1),
        120,
        minimum_runtime=Runtime(0, 2),
        protected_data=b"for applications",
        user_data=b"\x00\xff",
    )
    (firm,) = bench.container().firm_items
    assert firm.products == (item,)
    assert said["container"] == "3-1"
    assert said["update"] is None
    listed = bench.done("list", "--file", "box.cmc")["container"]["firm_items"]
    assert listed == [said["firm_item"]]


NOTHING = tuple(
    f"--no-{name}"
    for name in (
        *("text", "quantity", "denied", "local-only", "feature-map", "activation", "expiration", "usage"),
        *("maintenance", "units", "linger", "minimum-runtime", "protected-data", "user-data"),
    )
)


def test_every_option_can_be_taken_out(bench: Bench) -> None:
    """What remains is an item as if none had ever been given."""
    bench.begin()
    (bench.directory / "data").write_bytes(b"data")
    bench.program("item", "--item", "5", "--product-code", "14", *EVERYTHING)
    bench.program("item", "--item", "5", *NOTHING)
    assert bench.container().firm_items[0].products == (ProductItem(5, 14),)


def test_what_is_not_named_stays(bench: Bench) -> None:
    """A change leaves the other options and the other items alone."""
    bench.begin()
    bench.program("item", "--item", "2", "--product-code", "15", "--denied", "exclusive", "--units", "5")
    bench.program("item", "--item", "1", "--product-code", "14")
    bench.program("item", "--item", "2", "--local-only", "--text", "Export")
    first, second = bench.container().firm_items[0].products
    assert first == ProductItem(1, 14)
    flags = QuantityFlag.DENY_EXCLUSIVE | QuantityFlag.LOCAL_ONLY
    assert second == ProductItem(2, 15, "Export", flags=flags, units=Allowance(5, 1))
    bench.program("item", "--item", "2", "--no-denied")
    assert bench.container().firm_items[0].products[1].flags == QuantityFlag.LOCAL_ONLY


def test_new_units_are_counted_anew_and_old_ones_go_on(bench: Bench) -> None:
    """The count meets a new number of units never, and any other change of the item always."""
    bench.begin()
    bench.program("item", "--item", "1", "--product-code", "14", "--units", "100", "--usage", "1d")

    def left() -> tuple[int | None, int]:
        device = bench.open()
        try:
            used = device.consume(FIRM_CODE, 1, 0, time.monotonic_ns().to_bytes(16, "big"), 0)
        finally:
            device.close()
        return used.units_left, used.usage_start

    device = bench.open()
    device.consume(FIRM_CODE, 1, 30, b"a use's key 0123", JANUARY_2026)
    device.close()
    bench.program("item", "--item", "1", "--text", "another")
    assert left() == (70, JANUARY_2026)
    listed = bench.done("list", "--file", "box.cmc")["container"]["firm_items"][0]["items"][0]
    assert (listed["units_used"], listed["usage_start"]) == (30, JANUARY_2026)
    bench.program("item", "--item", "1", "--units", "100")
    assert left() == (100, JANUARY_2026)
    bench.program("remove-item", "--item", "1")
    bench.program("item", "--item", "1", "--product-code", "14", "--units", "100")
    assert left() == (100, 0)


def test_an_item_keeps_its_product_code(bench: Bench) -> None:
    """A new one needs one; an old one has it for good, since its accesses are counted under its number."""
    bench.begin()
    assert "say its --product-code" in bench.refused(*bench.programming("item", "--item", "1"))
    bench.program("item", "--item", "1", "--product-code", "14")
    bench.program("item", "--item", "1", "--product-code", "14", "--quantity", "3")
    refusal = bench.refused(*bench.programming("item", "--item", "1", "--product-code", "15"))
    assert "has the product code 14, which it keeps" in refusal


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--activation", "2027-01-01", "--expiration", "2027-01-01"), "would never be valid"),
        (("--maintenance", "2027-01-01", "2026-01-01"), "would end before it begins"),
    ],
)
def test_what_could_never_be_is_refused(bench: Bench, options: tuple[str, ...], said: str) -> None:
    """Periods that no instant lies in are slips."""
    bench.begin()
    before = bench.files()
    assert said in bench.refused(*bench.programming("item", "--item", "1", "--product-code", "14", *options))
    assert bench.files() == before


def test_an_item_that_would_have_expired_is_not_sold(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A past date is a slip. What has expired meanwhile can be changed all the same."""
    bench.begin()
    before = bench.files()
    new = ("--item", "1", "--product-code", "14", "--expiration")
    assert "would have expired already" in bench.refused(*bench.programming("item", *new, "2026-01-01T12:00:00Z"))
    assert bench.files() == before
    bench.program("item", *new, "2026-01-01T12:00:01Z")
    monkeypatch.setattr(commands, "now", lambda: NOON + 60)
    bench.program("item", "--item", "1", "--text", "x")


@pytest.mark.parametrize(
    "options",
    [
        ("--quantity", "5", "--quantity", "50"),
        ("--denied", "exclusive", "--denied", "no_user_limit"),
        ("--text", "", "--text", ""),
        ("--maintenance", "2026-01-01", "2027-01-01", "--maintenance", "2026-01-01", "2028-01-01"),
        ("--firm-code", str(FIRM_CODE)),
        ("--file", "other.cmc"),
    ],
)
def test_an_option_that_is_given_twice_is_refused(bench: Bench, options: tuple[str, ...]) -> None:
    """Whichever of the two counted, it would not be what was said."""
    bench.begin()
    before = bench.files()
    command = bench.programming("item", "--item", "1", "--product-code", "14", *options)
    assert "is given twice" in bench.misused(*command)
    assert bench.files() == before


def test_a_mistyped_firm_code_and_a_wrong_key(bench: Bench) -> None:
    """A container would keep what they make for ever: the ledger knows which key is the firm code's."""
    bench.begin()
    bench.program("firm-item", "--text", "x")
    bench.done("create", "--id", "3-2", "--file", "new.cmc")
    bench.done("enroll", "--file", "new.cmc", "--ledger", "ledger.json")
    bench.done("keygen", "--firm-code", "700", "--key", "other.key")
    mine = keys.to_text(keys.public_of(keys.read(bench.directory / "licensor.key")))
    before = bench.files()

    def naming(firm_code: str, key: str) -> tuple[str, ...]:
        who = ("--firm-code", firm_code, "--key", key, "--ledger", "ledger.json")
        return ("firm-item", "--text", "x", "--file", "new.cmc", *who)

    assert "this key has the firm code 600010" in bench.refused(*naming("600011", "licensor.key"))
    assert f"firm code 600010 has the key {mine}" in bench.refused(*naming("600010", "other.key"))
    assert "neither firm code 600011 nor this key" in bench.refused(*naming("600011", "other.key"))
    assert bench.files() == before
    bench.done(*naming("700", "other.key"), "--new-key")
    bench.done(*naming("700", "other.key"))
    bench.done(*naming("600010", "licensor.key"))
    assert [each.firm_code for each in bench.container("new.cmc").firm_items] == [700, 600010]


def test_a_key_that_the_container_shows_needs_no_word(bench: Bench) -> None:
    """A lost ledger was made again: that the container took the key is proof enough."""
    bench.begin()
    bench.program("firm-item", "--text", "x")
    bench.done("keygen", "--firm-code", "700", "--key", "other.key")
    other = ("--firm-code", "700", "--file", "box.cmc", "--key", "other.key", "--ledger", "ledger.json")
    bench.done("firm-item", "--text", "x", *other, "--new-key")
    (bench.directory / "ledger.json").unlink()
    bench.done("enroll", "--file", "box.cmc", "--ledger", "ledger.json")
    bench.program("firm-item", "--text", "y")
    bench.done("firm-item", "--text", "y", *other)


def test_more_than_a_container_can_count_is_told(bench: Bench) -> None:
    """Else the first use of the last ones would be refused at the customer's; what fits is counted to the last."""
    bench.begin()
    private = keys.read(bench.directory / "licensor.key")
    counted = tuple(ProductItem(n, 1, usage=Allowance(86_400, 1)) for n in range(1, 914))
    firm = FirmItem(FIRM_CODE, update_counter=1, products=counted)
    other = FirmItem(700, products=(ProductItem(1, 1, units=Allowance(1, 1)), ProductItem(2, 1)))
    stranger = keys.generate()

    def make(file: str, number: int, *firm_items: FirmItem) -> tuple[str, ...]:
        container = Container(container_id(3, number), ContainerKind.VIRTUAL, "", firm_items)
        signing = SigningKeys(keys.generate(), {FIRM_CODE: private, 700: stranger})
        cmc.create(bench.directory / file, container, signing)
        bench.done("enroll", "--file", file, "--ledger", "ledger.json")
        return ("--file", file)

    new = ("item", "--item", "914", "--product-code", "1")
    shared = make("shared.cmc", 2, firm, other)
    assert "would have 915 items with units" in bench.refused(*bench.programming(*new, "--units", "9", where=shared))
    bench.program(*new, where=shared)
    alone = make("alone.cmc", 3, firm)
    bench.program(*new, "--units", "9", where=alone)
    device = bench.open("alone.cmc")
    for number in range(1, 915):
        device.consume(FIRM_CODE, number, int(number == 914), number.to_bytes(16, "big"), NOON)
    device.close()
    bench.done("request", *alone, "--out", "a.request")
    for where in (alone, ("--request", "a.request", "--update", "out")):
        more = bench.programming("item", "--item", "915", "--product-code", "1", "--usage", "1d", where=where)
        assert "cannot count so much" in bench.refused(*more)
    bench.program("item", "--item", "1", "--no-usage", where=alone)
    bench.program("item", "--item", "915", "--product-code", "1", "--usage", "1d", where=alone)


def test_what_is_too_much_already_can_be_made_less(bench: Bench) -> None:
    """Containers may have been programmed by other means."""
    bench.begin()
    private = keys.read(bench.directory / "licensor.key")
    products = tuple(ProductItem(n, 1, units=Allowance(9, 1)) for n in range(1, 1001))
    firm = FirmItem(FIRM_CODE, update_counter=1, products=products)
    container = Container(container_id(3, 2), ContainerKind.VIRTUAL, "", (firm,))
    cmc.create(bench.directory / "full.cmc", container, SigningKeys(keys.generate(), {FIRM_CODE: private}))
    bench.done("enroll", "--file", "full.cmc", "--ledger", "ledger.json")
    bench.program("remove-item", "--item", "1000", where=("--file", "full.cmc"))
    bench.program("item", "--item", "1", "--text", "x", where=("--file", "full.cmc"))


def test_firm_items_are_named_and_removed(bench: Bench) -> None:
    """The update counter goes on rising, so that nothing old comes back."""
    bench.begin()
    bench.program("firm-item", "--text", "Chart Works")
    bench.program("item", "--item", "1", "--product-code", "14")
    assert bench.container().firm_items[0].text == "Chart Works"
    bench.program("remove-item", "--item", "1")
    bench.program("remove-firm-item")
    assert [(each.text, each.update_counter, each.products) for each in bench.container().firm_items] == [("", 4, ())]
    for command in (("remove-firm-item",), ("remove-item", "--item", "1")):
        assert "look at what there is" in bench.refused(*bench.programming(*command))


def test_another_key_changes_nothing(bench: Bench) -> None:
    """A firm item is changed by who made it; the message says which key is meant."""
    bench.begin()
    bench.program("firm-item", "--text", "Chart Works")
    bench.done("keygen", "--firm-code", "600010", "--key", "stranger.key")
    before = bench.files()
    command = bench.programming("firm-item", "--text", "Mine")
    command[command.index("licensor.key")] = "stranger.key"
    assert "is of another key than this one" in bench.refused(*command)
    assert bench.files() == before
    (bench.directory / "ledger.json").unlink()
    bench.done("enroll", "--file", "box.cmc", "--ledger", "ledger.json")
    before = bench.files()
    assert "is of another key than this one" in bench.refused(*command), "the container says it too"
    assert bench.files() == before


@pytest.mark.parametrize("contents", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_refused(bench: Bench, contents: bytes) -> None:
    """What to do is about the licensor's key."""
    bench.begin()
    (bench.directory / "licensor.key").write_bytes(contents)
    refusal = bench.refused(*bench.programming("firm-item", "--text", "x"))
    assert "There is no licensor's key in licensor.key" in refusal
    (bench.directory / "licensor.key").unlink()
    assert "make a key with cmboxpgm keygen" in bench.refused(*bench.programming("firm-item", "--text", "x"))


def test_a_key_that_others_can_read_is_refused(bench: Bench) -> None:
    """It is as good as lost."""
    bench.begin()
    (bench.directory / "licensor.key").chmod(0o640)
    assert "chmod 600" in bench.refused(*bench.programming("firm-item", "--text", "x"))


@pytest.mark.parametrize("damage", ["missing", "short", "flipped", "key", "open"])
def test_a_container_that_cannot_be_used_is_told(bench: Bench, damage: str) -> None:
    """Not there, cut, damaged, with another's key, or in the server's hands: one sentence each, nothing changed."""
    bench.begin()
    path = bench.directory / "box.cmc"
    held = None
    match damage:
        case "missing":
            path.unlink()
        case "short":
            path.write_bytes(path.read_bytes()[:-1])
        case "flipped":
            path.write_bytes(bytes(len(path.read_bytes())))
        case "key":
            bench.done("create", "--id", "3-2", "--file", "other.cmc")
            (bench.directory / "other.key").replace(bench.directory / "box.key")
        case "open":
            held = bench.open()
    said = {
        "missing": "There is no container box.cmc",
        "short": "is no .cmc file",
        "flipped": "is damaged",
        "key": "is damaged, or the key beside it is another one's",
        "open": "Another process has the virtual container",
    }
    assert said[damage] in bench.refused(*bench.programming("firm-item", "--text", "x"))
    assert said[damage] in bench.refused("list", "--file", "box.cmc")
    if held is not None:
        held.close()


def test_a_full_container_is_told(bench: Bench) -> None:
    """On a container and on a request; neither ledger nor container is changed."""
    bench.begin()
    data = "x" * 256
    products = tuple(ProductItem(n, 1, protected_data=data.encode(), user_data=data.encode()) for n in range(1, 107))
    container = Container(
        container_id(3, 2), ContainerKind.VIRTUAL, "", (FirmItem(FIRM_CODE, update_counter=1, products=products),)
    )
    private = keys.read(bench.directory / "licensor.key")
    cmc.create(bench.directory / "full.cmc", container, SigningKeys(keys.generate(), {FIRM_CODE: private}))
    bench.done("enroll", "--file", "full.cmc", "--ledger", "ledger.json")
    bench.done("request", "--file", "full.cmc", "--out", "full.request")
    before = bench.files()
    new = ("--item", "107", "--product-code", "1", "--protected-data", data, "--user-data", data)
    for where in (("--file", "full.cmc"), ("--request", "full.request", "--update", "out")):
        assert "Container 3-2 is full" in bench.refused(*bench.programming("item", *new, where=where))
    assert bench.files() == before


def test_the_last_byte_of_a_container(bench: Bench) -> None:
    """The tool and the container agree on what fits."""
    bench.begin()
    private = keys.read(bench.directory / "licensor.key")
    products = tuple(ProductItem(n, 1, text="x" * 255, user_data=b"x" * 256) for n in range(1, 107))
    firm = FirmItem(FIRM_CODE, update_counter=1, products=products)
    container = Container(container_id(3, 2), ContainerKind.VIRTUAL, "", (firm,))
    cmc.create(bench.directory / "full.cmc", container, SigningKeys(keys.generate(), {FIRM_CODE: private}))
    bench.done("enroll", "--file", "full.cmc", "--ledger", "ledger.json")
    octets = bench.read("full.cmc")
    room = image.FIXED_LIMIT - image.parse(octets, Trust()).fixed_length
    assert 0 < room < 255
    over = update.encode_firm(
        image.parse(octets, Trust()).owner, replace(firm, update_counter=2, text="x" * (room + 1)), update.ANY, private
    )
    device = bench.open("full.cmc")
    with pytest.raises(Refused, match="has no room"):
        device.apply(over)
    device.close()
    full = ("--file", "full.cmc")
    assert "is full" in bench.refused(*bench.programming("firm-item", "--text", "x" * (room + 1), where=full))
    bench.program("firm-item", "--text", "x" * room, where=full)


def test_a_change_that_would_drop_what_is_not_known_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A firm item of a later version of this tool is not written by this one."""
    bench.begin()
    bench.program("item", "--item", "1", "--product-code", "14", "--linger", "9s")
    monkeypatch.delitem(options._KNOWN, 10)
    assert "does not know and would drop" in bench.refused(*bench.programming("firm-item", "--text", "x"))


def test_list_shows_what_counts(bench: Bench) -> None:
    """The tables have ids, keys, counters and options, and cut nothing off where there is little room."""
    bench.begin()
    bench.program("firm-item", "--text", "Chart Works")
    bench.program("item", "--item", "1", "--product-code", "14", "--expiration", "2030-01-01")
    public = keys.to_text(bench.trust.keys[FIRM_CODE])
    assert bench.run("list", "--file", "box.cmc") == 0
    for said in ("3-1, virtual, Demo", "600010 Chart Works, update counter 2", public, "2030-01-01 00:00:00 UTC"):
        assert said in bench.out


@pytest.mark.parametrize("columns", ["1", "20", "40"])
def test_nothing_is_cut_off(bench: Bench, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    """Where there is little room, what is too long goes on in the next line."""
    bench.begin()
    bench.program("item", "--item", "1", "--product-code", "4294967295", "--text", "Chart Processing", "--units", "9")
    monkeypatch.setenv("COLUMNS", columns)
    assert bench.run("list", "--file", "box.cmc") == 0
    assert "…" not in bench.out
    assert "4294967295" in bench.out


def test_list_tells_what_nobody_signed(bench: Bench) -> None:
    """An unsigned firm item stands out."""
    container = Container(
        container_id(3, 2), ContainerKind.VIRTUAL, "", (FirmItem(1, products=(ProductItem(1, 1),)), FirmItem(2))
    )
    cmc.create(bench.directory / "box.cmc", container, SigningKeys(keys.generate(), {2: keys.generate()}))
    assert bench.run("list", "--file", "box.cmc") == 0
    assert "UNSIGNED" in bench.out
    assert "no items" in bench.out
    first, second = bench.done("list", "--file", "box.cmc")["container"]["firm_items"]
    assert first["licensor"] is None
    assert second["licensor"] is not None


ITEM = ("item", "--item", "1", "--firm-code", "1", "--key", "a", "--ledger", "b")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("burn",),
        ("list",),
        ("list", "--file", "a.cmc", "--usb"),
        ("keygen", "--key", "a"),
        ("keygen", "--firm-code", "0", "--key", "a"),
        ("create", "--id", "3", "--file", "a.cmc"),
        ("create", "--id", "3-1", "--file", "a.cmc", "--text", "a\nb"),
        ITEM,
        ("item", "--file", "a.cmc", *ITEM[3:], "--item", "0"),
        (*ITEM, "--file", "a.cmc", "--text", "a", "--no-text"),
        (*ITEM, "--file", "a.cmc", "--update", "c"),
        (*ITEM, "--file", "a.cmc", "--user-data", "@no"),
        (*ITEM, "--file", "a.cmc", "--quantit", "1"),
        (*ITEM, "--request", "r"),
    ],
)
def test_a_wrong_command_line(bench: Bench, arguments: tuple[str, ...]) -> None:
    """It is told in one line, with where to look; nothing is done."""
    said = bench.misused(*arguments)
    assert "see cmboxpgm" in said
    assert ".;" not in said
    assert not bench.files()


def test_errors_as_json(bench: Bench) -> None:
    """One document on standard error, with the field's number where a container refused."""
    bench.begin()
    assert bench.run("list", "--json") == 2
    assert json.loads(bench.err)["error"]["number"] is None
    request = bench.request("a.request")
    bench.program("firm-item", "--text", "x", where=(*request, "--update", "a.update"))
    bench.done("apply", "--file", "box.cmc", "--update", "a.update")
    assert bench.run("apply", "--file", "box.cmc", "--update", "a.update", "--json") == 1
    assert (bench.out, json.loads(bench.err)["error"]["number"]) == ("", 229)


def test_version_and_help(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are there, and each command has a help."""
    assert bench.done("--version")["version"]
    for command in ([], *([name] for name in commands._COMMANDS)):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--help"])
        assert ended.value.code == 0
    assert "exit codes" in capsys.readouterr().out


def test_ctrl_c(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no error with a traceback."""

    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(keys, "generate", interrupted)
    assert bench.run("keygen", "--firm-code", "1", "--key", "a") == INTERRUPTED
    assert not bench.files()
