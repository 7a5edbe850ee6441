"""RSE's documents, without a server (RSE specification, sections 3 to 5)."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restmq.broker.log_entry import Entry, Page, Scope, pack_entry
from restmq.broker.log_ids import id_of_number
from restmq.codecs.sse import EventParser
from restmq.endpoints.rse_events import (
    ANONYMOUS,
    callback_of,
    check_channel,
    check_data,
    encode_channel,
    encode_list,
    encode_stream,
    pack_event,
    parse_integer,
    reading_of,
    source_of,
)
from restmq.endpoints.web import Parameters
from restmq.errors import InvalidInput

UUID = "550e8400-e29b-41d4-a716-446655440000"
AGENT = f"Agent/1.2 uuid/{UUID}"

texts = st.text(st.characters(codec="utf-8"), max_size=10)
json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
json_roots = st.lists(json_values, max_size=3) | st.dictionaries(texts, json_values, max_size=3)


def stored(number: int, user_agent: str, data: bytes, published: float = 0.0) -> Entry:
    """Return an event as it comes out of the log."""
    record = struct.pack(">dd", published, published + 120)
    return Entry(0, id_of_number(number), record + pack_entry(pack_event(user_agent, data)))


def page_of(*entries: Entry, now: float = 0.0) -> Page:
    """Return a page of the log."""
    return Page(list(entries), entries[-1].id if entries else None, True, now)


def parameters(**values: str) -> Parameters:
    """Return what a query string says; underscores stand for hyphens."""
    return Parameters({k.replace("_", "-").encode(): v.encode() for k, v in values.items()})


class TestData:
    @settings(max_examples=40, deadline=None)
    @given(json_roots, st.sampled_from([None, 1]), st.booleans())
    def test_whatever_python_writes_is_taken(
        self, value: Any, indent: int | None, ascii_only: bool
    ) -> None:
        check_data(json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(), AGENT)

    @pytest.mark.parametrize(
        "data",
        [
            b"{}",
            b"[]",
            b"\t[\t1 ,\r\n2\t]\t",
            b'{"Event":"Ping","n":1.0}',
            b"[1e999, -0, 0.10, 123456789012345678901234567890]",
            b"[" + b"9" * 5000 + b"]",
            '["é\U0001f600\\ud83d\\ude00"]'.encode(),
            b'{"a":1,"a":2}',
        ],
    )
    def test_strict_json_is_taken(self, data: bytes) -> None:
        check_data(data, AGENT)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b" ",
            b'"text"',
            b"1",
            b"true",
            b"null",
            b"{bad",
            b"[NaN]",
            b"[Infinity]",
            b"[-Infinity]",
            b"[-012]",
            b"[01]",
            b"[1.]",
            b"[.5]",
            b"[+1]",
            b"[1,]",
            b'{"a":1,}',
            b"{'a':1}",
            b"{1:2}",
            b"[1]x",
            b"[1][2]",
            b'["\t"]',
            b'["\\x41"]',
            b'["\xff"]',
            b'{"\xff":1}',
            b'["\xed\xa0\x80"]',
            b"\xef\xbb\xbf[]",
            b"\x0c[]",
            "[]".encode("utf-16"),
            b"[" * 100_000 + b"]" * 100_000,
        ],
    )
    def test_all_else_is_refused(self, data: bytes) -> None:
        with pytest.raises(InvalidInput, match=r"^Invalid JSON$"):
            check_data(data, AGENT)

    @settings(deadline=None)
    @given(st.binary(max_size=40))
    def test_what_is_taken_is_json_and_utf8(self, data: bytes) -> None:
        try:
            check_data(data, AGENT)
        except InvalidInput:
            return
        assert isinstance(json.loads(data.decode()), dict | list)

    @pytest.mark.parametrize("agent", [f'x"y uuid/{UUID}', f"x\\y uuid/{UUID}"])
    def test_a_user_agent_that_cannot_be_quoted_is_told_as_invalid_json(self, agent: str) -> None:
        with pytest.raises(InvalidInput, match=r"^Invalid JSON$"):
            check_data(b"{}", agent)


class TestSender:
    @pytest.mark.parametrize(
        ("agent", "source"),
        [
            (AGENT, UUID),
            (f"uuid/{UUID}", UUID),
            (f"a uuid/{UUID.upper()} more", UUID),
            (f"a uuid/{UUID}0", UUID),
        ],
    )
    def test_the_uuid_is_what_follows_the_marker(self, agent: str, source: str) -> None:
        assert source_of(agent, is_test_mode=False) == source.encode()

    @pytest.mark.parametrize(
        "agent",
        [
            "Agent/1.2",
            f"a UUID/{UUID}",
            "a uuid/",
            f"a uuid/{UUID[:-1]}",
            f"a uuid/{UUID.replace('-', '')}0000",
            f"a uuid/g{UUID[1:]}",
        ],
    )
    def test_live_mode_wants_a_well_formed_one(self, agent: str) -> None:
        with pytest.raises(InvalidInput, match=r"^Missing UUID in User-Agent header$"):
            source_of(agent, is_test_mode=False)

    @pytest.mark.parametrize(
        ("agent", "source"),
        [("curl/8", ANONYMOUS), ("a uuid/", ANONYMOUS), ("a uuid/Tester", "tester"), (AGENT, UUID)],
    )
    def test_test_mode_takes_what_there_is(self, agent: str, source: str) -> None:
        assert source_of(agent, is_test_mode=True) == source.encode()


class TestReading:
    def test_defaults(self) -> None:
        reading = reading_of("/a/b", parameters(), AGENT, is_test_mode=False)
        query = reading.query
        assert (query.limit, query.start, query.inclusive) == (200, id_of_number(0), False)
        assert (query.scope, query.path) == (Scope.EXACT, b"/a/b")
        assert not query.newest_first
        assert query.without_source == b""
        assert reading.without_source == UUID.encode()
        assert not reading.newest_first

    @pytest.mark.parametrize(
        ("text", "limit"), [("1", 1), ("500", 500), ("501", 500), ("9" * 900, 500), ("+5", 5)]
    )
    def test_max_events_is_capped(self, text: str, limit: int) -> None:
        reading = reading_of("/a", parameters(max_events=text), AGENT, is_test_mode=False)
        assert reading.query.limit == limit

    @pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "1_0", " 1", "1e2", "٣", "9" * 5000])
    def test_max_events_must_be_a_positive_number(self, text: str) -> None:
        with pytest.raises(InvalidInput, match="max-events"):
            reading_of("/a", parameters(max_events=text), AGENT, is_test_mode=False)

    @pytest.mark.parametrize(
        ("text", "number"),
        [("0", 0), ("-3", 0), ("7", 7), (str(2**64), 2**64 - 1), ("9" * 30, 2**64 - 1)],
    )
    def test_any_number_is_a_last_known_id(self, text: str, number: int) -> None:
        reading = reading_of("/a", parameters(last_known_id=text), AGENT, is_test_mode=False)
        assert reading.last_known_id == number
        assert reading.query.start == id_of_number(number)

    @pytest.mark.parametrize("name", ["last-known-id", "max-events", "sort"])
    @pytest.mark.parametrize("text", ["zzz", "0x1", "1,0", "--1", "1\n", "NaN"])
    def test_a_bad_number_is_named(self, name: str, text: str) -> None:
        values = parameters(**{name: text})
        with pytest.raises(InvalidInput, match=name):
            reading_of("/a", values, AGENT, is_test_mode=False)

    @pytest.mark.parametrize(
        ("text", "newest_first"), [("1", False), ("-1", True), ("7", False), ("-2", False)]
    )
    def test_only_minus_one_sorts_downwards(self, text: str, newest_first: bool) -> None:
        reading = reading_of("/a", parameters(sort=text), AGENT, is_test_mode=False)
        assert reading.newest_first == newest_first

    @pytest.mark.parametrize(
        ("text", "scope"),
        [
            ("exact", Scope.EXACT),
            ("parent", Scope.PARENTS),
            ("all", Scope.SUBTREE),
            ("ALL", Scope.EXACT),
            ("x", Scope.EXACT),
        ],
    )
    def test_an_unknown_selection_is_exact(self, text: str, scope: Scope) -> None:
        reading = reading_of("/a", parameters(events=text), AGENT, is_test_mode=False)
        assert reading.query.scope is scope

    def test_only_the_exact_word_true_echoes_and_then_no_uuid_is_needed(self) -> None:
        reading = reading_of("/a", parameters(echo="true"), "curl/8", is_test_mode=False)
        assert reading.without_source == b""
        reading = reading_of("/a", parameters(echo="TRUE"), AGENT, is_test_mode=False)
        assert reading.without_source == UUID.encode()

    @settings(deadline=None)
    @given(st.integers())
    def test_every_integer_can_be_read(self, number: int) -> None:
        assert parse_integer("n", str(number).encode()) == number


class TestNames:
    @pytest.mark.parametrize("channel", ["/a", "/acct-1/commands", "/a/", "/A_9", "//"])
    def test_a_channel(self, channel: str) -> None:
        check_channel(channel, is_any_name_allowed=False)

    @pytest.mark.parametrize("channel", ["/a b", "/a.b", "/é", "/a\n", "/a*", "/٣", "/a\0"])
    def test_no_channel(self, channel: str) -> None:
        with pytest.raises(InvalidInput, match=r"^Invalid channel name$"):
            check_channel(channel, is_any_name_allowed=False)

    def test_a_setting_lets_any_name_be_one(self) -> None:
        check_channel("/a b.é", is_any_name_allowed=True)

    def test_a_callback(self) -> None:
        assert callback_of(parameters(callback="jQuery_123")) == "jQuery_123"
        assert callback_of(parameters()) is None
        assert callback_of(parameters(callback="")) is None

    @pytest.mark.parametrize("name", ["a-b", "a b", "a(", "é", "a\n", "a" * 129])
    def test_no_callback(self, name: str) -> None:
        with pytest.raises(InvalidInput, match=r"^Invalid callback name$"):
            callback_of(parameters(callback=name))


class TestAnswers:
    def test_keys_come_in_this_order_and_data_as_it_was_posted(self) -> None:
        data = b'{ "b":1.0, "a":1e999,\r\n"b":"\\u00e9" }'
        page = page_of(stored(7, AGENT, data, 1714557600.9), now=1714557604.0)
        assert encode_channel("/a/b", encode_list(page)) == (
            b'{"channel":"/a/b","events":[{"id":7,"user_agent":"%b",'
            b'"created_at":"2024-05-01 10:00:00Z","age":3,"data":%b}]}' % (AGENT.encode(), data)
        )

    def test_age_counts_on_after_a_day_and_never_below_zero(self) -> None:
        entry = stored(1, AGENT, b"{}", 1000.0)
        for now, age in ((1000.0 + 3 * 86400, 3 * 86400), (999.0, 0)):
            (event,) = json.loads(b"[%b]" % encode_list(page_of(entry, now=now)))
            assert event["age"] == age

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.tuples(texts, json_roots), max_size=3))
    def test_any_user_agent_and_data_come_back(self, events: list[tuple[str, Any]]) -> None:
        entries = [
            stored(number, agent, json.dumps(data).encode())
            for number, (agent, data) in enumerate(events, 1)
        ]
        answer = json.loads(encode_channel("/x", encode_list(page_of(*entries))))
        assert [event["id"] for event in answer["events"]] == list(range(1, len(events) + 1))
        assert [event["data"] for event in answer["events"]] == [data for _, data in events]

    def test_a_stream_carries_the_same_with_the_id_for_resuming(self) -> None:
        page = page_of(stored(7, AGENT, b'{\r\n"a":1}'), stored(9, AGENT, b"[]"))
        events = EventParser().receive_data(encode_stream(page))
        assert [event.id for event in events] == ["7", "9"]
        assert [json.loads(event.data)["data"] for event in events] == [{"a": 1}, []]
