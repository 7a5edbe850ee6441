"""Settings of queues: what is refused, which layer wins, what patterns match, how they follow."""

import asyncio
import contextlib
import json
import pickle
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.broker.keys import check_queue_name
from restmq.errors import InvalidInput
from restmq.queue_patterns import QueuePatterns
from restmq.queue_settings import (
    CACHED_QUEUES,
    MAX_COPIES,
    MAX_NAME_BYTES,
    TEN_YEARS_SECONDS,
    Patterns,
    QueueSettings,
    check_changes,
    resolve,
)
from restmq.settings_sources import load
from tests.support import eventually

WEEK_SECONDS = 7 * 24 * 3600

RANGES = {
    "lease_seconds": (1, 43_200),
    "max_attempts": (0, 1_000_000),
    "ttl": (1, TEN_YEARS_SECONDS),
    "delay": (0, TEN_YEARS_SECONDS),
    "dedupe_seconds": (0, WEEK_SECONDS),
    "history_count": (0, 1_000_000),
    "history_seconds": (0, WEEK_SECONDS),
    "max_length": (1, 1_000_000_000),
}
FRACTIONAL = {"lease_seconds", "delay", "dedupe_seconds", "history_seconds"}
CHOICES = {
    "policy": ("broadcast", "roundrobin"),
    "status": ("start", "stop"),
    "overflow": ("reject", "drop-oldest", "dead-letter"),
    "storage": ("disk", "memory"),
}


def refusal(changes: object, queue: str | None = None) -> str:
    """Return the one line that these changes are refused with."""
    with pytest.raises(InvalidInput) as caught:
        check_changes(changes, queue)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


class TestDefaults:
    def test_they_are_those_of_the_specification(self):
        assert resolve({}, {}) == QueueSettings(
            policy="broadcast",
            status="start",
            lease_seconds=30,
            max_attempts=5,
            ttl=None,
            delay=0,
            dedupe_seconds=300,
            history_count=1000,
            history_seconds=300,
            max_length=None,
            overflow="reject",
            copies_to=(),
            storage="disk",
        )

    def test_every_name_can_be_changed(self):
        assert {*RANGES, *CHOICES, "copies_to"} == set(QueueSettings.__struct_fields__)


class TestCheckingChanges:
    @pytest.mark.parametrize("name", RANGES)
    def test_numbers_have_a_range_and_a_kind(self, name):
        minimum, maximum = RANGES[name]
        for value in (minimum, maximum):
            assert check_changes({name: value}) == {name: value}
        for value in (minimum - 1, maximum + 1, True, "5", [5], {}, float("nan"), float("inf")):
            text = refusal({name: value})
            assert text.startswith(f"{name} cannot be {value!r}; ")
            assert f"from {minimum} to {maximum}" in text

    @pytest.mark.parametrize("name", RANGES)
    def test_only_some_may_be_fractional(self, name):
        if name in FRACTIONAL:
            assert check_changes({name: 1.5}) == {name: 1.5}
        else:
            assert "a whole number" in refusal({name: 2.0})

    def test_a_delay_of_ten_years_with_all_leap_days_is_possible(self):
        assert check_changes({"delay": 3653 * 24 * 3600})

    @pytest.mark.parametrize("name", CHOICES)
    def test_words_are_some_of_a_few(self, name):
        for word in CHOICES[name]:
            assert check_changes({name: word}) == {name: word}
        for value in ("", CHOICES[name][0].upper(), 5, [CHOICES[name][0]]):
            text = refusal({name: value})
            assert text == f"{name} cannot be {value!r}; it must be one of " + ", ".join(
                CHOICES[name]
            )

    def test_copies_become_a_tuple_of_names(self):
        assert check_changes({"copies_to": ["a", "é", "b c"]}) == {"copies_to": ("a", "é", "b c")}
        assert check_changes({"copies_to": []}) == {"copies_to": ()}
        most = [str(number) for number in range(MAX_COPIES)]
        assert check_changes({"copies_to": most}) == {"copies_to": tuple(most)}

    @pytest.mark.parametrize(
        ("copies", "told"),
        [
            ("audit", "a list of at most 100"),
            ({"audit": 1}, "a list of at most 100"),
            ([str(number) for number in range(MAX_COPIES + 1)], "a list of at most 100"),
            (["a", "b", "a"], "no queue twice"),
            (["a", ""], "''"),
            (["a", 5], "5"),
            (["a", None], "None"),
            (["a", ["b"]], "['b']"),
            (["x" * (MAX_NAME_BYTES + 1)], "queue names"),
            (["\ud800"], "queue names"),
        ],
    )
    def test_what_is_no_list_of_names_is_refused(self, copies, told):
        text = refusal({"copies_to": copies})
        assert text.startswith("copies_to cannot be ")
        assert told in text

    @given(st.text() | st.text("é", min_size=500, max_size=520) | st.just("\ud800"))
    def test_the_names_are_those_that_queues_can_have(self, name):
        def is_taken(check: object) -> bool:
            try:
                check()
            except InvalidInput:
                return False
            return True

        assert is_taken(lambda: check_changes({"copies_to": [name]})) == is_taken(
            lambda: check_queue_name(name)
        )

    def test_a_queue_is_not_copied_to_itself(self):
        assert "'a'" in refusal({"copies_to": ["b", "a"]}, "a")
        assert check_changes({"copies_to": ["b"]}, "a") == {"copies_to": ("b",)}

    def test_null_takes_a_setting_back_and_none_is_a_value_of_those_without_a_default(self):
        assert check_changes({"ttl": None, "policy": None, "copies_to": None}, "a") == {
            "ttl": None,
            "policy": None,
            "copies_to": None,
        }
        assert check_changes({"ttl": "none", "max_length": "none"}) == {
            "ttl": "none",
            "max_length": "none",
        }
        assert "max_attempts" in refusal({"max_attempts": "none"})

    def test_unknown_names_are_refused_with_the_nearest_one(self):
        assert refusal({"max_atempts": 1}) == (
            "unknown setting 'max_atempts'; did you mean max_attempts?"
        )
        assert "the names are policy, status, lease_seconds" in refusal({"zzzzzz": 1})
        assert "unknown setting" in refusal({"q" * 100_000: None})

    @pytest.mark.parametrize("changes", [[], "ttl", 5, None, [["ttl", 5]]])
    def test_only_objects_are_taken(self, changes):
        assert "must be an object" in refusal(changes)

    def test_one_bad_value_refuses_all(self):
        assert "delay" in refusal({"ttl": 5, "delay": -1, "max_attempts": 2})

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
        st.sampled_from(sorted(QueueSettings.__struct_fields__)),
    )
    def test_any_json_is_taken_or_refused_and_what_is_taken_can_be_kept_as_json(self, value, name):
        with contextlib.suppress(InvalidInput):
            changes = check_changes({name: value})
            assert check_changes(json.loads(json.dumps(changes))) == changes
            assert isinstance(resolve({}, changes), QueueSettings)

    def test_values_however_deep_or_long_are_told_in_short(self):
        deep: list[object] = []
        for _ in range(500):
            deep = [deep]
        for value in (deep, "x" * 100_000, list(range(100_000)), 10**4000):
            assert "ttl cannot be" in refusal({"ttl": value})


class TestResolving:
    def test_own_settings_win_over_patterns_and_these_over_defaults(self):
        resolved = resolve({"ttl": 5, "delay": 1.5}, {"ttl": 7, "copies_to": ("a",)})
        assert resolved == QueueSettings(ttl=7, delay=1.5, copies_to=("a",))

    def test_the_defaults_may_be_others(self):
        defaults = QueueSettings(history_count=7, history_seconds=8)
        assert resolve({}, {}, defaults) == defaults
        assert resolve({}, {"history_count": 9}, defaults) == QueueSettings(
            history_count=9, history_seconds=8
        )

    def test_null_hides_nothing_and_none_lifts_the_limit_of_a_pattern(self):
        limits = {"ttl": 5, "max_length": 6}
        assert resolve(limits, {"ttl": None, "max_length": "none"}) == QueueSettings(ttl=5)


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "matching", "others"),
        [
            ("jobs", ["jobs"], ["job", "jobs.", "JOBS", "xjobs", "jobs\n"]),
            ("jobs.*", ["jobs.", "jobs.a", "jobs.a.b", "jobs.\n"], ["jobs", "Jobs.a", "a.jobs.b"]),
            ("a?c", ["abc", "a?c", "aéc", "a\nc"], ["ac", "abbc"]),
            ("*", ["a", "a/b", "*", "é"], []),
            ("[ab]!", ["[ab]!"], ["a!", "b!", "[ab]"]),
            ("a.c+", ["a.c+"], ["abc+", "a.cc"]),
            ("*.*.log", ["a.b.log", "a.b.c.log", "..log"], ["a.log", "a.b.logs"]),
        ],
    )
    def test_stars_and_question_marks_are_held_against_the_whole_name(
        self, pattern, matching, others
    ):
        patterns = Patterns([(pattern, {"ttl": 5})])
        assert [patterns.overrides(name) for name in matching] == [{"ttl": 5}] * len(matching)
        assert [patterns.overrides(name) for name in others] == [{}] * len(others)

    @given(
        st.text("ab*?[]", min_size=1, max_size=8),
        st.text("ab[]", min_size=1, max_size=8),
    )
    def test_they_match_as_a_plain_model_does(self, pattern, name):
        def matches(pattern: str, name: str) -> bool:
            if not pattern or not name:
                return not pattern.strip("*") and not name
            if pattern[0] == "*":
                return matches(pattern[1:], name) or matches(pattern, name[1:])
            return pattern[0] in ("?", name[0]) and matches(pattern[1:], name[1:])

        found = Patterns([(pattern, {"ttl": 5})]).overrides(name)
        assert found == ({"ttl": 5} if matches(pattern, name) else {})

    def test_a_hostile_pattern_is_matched_at_once(self):
        patterns = Patterns([("a*" * 50 + "b", {"ttl": 5})])
        assert patterns.overrides("a" * MAX_NAME_BYTES) == {}

    def test_later_sections_win_name_by_name(self):
        patterns = Patterns(
            [
                ("jobs.urgent", {"ttl": 1}),
                ("*", {"ttl": 2, "delay": 3, "max_attempts": 4}),
                ("jobs.*", {"delay": 5, "copies_to": ["audit"]}),
            ]
        )
        assert patterns.overrides("jobs.urgent") == {
            "ttl": 2,
            "delay": 5,
            "max_attempts": 4,
            "copies_to": ("audit",),
        }
        assert patterns.overrides("other") == {"ttl": 2, "delay": 3, "max_attempts": 4}

    def test_the_answer_cannot_be_changed_by_who_asks(self):
        patterns = Patterns([("*", {"ttl": 1})])
        with pytest.raises(TypeError):
            patterns.overrides("a")["ttl"] = 2

    def test_answers_are_remembered_for_a_bounded_number_of_queues(self):
        patterns = Patterns([("*", {"ttl": 1})])
        first = patterns.overrides("queue-0")
        assert patterns.overrides("queue-0") is first
        for number in range(CACHED_QUEUES + 1):
            assert patterns.overrides(f"queue-{number + 1}") == {"ttl": 1}
        assert patterns.overrides("queue-0") is not first

    def test_they_are_sent_to_other_processes_and_compared(self):
        patterns = Patterns([("a*", {"ttl": 1, "copies_to": ["b"]}), ("b", {"storage": "memory"})])
        copy = pickle.loads(pickle.dumps(patterns))
        assert copy == patterns
        assert hash(copy) == hash(patterns)
        assert copy.overrides("abc") == {"ttl": 1, "copies_to": ("b",)}
        assert patterns != Patterns([("b", {"storage": "memory"}), ("a*", {"ttl": 1})])
        assert patterns != Patterns()

    def test_they_tell_whether_a_value_is_set_anywhere(self):
        patterns = Patterns([("a", {"storage": "disk"}), ("b", {"storage": "memory"})])
        assert patterns.sets("storage", "memory")
        assert not patterns.sets("policy", "roundrobin")

    @pytest.mark.parametrize(
        ("pattern", "changes", "told"),
        [
            ("jobs.*", {"tll": 5}, "unknown setting 'tll'; did you mean ttl?"),
            ("jobs.*", {"ttl": 0}, "ttl cannot be 0; it must be a whole number"),
            ("jobs.*", 5, 'must be a section, written [queues."jobs.*"]'),
            ("jobs", {"a": {"ttl": 5}}, 'is put [queues."jobs.a"]'),
            ("", {"ttl": 5}, "1 to 1024 bytes"),
            ("x" * 1025, {"ttl": 5}, "1 to 1024 bytes"),
        ],
    )
    def test_what_is_wrong_is_told_with_the_section(self, pattern, changes, told):
        with pytest.raises(InvalidInput) as caught:
            Patterns([("fine", {"ttl": 5}), (pattern, changes)])
        assert str(caught.value).startswith(f'[queues."{pattern[:100]}"]: ')
        assert told in str(caught.value)

    def test_a_pattern_cannot_copy_a_queue_to_itself(self):
        for pattern in ("audit", "*", "aud?t"):
            with pytest.raises(InvalidInput, match="'audit'") as caught:
                Patterns([(pattern, {"copies_to": ["x.y", "audit"][-1:]})])
            assert str(caught.value).startswith(f'[queues."{pattern}"]: copies_to')
        patterns = Patterns([("*", {"copies_to": ["audit"]}), ("audit", {"copies_to": []})])
        assert patterns.overrides("any") == {"copies_to": ("audit",)}
        assert patterns.overrides("audit") == {"copies_to": ()}

    @given(st.dictionaries(st.text(string.printable, max_size=5), st.just({"ttl": 1})))
    def test_any_section_name_is_a_pattern_or_refused(self, sections):
        with contextlib.suppress(InvalidInput):
            assert Patterns(sections.items()).overrides("name") in ({}, {"ttl": 1})


class TestFollowingTheFile:
    def write(self, directory: Path, content: str) -> None:
        """Replace the TOML file."""
        (directory / "restmq.toml").write_text(content)

    def open(self, directory: Path) -> QueuePatterns:
        """Start with what the file says now."""
        return QueuePatterns.of(load({}, {}, directory))

    async def test_a_change_is_put_into_force_once(self, tmp_path, caplog):
        caplog.set_level("INFO")
        self.write(tmp_path, '[queues."a*"]\nttl = 5\n')
        patterns = self.open(tmp_path)
        assert patterns.overrides("abc") == {"ttl": 5}
        assert not await patterns.reload_if_changed()
        self.write(tmp_path, '[queues."b*"]\nttl = 6\n[server]\nport = 1\n')
        assert await patterns.reload_if_changed()
        assert not await patterns.reload_if_changed()
        assert patterns.overrides("abc") == {}
        assert patterns.overrides("bcd") == {"ttl": 6}
        assert caplog.text.count("are in force") == 1
        assert str(tmp_path / "restmq.toml") in caplog.text

    async def test_a_change_between_the_start_and_the_first_look_is_seen(self, tmp_path):
        self.write(tmp_path, '[queues."*"]\nttl = 5\n')
        settings = load({}, {}, tmp_path)
        self.write(tmp_path, '[queues."*"]\nttl = 6\n')
        patterns = QueuePatterns.of(settings)
        assert await patterns.reload_if_changed()
        assert patterns.overrides("a") == {"ttl": 6}

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ('[queues."*"]\ntll = 5\n', "did you mean ttl?"),
            ('[queues."*"]\nttl = 0\n', '[queues."*"]: ttl cannot be 0'),
            ("[queues\n", "TOML"),
            ("queues = 5\n", "queues must be sections"),
            (f"x = {'9' * 5000}\n", "TOML"),
            (f"x = {'[' * 5000}\n", "TOML"),
            ("#" * (1024 * 1024 + 1), "bytes"),
        ],
    )
    async def test_a_broken_file_is_logged_once_and_changes_nothing(
        self, tmp_path, caplog, content, told
    ):
        self.write(tmp_path, '[queues."*"]\nttl = 5\n')
        patterns = self.open(tmp_path)
        self.write(tmp_path, content)
        for _ in range(2):
            assert not await patterns.reload_if_changed()
        assert patterns.overrides("a") == {"ttl": 5}
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert record.getMessage().startswith(str(tmp_path / "restmq.toml"))
        assert told in record.getMessage()
        self.write(tmp_path, '[queues."*"]\nttl = 6\n')
        assert await patterns.reload_if_changed()
        assert patterns.overrides("a") == {"ttl": 6}

    async def test_a_lost_file_is_logged_and_changes_nothing(self, tmp_path, caplog):
        self.write(tmp_path, '[queues."*"]\nttl = 5\n')
        patterns = self.open(tmp_path)
        (tmp_path / "restmq.toml").unlink()
        for _ in range(2):
            assert not await patterns.reload_if_changed()
        assert patterns.overrides("a") == {"ttl": 5}
        assert caplog.text.count("cannot be read: No such file") == 1

    async def test_without_a_file_there_is_nothing_to_follow(self, tmp_path):
        patterns = self.open(tmp_path)
        self.write(tmp_path, '[queues."*"]\nttl = 5\n')
        assert not await patterns.reload_if_changed()
        assert patterns.overrides("a") == {}

    async def test_watching_sees_changes_until_it_is_cancelled(self, tmp_path):
        self.write(tmp_path, '[queues."*"]\nttl = 5\n')
        patterns = self.open(tmp_path)
        task = asyncio.create_task(patterns.watch(interval_seconds=0.01))
        try:
            for ttl in (6, 7):
                self.write(tmp_path, f'[queues."*"]\nttl = {ttl}\n')
                await eventually(lambda: patterns.overrides("a") == {"ttl": ttl})  # noqa: B023
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
