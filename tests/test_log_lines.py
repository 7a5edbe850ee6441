"""The log: one line an event, whatever it holds, and no secrets in it."""

import io
import json
import logging
import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.log_lines import (
    MAX_MESSAGE_CHARACTERS,
    JsonFormatter,
    TextFormatter,
    fields,
    mask_secrets,
    set_up,
)

LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("restmq.test", logging.INFO, __file__, 1, message, arguments, None)
    made.__dict__.update(fields(**extra))
    return made


def with_exception(message: str, error: Exception) -> logging.LogRecord:
    made = record(message)
    try:
        raise error
    except type(error) as raised:
        made.exc_info = (type(raised), raised, raised.__traceback__)
    return made


anything = st.text() | st.text(st.sampled_from(LINE_ENDS + 'ab ="\\{}\x00\x1b\ud800'))


@given(anything, anything)
def test_an_event_is_one_line(message: str, value: str) -> None:
    """Of printable characters as text, and of ASCII as JSON."""
    event = record("%s", message, value=value)
    text = TextFormatter().format(event)
    assert text.isprintable()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO restmq\.test: ", text)
    line = JsonFormatter().format(event)
    assert line.isascii()
    assert line.isprintable()
    document = json.loads(line)
    assert document["message"] == mask_secrets(message)
    assert document["value"] == mask_secrets(value)
    assert (document["level"], document["logger"]) == ("info", "restmq.test")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document["time"])


def test_an_exception_is_on_the_same_line() -> None:
    """With its traceback."""
    event = with_exception("it failed", ValueError("first\nsecond"))
    text = TextFormatter().format(event)
    assert text.isprintable()
    assert "it failed | Traceback" in text
    assert r"ValueError: first\nsecond" in text
    document = json.loads(JsonFormatter().format(with_exception("it failed", ValueError("a\nb"))))
    assert document["exception"].startswith("Traceback")
    assert document["exception"].endswith("ValueError: a\nb")


def test_fields_are_members_or_words() -> None:
    """What is no word is quoted; a field cannot take the place of what every line has."""
    event = record("done", connection="7-1", status=200, path="/a b", empty="", level="x")
    text = TextFormatter().format(event)
    assert text.endswith('done connection=7-1 status=200 path="/a b" empty="" level=x')
    document = json.loads(JsonFormatter().format(event))
    assert (document["connection"], document["status"], document["level"]) == ("7-1", 200, "info")


def test_a_message_has_a_length() -> None:
    """What a client sent cannot fill the disk with one line."""
    text = TextFormatter().format(record("x" * 100_000))
    assert len(text) < MAX_MESSAGE_CHARACTERS + 100


@pytest.mark.parametrize("shift", range(40, 70))
def test_what_is_cut_off_is_masked_before(shift: int) -> None:
    """Also where the cut would have gone through a secret, so that it is none any more."""
    start = "x" * (MAX_MESSAGE_CHARACTERS - shift) + "//a:"
    url = f"{start} redis://user:topsecret@host/{'y' * MAX_MESSAGE_CHARACTERS}"
    for form in (TextFormatter(), JsonFormatter()):
        for event in (record(url), with_exception("failed", ValueError(url))):
            assert "topse" not in form.format(event)


@pytest.mark.parametrize(
    "piece", ["a-", "a.", "a://", "token", "key:", "://a", "cookie=", "x=y@", "token:", 'token="']
)
def test_masking_takes_no_longer_than_the_text_is_long(piece: str) -> None:
    """What a client makes the server log cannot keep it busy."""
    error = ValueError(piece * 100_000)
    started = time.process_time()
    for _ in range(3):
        line = TextFormatter().format(with_exception(piece * 100_000, error))
    assert time.process_time() - started < 20
    assert len(line) < 3 * MAX_MESSAGE_CHARACTERS


KEY = "rmq_" + "A1_-" * 10 + "xyz"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"the key {KEY} is bad", "the key rmq_*** is bad"),
        ("redis://user:pw@host:1/0 is away", "redis://***@host:1/0 is away"),
        ("redis://:p%40w@host", "redis://***@host"),
        ("GET http://h/q/x?api_key=abc&b=1 failed", "GET http://h/q/x failed"),
        ("b'GET /q/x?api_key=abc&b=1'", "b'GET /q/x?api_key=***&b=1'"),
        ("password=abc def", "password=*** def"),
        ("stomp_passcode=abc", "stomp_passcode=***"),
        ("token=abc, secret=def", "token=***, secret=***"),
        ("b'Authorization: Basic dTpw'", "b'Authorization: ***'"),
        ("'X-Auth-Token': 'abc'", "'X-Auth-Token': '***'"),
        ("Bearer abcdefghijklmnopqrstuvwxyz==", "Bearer ***"),
        ('{"passcode":"a b\\"c","x":1}', '{"passcode":"***","x":1}'),
        ("{'token': 'abc'}", "{'token': '***'}"),
        ("login:me passcode:abc", "login:me passcode:***"),
        ('password = "abc"', 'password = "***"'),
        # What only looks like it is left as it is.
        ("a token is needed", "a token is needed"),
        ("[rest:producer]: password is missing", "[rest:producer]: password is missing"),
        ("basic credentials", "basic credentials"),
        ("RestMQ serves on http://127.0.0.1:8888", "RestMQ serves on http://127.0.0.1:8888"),
    ],
)
def test_secrets_are_masked(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked
    assert masked in TextFormatter().format(record("%s", text))
    assert json.loads(JsonFormatter().format(record("x", value=text)))["value"] == masked


def test_secrets_in_an_exception_are_masked() -> None:
    event = with_exception("it failed", ValueError(f"not {KEY}"))
    for form in (TextFormatter(), JsonFormatter()):
        line = form.format(event)
        assert KEY not in line
        assert "not rmq_***" in line


@given(anything)
def test_masking_changes_nothing_twice(text: str) -> None:
    assert mask_secrets(mask_secrets(text)) == mask_secrets(text)


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """Set the root logger back when the test is over."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for handler in handlers:  # set_up closes what it replaces
        root.removeHandler(handler)
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


@pytest.mark.usefixtures("logging_as_it_was")
def test_the_log_is_set_up_anew() -> None:
    """Nothing is written twice, and the level counts."""
    stream = io.StringIO()
    set_up("info", "text", io.StringIO())
    set_up("warning", "json", stream)
    logging.getLogger("restmq.x").info("no")
    logging.getLogger("restmq.x").warning("yes")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "yes"
