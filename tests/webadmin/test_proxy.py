"""WebAdmin behind nginx, as `docs/operating.md` shows it: over TLS, whose tries count for whom, pages kept up to date.

Visitors come from addresses of loopback; nginx has 127.0.0.1 for WebAdmin.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from cmserverd.webadmin.certificates import self_made
from cmserverd.webadmin.logins import PER_ADDRESS
from tests.daemon.harness import LIMIT, Daemon, ending
from tests.webadmin.conftest import PASSWORD, hidden_fields
from tests.webadmin.test_main import SECTION, running, set_up

PAGE = Path(__file__).parent.parent.parent / "docs" / "operating.md"

AROUND = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {server}
}}
"""


def free_port() -> int:
    """Return a port of loopback that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def nginx(directory: Path, webadmin: str, certificate: Path) -> Iterator[str]:
    """Run nginx by the example of the page, in front of WebAdmin; give its address."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    (example,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    port = free_port()
    replaced = {
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "/etc/nginx/licenses.pem": os.fspath(certificate),
        "/etc/nginx/licenses.key": os.fspath(certificate),
        "http://127.0.0.1:22352": webadmin,
    }
    for text, other in replaced.items():
        assert example.count(text) == 1
        example = example.replace(text, other)
    config = directory / "nginx.conf"
    config.write_text(AROUND.format(directory=directory, server=example))
    command = [program, "-p", os.fspath(directory), "-c", os.fspath(config)]
    process = subprocess.Popen([*command, "-e", "stderr"])
    try:
        retries = httpx2.HTTPTransport(verify=ssl.create_default_context(cafile=certificate), retries=10)
        with httpx2.Client(transport=retries, timeout=LIMIT) as client:
            assert client.get(f"https://localhost:{port}/health/alive").status_code == 200
        yield f"https://localhost:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT)


@contextmanager
def visitor(home: str, certificate: Path, address: str) -> Iterator[httpx2.Client]:
    """Give the browser of somebody at an address."""
    context = ssl.create_default_context(cafile=certificate)
    transport = httpx2.HTTPTransport(verify=context, local_address=address)
    with httpx2.Client(transport=transport, base_url=home, timeout=LIMIT, headers={"Origin": home}) as client:
        yield client


def log_in(client: httpx2.Client, password: str, **headers: str) -> httpx2.Response:
    """Log anna in."""
    hidden = hidden_fields(client.get("/login").text)
    return client.post("/login", data={**hidden, "user": "anna", "password": password}, headers=headers)


def test_behind_nginx_each_visitor_is_himself(tmp_path: Path) -> None:
    """One who fails, and says that he is always somebody else, locks out himself only; cookies are for HTTPS."""
    certificate = self_made(tmp_path, ["localhost"], datetime.now(UTC))
    daemon = Daemon(tmp_path, config=SECTION + 'proxies = ["127.0.0.1"]\n')
    with ending(daemon), running(daemon.serve().config) as process:
        (webadmin,) = process.said("serving")["addresses"]
        link = process.said("nobody can log in yet")["link"].removeprefix(webadmin)
        with nginx(tmp_path, webadmin, certificate) as home:
            with visitor(home, certificate, "127.0.0.3") as anna:
                assert set_up(anna, f"{home}{link}").status_code == 303
                assert anna.get("/").status_code == 200
            with visitor(home, certificate, "127.0.0.2") as eve:
                for number in range(PER_ADDRESS):
                    forged = {"X-Forwarded-For": f"198.51.100.{number}", "Forwarded": f"for=198.51.100.{number}"}
                    assert log_in(eve, "wrong horse battery", **forged).status_code == 403
                assert log_in(eve, PASSWORD).status_code == 429
            with visitor(home, certificate, "127.0.0.4") as anna:
                answer = log_in(anna, PASSWORD)
                assert answer.status_code == 303
                assert "__Host-cmserverd=" in answer.headers["set-cookie"]
                with anna.stream("GET", "/live?since=0") as stream:
                    assert next(line for line in stream.iter_lines() if line) == "event: change"
        assert process.said("the first administrator was made")["address"] == "127.0.0.3"
        assert process.said("too many failed log-ins")["address"] == "127.0.0.2"
        assert process.said("logged in")["address"] == "127.0.0.4"
        assert process.stop() == os.EX_OK
