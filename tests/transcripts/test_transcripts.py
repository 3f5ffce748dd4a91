"""Today's daemon speaks with the clients of each release, and today's clients understand the daemons of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cmserverd import __version__
from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber
from tests.transcripts.script import play
from tests.transcripts.stage import HERE, Stage, Step, messages, read, written

TRANSCRIPTS = sorted(HERE.glob("*.txt"))

TIMES = frozenset({"time", "started", "first_access", "last_access"})
"""Fields that are instants: they must be there, and may have another value."""

LIMITS = frozenset({"requests", "message", "handles"})
"""Fields of a greeting's limits: a client that keeps to a lower one keeps to a higher one too."""


def differences(recorded: object, given: object, where: str = "") -> Iterator[str]:
    """Give what a client of the recorded release would miss in what it is given. New fields are none of its concern."""
    if isinstance(recorded, dict) and isinstance(given, dict):
        for field, value in recorded.items():
            place = f"{where}.{field}"
            if field not in given:
                yield f"{place} is missing"
            elif field == "text" and "number" in recorded:
                # For people; a release may choose better words. It must end as the protocol says.
                if not str(given[field]).endswith(f", Error {recorded['number']}."):
                    yield f"{place} is {given[field]!r}, without the number at its end"
            elif field in TIMES or (field == "token" and value):
                if type(value) is not type(given[field]) or not given[field]:
                    yield f"{place} is {given[field]!r}, as {value!r} was before"
            elif place.endswith(f".limits.{field}") and field in LIMITS:
                if type(given[field]) is not int or given[field] < value:
                    yield f"{place} is {given[field]!r}, and was {value!r}"
            else:
                yield from differences(value, given[field], place)
    elif isinstance(recorded, list) and isinstance(given, list) and len(recorded) == len(given):
        for number, (before, now) in enumerate(zip(recorded, given, strict=True)):
            yield from differences(before, now, f"{where}[{number}]")
    elif type(recorded) is not type(given) or recorded != given:
        yield f"{where} is {given!r}, and was {recorded!r}"


def failures(steps: Iterable[Step]) -> Iterator[str]:
    """Play the clients' part of a transcript, and give what the daemon says otherwise, or too much, or not at all."""
    stage = Stage()
    said: dict[str, bytes] = {}
    tokens: dict[bytes, bytes] = {}  # each daemon chooses its own; a client sends the one that it was given
    for line, step in enumerate((*steps, Step("started")), 1):
        if step.verb == "get":
            recorded, given = messages(step.data), messages(said.pop(step.name, b""))
            tokens.update(zip(tokens_in(recorded), tokens_in(given), strict=False))
            yield from differences(recorded, given, f"step {line}, {step.name}: ")
            continue
        yield from (f"step {line}: {name} was also told {messages(data)}" for name, data in said.items())
        data = step.data
        for old, new in tokens.items():
            data = data.replace(old, new)
        said = stage.perform(Step(step.verb, step.name, data))


def tokens_in(answers: list[object]) -> Iterator[bytes]:
    """Give the token of each greeting of a session."""
    for answer in answers:
        if isinstance(answer, list) and isinstance(result := answer[-1], dict) and result.get("token"):
            yield str(result["token"]).encode()


def asked(steps: Iterable[Step]) -> Iterator[m.Params[Any]]:
    """Give the requests that are understood today."""
    for step in steps:
        if step.verb == "ask":
            reader = rpc.Reader(rpc.FROM_CLIENT)
            reader.feed(step.data)
            message = reader.next()
            if isinstance(message, rpc.Request) and message.method in m.METHODS:
                with suppress(rpc.BadMessage):  # some are there for their refusal
                    yield rpc.parameters(message, m.METHODS[message.method])


def heard(steps: Iterable[Step]) -> Iterator[m.ErrorBody | m.Event | m.Farewell | Any]:
    """Give what the daemon said, as today's clients understand it. Raises ValidationError."""
    methods: dict[tuple[str, object], str] = {}
    for step in steps:
        for message in messages(step.data):
            assert isinstance(message, list)
            match step.verb, message:
                case "ask", [0, number, method, _]:
                    methods[step.name, number] = method
                case "get", [1, number, None, result]:
                    yield rpc.convert(result, m.RESULTS[m.METHODS[methods[step.name, number]]])
                case "get", [1, _, error, None]:
                    yield rpc.convert(error, m.ErrorBody)
                case "get", [2, "goodbye", [body]]:
                    yield rpc.convert(body, m.Farewell)
                case "get", [2, "event", [body]]:
                    yield rpc.convert(body, m.Event)
                case verb, _:
                    assert verb == "ask"


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    """Return today's play."""
    return play()


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_todays_daemon_serves_the_clients_of_a_release(path: Path) -> None:
    """It answers them what they were answered then, field by field."""
    assert list(failures(read(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_todays_clients_understand_the_daemon_of_a_release(path: Path) -> None:
    """What it said can be read as today's messages: a field that is new since then has a default."""
    assert list(heard(read(path.read_text(encoding="utf-8"))))


def test_this_version_has_a_transcript() -> None:
    """No release is forgotten: `python -m tests.transcripts` writes it."""
    assert HERE / f"{__version__}.txt" in TRANSCRIPTS


def test_the_script_uses_everything(steps: list[Step]) -> None:
    """What is recorded for the next release has each method, each event and what a client may be told."""
    said = list(heard(steps))
    with_devices = {m.Crypt, m.Context, m.Import, m.Borrow, m.GiveBack, m.Lend}  # the stage has none
    with_daemon = {m.Happened, m.LogRequest, m.ConfigurationRequest, m.StatisticsRequest, m.Reload}  # nor one around it
    with_journal = {m.TrackingRequest, m.UsageRequest, m.VerifyTracking}  # nor this
    assert {type(params) for params in asked(steps)} == set(m.RESULTS) - with_devices - with_daemon - with_journal
    assert {each.event for each in said if isinstance(each, m.Event)} == m.EVENT_NAMES
    assert any(each.events for each in said if isinstance(each, m.EventList))
    assert any(each.handles and each.ended for each in said if isinstance(each, m.Greeting))
    assert any(isinstance(each, m.Farewell) for each in said)
    rare = {100, 101, 104, 107, 309}  # ends of connections, faults, and limits that are too high to be reached here
    not_yet = {21, 115, 231}
    of_devices = {28, 31, 33, 64, 69, 211, 226, 228, 229, 232, 233, 303, 306, 308}
    of_clients = {88}
    of_validity = {32, 35, 37, 71, 77, 78, 129}
    given = {each.number for each in said if isinstance(each, m.ErrorBody)}
    assert given == set(ErrorNumber) - rare - not_yet - of_devices - of_clients - of_validity


def test_a_transcript_is_read_as_it_was_written(steps: list[Step]) -> None:
    """Its text loses nothing."""
    assert list(read(written(steps))) == steps


def test_the_play_is_the_same_each_time(steps: list[Step]) -> None:
    """But for the tokens, of which the client's are exchanged: a daemon passes its own transcript."""
    assert list(failures(steps)) == []


# The proofs themselves are proven: what they must reject, they reject.

GREETING: dict[str, object] = {"version": 1, "token": "ab", "time": 5, "limits": {"requests": 64}, "handles": [1, 2]}
REFUSAL = {"number": 212, "text": "All in use, Error 212."}


@pytest.mark.parametrize(
    "given",
    [
        GREETING,
        {**GREETING, "of_the_future": 1},
        {**GREETING, "limits": {"requests": 64, "of_the_future": 1}},
        {**GREETING, "token": "cd", "time": 6},
    ],
)
def test_what_a_later_daemon_may_say(given: object) -> None:
    """New fields, another token and another time do no harm."""
    assert list(differences(GREETING, given)) == []


@pytest.mark.parametrize(
    "given",
    [
        {field: value for field, value in GREETING.items() if field != "version"},
        {field: value for field, value in GREETING.items() if field != "time"},
        {**GREETING, "version": 2},
        {**GREETING, "version": True},
        {**GREETING, "version": 1.0},
        {**GREETING, "time": "6"},
        {**GREETING, "token": ""},
        {**GREETING, "limits": {}},
        {**GREETING, "limits": None},
        {**GREETING, "handles": [1, 3]},
        {**GREETING, "handles": [1, 2, 3]},
        None,
    ],
)
def test_what_a_later_daemon_may_not_say(given: object) -> None:
    """A field that is missing, of another type or of another value is found."""
    assert len(list(differences(GREETING, given))) == 1


def test_the_words_of_an_error_may_change() -> None:
    """Its number may not, nor the end of its text."""
    assert list(differences(REFUSAL, {"number": 212, "text": "Nothing is free: 2 of 2, Error 212."})) == []
    assert list(differences(REFUSAL, {"number": 212, "text": "Nothing is free."}))
    assert list(differences(REFUSAL, {"number": 213, "text": "All in use, Error 212."}))
    assert list(differences({"text": "Bench"}, {"text": "Desk"}))


def test_too_little_and_too_much_are_found(steps: list[Step]) -> None:
    """An answer that does not come, one more than there was, and one to somebody else."""
    last = len(steps) - 1
    assert steps[last].verb == "get"
    number = next(number for number, step in enumerate(steps) if step.verb == "unplug")
    for changed in (
        [*steps[:last]],
        [*steps, Step("get", "alice", b"\xc0")],
        [*steps[:last], Step("get", "alice", steps[last].data)],
        [*steps[:number], *steps[number + 1 :]],
    ):
        assert list(failures(changed))
