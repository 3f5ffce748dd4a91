"""The container image: what it holds is read back, what is damaged is refused, what is unknown is not ignored."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from drivers import image, state
from drivers.container import Container, ContainerId, ContainerKind, FirmItem, ProductItem, QuantityFlag
from drivers.driver import Faulty, ImageError
from drivers.image import IMAGE_LIMIT
from drivers.options import CRITICAL
from drivers.state import State
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
STATE_AT = len(ENCODED) - 64 - 69


@given(CONTAINERS)
def test_what_is_encoded_is_decoded(container: Container) -> None:
    """A container comes back from its image as it was, in the same order."""
    assert image.decode(image.encode(container), EVERYBODY) == container


def test_the_first_bytes_are_fixed() -> None:
    """Magic, version, lengths, mask, serial and kind lie where the page says: other people's tools rely on it."""
    magic, version, header_length, total = struct.unpack_from("<8sHHI", ENCODED)
    assert (magic, version, header_length, total) == (b"CMIMAGE\n", 2, 66 + 2 + len("Demo") + 4, STATE_AT)
    assert struct.unpack_from("<HIBB32s", ENCODED, 16) == (3, 3448482, 1, 0, bytes(32))
    assert struct.unpack_from("<HII", ENCODED, 56) == (1, STATE_AT - header_length, 20_480)


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
    """One flipped bit is refused, wherever it is."""
    for position in range(len(ENCODED)):
        for bit in range(8):
            damaged = bytearray(ENCODED)
            damaged[position] ^= 1 << bit
            with pytest.raises(ImageError):
                image.decode(bytes(damaged), EVERYBODY)


def test_trailing_bytes_are_refused() -> None:
    """Nothing may hang on at the end."""
    with pytest.raises(ImageError, match="the state ends too early"):
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
        octets[position % len(octets)] = value
    candidate = reseal(bytes(octets)) if sealed else bytes(octets)
    with suppress(ImageError):
        decoded = image.decode(candidate, EVERYBODY)
        references = [(firm.firm_code, item.reference) for firm in decoded.firm_items for item in firm.products]
        assert len(references) == len(set(references))
        assert all(len(item.text) <= 255 for firm in decoded.firm_items for item in firm.products)


def test_an_oversized_image_is_refused_unread() -> None:
    """Beyond 80 KiB nothing is looked at."""
    with pytest.raises(ImageError, match="the most is 81920"):
        image.decode(bytes(IMAGE_LIMIT + 1), EVERYBODY)


# --- sentences ----------------------------------------------------------------------------------------------------


def test_a_later_format_asks_for_an_update() -> None:
    """A version that this software does not know is named, and what to do."""
    newer = reseal(ENCODED[:8] + struct.pack("<H", 3) + ENCODED[10:])
    with pytest.raises(ImageError, match="format version 3, this software reads versions 1 to 2; update it"):
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
        (Container(DEMO.id, DEMO.kind, "", tuple(FirmItem(n, "x" * 200) for n in range(1, 300))), "the most is 57344"),
        (Container(DEMO.id, DEMO.kind, "", tuple(FirmItem(n) for n in range(1, 70_000))), "the most is 57344"),
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
    end = STATE_AT - 4
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
    slot = state.encode(State(8), 256, UNSIGNED, padded=True)[:-4]
    changed = slot[:22] + b"\x01" + slot[23:]
    with pytest.raises(ImageError, match="a whole state strikes loans off"):
        state.decode_whole(changed + struct.pack("<I", zlib.crc32(changed)), UNSIGNED)


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
