"""The command: fuzzes the targets one after the other, each in a process of its own, and keeps what breaks one.

Exit codes: 0 nothing broke, 1 something did, 2 wrong usage, or atheris is missing where it must be there.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
LONGEST = 4096
"""Bytes of an input: what is longer is more of the same."""
MEMORY = 512
"""MiB that a process may take, interpreter and fuzzer included; a few dozen is what they need."""
PATIENCE = 10
"""Seconds after which an input counts as one that hangs a parser."""
LAST = 40
"""Lines of the fuzzer's report that tell what broke; those before are its way there."""
MISSING = "atheris is missing: it has no wheel for this Python or machine, or `make .venv/.installed` was not run"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzzes what reads strangers' bytes.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=8, help="how long for each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="for another way through (default: %(default)s)")
    given = parser.parse_args(arguments)
    if unknown := set(given.targets) - TARGETS.keys():
        parser.error(f"there is no target {min(unknown)!r}; known are {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        _say(MISSING)
        return 2 if "REQUIRE_EVERYTHING" in os.environ else 0
    _say(f"fuzzing with --seed={given.seed}, {given.seconds} s for each target")
    broken = [name for name in given.targets or TARGETS if not _fuzz(name, given.seconds, given.seed)]
    for name in broken:
        _say(f"{name}: broken; what broke it is in {CORPUS / name}, where the tests find it")
    return 1 if broken else 0


def _fuzz(name: str, seconds: int, seed: int) -> bool:
    """Fuzz one target; return whether nothing broke it."""
    kept = CORPUS / name
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        for number, octets in enumerate(seeds()[name]):
            (Path(scratch) / f"seed-{number}").write_bytes(octets)
        command = [sys.executable, "-m", "tests.fuzz.loop", name, scratch, os.fspath(kept)]
        command += [f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={LONGEST}", f"-timeout={PATIENCE}"]
        command += [f"-rss_limit_mb={MEMORY}", f"-artifact_prefix={kept}/", "-print_final_stats=1"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    runs = [line.split()[-1] for line in done.stdout.splitlines() if "number_of_executed_units" in line]
    _say(f"{name}: {runs[0] if runs else 'no'} inputs")
    if done.returncode:
        _say("\n".join(done.stdout.splitlines()[-LAST:]))
    return done.returncode == 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
