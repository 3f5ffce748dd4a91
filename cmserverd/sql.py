"""The tables of the journal's file, and the statements that alter them, in SQLite's SQL. `cmserverd.store` says why."""

from __future__ import annotations

from typing import Final

SCHEMA: Final = """
CREATE TABLE history (position INTEGER PRIMARY KEY, time INTEGER NOT NULL, entries BLOB NOT NULL, chain BLOB NOT NULL)
STRICT;
CREATE TABLE base (generation INTEGER, number INTEGER, changes BLOB NOT NULL, PRIMARY KEY (generation, number)) STRICT;
CREATE TABLE segment (
  generation INTEGER PRIMARY KEY, position INTEGER NOT NULL, time INTEGER NOT NULL, chain BLOB NOT NULL,
  digest BLOB NOT NULL
) STRICT;
CREATE TABLE clock (
  only INTEGER PRIMARY KEY CHECK (only = 1), position INTEGER NOT NULL, time INTEGER NOT NULL, ahead INTEGER NOT NULL,
  digest BLOB NOT NULL
) STRICT;
"""

ROLLUP_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS usage (
  generation INTEGER, number INTEGER, part BLOB NOT NULL, PRIMARY KEY (generation, number)
) STRICT;
CREATE TABLE IF NOT EXISTS rollup (
  only INTEGER PRIMARY KEY CHECK (only = 1), generation INTEGER NOT NULL, position INTEGER NOT NULL,
  time INTEGER NOT NULL, hour INTEGER NOT NULL, day INTEGER NOT NULL, month INTEGER NOT NULL, digest BLOB NOT NULL
) STRICT;
"""

LOOSE_BASES: Final = (
    "base WHERE rowid IN (SELECT rowid FROM base WHERE generation NOT IN (SELECT generation FROM segment) LIMIT 16)"
)
LOOSE_HISTORY: Final = (
    "history WHERE position IN (SELECT position FROM history WHERE position <= (SELECT min(position) FROM segment) "
    "ORDER BY position LIMIT 100)"
)
LOOSE_USAGE: Final = (
    "usage WHERE rowid IN (SELECT rowid FROM usage WHERE generation NOT IN (SELECT generation FROM rollup) LIMIT 16)"
)
INSERT: Final = "INSERT INTO history VALUES (?, ?, ?, ?)"
SET_CLOCK: Final = "UPDATE clock SET position = ?, time = ?, ahead = ?, digest = ?"
LINKS: Final = "SELECT chain FROM history WHERE position = ? UNION ALL SELECT chain FROM segment WHERE position = ?"
BEGIN: Final = """INSERT INTO segment SELECT ?, ?, ?, ?, ?
WHERE ? = (SELECT max(generation) FROM segment) AND ? = (SELECT count(*) FROM base WHERE generation = ?)"""
ROLL_UP: Final = """INSERT OR REPLACE INTO rollup SELECT 1, ?, ?, ?, ?, ?, ?, ?
WHERE ? = (SELECT min(generation) FROM segment) AND ? = (SELECT count(*) FROM usage WHERE generation = ?)"""
