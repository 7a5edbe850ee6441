"""Scripts: every Lua file loads, says what it is, and is called with what its header names."""

import hashlib
import re
from importlib import resources

import pytest
from redis.asyncio import Redis

from restmq.broker.keys import NODE_CHANNEL, queue_keys
from restmq.broker.scripts import Call, HistoryLimits, Scripts, command

NODE = "0123456789ab"
LUA = resources.files("restmq.broker") / "lua"
FILE_NAMES = sorted(entry.name for entry in LUA.iterdir() if entry.name.endswith(".lua"))
SHARED = {"common", "ready", "nodes", "leases", "overflow", "popped", "replies"}
"""Files that stand in front of others."""

SCRIPT_NAMES = sorted(
    name
    for name in (file_name.removesuffix(".lua") for file_name in FILE_NAMES)
    if name not in SHARED and not name.startswith(("log_", "census_"))
)


def header(file_name: str) -> str:
    """Return the comment at the top of a Lua file, without its dashes."""
    lines = (LUA / file_name).read_text().splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(line.removeprefix("--").removeprefix(" ") for line in lines[:end])


def calls() -> list[Call]:
    """Return one call of each script, by its shortest arguments."""
    scripts = Scripts(NODE)
    return [
        scripts.add("q", []),
        scripts.take("q", "take", "1", 1, 1, False),
        scripts.restore("q", "1", []),
        scripts.get("q"),
        scripts.peek("q", 1, False, 1),
        scripts.delete("q", 1),
        scripts.purge("q"),
        scripts.reset_settings("q"),
        scripts.lease("q", count=1, max_bytes=1, seconds=None, token="t", held_by_stream=False),
        scripts.settle("q", []),
        scripts.still_leased("q", []),
        scripts.inspect("q", 1),
        scripts.move("q", 1, "priority", 9),
        scripts.dead("q", "list", 1),
        scripts.resume("q", 1, None, 1, 1, 1),
        scripts.listen("q", 1, 1.0),
        scripts.visit("q"),
        scripts.copies("q", 1, 1),
        scripts.stats("q"),
        scripts.census("q"),
        scripts.join("q", 1, 15.0, None),
        scripts.deliver(
            "q",
            consumers=1,
            lifetime_seconds=15.0,
            position=0,
            has_room=True,
            max_messages=1,
            max_bytes=1,
            history=HistoryLimits(),
            batch="1",
            generation="",
        ),
    ]


IMPLICIT = 4
"""Arguments that every script of a queue gets: clock, channel, queue, settings of patterns."""


@pytest.mark.parametrize("call", calls(), ids=lambda call: call.script.name)
def test_a_call_has_as_many_arguments_as_the_header_names(call: Call) -> None:
    assert call.script is not None
    declared = header(f"{call.script.name}.lua")
    numbers = {int(number) for number in re.findall(r"\[(\d+)\]", declared)}
    repeated = {int(number) for number in re.findall(r"\[(\d+)\.\.\.\]", declared)}
    given = len(call.arguments) - 1 - len(queue_keys("q", NODE))
    assert given == IMPLICIT + len(numbers)
    assert numbers | {1, 2, 3, 4} == set(range(1, given + 1))
    assert not repeated or min(repeated) == given + 1


def test_every_file_is_a_script_that_can_be_called() -> None:
    assert sorted(script.name for script in Scripts(NODE).all()) == SCRIPT_NAMES
    called = sorted(call.script.name for call in calls() if call.script)
    assert sorted([*called, "schedule", "register"]) == SCRIPT_NAMES


def test_a_call_names_all_keys_of_its_queue_and_the_digest_of_its_text() -> None:
    shared, own = queue_keys("q", NODE)[:-1], queue_keys("q", NODE).taken
    for call in calls():
        assert call.script is not None
        digest = hashlib.sha1(call.script.text.encode(), usedforsecurity=False).hexdigest()
        words = list(call.command())
        count = len(shared) + 1
        assert words[:3] == ["EVALSHA", digest, count]
        assert words[3 : 2 + count] == list(shared)
        assert str(words[2 + count]).startswith(own)
        assert words[3 + count : 7 + count] == ["", NODE_CHANNEL, "q", b""]


def test_the_time_that_a_test_sets_is_what_scripts_are_told_exactly() -> None:
    scripts = Scripts(NODE)
    scripts.clock_seconds = 1_700_000_000.123456
    clock = scripts.stats("q").arguments[1 + len(queue_keys("q", NODE))]
    assert float(clock) == scripts.clock_seconds


def test_a_plain_command_is_sent_as_it_is() -> None:
    assert command("ZADD", "key", 0, "member").command() == ("ZADD", "key", 0, "member")


async def test_redis_compiles_every_script_to_the_digest_that_is_called(store: Redis) -> None:
    for script in Scripts(NODE).all():
        assert await store.script_load(script.text) == script.sha1


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_no_script_spells_a_key_or_reads_without_bound(name: str) -> None:
    text = (LUA / f"{name}.lua").read_text()
    commands = set(re.findall(r"call(?:_chunked)?\('(\w+)'", text))
    assert not commands & {"KEYS", "SCAN", "SMEMBERS", "SORT", "FLUSHDB", "FLUSHALL"}
    assert "restmq:" not in text
