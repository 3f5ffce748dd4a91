"""`docs/classic.md` says what the code does: its example runs, and it names every call and every option."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from protocol import classic
from protocol.classic import info
from tests.daemon.harness import Daemon, ending

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "classic.md").read_text(encoding="utf-8")


def test_the_example(tmp_path: Path) -> None:
    """It gets its license and says how many are left; where there is none it says why."""
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(example.strip().splitlines()) <= 10
    daemon = Daemon(tmp_path)
    with ending(daemon):
        daemon.serve().said("container plugged in")
        environment = {**os.environ, "CMSERVERD_SERVER": "{}:{}".format(*daemon.address)}
        for program, said in (
            (example, "licensed; 1 of 2 are free\n"),
            (example.replace("14", "13"), "no license: There is no such license on this server, Error 200.\n"),
        ):
            done = subprocess.run(
                [sys.executable, "-c", program],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
                cwd=ROOT,
            )
            assert (done.stdout, done.stderr) == (said, "")


def test_every_call_and_option_has_its_row() -> None:
    """None is forgotten, and the page promises none that is not there."""
    calls = {name for name in vars(classic) if re.fullmatch(r"Cm[A-Z]\w+", name)}
    assert set(re.findall(r"\bCm[A-Z][A-Za-z0-9]+(?=\()", PAGE)) == calls
    options = {info._NAMES[number] for number in info._BRANCHES}
    section = PAGE.split("## `CmGetInfo`")[1].split("All others are refused")[0]
    assert set(re.findall(r"CM_GEI_\w+", section)) == options
