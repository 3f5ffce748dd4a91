"""`docs/protocol.md` says how a server behaves: the same asked of a server, without I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from cmserverd.conversation import EVENTS
from cmserverd.core.rules import Limits
from cmserverd.core.terms import SessionState
from cmserverd.service import Service
from drivers.container import Container, ContainerKind, FirmItem, ProductItem, QuantityFlag, container_id
from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import AccessMode, HandleKind
from tests.daemon.harness import CHARTS, FIRM, Talk, charts, hello, make_service, number_of, request, wire
from tests.protocol.test_page import PAGE, section

KEY = m.AccessKey(bytes(range(0xA0, 0xB0)))
OTHER_KEY = m.AccessKey(bytes(16))
NO_SUCH_CONTAINER = "9-9"
WITHOUT_REASONS = {105, 107, 200, 201, 231}
"""The numbers that are about no entry."""


def refusal(talk: Talk, params: m.Params[Any]) -> m.ErrorBody:
    """Return the error with which a request is refused."""
    with pytest.raises(LicenseError) as refused:
        talk.ask(params)
    return refused.value.body


# --- why an access is refused -------------------------------------------------------------------------------------


def refusals_in_turn(*, starting: bool) -> Iterator[tuple[int, m.ErrorBody]]:
    """Give the number that the page's order says, and the refusal, of one request after the other.

    From one to the next one more rule is broken, from the page's last rule to its first.
    """
    steps = re.findall(r"^\d\. .+(?:\n   .+)*", section("### Why an access is refused"), re.MULTILINE)
    numbers = [[int(number) for number in re.findall(r"\b(\d{2,3})\b(?:: | \()", step)] for step in steps]
    before, own = [number for step in numbers[:5] for number in step], numbers[5]
    assert (before, own) == ([105, 107, 231, 201, 200, 213], [70, 23, 223, 212])

    denied = QuantityFlag.DENY_USER_LIMIT | QuantityFlag.DENY_EXCLUSIVE
    here = (
        ProductItem(1, 213, flags=QuantityFlag.DENY_EXCLUSIVE),
        ProductItem(2, 23, flags=denied, unusable="it has an option of the future"),
        ProductItem(3, 223, flags=denied),
        ProductItem(4, 29),
        ProductItem(5, 30, feature_map=1),
        ProductItem(6, 212, feature_map=2),
    )
    gone = (ProductItem(1, 70, flags=denied, unusable="it has an option of the future"),)
    service = make_service(
        *(Container(container_id(3, serial), ContainerKind.VIRTUAL, "", (FirmItem(FIRM, "", 0, items),))
          for serial, items in ((1, here), (2, gone))),
        limits=Limits(handles=6),
    )  # fmt: skip
    service.engine.table.starting = starting
    service.engine.unplug(container_id(3, 2))
    other = Talk(service, greeting=hello(2))
    for number, product in enumerate((223, 29, 30, 212)):  # none of them has anything free
        other.ask(m.Access(m.AccessKey(bytes([number] * 16)), FIRM, product, AccessMode.STATION_SHARE))
    talk = Talk(service, greeting=hello())
    talk.ask(m.Access(KEY, FIRM, 213, AccessMode.STATION_SHARE))

    for product in (70, 23, 223, 29, 30, 212):
        yield product, refusal(talk, m.Access(OTHER_KEY, FIRM, product, feature_code=2))
    yield 213, refusal(talk, m.Access(OTHER_KEY, FIRM, 213, AccessMode.EXCLUSIVE, feature_code=2))
    yield 200, refusal(talk, m.Access(OTHER_KEY, FIRM, 213, AccessMode.EXCLUSIVE, feature_code=2, item=99))
    unknown = m.Access(OTHER_KEY, FIRM, 213, AccessMode.EXCLUSIVE, container=NO_SUCH_CONTAINER, item=99)
    yield 201, refusal(talk, unknown)
    instance = talk.ask(m.Access(m.AccessKey(bytes([6] * 16)), FIRM, 213, AccessMode.STATION_SHARE))
    service.engine.deallocate(instance.handle, alone=True, seen=frozenset(), hold_off=60)
    yield 231, refusal(talk, unknown)
    for number in range(1, 6):
        talk.ask(m.Access(m.AccessKey(bytes([number] * 16)), kind=HandleKind.SUBSYSTEM))
    yield 107, refusal(talk, unknown)
    yield 105, refusal(talk, m.Access(KEY, FIRM, 213, AccessMode.EXCLUSIVE, container=NO_SUCH_CONTAINER))


def test_the_order_of_refusals() -> None:
    """Each request is refused with the number of the first rule that it breaks; entries give it as their reason too."""
    for number, error in refusals_in_turn(starting=False):
        assert error.number == number
        assert [reason.number for reason in error.reasons] == ([] if number in WITHOUT_REASONS else [number])


def test_refusals_of_a_starting_server() -> None:
    """It gives the numbers that the page excepts, and 238 in place of all others; the reasons stay what they are."""
    found = re.search(r"answers 238 in place of every number but\s+([\d, ]+ and \d+)\.", PAGE)
    assert found is not None
    excepted = {int(number) for number in re.findall(r"\d+", found[1])}
    assert excepted == {105, 106, 107, 213, 231}
    for number, error in refusals_in_turn(starting=True):
        assert error.number == (number if number in excepted else ErrorNumber.SERVER_STARTING)
        assert [reason.number for reason in error.reasons] == ([] if number in WITHOUT_REASONS else [number])


def test_a_key_of_an_ended_access_while_the_server_is_starting() -> None:
    """The last of the exceptions: what has ended does not come back with a container that may still come."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello())
    talk.ask(m.Access(KEY, FIRM, CHARTS))
    service.engine.remove(container_id(3, 1))
    service.engine.table.starting = True
    assert refusal(talk, m.Access(KEY, FIRM, CHARTS)).number == ErrorNumber.INVALID_HANDLE


@pytest.mark.parametrize("kind", [HandleKind.FIRM_ITEM, HandleKind.CONTAINER])
@pytest.mark.parametrize("starting", [False, True])
def test_refusals_of_other_kinds(kind: HandleKind, starting: bool) -> None:
    """Firm item and container handles: the page's three numbers, and 238 in place of each from a starting server."""
    sentence = r"238\s+in place of ([\d, ]+ and \d+) while the server is starting"
    found = re.search(sentence, section("## What an access means"))
    assert found is not None
    numbers = [int(number) for number in re.findall(r"\d+", found[1])]
    service = make_service(charts())
    service.engine.table.starting = starting
    talk = Talk(service, greeting=hello())
    wrong_firm_code = refusal(talk, m.Access(KEY, 1, kind=kind))
    wrong_container = refusal(talk, m.Access(KEY, FIRM, kind=kind, container=NO_SUCH_CONTAINER))
    service.engine.unplug(container_id(3, 1))
    unplugged = refusal(talk, m.Access(KEY, FIRM, kind=kind))
    given = [unplugged.number, wrong_firm_code.number, wrong_container.number]
    assert given == ([ErrorNumber.SERVER_STARTING] * 3 if starting else numbers)


# --- the key ------------------------------------------------------------------------------------------------------


def test_a_key_of_a_refused_access_is_free() -> None:
    """It asks anew, with other parameters too."""
    talk = Talk(make_service(charts()), greeting=hello())
    assert refusal(talk, m.Access(KEY, FIRM, 99)).number == ErrorNumber.ENTRY_NOT_FOUND
    assert talk.ask(m.Access(KEY, FIRM, CHARTS)).handle == 1


@pytest.mark.parametrize(
    ("kind", "repeated", "same"),
    [
        (HandleKind.ENTRY, {"key": KEY.hex()}, True),
        (HandleKind.ENTRY, {"key": KEY.hex().upper()}, True),
        (HandleKind.ENTRY, {"mode": "user_limit", "feature_code": 0, "container": None, "item": None}, True),
        (HandleKind.ENTRY, {"of_the_future": 1}, True),
        (HandleKind.ENTRY, {"mode": "exclusive"}, False),
        (HandleKind.ENTRY, {"product_code": 99}, False),
        (HandleKind.ENTRY, {"item": 1}, False),
        (HandleKind.CONTAINER, {"mode": "exclusive", "product_code": 99}, True),
        (HandleKind.CONTAINER, {"feature_code": 1}, False),
        (HandleKind.CONTAINER, {"item": 1}, False),
    ],
)
def test_which_parameters_are_the_same(kind: HandleKind, repeated: dict[str, object], same: bool) -> None:
    """A repeated request gives the same handle or 105, as the page says of its parameters."""
    talk = Talk(make_service(charts()), greeting=hello())
    asked = m.Access(KEY, FIRM, CHARTS, kind=kind)
    handle = talk.ask(asked).handle
    talk.send(request(70, "access", wire(asked) | repeated))
    if same:
        assert talk.inbox.take(70, asked).handle == handle
    else:
        with pytest.raises(LicenseError) as refused:
            talk.inbox.take(70, asked)
        assert number_of(refused.value) == ErrorNumber.INVALID_PARAMETER


def test_a_key_of_an_ended_access_answers_its_ending() -> None:
    """Whatever the parameters are."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello())
    talk.ask(m.Access(KEY, FIRM, CHARTS))
    service.engine.remove(container_id(3, 1))
    error = refusal(talk, m.Access(KEY, FIRM, 99, AccessMode.EXCLUSIVE))
    assert (error.number, error.cause) == (106, m.EndCause.CONTAINER_GONE)


# --- faults -------------------------------------------------------------------------------------------------------


def test_faulty_params_are_answered() -> None:
    """Each example of the page's first row gets error 105, and so does each limit but bytes and levels."""
    row = re.search(r"^\| in the `params`: no array with one map \((.+?)\),.* \| error 105;", PAGE, re.MULTILINE)
    assert row is not None
    examples = [json.loads(text.replace("nil", "null")) for text in re.findall(r"`([^`]+)`", row[1])]
    assert len(examples) == 5
    limits = rpc.FROM_CLIENT
    examples += [
        [{"wait": -1}],
        [{"x": [0] * (limits.array + 1)}],
        [dict.fromkeys(map(str, range(limits.map + 1)), 0)],
        [{"x": "x" * (limits.text + 1)}],
        [{"x": bytes(limits.binary + 1)}],
        [{"x": msgpack.ExtType(1, b"x")}],
    ]
    talk = Talk(make_service(), greeting=hello())
    for msgid, params in enumerate(examples, 100):
        talk.send(msgpack.packb([0, msgid, "events", params]))
        with pytest.raises(LicenseError) as refused:
            talk.inbox.take(msgid, m.Events())
        assert number_of(refused.value) == ErrorNumber.INVALID_PARAMETER
    assert not talk.conversation.over


def test_a_first_request_that_is_no_greeting() -> None:
    """It gets its error and the goodbye; what was sent behind it gets nothing."""
    talk = Talk(make_service())
    talk.send(request(1, "containers", {}) + rpc.encode_request(2, hello()))
    answer, farewell = talk.inbox.order
    assert isinstance(answer, rpc.Response)
    assert isinstance(farewell, rpc.Notification)
    assert answer.msgid == 1
    assert talk.inbox.farewell is not None
    assert talk.inbox.farewell.number == ErrorNumber.INVALID_PARAMETER


def test_requests_behind_the_greeting_need_not_wait() -> None:
    """They are read by the limits of a greeted client, up to the goodbye; nothing behind that is answered."""
    talk = Talk(make_service())
    long = request(2, "keep_alive", {str(number): "x" * 1_000 for number in range(15)})
    assert rpc.BEFORE_GREETING.total < len(long) <= rpc.FROM_CLIENT.total
    talk.send(rpc.encode_request(1, hello()) + long + request(3, "goodbye", {}) + request(4, "keep_alive", {}))
    assert list(talk.inbox.replies) == [1, 2, 3]
    talk.inbox.take(2, m.KeepAlive())


# --- events that wait ---------------------------------------------------------------------------------------------


def test_what_answers_waiting_events() -> None:
    """Another one that waits, and the goodbye, each time empty; one that does not wait answers itself only."""
    talk = Talk(make_service(), greeting=hello())
    first, at_once = talk.begin(m.Events(wait=60)), talk.begin(m.Events())
    second = talk.begin(m.Events(wait=60))
    goodbye = talk.begin(m.Goodbye())
    assert [message.msgid for message in talk.inbox.order[1:] if isinstance(message, rpc.Response)] == [
        at_once, first, second, goodbye
    ]  # fmt: skip
    assert not any(talk.inbox.take(each, m.Events()).events for each in (at_once, first, second))


def test_a_take_over_answers_no_waiting_events() -> None:
    """The old connection gets its goodbye and nothing else."""
    service = make_service()
    talk = Talk(service, greeting=hello())
    waiting = talk.begin(m.Events(wait=60))
    Talk(service, greeting=m.Resume((1, 1), talk.token))
    assert talk.inbox.farewell is not None
    assert waiting not in talk.inbox.replies


# --- how a connection ends ----------------------------------------------------------------------------------------


def break_the_protocol(talk: Talk, _: Service) -> None:
    """Send what is no message."""
    talk.send(b"\xc1")


def leave_events_unread(talk: Talk, service: Service) -> None:
    """Have more pushed than is kept, and take nothing."""
    talk.conversation.flush = lambda: None
    for position in range(EVENTS + 1):
        talk.conversation.tell(m.Event("rebooked", position, 1))
    talk.collect()


def be_silent(talk: Talk, service: Service) -> None:
    """Have the time run out."""
    assert talk.conversation.session is not None
    service.expired(talk.conversation.session)


def meet_a_bug(talk: Talk, _: Service) -> None:
    """Have the server fail."""
    talk.conversation.failed()


def be_taken_over(talk: Talk, service: Service) -> None:
    """Resume on another connection."""
    Talk(service, greeting=m.Resume((1, 1), talk.token))


LIVES = {
    "lives for the grace": SessionState.CLOSED,
    "lives there": SessionState.ATTACHED,
    "is over": None,
}


@pytest.mark.parametrize(
    ("row", "happen"),
    [
        ("105: a [fault]", break_the_protocol),
        ("100: you left too many pushed events unread", leave_events_unread),
        ("100: nothing was heard of you", be_silent),
        ("104: the server met a fault", meet_a_bug),
        ("106: it was resumed on another connection", be_taken_over),
    ],
)
def test_what_becomes_of_the_session(row: str, happen: Callable[[Talk, Service], None]) -> None:
    """The goodbye has the row's number, and the session is then what the row says."""
    found = re.search(rf"^\| `goodbye` {re.escape(row)}.* \| (.+) \| .* \|$", PAGE, re.MULTILINE)
    assert found is not None
    service = make_service(charts())
    talk = Talk(service, greeting=hello(events="push"))
    session = talk.conversation.session
    assert session is not None
    happen(talk, service)
    assert talk.inbox.farewell is not None
    assert talk.inbox.farewell.number == int(row[:3])
    talk.cut()
    left = service.engine.table.sessions.get(session.id)
    assert (left.state if left is not None else None) == LIVES[found[1]]
