"""The container image: what it holds is read back, what is damaged is refused, what is unknown is not ignored."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from drivers import image, state
from drivers.container import LATEST, Container, ContainerId, ContainerKind, FirmItem, Loan, ProductItem, QuantityFlag
from drivers.driver import Faulty, ImageError
from drivers.image import IMAGE_LIMIT, SLOT_LENGTH
from drivers.options import CRITICAL
from drivers.state import ItemState, Receipt, State
from tests.drivers.samples import (
    CHART_PROCESSING,
    CONTAINERS,
    EVERYBODY,
    FIRM_CODE,
    OWNER,
    demo_container,
    replace_once,
    reseal,
)

DEMO = demo_container()
ENCODED = image.encode(DEMO)
UNSIGNED = replace(OWNER, key_algorithm=0)
SLOTS_AT = len(ENCODED) - 2 * SLOT_LENGTH


@given(CONTAINERS)
def test_what_is_encoded_is_decoded(container: Container) -> None:
    """A container comes back from its image as it was, in the same order."""
    assert image.decode(image.encode(container), EVERYBODY) == container


def test_the_first_bytes_are_fixed() -> None:
    """Magic, version, lengths, mask, serial and kind lie where the page says: other people's tools rely on it."""
    magic, version, header_length, total = struct.unpack_from("<8sHHI", ENCODED)
    assert (magic, version, header_length, total) == (b"CMIMAGE\n", 1, 66 + 2 + len("Demo") + 4, len(ENCODED))
    assert struct.unpack_from("<HIBB32s", ENCODED, 16) == (3, 3448482, 1, 0, bytes(32))
    assert struct.unpack_from("<HII", ENCODED, 56) == (1, SLOTS_AT - header_length, SLOT_LENGTH)


def test_an_image_error_is_a_fault_of_the_device() -> None:
    """Whoever handles `Faulty` handles damaged images too."""
    assert issubclass(ImageError, Faulty)


# --- damage -------------------------------------------------------------------------------------------------------


def test_every_cut_is_refused() -> None:
    """An image that ends anywhere before its end is refused."""
    for length in range(len(ENCODED)):
        with pytest.raises(ImageError):
            image.decode(ENCODED[:length], EVERYBODY)


def test_every_single_bit_counts() -> None:
    """One flipped bit is refused; in one of the two state slots it is survived, since the other slot is there."""
    for position in range(len(ENCODED)):
        for bit in range(8):
            damaged = bytearray(ENCODED)
            damaged[position] ^= 1 << bit
            if position < SLOTS_AT:
                with pytest.raises(ImageError):
                    image.decode(bytes(damaged), EVERYBODY)
            else:
                assert image.decode(bytes(damaged), EVERYBODY) == DEMO


def test_trailing_bytes_are_refused() -> None:
    """Nothing may hang on at the end."""
    with pytest.raises(ImageError, match="it says that it has"):
        image.decode(ENCODED + b"\0", EVERYBODY)


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_random_bytes_give_nothing_but_image_errors(octets: bytes) -> None:
    """Bytes that nobody made for us are refused, and in no other way than by `ImageError`."""
    for candidate in (octets, ENCODED[:12] + octets, ENCODED[: 16 + len(octets) % 60] + octets):
        with pytest.raises(ImageError):
            image.decode(candidate, EVERYBODY)


@settings(max_examples=500)
@given(
    CONTAINERS,
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.booleans(),
)
def test_changed_fields_with_right_checksums_do_no_harm(
    container: Container, changes: list[tuple[int, int]], sealed: bool
) -> None:
    """Whoever changes lengths and counts and makes the checksums right gets an `ImageError` or a sound container."""
    octets = bytearray(image.encode(container))
    for position, value in changes:
        octets[position % max(1, len(octets) - 2 * SLOT_LENGTH)] = value
    candidate = reseal(bytes(octets)) if sealed else bytes(octets)
    with suppress(ImageError):
        decoded = image.decode(candidate, EVERYBODY)
        references = [(firm.firm_code, item.reference) for firm in decoded.firm_items for item in firm.products]
        assert len(references) == len(set(references))
        assert all(len(item.text) <= 255 for firm in decoded.firm_items for item in firm.products)


def test_an_oversized_image_is_refused_unread() -> None:
    """Beyond 64 KiB nothing is looked at."""
    with pytest.raises(ImageError, match="the most is 65536"):
        image.decode(bytes(IMAGE_LIMIT + 1), EVERYBODY)


# --- sentences ----------------------------------------------------------------------------------------------------


def test_a_later_format_asks_for_an_update() -> None:
    """A version that this software does not know is named, and what to do."""
    newer = reseal(ENCODED[:8] + struct.pack("<H", 2) + ENCODED[10:])
    with pytest.raises(ImageError, match="format version 2, this software reads version 1; update it"):
        image.decode(newer, EVERYBODY)


def test_an_unknown_kind_asks_for_an_update() -> None:
    """A kind of container that this software does not know is not taken for one that it does."""
    with pytest.raises(ImageError, match="kind 9"):
        image.decode(reseal(ENCODED[:22] + b"\x09" + ENCODED[23:]), EVERYBODY)


def test_a_firm_item_of_another_container_is_not_used() -> None:
    """A licensor's signed bytes name their container: copying them into another one does not work."""
    foreign = reseal(ENCODED[:18] + struct.pack("<I", 3448483) + ENCODED[22:])
    (firm,) = image.decode(foreign, EVERYBODY).firm_items
    assert "made for another container" in firm.unusable
    assert not firm.products


def test_a_firm_item_of_another_kind_is_not_used() -> None:
    """The kind is part of what the licensor signs: a virtual container can't call itself hardware (decision 1)."""
    relabelled = reseal(ENCODED[:22] + b"\x02" + ENCODED[23:])
    assert "made for another container" in image.decode(relabelled, EVERYBODY).firm_items[0].unusable


@pytest.mark.parametrize(
    ("container", "sentence"),
    [
        (demo_container(ContainerKind.HARDWARE, CHART_PROCESSING, CHART_PROCESSING), "item 1 twice"),
        (Container(DEMO.id, DEMO.kind, "", (FirmItem(5), FirmItem(5))), "firm item 5 twice"),
        (Container(DEMO.id, DEMO.kind, "", (FirmItem(0),)), "firm code 0"),
        (demo_container(ContainerKind.HARDWARE, ProductItem(0, 1)), "reference 0"),
        (demo_container(ContainerKind.HARDWARE, ProductItem(1, 1, "a\x07b")), r"control character U\+0007"),
        (demo_container(ContainerKind.HARDWARE, ProductItem(1, 1, "\ud800")), "surrogate"),
        (demo_container(ContainerKind.HARDWARE, ProductItem(1, 1, "x" * 256)), "256 characters"),
        (demo_container(ContainerKind.HARDWARE, ProductItem(1, 1, "\U0001f511" * 300)), "1200 bytes"),
        (demo_container(ContainerKind.HARDWARE, ProductItem(1, 2**32)), "cannot be written"),
        (demo_container(ContainerKind.HARDWARE, ProductItem(1, 1, unusable="why")), "does not know"),
        (demo_container(ContainerKind.HARDWARE, ProductItem(1, 1, flags=QuantityFlag(0x100))), "does not know"),
        (Container(ContainerId("3-x"), DEMO.kind), "no container id"),
        (Container(DEMO.id, DEMO.kind, "", tuple(FirmItem(n, "x" * 200) for n in range(1, 300))), "the most is 65536"),
        (Container(DEMO.id, DEMO.kind, "", tuple(FirmItem(n) for n in range(1, 70_000))), "the most is 65536"),
    ],
)
def test_encode_refuses_what_decode_would(container: Container, sentence: str) -> None:
    """Nothing is written into a container that could not be read back."""
    with pytest.raises(ImageError, match=sentence):
        image.encode(container)


def unusable(octets: bytes) -> str:
    """Return why the one firm item of an image cannot be used; nothing else is read of it."""
    (firm,) = image.decode(octets, EVERYBODY).firm_items
    assert firm == FirmItem(FIRM_CODE, unusable=firm.unusable)
    assert firm.unusable.startswith(f"Firm item {FIRM_CODE} cannot be read; have its licensor program it again. ")
    return firm.unusable


def test_what_one_licensor_signs_in_error_takes_nothing_from_the_others() -> None:
    """Another one's firm item in the same container is served."""
    both = replace(DEMO, firm_items=(*DEMO.firm_items, FirmItem(77, "", 1, (ProductItem(1, 1, "ABC"),))))
    damaged = replace_once(image.encode(both), b"ABC", b"\xff\xfe\xfd")
    (sound, unsound) = image.decode(damaged, EVERYBODY).firm_items
    assert sound == DEMO.firm_items[0]
    assert (unsound.firm_code, unsound.products) == (77, ())
    assert "not UTF-8" in unsound.unusable


def test_a_text_that_is_no_utf8_is_refused() -> None:
    """Bytes are not guessed at."""
    assert "not UTF-8" in unusable(replace_once(ENCODED, b"Chart Processing", b"Chart Process\xff\xfe\xfd"))


def test_a_control_character_in_a_stored_text_is_refused() -> None:
    """A container cannot move the operator's cursor."""
    turned = replace_once(ENCODED, b"Chart Processing", b"Chart \x1b[31m sing")
    assert "in item 1, the text has the control character U+001B" in unusable(turned)


# --- what an older daemon must not ignore -------------------------------------------------------------------------


def option(tag: int, value: bytes) -> bytes:
    """Return an option as it lies in a product item."""
    return struct.pack("<HH", tag, len(value)) + value


def with_text_option(replacement: bytes) -> bytes:
    """Return the demo image with its text option, of 20 bytes, replaced by other options of the same length."""
    return replace_once(ENCODED, option(1, b"Chart Processing"), replacement)


def only_item(octets: bytes) -> ProductItem:
    """Return the one product item of an image."""
    return image.decode(octets, EVERYBODY).firm_items[0].products[0]


def test_an_unknown_critical_option_makes_the_item_unusable() -> None:
    """An option of a later version that restricts the item (an expiry, say) is never simply overlooked."""
    item = only_item(with_text_option(option(CRITICAL | 77, b"expires at noon!")))
    assert item.unusable == "The item has an option that this server does not know (77); update the server."
    assert (item.reference, item.product_code, item.quantity) == (1, 14, 2)


def test_an_unknown_option_that_is_not_critical_is_ignored() -> None:
    """An option of a later version that nobody needs to obey leaves the item usable."""
    item = only_item(with_text_option(option(77, b"a colour it has.")))
    assert item.unusable == ""


def test_an_unknown_flag_makes_the_item_unusable() -> None:
    """A flag of the license quantity that this software does not obey is never overlooked; the others still count."""
    replacement = option(CRITICAL | 3, struct.pack("<I", 0x200 | 0x4)) + option(77, bytes(8))
    item = only_item(with_text_option(replacement))
    assert item.unusable == "The item has a flag that this server does not know (0x200); update the server."
    assert item.flags == QuantityFlag.DENY_EXCLUSIVE


def test_a_signature_without_an_algorithm_is_damage() -> None:
    """Algorithm 0 means that there is none; then the slot is empty."""
    end = SLOTS_AT - 4
    with pytest.raises(ImageError, match="no algorithm"):
        image.decode(reseal(ENCODED[: end - 1] + b"\x01" + ENCODED[end:]), EVERYBODY)


def test_a_key_without_an_algorithm_is_damage() -> None:
    """Algorithm 0 means that there is none; then there are zeros."""
    with pytest.raises(ImageError, match="the container has a key, and no algorithm"):
        image.decode(reseal(ENCODED[:55] + b"\x01" + ENCODED[56:]), EVERYBODY)


def test_what_is_reserved_is_zero() -> None:
    """A later version may give it a meaning, which this one must not overlook."""
    at = struct.unpack_from("<H", ENCODED, 10)[0] + 1
    with pytest.raises(ImageError, match="a firm item has 1 where all have 0"):
        image.decode(reseal(ENCODED[:at] + b"\x01" + ENCODED[at + 1 :]), EVERYBODY)
    slot = state.encode(State(8), 256, UNSIGNED)[:-4]
    changed = slot[:22] + b"\x01" + slot[23:]
    with pytest.raises(ImageError, match="is not empty"):
        state.decode(changed + struct.pack("<I", zlib.crc32(changed)), UNSIGNED)


def test_an_option_of_the_wrong_length_is_damage() -> None:
    """A number has four bytes."""
    short = with_text_option(option(CRITICAL | 3, bytes(3)) + option(77, bytes(9)))
    assert "option 3 of item 1 has 3 bytes" in unusable(short)


def test_an_option_that_is_there_twice_is_damage() -> None:
    """Two answers to one question are none."""
    assert "item 1 has option 77 twice" in unusable(with_text_option(option(77, bytes(4)) + option(77, bytes(8))))


def test_an_option_longer_than_its_item_is_damage() -> None:
    """An inner length is held against the bytes that are there."""
    assert "item 1 ends too early" in unusable(with_text_option(struct.pack("<HH", 1, 17) + bytes(16)))


# --- the state ----------------------------------------------------------------------------------------------------

SPENT = State(
    5,
    1_800_000_000,
    (ItemState(600010, 1, 40, 1_700_000_000),),
    (Loan(bytes(16), 600010, 1, 1, 9, bytes(32)),),
    (Receipt(bytes(16), 600010, 1, 20, 60),),
    bytes(range(32)),
    1_799_999_999,
)


def test_the_state_with_the_higher_number_counts() -> None:
    """Of two valid slots the later one is in force, in whichever place it lies."""
    older = State(4)
    for states in ((SPENT, older), (older, SPENT)):
        parsed = image.parse(image.encode(DEMO, states), EVERYBODY)
        assert parsed.state == SPENT
        item = parsed.container.firm_items[0].products[0]
        assert (item.units_used, item.usage_start) == (40, 1_700_000_000)


def test_a_half_written_state_leaves_the_one_before() -> None:
    """A cut while a device writes a slot leaves the other slot in force."""
    octets = bytearray(image.encode(DEMO, (State(4), SPENT)))
    octets[-SLOT_LENGTH // 2 :] = bytes(SLOT_LENGTH // 2)
    assert image.parse(bytes(octets), EVERYBODY).state == State(4)


def test_without_a_valid_state_nothing_counts() -> None:
    """With both slots damaged the container is refused: what was used of it is not known."""
    octets = bytearray(ENCODED)
    octets[SLOTS_AT] ^= 1
    octets[-1] ^= 1
    with pytest.raises(ImageError, match="Neither of the container's two states can be used"):
        image.decode(bytes(octets), EVERYBODY)


def test_a_state_that_counts_more_than_it_holds_is_damage() -> None:
    """The counts in a slot are held against its bytes."""
    octets = bytearray(ENCODED)
    for slot in (SLOTS_AT, SLOTS_AT + SLOT_LENGTH):
        octets[slot + 16 : slot + 22] = b"\xff" * 6
    with pytest.raises(ImageError, match="a state slot ends too early"):
        image.decode(reseal(bytes(octets)), EVERYBODY)


def test_a_state_signed_by_a_later_version_is_not_believed() -> None:
    """A slot whose signature this software can't check is not in force."""
    octets = bytearray(ENCODED)
    for slot in (SLOTS_AT, SLOTS_AT + SLOT_LENGTH):
        octets[slot + SLOT_LENGTH - 69] = 1
    with pytest.raises(ImageError, match="signed in another way than its key demands"):
        image.decode(reseal(bytes(octets)), EVERYBODY)


def test_bytes_in_the_empty_room_of_a_slot_are_damage() -> None:
    """Nothing hides behind the state."""
    octets = bytearray(ENCODED)
    for slot in (SLOTS_AT, SLOTS_AT + SLOT_LENGTH):
        octets[slot + 64] = 1
    with pytest.raises(ImageError, match="not empty"):
        image.decode(reseal(bytes(octets)), EVERYBODY)


@pytest.mark.parametrize("instant", [-1, LATEST + 1, 2**63 - 1])
@pytest.mark.parametrize(
    "impossible",
    [
        lambda instant: State(1, instant),
        lambda instant: State(1, asked=instant),
        lambda instant: State(1, items=(ItemState(600010, 1, 0, instant),)),
        lambda instant: State(1, loans=(Loan(bytes(16), 600010, 1, 1, instant, bytes(32)),)),
    ],
)
def test_a_time_that_cannot_be_is_damage(impossible: Callable[[int], State], instant: int) -> None:
    """Anybody can make a container: one that says it is after the year 9999 must not reach anybody's clock."""
    slot = state.encode(impossible(instant), SLOT_LENGTH, UNSIGNED)
    with pytest.raises(ImageError, match="a time that no license time can be"):
        state.decode(slot, UNSIGNED)
    state.decode(state.encode(impossible(LATEST), SLOT_LENGTH, UNSIGNED), UNSIGNED)


@pytest.mark.parametrize("length", [0, 3, 4, 60, 68, 132])
def test_slots_too_short_for_a_state_are_damage(length: int) -> None:
    """A slot of any length is looked at without trust."""
    header_length = struct.unpack_from("<H", ENCODED, 10)[0]
    octets = bytearray(ENCODED[:SLOTS_AT] + bytes(2 * length))
    struct.pack_into("<I", octets, 12, len(octets))
    struct.pack_into("<I", octets, 62, length)
    with pytest.raises(ImageError, match="Neither of the container's two states"):
        image.decode(_with_header_sealed(octets, header_length), EVERYBODY)


def _with_header_sealed(octets: bytearray, header_length: int) -> bytes:
    return reseal(bytes(octets[:header_length]) + bytes(2 * SLOT_LENGTH))[:header_length] + bytes(
        octets[header_length:]
    )


def test_a_state_that_does_not_fit_is_refused() -> None:
    """A slot has room for a fixed number of counters, beside all its receipts."""
    receipts = tuple(Receipt(bytes([n]) * 16, 600010, 1, n, 0) for n in range(64))
    full = tuple(ItemState(600010, reference) for reference in range(1, 96))
    spent = State(1, 0, full, receipts=receipts)
    assert image.parse(image.encode(DEMO, (spent, State())), EVERYBODY).state == spent
    with pytest.raises(ImageError, match="its slots have room for"):
        image.encode(DEMO, (State(1, 0, (*full, ItemState(600010, 96)), receipts=receipts), State()))


def test_a_state_that_cannot_be_written_is_refused() -> None:
    """A number beyond its field gives a sentence, not a struct error."""
    with pytest.raises(ImageError, match="state cannot be written"):
        image.encode(DEMO, (State(-1), State()))
