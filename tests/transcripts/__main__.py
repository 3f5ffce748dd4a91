"""`python -m tests.transcripts` writes the transcript of this version."""

from __future__ import annotations

import sys

from cmserverd import __version__
from tests.transcripts.script import play
from tests.transcripts.stage import HERE, written

path = HERE / f"{__version__}.txt"
try:
    with path.open("x", encoding="utf-8") as file:
        file.write(written(play()))
except FileExistsError:
    sys.exit(f"{path.name} is there, and what was released is not changed; if it is not released yet, remove it first")
