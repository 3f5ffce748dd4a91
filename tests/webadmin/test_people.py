"""Who may use WebAdmin: the file, its hashes, and who can be removed."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import msgspec
import pytest
from argon2 import PasswordHasher

from cmserverd.webadmin import people as module
from cmserverd.webadmin.people import FILE, NotAllowed, Passwords, People, PeopleFault, Role
from protocol.params import By

HASH = "$argon2id$made-up"


def test_what_is_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    """Users, roles, tokens: a new process reads the same."""
    people = People(tmp_path)
    assert not people.set_up
    people.add_first("anna", HASH)
    people.add("otto", Role.VIEWER, HASH)
    people.change_role("otto", Role.OPERATOR)
    people.change_password("otto", "another")
    shown = people.add_token("prometheus", Role.VIEWER, 1_700_000_000)
    again = People(tmp_path)
    assert (again.users, again.tokens) == (people.users, people.tokens)
    assert [(user.name, user.role, user.hash) for user in again.users] == [
        ("anna", Role.ADMIN, HASH),
        ("otto", Role.OPERATOR, "another"),
    ]
    assert again.set_up
    assert again.token(shown) == again.tokens[0]
    assert again.token(shown + "x") is None
    again.remove_token("prometheus")
    assert People(tmp_path).token(shown) is None


def test_the_file_is_this_users_alone_and_has_no_secret(tmp_path: Path) -> None:
    """Nobody else reads it, whatever the umask is; neither a password nor a token is in it."""
    before = os.umask(0)
    try:
        people = People(tmp_path)
        people.add("anna", Role.ADMIN, Passwords(PasswordHasher(1, 8, 1)).hash("correct horse battery"))
        token = people.add_token("prometheus", Role.VIEWER, 1)
    finally:
        os.umask(before)
    path = tmp_path / FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "horse" not in path.read_text()
    assert token.removeprefix("cmserverd_") not in path.read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


def test_a_write_that_fails_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full: the file is the old one, and so is what this process knows."""
    people = People(tmp_path)
    people.add_first("anna", HASH)
    before = (tmp_path / FILE).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        people.add("otto", Role.VIEWER, HASH)
    assert (tmp_path / FILE).read_bytes() == before
    assert [user.name for user in people.users] == ["anna"]


def test_the_file_is_synced_before_it_takes_the_old_ones_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the directory afterwards: a power cut leaves one of the two, whole."""
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    People(tmp_path).add_first("anna", HASH)
    assert steps == ["file", "replace", "directory"]


@pytest.mark.parametrize(
    "text", ["", "{", '{"users": [{"name": "anna", "role": "king", "hash": ""}]}', '{"users": [{"name": "<b>"}]}']
)
def test_a_file_that_is_damaged_is_refused(tmp_path: Path, text: str) -> None:
    """Nobody is made administrator because a file cannot be read."""
    (tmp_path / FILE).write_text(text)
    with pytest.raises(PeopleFault, match=r"users\.json: .*; put a copy in its place") as caught:
        People(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_directory_in_the_files_place_is_refused(tmp_path: Path) -> None:
    """The sentence has the system's reason."""
    (tmp_path / FILE).mkdir()
    with pytest.raises(PeopleFault, match="cannot be read: Is a directory"):
        People(tmp_path)


def test_a_tokens_name_is_whole_where_it_says_who_did_something(tmp_path: Path) -> None:
    """The license server takes 64 characters: two tokens that begin alike are two there."""
    people = People(tmp_path)
    people.add_token("a" * module.LONGEST_TOKEN_NAME, Role.OPERATOR, 1)
    msgspec.convert(f"token:{people.tokens[0].name}", By)
    with pytest.raises(NotAllowed, match="1 to 58 characters"):
        people.add_token("a" * (module.LONGEST_TOKEN_NAME + 1), Role.OPERATOR, 1)
    people.add("a" * module.LONGEST_NAME, Role.ADMIN, HASH)
    msgspec.convert(people.users[0].name, By)
    assert (People(tmp_path).users, People(tmp_path).tokens) == (people.users, people.tokens)


def test_a_file_from_before_there_were_ids_is_read(tmp_path: Path) -> None:
    """Each has one from then on, which stays when the rest of him changes."""
    (tmp_path / FILE).write_text(
        '{"users": [{"name": "anna", "role": "admin", "hash": "h"}, {"name": "otto", "role": "viewer", "hash": "h"}]}'
    )
    people = People(tmp_path)
    anna, otto = (user.id for user in people.users)
    assert anna != otto
    people.change_password("otto", HASH)
    people.change_role("otto", Role.ADMIN)
    assert [user.id for user in People(tmp_path).users] == [anna, otto]


@pytest.mark.parametrize("name", ["", "Anna", "a b", "a\n", "-a", "a" * 65, "<b>", "ä", "../x"])
def test_a_name_that_could_be_mistaken_is_refused(tmp_path: Path, name: str) -> None:
    """For users and for tokens."""
    people = People(tmp_path)
    with pytest.raises(NotAllowed, match="small letters"):
        people.add(name, Role.VIEWER, HASH)
    with pytest.raises(NotAllowed, match="small letters"):
        people.add_token(name, Role.VIEWER, 1)


def test_somebody_can_always_administer(tmp_path: Path) -> None:
    """The last administrator can neither go nor step down; with another one he can."""
    people = People(tmp_path)
    people.add_first("anna", HASH)
    with pytest.raises(NotAllowed, match="There is an administrator already"):
        people.add_first("eve", HASH)
    with pytest.raises(NotAllowed, match="last administrator"):
        people.remove("anna")
    with pytest.raises(NotAllowed, match="last administrator"):
        people.change_role("anna", Role.OPERATOR)
    assert People(tmp_path).set_up
    people.add("otto", Role.ADMIN, HASH)
    people.remove("anna")
    assert [user.name for user in people.users] == ["otto"]


def test_names_are_there_once_and_what_is_gone_is_told(tmp_path: Path) -> None:
    """Twice the same is refused; so is changing what another has removed."""
    people = People(tmp_path)
    people.add_first("anna", HASH)
    with pytest.raises(NotAllowed, match="already"):
        people.add("anna", Role.VIEWER, HASH)
    people.add_token("t", Role.VIEWER, 1)
    with pytest.raises(NotAllowed, match="already"):
        people.add_token("t", Role.VIEWER, 1)
    with pytest.raises(NotAllowed, match="any more"):
        people.remove("otto")
    with pytest.raises(NotAllowed, match="any more"):
        people.change_role("otto", Role.VIEWER)
    with pytest.raises(NotAllowed, match="any more"):
        people.change_password("otto", HASH)
    with pytest.raises(NotAllowed, match="any more"):
        people.remove_token("otto")


def test_there_is_an_end_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many and no more; the most of them fit into the file."""
    monkeypatch.setattr(module, "MOST", 2)
    people = People(tmp_path)
    for name in ("anna", "otto"):
        people.add(name, Role.ADMIN, HASH)
        people.add_token(name, Role.VIEWER, 1)
    with pytest.raises(NotAllowed, match="the most"):
        people.add("eve", Role.VIEWER, HASH)
    with pytest.raises(NotAllowed, match="the most"):
        people.add_token("eve", Role.VIEWER, 1)
    row = len(
        json.dumps({"name": "a" * 64, "role": "operator", "hash": PasswordHasher().hash("x"), "id": "0" * 16}, indent=2)
    )
    assert 2 * 1_000 * (row + 50) < module.FILE_LIMIT


def test_passwords_are_hashed_with_the_defaults_of_argon2id(tmp_path: Path) -> None:
    """64 MiB and three passes, as its authors recommend; the same letters are the same from every keyboard."""
    passwords = Passwords()
    made = passwords.hash("geh\u00f6rt niemandem")
    assert made.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    people = People(tmp_path)
    people.add_first("anna", made)
    user = people.user("anna")
    assert passwords.check("geho\u0308rt niemandem", user)
    assert not passwords.check("gehort niemandem", user)


def test_an_unknown_user_costs_as_much_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody learns from the time that it takes who is a user: there is a hash to compare with in any case."""
    verified: list[str] = []

    class Noted(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override] # noqa: A002
            verified.append(str(password))
            return super().verify(hash, password)

    passwords = Passwords(Noted(1, 8, 1))
    assert not passwords.check("whatever it may be", None)
    assert verified == ["whatever it may be"]


@pytest.mark.parametrize("password", ["", "x" * 11, "x" * 257])
def test_a_password_that_is_too_short_or_too_long_is_refused(password: str) -> None:
    """Twelve characters at least; and an end, so that nobody sends a book to be hashed."""
    with pytest.raises(NotAllowed, match="12 to 256 characters"):
        Passwords(PasswordHasher(1, 8, 1)).hash(password)


def test_each_role_may_what_those_before_it_may() -> None:
    """Viewer, operator, admin; none more than that."""
    assert [[has.covers(needed) for needed in Role] for has in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
