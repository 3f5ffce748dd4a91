"""A disk that notes all that is written to it, so that each state can be made in which a crash may leave it.

A killed process leaves all it has written. After a power cut there is what was synced, and of what was written since
any part: none of it, all but half of the last write, or some of it in no order.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import apsw


class Left(Enum):
    """What a crash leaves of what was written and not synced."""

    KEPT = "kept"
    LOST = "lost"
    TORN = "torn"
    MIXED = "mixed"


@dataclass(frozen=True)
class Step:
    """Something that was done to a file: `octets` written at `offset`, cut off there, synced, or deleted."""

    kind: str
    name: str
    offset: int = 0
    octets: bytes = b""


class Disk(apsw.VFS):
    """SQLite's own, as the default one while this is in use, with a note of each step.

    A step of the kind `broken` is done, and then fails: nobody knows how much of it has arrived.
    """

    def __init__(self) -> None:
        self.broken = ""
        self.steps: list[Step] = []
        self.plain = apsw.vfs_names()[0]
        super().__init__("noted", self.plain, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file whose steps are noted."""
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Delete a file."""
        super().xDelete(filename, syncdir)
        self.note(Step("delete", Path(filename).name))

    def note(self, step: Step) -> None:
        """Note what was done. Raises apsw.IOError."""
        self.steps.append(step)
        if step.kind == self.broken:
            raise apsw.IOError


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._note = disk.note
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = Path(path or "temporary").name
        super().__init__(disk.plain, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._note(Step("write", self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._note(Step("truncate", self._name, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._note(Step("sync", self._name))


@contextmanager
def noting() -> Iterator[Disk]:
    """Note what is done to files meanwhile. Each is used by one connection alone, for the log's index is not noted."""
    disk = Disk()
    apsw.connection_hooks.append(_alone)
    try:
        yield disk
    finally:
        apsw.connection_hooks.remove(_alone)
        disk.unregister()


def _alone(db: apsw.Connection) -> None:
    db.pragma("locking_mode", "EXCLUSIVE")


@dataclass
class Remains:
    """What there is on the disk after some steps."""

    synced: dict[str, bytes] = field(default_factory=dict)
    since: dict[str, list[Step]] = field(default_factory=dict)

    def follow(self, step: Step) -> None:
        """Go one step further."""
        if step.kind == "sync":
            self.synced[step.name] = self._content(step.name, Left.KEPT)
            self.since[step.name] = []
        elif step.kind == "delete":
            self.synced.pop(step.name, None)
            self.since.pop(step.name, None)
        else:
            self.since.setdefault(step.name, []).append(step)

    def put(self, directory: Path, left: Left) -> None:
        """Put the files that a crash leaves into an empty directory."""
        for name in self.synced.keys() | self.since.keys():
            (directory / name).write_bytes(self._content(name, left))

    def _content(self, name: str, left: Left) -> bytes:
        steps = self.since.get(name, [])
        if left is Left.LOST:
            steps = []
        elif left is Left.TORN and steps:
            last = steps[-1]
            steps = [*steps[:-1], Step(last.kind, name, last.offset, last.octets[: len(last.octets) // 2])]
        elif left is Left.MIXED:
            chance = random.Random(len(steps))
            steps = [step for step in steps if chance.random() < 0.5]
        content = bytearray(self.synced.get(name, b""))
        for step in steps:
            if step.kind == "truncate":
                del content[step.offset :]
            else:
                content.extend(bytes(max(0, step.offset - len(content))))
                content[step.offset : step.offset + len(step.octets)] = step.octets
        return bytes(content)
