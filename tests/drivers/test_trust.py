"""Which firm items are believed: a signature that stands the test, of a licensor in the list, for this container."""

from __future__ import annotations

import struct
import zlib

import pytest
from msgspec.structs import replace

from drivers import firm_item, image, keys, state
from drivers.container import Container, ContainerKind, FirmItem, ProductItem, container_id
from drivers.driver import ImageError
from drivers.image import SigningKeys
from drivers.state import ItemState, State
from drivers.trust import Trust
from tests.drivers import older
from tests.drivers.samples import (
    CONTAINER_KEY,
    FIRM_CODE,
    LICENSOR,
    LICENSOR_KEY,
    OWNER,
    SIGNING,
    SLOT_LENGTH,
    STRANGER_KEY,
    TRUST,
    demo_container,
    reseal,
)

DEMO = demo_container()
SIGNED = image.encode(DEMO, signing=SIGNING)
UNSIGNED = image.encode(DEMO)
(HEADER_LENGTH,) = struct.unpack_from("<H", SIGNED, 10)
STATE_AT = len(SIGNED) - 64 - 69


def only(octets: bytes, trust: Trust = TRUST) -> FirmItem:
    """Return the one firm item of an image."""
    (firm,) = image.parse(octets, trust).container.firm_items
    return firm


def test_a_signed_firm_item_of_a_listed_licensor_is_believed() -> None:
    """Its contents are there, and whose signature it has."""
    (expected,) = DEMO.firm_items
    assert only(SIGNED) == replace(expected, licensor=LICENSOR)


def test_an_unsigned_one_is_believed_where_that_is_allowed() -> None:
    """For trials; the listing can tell, since it names no licensor."""
    (expected,) = DEMO.firm_items
    assert only(UNSIGNED, Trust(unsigned={FIRM_CODE})) == expected


@pytest.mark.parametrize(
    ("octets", "trust", "sentence"),
    [
        (
            SIGNED,
            Trust(),
            f'is to be believed, write 600010 = "{keys.to_text(LICENSOR)}" under [licensors], once the licensor told',
        ),
        (UNSIGNED, Trust(), 'if it is to be believed, write 600010 = "unsigned" under [licensors].'),
        (SIGNED, Trust({600011: LICENSOR}, {600012}), "of a licensor whom this server does not know"),
        (UNSIGNED, TRUST, "Firm item 600010 is not signed; have its licensor program it again."),
        (
            SIGNED,
            Trust({FIRM_CODE: keys.public_of(STRANGER_KEY)}),
            "The signature of firm item 600010 is not its licensor's; have him program it again, or correct his key",
        ),
        (
            image.encode(DEMO, signing=SigningKeys(CONTAINER_KEY, {FIRM_CODE: STRANGER_KEY})),
            TRUST,
            "The signature of firm item 600010 is not its licensor's",
        ),
        (
            reseal(SIGNED[:HEADER_LENGTH] + b"\x05" + SIGNED[HEADER_LENGTH + 1 :]),
            TRUST,
            "Firm item 600010 is signed with algorithm 5, which this server does not know; update the server.",
        ),
        (
            reseal(UNSIGNED[:18] + struct.pack("<I", 3448483) + UNSIGNED[22:]),
            Trust(unsigned={FIRM_CODE}),
            "Firm item 600010 was made for another container; have its licensor program this one again.",
        ),
    ],
)
def test_one_that_is_not_believed_is_listed_with_what_to_do(octets: bytes, trust: Trust, sentence: str) -> None:
    """Nothing of it but its number is known, and so nothing of it can be granted."""
    firm = only(octets, trust)
    assert sentence in firm.unusable
    assert firm == FirmItem(FIRM_CODE, unusable=firm.unusable)


def test_the_container_s_key_is_part_of_what_the_licensor_signs() -> None:
    """Whoever puts the firm items into a container with a key of his own has none of them."""
    header = SIGNED[:24] + keys.public_of(STRANGER_KEY) + SIGNED[56:HEADER_LENGTH]
    own = image.encode(DEMO, signing=SigningKeys(STRANGER_KEY, SIGNING.licensors))
    stolen = reseal(header + SIGNED[HEADER_LENGTH:STATE_AT] + own[STATE_AT:])
    assert "made for another container" in only(stolen).unusable


def test_a_trusted_item_beside_one_that_is_not() -> None:
    """A stranger in the container harms nobody else, and need not even be sound inside."""
    both = Container(DEMO.id, DEMO.kind, "", (FirmItem(5, "x", 1, (ProductItem(1, 1, "text"),)), *DEMO.firm_items))
    octets = image.encode(both, signing=SigningKeys(CONTAINER_KEY, {5: STRANGER_KEY, FIRM_CODE: LICENSOR_KEY}))
    broken = reseal(octets.replace(b"text", b"\xff\xfe\xfd\xfc"))
    stranger, trusted = image.parse(broken, TRUST).container.firm_items
    assert (stranger.firm_code, stranger.products) == (5, ())
    assert "does not know" in stranger.unusable
    assert trusted.products == DEMO.firm_items[0].products


def test_every_bit_of_a_signed_item_counts() -> None:
    """With checksums made right again, each bit that the licensor signed is still his."""
    start = HEADER_LENGTH + 38
    for position in range(start, STATE_AT - 4):
        for bit in range(8):
            changed = bytearray(SIGNED)
            changed[position] ^= 1 << bit
            try:
                firm = only(reseal(bytes(changed)))
            except ImageError:
                continue
            assert firm.unusable
            assert not firm.products


def test_the_licensor_s_key_in_the_container_proves_nothing() -> None:
    """A stranger's item with the right key beside it is a stranger's."""
    octets = image.encode(DEMO, signing=SigningKeys(CONTAINER_KEY, {FIRM_CODE: STRANGER_KEY}))
    assert only(reseal(octets.replace(keys.public_of(STRANGER_KEY), LICENSOR))).unusable


# --- the state ------------------------------------------------------------------------------------------------------

OLDER = older.encode(DEMO, signing=SIGNING)
SLOTS_AT = len(OLDER) - 2 * SLOT_LENGTH
SPENT = State(9, 1_800_000_000, (ItemState(FIRM_CODE, 1, 40, 1_700_000_000),))


def slot(octets: bytes, number: int) -> bytes:
    """Return a slot of an image."""
    start = SLOTS_AT + number * SLOT_LENGTH
    return octets[start : start + SLOT_LENGTH]


def test_a_container_with_a_key_signs_its_state() -> None:
    """The later of two signed slots is in force, as without signatures."""
    parsed = image.parse(older.encode(DEMO, (State(8), SPENT), signing=SIGNING), TRUST)
    assert parsed.state == SPENT
    assert parsed.container.firm_items[0].products[0].units_used == 40


def test_a_state_that_the_container_did_not_sign_does_not_count() -> None:
    """Unsigned, by another key, or of another container: the slot before is in force; without one, nothing is."""
    octets = older.encode(DEMO, (State(8), SPENT), signing=SIGNING)
    other = Container(container_id(3, 1), ContainerKind.HARDWARE, DEMO.text, DEMO.firm_items)
    strangers = SigningKeys(STRANGER_KEY, SIGNING.licensors)
    for forged in (
        older.encode(DEMO, (State(8), SPENT)),
        older.encode(DEMO, (State(8), SPENT), signing=strangers),
        older.encode(other, (State(8), SPENT), signing=SIGNING),
    ):
        assert image.parse(octets[:-SLOT_LENGTH] + slot(forged, 1), TRUST).state == State(8)
        with pytest.raises(ImageError, match="Neither of the container's two states can be used"):
            image.parse(octets[:SLOTS_AT] + forged[SLOTS_AT:], TRUST)


def test_every_bit_of_a_signed_state_counts() -> None:
    """One changed bit with a right checksum, in the numbers or the signature, and the slot before is in force."""
    octets = older.encode(DEMO, (State(8), SPENT), signing=SIGNING)
    filled = [*range(104), *range(SLOT_LENGTH - 69, SLOT_LENGTH - 4)]
    for position in filled:
        changed = bytearray(octets)
        changed[len(octets) - SLOT_LENGTH + position] ^= 0x10
        assert image.parse(reseal(bytes(changed)), TRUST).state == State(8)


def test_a_key_of_an_unknown_algorithm_makes_the_state_unknown() -> None:
    """A later kind of key cannot be checked: the container asks for an update instead of being believed."""
    with pytest.raises(ImageError, match="key is of algorithm 2, which this software does not know; update it"):
        image.parse(reseal(SIGNED[:23] + b"\x02" + SIGNED[24:]), TRUST)


def test_a_state_of_an_unknown_algorithm_is_not_taken_for_a_known_one() -> None:
    """Key and state say that they are of a later kind; that the signature would be right as Ed25519 says nothing."""
    later = replace(OWNER, key_algorithm=2)
    signed = state.encode(State(8), 256, later)[:-69] + b"\x02"
    covered = signed + keys.sign(CONTAINER_KEY, b"cmstate\x00\x01" + firm_item.encode_owner(later) + signed)
    with pytest.raises(ImageError, match="algorithm 2"):
        state.decode(covered + struct.pack("<I", zlib.crc32(covered)), later)
