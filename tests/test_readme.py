"""The README's examples do what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cmserverd.config import load
from drivers import description, registry
from drivers.container import ContainerKind
from tests.daemon.harness import LIMIT, Daemon, ending
from tests.network.desk import until

ROOT = Path(__file__).resolve().parent.parent


def example(language: str) -> str:
    """Return the README's one example in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.mark.parametrize(
    ("quantity", "said", "drawn"), [(2, "licensed, handle 1", ["a map", "another"]), (0, "no license: ", [])]
)
def test_the_licensed_application(tmp_path: Path, quantity: int, said: str, drawn: list[str]) -> None:
    """It gets its license from a server and works with it; without one it is told why.

    Quantity 0 is for the server's own machine, and this test says that it is another one.
    """
    dongle = f'id = "3-1"\n[[firm_items]]\nfirm_code = 600010\n[[firm_items.products]]\nitem = 1\nproduct_code = 14\n\
quantity = {quantity}\n'
    daemon = Daemon(tmp_path, dongle=dongle)
    with ending(daemon):
        daemon.serve().said("container plugged in")
        host, port = daemon.address
        environment = {**os.environ, "CMSERVERD_SERVER": f"{host}:{port}", "CMSERVERD_STATION": "another-machine"}
        command = [sys.executable, "-c", example("python")]
        typed = "a map\nanother\n\n"
        done = subprocess.run(
            command,
            env=environment,
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=ROOT,
        )
        assert done.stdout.startswith(said)
        assert re.findall(r"drawing (.*)", done.stdout) == drawn
        assert done.stderr == ""


def connections(port: int) -> list[str]:
    """Return the connections to a port whose near end is open, as the system lists them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return [row[1] for row in rows if row[2].endswith(f":{port:04X}") and row[3] in ("01", "08")]


def test_the_licensed_application_rides_out_a_restart(tmp_path: Path) -> None:
    """Its user goes on working while the server is killed and started again."""
    daemon = Daemon(tmp_path)
    with ending(daemon):
        daemon.serve().said("container plugged in")
        host, port = daemon.address
        environment = {**os.environ, "CMSERVERD_SERVER": f"{host}:{port}", "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            [sys.executable, "-c", example("python")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as application:
            assert application.stdin is not None
            assert application.stdout is not None
            assert application.stdout.readline().startswith("licensed, handle 1")
            daemon.kill()
            until(lambda: not connections(port))  # the application has noticed
            application.stdin.write("a map\n")
            application.stdin.flush()
            again = Daemon(tmp_path, listen=f"{host}:{port}")
            with ending(again):
                again.serve()
                assert application.stdout.readline().endswith("drawing a map\n")
                application.stdin.write("\n")
                application.stdin.close()
                assert application.stdout.read() == "a chart to draw, or Enter to end: "
                assert application.wait(LIMIT) == 0


def test_a_wrong_setting_is_told_by_the_licensed_application() -> None:
    """Its user reads where the mistake is, and no traceback."""
    environment = {**os.environ, "CMSERVERD_SERVER": "no host"}
    command = [sys.executable, "-c", example("python")]
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.startswith("no license: the variable CMSERVERD_SERVER: 'no host' names no host; write ")
    assert done.stderr == ""


def test_the_configuration(tmp_path: Path) -> None:
    """It is a valid one."""
    path = tmp_path / "cmserverd.toml"
    path.write_text(example("toml"))
    config = load(path, lambda name: registry.load(name).Options)
    assert set(config.drivers) == {"usb", "virtual"}
    assert config.server.addresses == (("0.0.0.0", 22350), ("::", 22350))


def test_the_container_for_trials() -> None:
    """The file that it names describes what its program asks for, and its configuration believes it."""
    octets = (ROOT / "examples" / "trial.toml").read_bytes()
    (container,) = description.parse(octets, "trial.toml", ContainerKind.VIRTUAL)
    (firm_item,) = container.firm_items
    assert (firm_item.firm_code, [item.product_code for item in firm_item.products]) == (600010, [14])


def test_the_pages_that_it_names_are_there() -> None:
    """No link leads nowhere."""
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
