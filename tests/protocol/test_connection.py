"""The client's connection without I/O: states, limits, matching, and whose fault an error is."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from protocol import messages as m
from protocol import rpc
from protocol.connection import ClientConnection, Received, Reply, State
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError, RemoteProtocolError
from tests.protocol.cases import ENDED, ERROR, GREETING, KEY, NOTIFICATIONS, REQUESTS, RESULTS, TOKEN

HELLO = REQUESTS[0][0]


def greeted(greeting: m.Greeting = GREETING) -> ClientConnection:
    """Return a connection that has been greeted."""
    connection = ClientConnection()
    msgid, _ = connection.request(HELLO)
    assert list(connection.receive(rpc.encode_result(msgid, greeting))) == [Reply(msgid, HELLO, greeting)]
    return connection


def wire(*plain: object) -> bytes:
    """Return the bytes of plain messages."""
    return b"".join(msgpack.packb(message) for message in plain)


@pytest.mark.parametrize(("params", "plain"), REQUESTS[3:], ids=lambda value: getattr(value, "method", ""))
def test_request_and_reply(params: m.Params, plain: dict[str, object]) -> None:
    """Each request becomes its bytes, and each result its class, found by the request's number."""
    connection = greeted()
    msgid, data = connection.request(params)
    assert msgpack.unpackb(data) == [0, msgid, params.method, [plain]]
    result = next(result for result, _ in RESULTS if type(result) is m.RESULTS[type(params)])
    assert list(connection.receive(rpc.encode_result(msgid, result))) == [Reply(msgid, params, result)]
    assert connection.outstanding == 0


def test_replies_are_matched_by_number() -> None:
    """Replies may come in another order: `events` that waits is answered later than what was asked after it."""
    connection = greeted()
    first, _ = connection.request(m.Events(60))
    second, _ = connection.request(m.KeepAlive())
    data = rpc.encode_result(second, m.Time(1)) + rpc.encode_result(first, m.EventList(()))
    received = list(connection.receive(data))
    assert received == [Reply(second, m.KeepAlive(), m.Time(1)), Reply(first, m.Events(60), m.EventList(()))]


def test_a_refusal_is_a_value() -> None:
    """An error becomes a LicenseError with number, name, text, reasons and cause."""
    connection = greeted()
    msgid, _ = connection.request(m.Access(m.AccessKey(KEY), 600010, 14))
    (reply,) = connection.receive(rpc.encode_error(msgid, ERROR))
    assert isinstance(reply, Reply)
    error = reply.outcome
    assert isinstance(error, LicenseError)
    assert (error.number, error.name, error.reasons) == (
        ErrorNumber.NO_MORE_LICENSES,
        "NO_MORE_LICENSES",
        ERROR.reasons,
    )
    assert str(error) == "All licenses are in use, Error 212."
    assert LicenseError(ENDED).cause == m.EndCause.ADMINISTRATOR


def test_an_unknown_error_number_survives() -> None:
    """A newer server's number, name and cause arrive as they were sent."""
    connection = greeted()
    msgid, _ = connection.request(m.KeepAlive())
    (reply,) = connection.receive(
        wire([1, msgid, {"number": 4711, "name": "NEW", "text": "", "cause": "magic", "later": 1}, None])
    )
    assert isinstance(reply, Reply)
    assert isinstance(reply.outcome, LicenseError)
    assert (reply.outcome.number, reply.outcome.name, reply.outcome.cause) == (4711, "NEW", "magic")
    assert str(reply.outcome) == "Error 4711."


def test_only_greetings_before_the_greeting() -> None:
    """Before the greeting nothing but hello and resume may be sent, and not both."""
    connection = ClientConnection()
    with pytest.raises(LocalProtocolError, match="'keep_alive' cannot be sent: the connection is ungreeted"):
        connection.request(m.KeepAlive())
    connection.request(HELLO)
    with pytest.raises(LocalProtocolError, match="'resume' cannot be sent: the connection is greeting"):
        connection.request(m.Resume((1, 1), TOKEN))
    with pytest.raises(LocalProtocolError, match="'access' cannot be sent"):
        connection.request(m.Access(m.AccessKey(KEY)))


def test_a_second_hello_is_our_fault() -> None:
    """A greeted connection is greeted once."""
    with pytest.raises(LocalProtocolError, match="'hello' cannot be sent: the connection is open"):
        greeted().request(HELLO)


def test_a_refused_greeting_can_be_tried_again() -> None:
    """After a refusal the connection is ungreeted again."""
    connection = ClientConnection()
    msgid, _ = connection.request(m.Resume((1, 1), TOKEN))
    list(connection.receive(rpc.encode_error(msgid, ENDED)))
    with pytest.raises(LocalProtocolError, match="the connection is ungreeted"):
        connection.request(m.KeepAlive())
    msgid, _ = connection.request(HELLO)
    list(connection.receive(rpc.encode_result(msgid, GREETING)))
    assert connection.state is State.OPEN


def test_nothing_after_goodbye() -> None:
    """After goodbye answers still come, and nothing more is asked."""
    connection = greeted()
    first, _ = connection.request(m.KeepAlive())
    last, _ = connection.request(m.Goodbye())
    with pytest.raises(LocalProtocolError, match="the connection is leaving"):
        connection.request(m.KeepAlive())
    data = rpc.encode_result(first, m.Time(1)) + rpc.encode_result(last, m.Done())
    assert [type(received.outcome) for received in connection.receive(data) if isinstance(received, Reply)] == [
        m.Time,
        m.Done,
    ]


def test_at_most_64_outstanding() -> None:
    """The 65th unanswered request is not sent; an answer makes room for one."""
    connection = greeted()
    asked = [connection.request(m.KeepAlive())[0] for _ in range(64)]
    assert len(set(asked)) == 64
    assert not connection.has_room
    with pytest.raises(LocalProtocolError, match="64 requests are unanswered"):
        connection.request(m.KeepAlive())
    list(connection.receive(rpc.encode_result(asked[40], m.Time(1))))
    assert connection.has_room
    connection.request(m.KeepAlive())
    assert not connection.has_room


def test_the_server_may_allow_fewer_but_not_more() -> None:
    """The greeting's limit counts where it is below ours."""
    few = greeted(structs.replace(GREETING, limits=m.Limits(requests=2, message=16_384, handles=1)))
    few.request(m.KeepAlive())
    few.request(m.KeepAlive())
    assert not few.has_room
    many = greeted(structs.replace(GREETING, limits=m.Limits(requests=1_000, message=16_384, handles=1)))
    for _ in range(64):
        many.request(m.KeepAlive())
    assert not many.has_room


def test_msgids_wrap_around_and_skip_those_in_use() -> None:
    """After 2^32-1 comes 0, and a number that is outstanding is not used again."""
    connection = greeted()
    connection._last = 2**32 - 3
    waiting = [connection.request(m.KeepAlive())[0] for _ in range(3)]
    assert waiting == [2**32 - 2, 2**32 - 1, 0]
    connection._last = 2**32 - 3
    assert connection.request(m.KeepAlive())[0] == 1


def test_a_request_longer_than_the_server_takes() -> None:
    """A message above the greeting's limit is our fault, and is not sent."""
    connection = greeted(structs.replace(GREETING, limits=m.Limits(requests=64, message=30, handles=1)))
    with pytest.raises(LocalProtocolError, match="the server takes 30"):
        connection.request(m.Access(m.AccessKey(KEY), 600010, 14))
    assert connection.outstanding == 0


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_a_value_that_no_message_can_hold(value: int) -> None:
    """An integer beyond 64 bits is our fault; the connection goes on."""
    connection = greeted()
    with pytest.raises(LocalProtocolError, match="no message can hold"):
        connection.request(m.Access(m.AccessKey(KEY), value))
    with pytest.raises(LocalProtocolError, match="no message can hold"):
        connection.request(m.Contents("\ud800"))
    connection.request(m.KeepAlive())


def test_events_and_farewell() -> None:
    """Notifications become values; after the farewell nothing is read."""
    connection = greeted()
    ended, rebooked, farewell = (notification for notification, _ in NOTIFICATIONS)
    data = b"".join(rpc.encode_notification(each.method, each) for each in (rebooked, ended, farewell))
    assert list(connection.receive(data + b"\xc1")) == [rebooked, ended, farewell]
    assert connection.state is State.CLOSED
    assert list(connection.receive(b"\xc1")) == []
    with pytest.raises(LocalProtocolError, match="the connection is closed"):
        connection.request(m.KeepAlive())


def test_what_a_newer_server_may_send_is_ignored() -> None:
    """Unknown notifications, unknown events and unknown fields change nothing."""
    connection = greeted()
    data = wire(
        [2, "weather", [{"rain": True}]],
        [2, "weather", None],
        [2, "event", [{"event": "expires_soon", "position": 4, "days": 3}]],
        [2, "event", [{"event": "ended", "position": 5, "handle": 9, "colour": "red"}]],
    )
    assert list(connection.receive(data)) == [m.Event("ended", 5, 9)]


def test_unknown_events_in_a_list_are_left_out() -> None:
    """A client that polls is spared them as well."""
    connection = greeted()
    msgid, _ = connection.request(m.Events())
    known = {"event": "ended", "position": 5, "handle": 9}
    (reply,) = connection.receive(wire([1, msgid, None, {"events": [{"event": "expires_soon"}, known]}]))
    assert isinstance(reply, Reply)
    assert reply.outcome == m.EventList((m.Event("ended", 5, 9),))


VIOLATIONS: dict[str, tuple[bytes, str]] = {
    "no MessagePack": (b"\xc1", "no MessagePack"),
    "no array": (wire({"a": 1}), "a message must be"),
    "a request": (wire([0, 1, "keep_alive", [{}]]), "it sent a request, 'keep_alive'"),
    "a faulty request": (b"\x94\x00\x07\xa1x\x91\x81\xa1\xff\x01", "not UTF-8"),
    "a reply to nothing": (wire([1, 99, None, {}]), "it answered request 99, which is not outstanding"),
    "a reply twice": (wire([1, 2, None, {"time": 1}], [1, 2, None, {"time": 1}]), "it answered request 2"),
    "no result": (wire([1, 2, None, None]), "Expected `object`, got `null`"),
    "a result without its field": (wire([1, 2, None, {"tide": 1}]), "missing required field `time`"),
    "a result of the wrong type": (wire([1, 2, None, {"time": True}]), "got `bool`"),
    "an error that is no map": (wire([1, 2, 212, None]), "Expected `object`, got `int`"),
    "an error without its number": (wire([1, 2, {"name": "x", "text": "y"}, None]), "missing required field `number`"),
    "an event without a map": (wire([2, "event", []]), "has no map"),
    "an event that is no map": (wire([2, "event", [3]]), "Expected `object`, got `int`"),
    "an event without its name": (wire([2, "event", [{"handle": 9, "position": 1}]]), "missing required field `event`"),
    "an event of a wrong type": (wire([2, "event", [{"event": "ended", "handle": "9", "position": 1}]]), "got `str`"),
    "a goodbye without an error": (wire([2, "goodbye", [{}]]), "missing required field `error`"),
    "a message too long": (b"\xdb" + (2**32 - 1).to_bytes(4, "big") + b"x" * (5 * 1024 * 1024), "longer than 4194304"),
    "control characters": (wire([0, 1, "\x1b[2J\n", []]), "it sent a request"),
}


@pytest.mark.parametrize(("data", "sentence"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_server_that_breaks_the_protocol(data: bytes, sentence: str) -> None:
    """Each violation is the server's fault, in words that can be printed, and the connection stays failed."""
    connection = greeted()
    assert connection.request(m.KeepAlive())[0] == 2
    with pytest.raises(RemoteProtocolError) as failure:
        list(connection.receive(data))
    assert sentence in str(failure.value)
    assert str(failure.value).isprintable()
    assert connection.state is State.FAILED
    with pytest.raises(RemoteProtocolError) as again:
        list(connection.receive(wire([1, 2, None, {"time": 1}])))
    assert str(again.value) == str(failure.value)
    with pytest.raises(LocalProtocolError, match="the connection is failed"):
        connection.request(m.KeepAlive())


@pytest.mark.parametrize(
    "greeting",
    [
        structs.replace(GREETING, version=2),
        structs.replace(GREETING, limits=m.Limits(requests=0, message=16_384, handles=1)),
        structs.replace(GREETING, keep_alive=0.0),
        structs.replace(GREETING, keep_alive=-1.0),
        structs.replace(GREETING, keep_alive=float("nan")),
    ],
    ids=["version", "requests", "keep_alive 0", "keep_alive -1", "keep_alive nan"],
)
def test_an_impossible_greeting(greeting: m.Greeting) -> None:
    """A version that was not offered, and figures that nobody could keep to, are the server's fault."""
    connection = ClientConnection()
    msgid, _ = connection.request(HELLO)
    with pytest.raises(RemoteProtocolError):
        list(connection.receive(rpc.encode_result(msgid, greeting)))


@given(st.data())
def test_cuts_make_no_difference(data: st.DataObject) -> None:
    """However the server's bytes are cut, the same values come, and a violation at the same place."""
    plain = [rpc.encode_notification(each.method, each) for each, _ in NOTIFICATIONS[:2]]
    answers = [rpc.encode_result(2, m.Time(1)), rpc.encode_error(3, ERROR)]
    stream = plain[0] + answers[0] + plain[1] + answers[1] + data.draw(st.sampled_from([b"", b"\xc1", plain[0]]))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))

    def receive_all(pieces: list[bytes]) -> tuple[list[Received], str]:
        connection = greeted()
        connection.request(m.KeepAlive())
        connection.request(m.KeepAlive())
        received: list[Received] = []
        try:
            for piece in pieces:
                received.extend(connection.receive(piece))
        except RemoteProtocolError as error:
            return received, str(error)
        return received, ""

    def seen(pieces: list[bytes]) -> list[object]:
        received, failure = receive_all(pieces)
        return [each.outcome.body if isinstance(each, Reply) and isinstance(each.outcome, LicenseError) else each
                for each in received] + [failure]  # fmt: skip

    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert seen(pieces) == seen([stream])


def test_a_big_piece_at_once() -> None:
    """A caller may hand over more than one chunk."""
    connection = greeted()
    page = m.ContainerList(1, tuple(m.ContainerInfo(f"3-{n}", "virtual", "x" * 200, True, 1) for n in range(2_000)))
    msgid, _ = connection.request(m.Containers())
    data = rpc.encode_result(msgid, page)
    assert len(data) > 3 * rpc.CHUNK
    (reply,) = connection.receive(data)
    assert isinstance(reply, Reply)
    assert reply.outcome == page
