"""Who may use WebAdmin, and as what: users with passwords, machines with tokens, kept in one file.

The file, `users.json`, has hashes only: argon2id of a password, which people choose, SHA-256 of a token, which is 256
random bits. It is replaced as a whole, synced before and after, so that a power cut leaves the old one or the new one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from msgspec import Meta, Struct, field

from cmserverd.webadmin import private_file

FILE: Final = "users.json"

FILE_LIMIT: Final = 1024 * 1024
"""Bytes; more than the most users and tokens take."""

MOST: Final = 1_000
"""How many users there may be, and how many tokens."""

SHORTEST, LONGEST = 12, 256
"""Characters of a password."""

LONGEST_NAME, LONGEST_TOKEN_NAME = 64, 58
"""Characters of a name. A token's is shorter: with `token:` before it, it is a name to the license server, whole."""

NAME: Final = rf"^[a-z0-9][a-z0-9._@-]{{0,{LONGEST_NAME - 1}}}\Z"
"""What a user's or a token's name looks like: nothing in it could be mistaken in a log or for another's name."""

TOKEN_PREFIX: Final = "cmserverd_"  # noqa: S105 - it is what is not secret of a token
"""How each token begins, so that those who search files for secrets find it."""

Name = Annotated[str, Meta(pattern=NAME)]
TokenName = Annotated[str, Meta(pattern=NAME, max_length=LONGEST_TOKEN_NAME)]


class Role(StrEnum):
    """What somebody may do; each also what those before it may."""

    VIEWER = "viewer"
    """Sees everything but who may use WebAdmin."""
    OPERATOR = "operator"
    """Also removes allocations, imports updates, and has the settings read anew."""
    ADMIN = "admin"
    """Also says who may use WebAdmin."""

    def covers(self, needed: Role) -> bool:
        """Tell whether whoever has this role may do what needs another one."""
        order = tuple(Role)
        return order.index(self) >= order.index(needed)


def _fresh_id() -> str:
    return secrets.token_hex(8)


class User(Struct, frozen=True):
    """Somebody with a password; `hash` is what argon2 made of it. `id` tells him from a later user of his name."""

    name: Name
    role: Role
    hash: str
    id: str = field(default_factory=_fresh_id)


class Token(Struct, frozen=True):
    """What a machine shows in place of a password; `hash` is its SHA-256 in hexadecimal, `made` Unix seconds.

    `id` tells it from a later token of its name.
    """

    name: TokenName
    role: Role
    hash: str
    made: int
    id: str = field(default_factory=_fresh_id)


class Book(Struct, frozen=True):
    """What the file has."""

    users: tuple[User, ...] = ()
    tokens: tuple[Token, ...] = ()


class PeopleFault(Exception):
    """The file cannot be used; the text is one line and says what to do."""


class NotAllowed(ValueError):
    """What was asked for cannot be; the text is a sentence for whoever asked."""


class Passwords:
    """Makes and checks hashes of passwords. Both take some 50 ms and 64 MiB, and are for a thread."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._nobodys = self._hasher.hash(secrets.token_hex(16))

    def hash(self, password: str) -> str:
        """Return the hash of a new password. Raises NotAllowed if it is too short or too long."""
        if not SHORTEST <= len(password) <= LONGEST:
            raise NotAllowed(f"A password has {SHORTEST} to {LONGEST} characters.")
        return self._hasher.hash(_composed(password))

    def check(self, password: str, user: User | None) -> bool:
        """Tell whether it is the user's. Without a user it takes as long as with one, and is wrong."""
        try:
            self._hasher.verify(user.hash if user else self._nobodys, _composed(password[: LONGEST + 1]))
        except (VerificationError, InvalidHashError):
            return False
        return user is not None


class People:
    """The users and tokens; each change is in the file when the call returns.

    A process reads its file once: to change it otherwise, stop WebAdmin first. Raises PeopleFault if it cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._book = _read(self._path)

    @property
    def users(self) -> tuple[User, ...]:
        """The users, in the order in which they came."""
        return self._book.users

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens, in the order in which they were made."""
        return self._book.tokens

    @property
    def set_up(self) -> bool:
        """Whether there is an administrator."""
        return any(user.role is Role.ADMIN for user in self.users)

    def user(self, name: str) -> User | None:
        """Return the user of a name."""
        return next((user for user in self.users if user.name == name), None)

    def token(self, shown: str) -> Token | None:
        """Return the token that somebody shows."""
        mark = hash_of(shown)
        return next((token for token in self.tokens if token.hash == mark), None)

    def add_first(self, name: str, password_hash: str) -> None:
        """Make the first administrator. Raises NotAllowed if there is one."""
        if self.set_up:
            raise NotAllowed("There is an administrator already; log in.")
        self.add(name, Role.ADMIN, password_hash)

    def add(self, name: str, role: Role, password_hash: str) -> None:
        """Add a user. Raises NotAllowed."""
        _check_name(name, LONGEST_NAME)
        if self.user(name):
            raise NotAllowed(f"There is a user {name} already.")
        if len(self.users) >= MOST:
            raise NotAllowed(f"There are {MOST} users, which is the most there may be; remove one first.")
        self._keep(users=(*self.users, User(name, role, password_hash)))

    def remove(self, name: str) -> None:
        """Remove a user. Raises NotAllowed if there is none, or nobody would be left to administer."""
        self._known(name)
        self._keep(users=tuple(user for user in self.users if user.name != name))

    def change_role(self, name: str, role: Role) -> None:
        """Give a user another role. Raises NotAllowed, as `remove` does."""
        changed = msgspec.structs.replace(self._known(name), role=role)
        self._keep(users=tuple(changed if user.name == name else user for user in self.users))

    def change_password(self, name: str, password_hash: str) -> None:
        """Give a user another password. Raises NotAllowed if there is none."""
        changed = msgspec.structs.replace(self._known(name), hash=password_hash)
        self._keep(users=tuple(changed if user.name == name else user for user in self.users))

    def add_token(self, name: str, role: Role, now: int) -> str:
        """Make a token at a time (Unix seconds) and return it; nobody can see it again. Raises NotAllowed."""
        _check_name(name, LONGEST_TOKEN_NAME)
        if any(token.name == name for token in self.tokens):
            raise NotAllowed(f"There is a token {name} already.")
        if len(self.tokens) >= MOST:
            raise NotAllowed(f"There are {MOST} tokens, which is the most there may be; remove one first.")
        shown = TOKEN_PREFIX + secrets.token_urlsafe(32)
        self._keep(tokens=(*self.tokens, Token(name, role, hash_of(shown), now)))
        return shown

    def remove_token(self, name: str) -> None:
        """Remove a token. Raises NotAllowed if there is none."""
        left = tuple(token for token in self.tokens if token.name != name)
        if len(left) == len(self.tokens):
            raise NotAllowed("There is no such token any more.")
        self._keep(tokens=left)

    def _known(self, name: str) -> User:
        if user := self.user(name):
            return user
        raise NotAllowed("There is no such user any more.")

    def _keep(self, *, users: tuple[User, ...] | None = None, tokens: tuple[Token, ...] | None = None) -> None:
        book = Book(self.users if users is None else users, self.tokens if tokens is None else tokens)
        if self.set_up and not any(user.role is Role.ADMIN for user in book.users):
            raise NotAllowed("This is the last administrator; make another one first.")
        private_file.replace(self._path, msgspec.json.format(msgspec.json.encode(book)))
        self._book = book


def hash_of(secret: str) -> str:
    """Return the SHA-256 of a random secret, in hexadecimal: enough for 256 random bits, which nobody can guess."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _check_name(name: str, longest: int) -> None:
    if not re.fullmatch(NAME, name) or len(name) > longest:
        raise NotAllowed(
            f"A name has 1 to {longest} characters: small letters a to z, digits, and after the first one also . _ @ "
            "and -."
        )


def _composed(password: str) -> str:
    """Return the same bytes for the same letters, whatever keyboard they come from."""
    return unicodedata.normalize("NFC", password)


def _read(path: Path) -> Book:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except FileNotFoundError:
        return Book()
    except OSError as error:
        raise PeopleFault(f"{path}: cannot be read: {error.strerror}; let this user read it") from None
    try:
        return msgspec.json.decode(data[: FILE_LIMIT + 1], type=Book)
    except msgspec.DecodeError as error:
        raise PeopleFault(
            f"{path}: {error}; put a copy in its place, or move it away and set WebAdmin up anew"
        ) from None
