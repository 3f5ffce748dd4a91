"""What fuzzing begins with: bytes that our own encoders write, small ones of each kind."""

from __future__ import annotations

import struct
from hashlib import sha256

from msgspec.structs import replace

from drivers import firm_item, image, keys, request, state, update
from drivers.container import (
    EARLIEST,
    LATEST,
    Allowance,
    Borrowing,
    Container,
    ContainerKind,
    FirmItem,
    Loan,
    Period,
    ProductItem,
    QuantityFlag,
    Runtime,
    container_id,
)
from drivers.driver import Purpose, Signed
from drivers.image import SigningKeys
from drivers.state import ItemState, Receipt, State
from drivers.statement import borrow_body, crypt_body, tracking_body
from drivers.trust import Trust
from tests.drivers import older
from tests.drivers.chips import NOW, chip_on, flash_of
from tests.drivers.samples import CONTAINER_KEY, FIRM_CODE, LICENSOR_KEY, OWNER, SIGNING
from tests.fuzz import loans
from tests.fuzz.targets import AS_IT_IS, SEALED
from tests.protocol.cases import CASES

_EVERYTHING = ProductItem(
    1,
    14,
    "Charts",
    quantity=5,
    flags=QuantityFlag.DENY_EXCLUSIVE,
    feature_map=3,
    activation=EARLIEST,
    expiration=LATEST,
    usage=Allowance(3600, 1),
    maintenance=Period(EARLIEST, NOW),
    units=Allowance(10, 2),
    linger=30,
    borrowing=Borrowing(3600, 2),
    minimum_runtime=Runtime(1, 2),
    protected_data=b"p",
    user_data=b"u",
)
_FIRM = FirmItem(FIRM_CODE, "Works", 8, (_EVERYTHING, ProductItem(2, 15)))
_OTHER = FirmItem(FIRM_CODE + 1, "Other", 1, (ProductItem(1, 1),))
_LENDABLE = FirmItem(FIRM_CODE, "Works", 8, (replace(_EVERYTHING, usage=None, maintenance=None),))
_PLAIN_ITEM = FirmItem(FIRM_CODE, "", 0)
_USED = State(
    9,
    NOW,
    (ItemState(FIRM_CODE, 1, 3, NOW),),
    (Loan(bytes(range(16)), FIRM_CODE, 2, 1, NOW, bytes(32)),),
    (Receipt(b"k" * 16, FIRM_CODE, 1, 3, 7),),
    b"n" * 32,
    NOW,
)
_UNSIGNED = replace(OWNER, key_algorithm=0, key=bytes(keys.LENGTH))
_SLOT = 320
_MESSAGE = b"cmsign\x00"


def _container(*firms: FirmItem) -> Container:
    return Container(container_id(OWNER.mask, OWNER.serial), ContainerKind.HARDWARE, "Demo", firms)


def _image(signing: SigningKeys | None, *firms: FirmItem) -> bytes:
    return image.encode(_container(*firms), _USED, signing)


def _older_image(signing: SigningKeys | None, *firms: FirmItem) -> bytes:
    return older.encode(_container(*firms), (State(1), _USED), _SLOT, signing)


def _changed() -> bytes:
    """Return the state of a chip that has lent, counted and taken back, behind a whole one."""
    chip = chip_on(flash_of())
    key = keys.public_of(LICENSOR_KEY)
    for command, payload in (
        (22, struct.pack("<16sIIIqq32s", b"l" * 16, FIRM_CODE, 1, 1, NOW + 99, NOW, key)),
        (17, struct.pack("<16sIIIq", b"k" * 16, FIRM_CODE, 2, 1, NOW)),
        (22, struct.pack("<16sIIIqq32s", b"m" * 16, FIRM_CODE, 1, 1, NOW + 999, NOW + 500, key)),
        (20, b""),
    ):
        assert chip.answer(command, payload)[0] == 0
    return chip.image[image.parse(chip.image, Trust()).fixed_length :]


def _statement(purpose: Purpose, rest: bytes) -> bytes:
    version = 2 if purpose is Purpose.CRYPT else 1
    return _MESSAGE + bytes([version, purpose]) + firm_item.encode_owner(OWNER) + rest


def _request(octets: bytes) -> bytes:
    rest = b"n" * 32 + struct.pack("<Qq", _USED.sequence, _USED.time_floor) + sha256(octets).digest()
    message = _statement(Purpose.REQUEST, rest)
    return request.encode(octets, Signed(message, keys.sign(CONTAINER_KEY, message)))


def _asked(number: int, body: bytes, message: bytes) -> bytes:
    return bytes([number, len(body)]) + body + message


def seeds() -> dict[str, list[bytes]]:
    """Return inputs for each target, by its name; each is accepted by its parser."""
    signed = _image(SIGNING, _FIRM, _OTHER)
    body = crypt_body(b"n" * 16, FIRM_CODE, 1, NOW, 7, b"k" * 16)
    crypt = struct.pack("<IIIIqQ16sIIq", FIRM_CODE, 14, 1, 8, NOW, 7, b"k" * 16, 3, 7, NOW)
    nonce = b"n" * 32
    asked = borrow_body(b"l" * 16, b"s" * 32)
    lent = b"h" * 32 + struct.pack("<IIIIIqq", FIRM_CODE, 14, 1, 8, 1, NOW, NOW + 3600)
    tracking = tracking_body(2, 30, b"d" * 32, NOW)
    return {
        "firm_item": [firm_item.encode(firm, OWNER) for firm in (_FIRM, _OTHER, _PLAIN_ITEM)],
        "state": [
            kind + state.encode(each, _SLOT, OWNER, private, padded=True)
            for kind, private in ((AS_IT_IS, None), (SEALED, CONTAINER_KEY))
            for each in (_USED, State(1))
        ],
        "changes": [
            AS_IT_IS + state.encode(_USED, _SLOT, _UNSIGNED),
            *(SEALED + octets for octets in (state.encode(_USED, _SLOT, OWNER, CONTAINER_KEY), _changed())),
        ],
        "image": [
            kind + octets
            for kind in (AS_IT_IS, SEALED)
            for made in (_image, _older_image)
            for octets in (made(SIGNING, _FIRM, _OTHER), made(None, _FIRM), made(SIGNING, _PLAIN_ITEM), made(SIGNING))
        ],
        "update": [
            kind + octets
            for kind in (AS_IT_IS, SEALED)
            for octets in (
                update.encode_firm(OWNER, _FIRM, 7, LICENSOR_KEY),
                update.encode_firm(OWNER, _PLAIN_ITEM, update.ANY, LICENSOR_KEY),
                update.encode_time(OWNER, nonce, NOW, LICENSOR_KEY),
            )
        ],
        "request": [kind + _request(octets) for kind in (AS_IT_IS, SEALED) for octets in (signed, _image(SIGNING))],
        "statement": [
            _asked(0, nonce, _statement(Purpose.PRESENCE, nonce + bytes(8))),
            _asked(1, body, _statement(Purpose.CRYPT, body[:17] + crypt)),
            _asked(2, nonce, _statement(Purpose.REQUEST, nonce + bytes(48))),
            _asked(3, asked, _statement(Purpose.BORROW, asked + lent)),
            _asked(4, tracking, _statement(Purpose.TRACKING, tracking)),
        ],
        "rpc": [bytes([number % 4, 5]) + case.wire for number, case in enumerate(CASES.values())],
        **loans.seeds(firm_item.encode(_LENDABLE, OWNER)),
    }
