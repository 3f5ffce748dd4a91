"""Requests and their answers: the customer's whole way, and what is refused on it."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmserverd.cmboxpgm import commands
from drivers import image, keys, request, update
from drivers.container import Allowance, ContainerKind, ProductItem
from drivers.driver import ImageError, Purpose, Refused, Signed, never_cancelled
from drivers.firm_item import Owner, encode_owner
from drivers.image import SigningKeys
from drivers.trust import Trust
from drivers.virtual import VirtualDriver, VirtualOptions
from tests.cmboxpgm.bench import FIRM_CODE, NOON, Bench
from tests.drivers.samples import CONTAINER_KEY, LICENSOR_KEY, SIGNING, demo_container, replace_once, reseal


def test_the_whole_way(bench: Bench) -> None:
    """Key, container, ledger, item; a request as a server makes it, its answer, applied, read back and believed."""
    bench.begin()
    bench.program("firm-item", "--text", "Chart Works")
    bench.program("item", "--item", "1", "--product-code", "14", "--text", "Chart Processing", "--quantity", "2")
    device = bench.open()
    octets = device.read()
    signed = device.sign(Purpose.REQUEST, os.urandom(32))
    device.close()
    Path("customer.request").write_bytes(request.encode(octets, signed))

    where = ("--request", "customer.request", "--update", "answer.update")
    bench.program("item", "--item", "1", "--quantity", "3", where=where)
    device = bench.open()
    device.apply(Path("answer.update").read_bytes())
    device.close()

    driver = VirtualDriver(VirtualOptions(files=(str(Path("box.cmc").absolute()),)), never_cancelled)
    (dongle,) = driver.scan()
    device = driver.open(dongle)
    (firm,) = image.decode(device.read(), bench.trust).firm_items
    device.close()
    assert (firm.text, firm.update_counter, firm.unusable) == ("Chart Works", 3, "")
    assert firm.licensor == bench.trust.keys[FIRM_CODE]
    assert firm.products == (ProductItem(1, 14, "Chart Processing", 3),)


def test_list_shows_a_request_and_an_update(bench: Bench) -> None:
    """Who gets a file sees what is in it; a request shows what its container does."""
    bench.begin()
    bench.program("item", "--item", "1", "--product-code", "14")
    where = (*bench.request("a.request"), "--update", "a.update")
    bench.program("item", "--item", "2", "--product-code", "15", "--units", "5", where=where)
    assert bench.done("list", "--request", "a.request") == bench.done("list", "--file", "box.cmc")
    shown = bench.done("list", "--update", "a.update")["update"]
    assert (shown["container"], shown["base"], shown["time"]) == ("3-1", None, None)
    assert [item["item"] for item in shown["firm_item"]["items"]] == [1, 2]
    assert bench.run("list", "--update", "a.update") == 0
    assert "Update for CmContainer 3-1, virtual" in bench.out
    assert "units 5 of 5" in bench.out


def test_a_container_that_is_not_enrolled_gets_nothing(bench: Bench) -> None:
    """However sound its request is: anybody can make one."""
    bench.begin()
    bench.done("create", "--id", "3-2", "--file", "other.cmc")
    bench.done("request", "--file", "other.cmc", "--out", "other.request")
    before = bench.files()
    where = ("--request", "other.request", "--update", "out")
    said = bench.refused(*bench.programming("item", "--item", "1", "--product-code", "14", where=where))
    assert "Container 3-2 is not enrolled in ledger.json" in said
    assert bench.files() == before


def test_a_container_with_an_enrolled_one_s_name_gets_nothing(bench: Bench) -> None:
    """It is made up: it has another key. It is not enrolled in the other's place either."""
    bench.begin()
    Path("away").mkdir()
    bench.done("create", "--id", "3-1", "--file", "away/box.cmc")
    bench.done("request", "--file", "away/box.cmc", "--out", "other.request")
    before = Path("ledger.json").read_bytes()
    where = ("--request", "other.request", "--update", "out")
    said = bench.refused(*bench.programming("item", "--item", "1", "--product-code", "14", where=where))
    assert "Another container is enrolled as 3-1" in said
    for source in (("--request", "other.request"), ("--file", "away/box.cmc")):
        assert "Another container is enrolled as 3-1" in bench.refused("enroll", *source, "--ledger", "ledger.json")
    assert Path("ledger.json").read_bytes() == before
    assert not Path("out").exists()


def test_the_answers_to_one_request(bench: Bench) -> None:
    """Each has all that was programmed before; in either order the container ends with the latest, and no other."""
    bench.begin()
    bench.program("firm-item", "--text", "Chart Works")
    asked = bench.request("a.request")
    bench.program("item", "--item", "1", "--product-code", "14", where=(*asked, "--update", "first"))
    bench.program("item", "--item", "2", "--product-code", "15", where=(*asked, "--update", "second"))
    bench.done("apply", "--file", "box.cmc", "--update", "second")
    assert "(Error 229)" in bench.refused("apply", "--file", "box.cmc", "--update", "first")
    assert "(Error 229)" in bench.refused("apply", "--file", "box.cmc", "--update", "second")
    (firm,) = bench.container().firm_items
    assert (firm.update_counter, [item.reference for item in firm.products]) == (3, [1, 2])


def test_an_update_is_for_one_container(bench: Bench) -> None:
    """Another one refuses it, and so does one whose firm item is of another key."""
    bench.begin()
    bench.program("firm-item", "--text", "x", where=(*bench.request("a.request"), "--update", "a.update"))
    bench.done("create", "--id", "3-2", "--file", "other.cmc")
    assert "(Error 233)" in bench.refused("apply", "--file", "other.cmc", "--update", "a.update")
    bench.done("apply", "--file", "box.cmc", "--update", "a.update")
    found = image.parse(bench.read(), bench.trust)
    stolen = update.encode_firm(found.owner, found.container.firm_items[0], update.ANY, keys.generate())
    Path("stolen").write_bytes(stolen)
    assert "(Error 211)" in bench.refused("apply", "--file", "box.cmc", "--update", "stolen")


def test_a_request_older_than_one_that_was_seen(bench: Bench) -> None:
    """It is refused, until the licensor says that he accepts it; the ledger's item counts on."""
    bench.begin()
    old = bench.request("old.request")
    copy = Path("box.cmc").read_bytes()
    bench.program("item", "--item", "1", "--product-code", "14")
    new = bench.request("new.request")
    bench.program("item", "--item", "1", "--text", "x", where=(*new, "--update", "new.update"))
    command = bench.programming("item", "--item", "2", "--product-code", "15", where=(*old, "--update", "old.update"))
    assert "was seen in a later state" in bench.refused(*command)
    Path("box.cmc").write_bytes(copy)
    assert "was seen in a later state" in bench.refused(*bench.programming("firm-item", "--text", "x"))
    before = bench.files()
    for source in (old, ("--file", "box.cmc")):
        said = bench.refused("enroll", *source, "--ledger", "ledger.json")
        assert "was seen in a later state (number 2, now 1)" in said
        assert "say --older" in said
    assert bench.files() == before
    assert bench.done("enroll", *old, "--older", "--ledger", "ledger.json")["new"] is False
    assert bench.done(*command)["firm_item"]["update_counter"] == 3


def test_a_copy_from_before_the_last_change_is_an_old_one(bench: Bench) -> None:
    """Also if nothing was asked of the container since: what was programmed at hand raised its state's number."""
    bench.begin()
    copy = Path("box.cmc").read_bytes()
    bench.program("item", "--item", "1", "--product-code", "14")
    bench.done("enroll", "--file", "box.cmc", "--ledger", "ledger.json")
    bench.program("item", "--item", "1", "--quantity", "2")
    present = Path("box.cmc").read_bytes()
    Path("box.cmc").write_bytes(copy)
    said = "was seen in a later state (number 3, now 1)"
    assert said in bench.refused("enroll", "--file", "box.cmc", "--ledger", "ledger.json")
    assert said in bench.refused(*bench.programming("firm-item", "--text", "x"))
    Path("box.cmc").write_bytes(present)
    bench.done("enroll", "--file", "box.cmc", "--ledger", "ledger.json")
    bench.program("firm-item", "--text", "x")


def test_a_lost_ledger_is_made_again_from_a_request(bench: Bench) -> None:
    """The request has the firm item, so that nothing of it is lost, and the counter goes on."""
    bench.begin()
    bench.program("item", "--item", "1", "--product-code", "14", "--units", "9")
    Path("ledger.json").unlink()
    asked = bench.request("a.request")
    assert bench.done("enroll", *asked, "--ledger", "ledger.json")["new"]
    bench.program("item", "--item", "2", "--product-code", "15", where=(*asked, "--update", "a.update"))
    bench.done("apply", "--file", "box.cmc", "--update", "a.update")
    (firm,) = bench.container().firm_items
    assert firm.update_counter == 2
    assert firm.products == (ProductItem(1, 14, units=Allowance(9, 1)), ProductItem(2, 15))
    (entry,) = bench.done("list", "--ledger", "ledger.json")["enrolled"]
    assert entry["firm_items"] == bench.done("list", "--file", "box.cmc")["container"]["firm_items"]


def test_enrolling_from_a_request_is_warned_of(bench: Bench) -> None:
    """A container at hand shows that it has its key; a request shows that somebody has one."""
    bench.begin()
    asked = bench.request("a.request")
    assert bench.run("enroll", *asked, "--ledger", "new.json") == 0
    assert "Anybody can make up a container" in bench.out
    assert bench.run("enroll", "--file", "box.cmc", "--ledger", "newer.json") == 0
    assert "Anybody" not in bench.out


def test_an_answer_overwrites_nothing(bench: Bench) -> None:
    """Nor does it count as programmed if it is not written."""
    bench.begin()
    asked = bench.request("a.request")
    Path("out").write_text("mine")
    before = bench.files()
    for update_file in ("out", "missing/out", "box.cmc"):
        bench.refused(*bench.programming("firm-item", "--text", "x", where=(*asked, "--update", update_file)))
    assert "nothing is overwritten" in bench.refused("request", "--file", "box.cmc", "--out", "out")
    assert bench.files() == before


def test_a_customer_who_came_first_owns_the_clock(bench: Bench) -> None:
    """He could set it back: the licensor is told before he sells a date, and listings say whose the clock is."""
    bench.begin()
    said = bench.done("list", "--file", "box.cmc")["container"]
    assert said["clock"] is None
    bench.done("keygen", "--firm-code", "99", "--key", "customer.key")
    bench.done("enroll", "--file", "box.cmc", "--ledger", "customer.json")
    customer = ("--firm-code", "99", "--key", "customer.key", "--ledger", "customer.json")
    bench.done("firm-item", "--text", "", "--file", "box.cmc", *customer)
    his = keys.to_text(keys.public_of(keys.read(Path("customer.key"))))
    asked = bench.request("a.request")
    before = bench.files()
    new = ("item", "--item", "1", "--product-code", "14", "--expiration", "2027-01-01")
    command = bench.programming(*new, where=(*asked, "--update", "out"))
    assert f"The first firm item of container 3-1, 99, is of the key {his}" in bench.refused(*command)
    assert "whose owner can set its clock back" in bench.refused(*bench.programming(*new))
    assert bench.files() == before
    assert bench.done("list", *asked)["container"]["clock"] == {"firm_code": 99, "licensor": his}
    assert bench.run("list", *asked) == 0
    assert f"time certified by licensor {his} (firm code 99)" in bench.out

    assert bench.done("enroll", *asked, "--ledger", "ledger.json")["clock"] == {"firm_code": 99, "licensor": his}
    bench.done(*command)
    bench.done("apply", "--file", "box.cmc", "--update", "out")
    bench.program("firm-item", "--text", "accepted for good")


def test_an_answer_to_an_empty_container_is_warned_of(bench: Bench) -> None:
    """The customer can still come first, and nothing tells the licensor before the next request."""
    bench.begin()
    asked = bench.request("a.request")
    command = bench.programming("item", "--item", "1", "--product-code", "14", where=(*asked, "--update", "a.update"))
    assert bench.run(*command) == 0
    assert "The container was still empty" in bench.out
    bench.done("apply", "--file", "box.cmc", "--update", "a.update")
    asked = bench.request("b.request")
    assert bench.run(*bench.programming("firm-item", "--text", "x", where=(*asked, "--update", "b.update"))) == 0
    assert "still empty" not in bench.out


def test_a_house_with_two_keys(bench: Bench) -> None:
    """Whose clock it is is known, if that key has programmed the container from the same ledger."""
    bench.begin()
    bench.program("firm-item", "--text", "first")
    bench.done("keygen", "--firm-code", "700", "--key", "second.key")
    second = ("--firm-code", "700", "--key", "second.key", "--ledger", "ledger.json", "--new-key")
    bench.done("firm-item", "--text", "second", "--file", "box.cmc", *second)


def test_who_enrolls_an_empty_container_is_warned(bench: Bench) -> None:
    """Its clock is still to be had."""
    bench.begin()
    assert bench.run("enroll", "--file", "box.cmc", "--ledger", "ledger.json") == 0
    assert "Whoever programs it first certifies its time" in bench.out
    bench.program("firm-item", "--text", "x")
    assert bench.run("enroll", "--file", "box.cmc", "--ledger", "ledger.json") == 0
    assert "Whoever" not in bench.out
    assert "(firm code 600010)" in bench.out


def test_an_old_copy_of_the_ledger(bench: Bench) -> None:
    """Two answers with one counter left the house: what the container took is found out, and accepted by enrolling."""
    bench.begin()
    bench.program("firm-item", "--text", "x")
    copy = Path("ledger.json").read_bytes()
    asked = bench.request("a.request")
    bench.program("item", "--item", "1", "--product-code", "14", where=(*asked, "--update", "first"))
    Path("ledger.json").write_bytes(copy)
    bench.program("item", "--item", "2", "--product-code", "15", where=(*asked, "--update", "second"))
    bench.done("apply", "--file", "box.cmc", "--update", "first")
    more = bench.programming("item", "--item", "2", "--product-code", "15", "--quantity", "9")
    before = bench.files()
    assert "an old copy of the ledger was put back" in bench.refused(*more)
    assert bench.files() == before
    bench.done("enroll", "--file", "box.cmc", "--ledger", "ledger.json")
    bench.done(*more)
    (firm,) = bench.container().firm_items
    assert firm.products == (ProductItem(1, 14), ProductItem(2, 15, quantity=9))


def test_a_certified_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose clock was years ahead comes back, once; the time that passed meanwhile is added."""
    bench.begin()
    bench.program("firm-item", "--text", "x")
    ahead = NOON + 10**9
    device = bench.open()
    device.time(ahead)
    device.close()
    asked = bench.request("a.request", "--time")
    device = bench.open()
    device.time(ahead + 60)
    device.close()
    monkeypatch.setattr(commands, "now", lambda: NOON)
    certify = ["certify-time", *asked, "--key", "licensor.key", "--ledger", "ledger.json", "--update"]
    assert bench.done(*certify, "a.update")["time"] == NOON
    monkeypatch.setattr(commands, "now", lambda: 0)
    assert "clock cannot be right" in bench.refused(*certify, "b.update")
    shown = bench.done("list", "--update", "a.update")["update"]
    assert (shown["time"], shown["firm_item"]) == (NOON, None)
    assert bench.run("list", "--update", "a.update") == 0
    assert "certified time 2026-01-01 12:00:00 UTC" in bench.out
    bench.done("apply", "--file", "box.cmc", "--update", "a.update")
    assert bench.done("list", "--file", "box.cmc")["container"]["time_floor"] == NOON + 60
    assert "(Error 229)" in bench.refused("apply", "--file", "box.cmc", "--update", "a.update")


def test_a_certified_time_that_would_be_of_no_use(bench: Bench) -> None:
    """A request that asks for none, a container that has nothing of this key's, or one that is not enrolled."""
    bench.begin()
    end = ["--key", "licensor.key", "--ledger", "ledger.json", "--update", "out"]
    asked = bench.request("empty.request", "--time")
    assert "of its first firm item only" in bench.refused("certify-time", *asked, *end)
    bench.done("create", "--id", "3-2", "--file", "other.cmc")
    bench.done("request", "--time", "--file", "other.cmc", "--out", "other.request")
    assert "is not enrolled" in bench.refused("certify-time", "--request", "other.request", *end)
    bench.done("create", "--id", "3-3", "--file", "third.cmc")
    bench.done("enroll", "--file", "third.cmc", "--ledger", "ledger.json")
    bench.done("request", "--file", "third.cmc", "--out", "third.request")
    assert "asks for no certified time" in bench.refused("certify-time", "--request", "third.request", *end)
    assert not Path("out").exists()


# --- bytes that nobody vouches for --------------------------------------------------------------------------------


def made(private: bytes = CONTAINER_KEY, octets: bytes | None = None, hashed: bytes | None = None) -> bytes:
    """Return a request of the demo container, signed with this key, for this image, over this image's hash."""
    octets = octets if octets is not None else image.encode(demo_container(), signing=SIGNING)
    owner = image.parse(image.encode(demo_container(), signing=SIGNING), Trust()).owner
    message = b"cmsign\x00\x01\x03" + encode_owner(owner) + bytes(32) + (1).to_bytes(8, "little")
    message += bytes(8) + sha256(octets if hashed is None else hashed).digest()
    return request.encode(octets, Signed(message, keys.sign(private, message)))


SOUND = made()


def test_the_sound_one_is_accepted() -> None:
    """What the tests below damage is sound before."""
    found = request.decode(SOUND).image
    assert found.owner == Owner(3, 3448482, ContainerKind.HARDWARE, 1, keys.public_of(CONTAINER_KEY))


@given(st.integers(0, len(SOUND) - 1))
def test_a_cut_request_is_refused(length: int) -> None:
    """Wherever it is cut off."""
    with pytest.raises(ImageError):
        request.decode(SOUND[:length])


@given(st.integers(0, 8 * len(SOUND) - 1))
def test_a_flipped_bit_is_found(bit: int) -> None:
    """Also if all checksums are made right again."""
    octets = bytearray(SOUND)
    octets[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ImageError):
        request.decode(bytes(octets))
    contents = reseal(bytes(octets[14 : -64 - 129]))
    if contents == SOUND[14 : -64 - 129]:
        return  # the flipped bit was one of a checksum, or not of the image
    with pytest.raises(ImageError):
        request.decode(bytes(octets[:14]) + contents + bytes(octets[-64 - 129 :]))


@pytest.mark.parametrize(
    "octets",
    [
        SOUND + b"\0",
        b"",
        b"cmupdate" + SOUND[8:],
        SOUND[:9] + b"\2" + SOUND[10:],
        made(private=LICENSOR_KEY),
        made(hashed=b"another image"),
        made(octets=image.encode(demo_container(), signing=SigningKeys(LICENSOR_KEY, SIGNING.licensors))),
        made(octets=image.encode(demo_container())),
    ],
    ids=["longer", "empty", "update", "version", "key", "hash", "container", "keyless"],
)
def test_what_is_no_sound_request(octets: bytes, bench: Bench) -> None:
    """Each is refused, by every command that takes one."""
    bench.begin()
    Path("bad").write_bytes(octets)
    before = bench.files()
    bench.refused("list", "--request", "bad")
    bench.refused("enroll", "--request", "bad", "--ledger", "ledger.json")
    bench.refused(*bench.programming("firm-item", "--text", "x", where=("--request", "bad", "--update", "out")))
    assert bench.files() == before


def test_a_firm_item_with_a_wrong_signature(bench: Bench) -> None:
    """A container may hold one; the listing says so, and it is not taken for the licensor's."""
    bench.begin()
    keys.write(Path("demo.key"), LICENSOR_KEY)
    octets = image.encode(demo_container(), signing=SIGNING)
    signature = image.parse(octets, Trust()).sealed[FIRM_CODE].signature
    Path("bad").write_bytes(made(octets=replace_once(octets, signature, bytes(64))))
    assert bench.run("list", "--request", "bad") == 0
    assert "UNUSABLE: The signature of firm item 600010 is not its licensor's" in bench.out
    bench.done("enroll", "--request", "bad", "--ledger", "ledger.json")
    command = bench.programming("firm-item", "--text", "x", where=("--request", "bad", "--update", "out"))
    command[command.index("licensor.key")] = "demo.key"
    assert "The signature of firm item 600010 is not this key's" in bench.refused(*command)


def test_what_is_no_sound_update(bench: Bench) -> None:
    """Cut, flipped, or something else: refused before the container sees it, and by `list`."""
    bench.begin()
    asked = bench.request("a.request")
    bench.program("item", "--item", "1", "--product-code", "14", where=(*asked, "--update", "good"))
    good = Path("good").read_bytes()
    before = Path("box.cmc").read_bytes()
    flipped = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(0, len(good), 7)]
    for octets in (*flipped, good[:-1], good + b"\0", b"", Path("a.request").read_bytes(), bytes(70_000)):
        Path("bad").write_bytes(octets)
        bench.refused("list", "--update", "bad")
        bench.refused("apply", "--file", "box.cmc", "--update", "bad")
    assert Path("box.cmc").read_bytes() == before
    device = bench.open()
    with pytest.raises(Refused, match="no such item"):
        device.consume(FIRM_CODE, 1, 1, b"a use's key 0123", 0)
    device.close()
