"""The tool as a process: what shells and scripts see of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "cmserverd.cmboxpgm"]


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tool in a directory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    return subprocess.run(
        [*COMMAND, *arguments], cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_first_steps(tmp_path: Path) -> None:
    """Key, container, ledger, item, listing; exit codes; nothing on standard error, and a text that ASCII lacks."""
    where = ["--file", "box.cmc", "--firm-code", "600010", "--key", "my.key", "--ledger", "ledger.json"]
    for arguments in (
        ["keygen", "--firm-code", "600010", "--key", "my.key"],
        ["create", "--id", "3-1", "--file", "box.cmc"],
        ["enroll", "--file", "box.cmc", "--ledger", "ledger.json"],
        ["item", *where, "--item", "1", "--product-code", "14", "--text", "Übersicht"],
        ["list", "--file", "box.cmc"],
    ):
        done = run(tmp_path, *arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
    document = json.loads(run(tmp_path, "list", "--file", "box.cmc", "--json").stdout)
    assert document["container"]["firm_items"][0]["items"][0]["text"] == "Übersicht"


def test_what_goes_wrong_is_one_line(tmp_path: Path) -> None:
    """And an exit code that tells a slip from a refusal."""
    missing = run(tmp_path, "list", "--file", "box.cmc")
    assert (missing.returncode, missing.stdout, missing.stderr.count("\n")) == (1, "", 1)
    wrong = run(tmp_path, "list", "--fiel", "box.cmc")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)


def test_whoever_reads_may_stop(tmp_path: Path) -> None:
    """A listing into a pipe that nobody reads is no error."""
    run(tmp_path, "create", "--id", "3-1", "--file", "box.cmc")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, "list", "--file", "box.cmc"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
