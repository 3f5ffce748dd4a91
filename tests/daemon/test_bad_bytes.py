"""What a conversation does with any bytes at all, without I/O."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cmserverd.clock import LicenseClock
from cmserverd.core.terms import SessionState
from protocol import messages as m
from protocol import rpc
from protocol.terms import AccessMode, HandleKind
from tests.daemon.harness import (
    CHARTS,
    FIRM,
    REMOTE,
    Talk,
    access,
    charts,
    hello,
    local_charts,
    make_service,
    request,
)

DEADLY = {
    "garbage": b"\xc1\xc1\xc1\xc1",
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: licenses\r\n\r\n",
    "a TLS hello": bytes.fromhex("160301020001000001fc0303"),
    "a number": b"\x2a",
    "a text": b"\xa5hello",
    "nil": b"\xc0",
    "a map": b"\x81\xa1x\x01",
    "an empty array": b"\x90",
    "an array of two": b"\x92\x00\x01",
    "an unknown kind": b"\x94\x03\x01\xa1x\x90",
    "a response": msgpack.packb([1, 1, None, {}]),
    "a number that is no u32": request(2**32, "keep_alive", {}),
    "a negative number": request(-1, "keep_alive", {}),
    "a number that is a bool": request(True, "keep_alive", {}),
    "a number that is a text": request("1", "keep_alive", {}),
    "a method that is no text": request(1, 7, {}),
    "nested 10,000 deep": b"\x91" * 10_000 + b"\xc0",
    "maps nested 10,000 deep": b"\x81\xa0" * 10_000 + b"\xc0",
    "a frame longer than any may be": request(1, "keep_alive", {"x": ["x" * 1000] * 20}),
}


@pytest.mark.parametrize("greeted", [False, True])
@pytest.mark.parametrize("data", DEADLY.values(), ids=DEADLY)
def test_what_is_no_message_ends_the_connection(data: bytes, greeted: bool) -> None:
    """A goodbye with 105 says why, the log has a line, and the session is detached as after any cut."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello() if greeted else None)
    with capture_logs() as said:
        talk.send(data)
    assert talk.conversation.over
    assert talk.inbox.farewell is not None
    assert talk.inbox.farewell.number == 105
    (line,) = said
    assert line["log_level"] == "info"
    assert line["address"] == REMOTE.address
    talk.cut()
    assert {session.state for session in service.engine.table.sessions.values()} <= {SessionState.CLOSED}


@pytest.mark.parametrize(
    "header", ["dd7fffffff", "ddffffffff", "dfffffffff", "dbffffffff", "c6ffffffff", "c9ffffffff01"]
)
def test_four_gigabytes_that_are_only_announced_are_waited_for_up_to_the_limit(header: str) -> None:
    """Before the greeting a peer may send 4 KiB, and not a byte more, whatever it says will come."""
    talk = Talk(make_service())
    talk.send(bytes.fromhex(header))
    sent = len(header) // 2
    while not talk.conversation.over and sent < 100_000:
        talk.send(b"\x00" * 512)
        sent += 512
    assert sent <= rpc.BEFORE_GREETING.total + 512
    assert talk.inbox.farewell is not None


def test_a_notification_of_a_client_is_passed_over() -> None:
    """It asks for no answer and gets none."""
    talk = Talk(make_service(), greeting=hello())
    talk.inbox.order.clear()
    talk.send(msgpack.packb([2, "anything", [{}]]))
    assert talk.inbox.order == []
    talk.ask(m.KeepAlive())


def test_a_message_may_be_cut_after_each_of_its_bytes() -> None:
    """Whatever the place, the rest completes it; and if it never comes, nothing has happened."""
    whole = rpc.encode_request(1, hello())
    for place in range(len(whole)):
        service = make_service()
        talk = Talk(service)
        talk.send(whole[:place])
        assert talk.inbox.order == []
        assert not service.engine.table.sessions
        talk.send(whole[place:])
        assert talk.inbox.take(1, hello()).session == 1
    for place in range(1, len(whole)):
        service = make_service()
        talk = Talk(service)
        talk.send(whole[:place])
        talk.cut()
        assert not service.engine.table.sessions
        assert not service.conversations


def test_bytes_may_come_one_at_a_time() -> None:
    """A whole talk, byte by byte, is answered as one that comes in one piece."""
    talk = Talk(make_service(charts()))
    asked = [hello(), access(), m.Info(1), m.NetCluster(), m.Release(1), m.Goodbye()]
    for number, params in enumerate(asked, start=1):
        for byte in rpc.encode_request(number, params):
            talk.send(bytes([byte]))
    for number, params in enumerate(asked, start=1):
        talk.inbox.take(number, params)
    assert talk.conversation.over


def test_what_strangers_do_does_not_flood_the_log() -> None:
    """Of many violations in a minute some are logged; the first one after it says how many were not."""
    now = [1_000_000.0]
    service = make_service(clock=LicenseClock(system=lambda: now[0], boot=lambda: now[0]))
    with capture_logs() as said:
        for _ in range(1000):
            Talk(service).send(b"\xc1")
        assert 0 < len(said) <= 20
        shown = len(said)
        now[0] += 61
        Talk(service).send(b"\xc1")
    assert said[-1]["left_out"] == 1000 - shown


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.sampled_from(["3-1", "0-0-0", FIRM, CHARTS, 1, *AccessMode, *HandleKind, "push", "poll", b"k" * 16, "0" * 32]),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4),
    max_leaves=8,
)
ACCEPTABLE = {0, 100, 105, 106, 107, 115, 125, 129, 200, 201, 212, 213, 223, 230, 304}


def fields_of(kind: type[m.Params]) -> st.SearchStrategy[dict[str, Any]]:
    """Return parameters with the method's own field names and anything as values, and sometimes other fields."""
    names = st.text(max_size=8)
    if kind.__struct_fields__:
        names |= st.sampled_from(kind.__struct_fields__)
    return st.dictionaries(names, VALUES, max_size=8)


REQUESTS = st.sampled_from(sorted(m.METHODS)).flatmap(
    lambda method: st.tuples(st.just(method), fields_of(m.METHODS[method]))
)


@given(asked=st.lists(REQUESTS, min_size=1, max_size=8), greeted=st.booleans())
def test_any_parameters_are_answered(asked: list[tuple[str, dict[str, Any]]], greeted: bool) -> None:
    """Whatever the fields' types and values: an answer from the table of errors, and the counts stay right."""
    service = make_service(charts(), local_charts())
    talk = Talk(service, greeting=hello() if greeted else None)
    for number, (method, fields) in enumerate(asked, start=100):
        before = talk.conversation.over
        talk.send(request(number, method, fields))
        if before or talk.conversation.waiting is not None:
            break
        if reply := talk.inbox.replies.get(number):
            assert (reply.error["number"] if isinstance(reply.error, dict) else 0) in ACCEPTABLE
        else:
            assert talk.inbox.farewell is not None
    table = service.engine.table
    assert sum(counted.used for counted in table.licenses.values()) <= 2
    talk.cut()
    for session in list(table.sessions.values()):
        service.closed(session)
    assert not table.accesses
    assert all(counted.used == 0 for counted in table.licenses.values())


@given(data=st.binary(max_size=600), cut=st.integers(0, 600), greeted=st.booleans())
def test_any_bytes_are_survived(data: bytes, cut: int, greeted: bool) -> None:
    """They are answered, waited for or the end of the connection; never an exception."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello() if greeted else None)
    talk.send(data[:cut])
    talk.send(data[cut:])
    assert talk.conversation.over == (talk.inbox.farewell is not None)
    talk.cut()
    assert not service.conversations
