"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Final

import cmserverd
from bench.processes import generator_core, server_core

_LIBRARIES: Final = ("trio", "msgpack", "msgspec")


def description(load_before: float) -> str:
    """Return the machine and the software in a few lines, and what else ran: the load before the run and now."""
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    software = [f"cmserverd {cmserverd.__version__}", f"{platform.python_implementation()} {platform.python_version()}"]
    software += [f"{name} {version(name)}" for name in _LIBRARIES]
    return "\n".join(
        (
            f"- {_processor()}, {len(os.sched_getaffinity(0))} cores, {gigabytes:.0f} GiB; {_pinning()}",
            f"- {platform.system()} {platform.release()}, load {load_before:.2f} before and {load():.2f} after the run",
            f"- {', '.join(software)}",
        )
    )


def load() -> float:
    """Return how many processes wanted to run in the last minute."""
    return os.getloadavg()[0]


def _pinning() -> str:
    if server_core() == generator_core():
        return "server and generator share the one core, so the wire figures are too low"
    return f"server on core {server_core()}, generator on core {generator_core()}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
