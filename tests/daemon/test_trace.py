"""What `debug` adds to the log."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cmserverd.logs import Level
from cmserverd.trace import trace
from protocol import messages as m
from protocol.errors import LicenseError
from tests.daemon.harness import Caller, Daemon, Talk, access, charts, ending, hello, make_service


def test_each_passage_is_a_line() -> None:
    """Position, session, method, kinds of changes, the number of a refusal; nothing that a client says of itself."""
    service = make_service(charts(quantity=1))
    service.engine.listen(trace)
    before = service.engine.position
    with capture_logs() as said:
        talk = Talk(service, greeting=hello(application="secret"))
        handle = talk.ask(access()).handle
        with pytest.raises(LicenseError):
            Talk(service, greeting=hello(2)).ask(access())
        talk.ask(m.Release(handle))
        talk.cut()
    assert [list(line.values()) for line in said] == [
        [before + 1, 0, None, ["Opened"], None, "passage", "debug"],
        [before + 2, 1, "access", ["Allocated"], None, "passage", "debug"],
        [before + 3, 0, None, ["Opened"], None, "passage", "debug"],
        [before + 4, 2, "access", [], 212, "passage", "debug"],
        [before + 5, 1, "release", ["Freed"], None, "passage", "debug"],
        [before + 6, 1, None, ["Detached"], None, "passage", "debug"],
    ]


@pytest.mark.parametrize("level", ["debug", "info"])
def test_the_daemon_logs_passages_at_debug_only(level: Level, tmp_path: Path) -> None:
    """The first level shows them, the next one does not."""
    daemon = Daemon(tmp_path, level=level)
    with ending(daemon):
        daemon.serve()
        daemon.said("container plugged in")
        with Caller(daemon.address) as caller:
            caller.ask(hello())
            caller.ask(access())
        daemon.stop()
    methods = [line["method"] for line in daemon.all_said("passage")]
    assert ("access" in methods) is (level == "debug")
    assert bool(methods) is (level == "debug")
