"""One target under atheris, with libFuzzer's own arguments: `python -m tests.fuzz.loop image -runs=1000 DIRECTORY`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["drivers", "protocol"]):
    from tests.fuzz.targets import TARGETS


def main(name: str, arguments: list[str]) -> None:
    """Run it; does not return."""
    target = TARGETS[name]

    def run(octets: bytes) -> None:
        target(octets)

    # By its first argument libFuzzer starts itself again, through a shell, when it merges.
    atheris.Setup([f"{sys.executable} -m tests.fuzz.loop {name}", *arguments], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
