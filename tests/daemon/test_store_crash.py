"""A crash at every write: whatever it leaves on the disk, the journal is sound, and what was promised is there.

With durability `process` a killed process loses nothing that was acknowledged, and a power cut the last of it at most;
with `power` neither loses anything (decision 19).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import apsw
import pytest

from cmserverd import compaction
from cmserverd.database import FORMAT
from cmserverd.store import Store
from protocol.usage import UsageRow
from tests.core.replay import facts
from tests.daemon.disk import Left, Remains, Step, noting
from tests.daemon.kept import EVENTFUL, FACTS, added_up, of_format_1, replay, usage

LAST = EVENTFUL[-1].position


@dataclass
class Run:
    """A server's run: the steps on the disk, and after how many of them which position was acknowledged."""

    steps: list[Step]
    acknowledged: dict[int, int] = field(default_factory=dict)


def run(directory: Path, *, power: bool) -> Run:
    """Commit an eventful history, with two compactions and checkpoints in it, and stop."""
    with noting() as disk:
        done = Run(disk.steps)
        store = Store(directory / "journal.db", power=power)
        for number, entry in enumerate(EVENTFUL):
            store.append([entry], 0)
            done.acknowledged[len(disk.steps)] = entry.position
            if number % 9 == 5:
                store.keep_time(entry.at + 1, 0, 0)
            if number in (12, 30):
                compact(store)
            if number in (8, 14, 25):
                store.checkpoint(0)
        store.close()
    return done


def compact(store: Store) -> None:
    """Compact as the process for that does, which never waits for the disk itself."""
    promised = store._db.pragma("synchronous")
    store._db.pragma("synchronous", "NORMAL")
    compaction.compact(store, most=1)
    store._db.pragma("synchronous", promised)


def opened(directory: Path, run: Run, left: Left) -> list[tuple[int, int]]:
    """Open the file after a crash at each step, and go on with it.

    Return which position was acknowledged, and which was there.
    """
    found = []
    remains = Remains()
    acknowledged = 0
    for count, step in enumerate(run.steps, 1):
        remains.follow(step)
        acknowledged = run.acknowledged.get(count, acknowledged)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        remains.put(directory, left)
        store = Store(directory / "journal.db", power=False)
        assert facts(replay(store)) == FACTS[store.position], f"after step {count}, {step.kind} {step.name}"
        assert usage(store) == expected_usage(store), "what was dropped is told once"
        found.append((acknowledged, store.position))
        go_on(store)
        store._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # nobody needs it any more
        store.close()
    return found


def go_on(store: Store) -> None:
    """Have the rest happen, and compact: all is there, and nothing is left of what the crash cut off."""
    rest = [entry for entry in EVENTFUL if entry.position > store.position]
    if rest:
        store.append(rest, 0)
    compaction.compact(store, most=0)
    assert facts(replay(store)) == FACTS[LAST]
    assert usage(store) == expected_usage(store)
    assert store.position == LAST
    (segment,) = store.segments()
    assert {row[0] for row in store._db.execute("SELECT generation FROM base")} == {segment.generation}
    assert (
        store._db.execute("SELECT count(*) FROM usage WHERE generation NOT IN (SELECT generation FROM rollup)").get == 0
    )
    assert store._db.pragma("integrity_check") == "ok"


def expected_usage(store: Store) -> list[UsageRow]:
    """Return what a store must tell of the usage, up to where it has come."""
    return known_usage(store.position, store.time)


@cache
def known_usage(position: int, time: int) -> list[UsageRow]:
    """Return the usage history of all up to a position, at a time."""
    return added_up([entry for entry in EVENTFUL if entry.position <= position], "hour", time)


@pytest.mark.parametrize("left", Left)
@pytest.mark.parametrize("power", [False, True])
def test_a_crash_at_every_write(tmp_path: Path, left: Left, *, power: bool) -> None:
    """The table is one that was, and no older than what was promised; and the file can be gone on with."""
    done = run(tmp_path, power=power)
    found = opened(tmp_path / "after", done, left)
    if power or left is Left.KEPT:
        assert all(position >= acknowledged for acknowledged, position in found)
    else:
        assert any(position < acknowledged for acknowledged, position in found), "this must be able to fail"
    assert found[-1] == (LAST, LAST)


@pytest.mark.parametrize("left", Left)
def test_a_crash_while_a_file_of_format_1_becomes_one_of_this(tmp_path: Path, left: Left) -> None:
    """It is still one of that, or already one of this: all is in it, and it can be gone on with."""
    path = of_format_1(tmp_path / "journal.db")
    before = path.read_bytes()
    with noting() as disk:
        store = Store(path, power=True)
        expected = facts(replay(store)), usage(store)
        store.checkpoint(0)
        store.close()
    after = tmp_path / "after" / path.name
    remains = Remains({path.name: before})
    formats = set()
    for step in disk.steps:
        remains.follow(step)
        shutil.rmtree(after.parent, ignore_errors=True)
        after.parent.mkdir()
        remains.put(after.parent, left)
        db = apsw.Connection(str(after))
        formats.add(db.pragma("user_version"))
        db.close()
        store = Store(after, power=False)
        assert (facts(replay(store)), usage(store)) == expected
        compaction.compact(store, most=0)
        assert (facts(replay(store)), usage(store)) == expected
        store.close()
    assert formats == {1, FORMAT}, "it has been cut before and after"


def test_the_run_has_everything_in_it(tmp_path: Path) -> None:
    """All kinds of steps, on the file and on its log: else the above would show little."""
    done = run(tmp_path, power=False)
    kinds = {(step.kind, step.name) for step in done.steps}
    assert kinds >= {(kind, name) for kind in ("write", "sync") for name in ("journal.db", "journal.db-wal")}
    assert kinds >= {("truncate", "journal.db"), ("delete", "journal.db-wal")}
    assert len(done.acknowledged) == len(EVENTFUL) > 40
