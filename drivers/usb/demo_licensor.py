"""The licensor of the demo: a key pair whose private half everybody has, and which is therefore worth nothing.

Whoever lists its public key under `[licensors]` believes whatever anybody programs, as with `"unsigned"`; it is there
so that the demo goes the whole way of a real license.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from drivers import keys

PRIVATE: Final = sha256(b"the cmserverd demo licensor, known to everybody").digest()
PUBLIC: Final = keys.public_of(PRIVATE)
