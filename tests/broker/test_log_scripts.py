"""The scripts of logs: every file loads, says what it is, and is called with what it names."""

import hashlib
import re
from importlib import resources

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.crc import key_slot

from restmq.broker.keys import log_channel, log_keys
from restmq.broker.log_entry import EntryKey, Query, make_log
from restmq.broker.log_ids import IdKind, id_of_number
from restmq.broker.log_scripts import LogScripts, append_words
from restmq.broker.scripts import Call

LUA = resources.files("restmq.broker") / "lua"
SHARED = {"log_common.lua", "log_reading.lua"}
FILE_NAMES = {entry.name for entry in LUA.iterdir() if re.fullmatch(r"log_\w+\.lua", entry.name)}
SCRIPT_NAMES = sorted(name.removesuffix(".lua") for name in FILE_NAMES - SHARED)
LOG = make_log("collection", "name", IdKind.NUMBER)
KEY = EntryKey(0, id_of_number(1))
COMMON_ARGUMENTS = 3

any_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
tricky_text = st.text(st.sampled_from("{}%:257Dab/ \0"), min_size=1, max_size=8)
names = any_text | tricky_text
collections = names.filter(lambda name: "/" not in name)


def header(name: str) -> str:
    """Return the comment at the top of a Lua file."""
    lines = (LUA / f"{name}.lua").read_text().splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:end])


def calls() -> list[Call]:
    """Return one call of each script, by its shortest arguments."""
    scripts = LogScripts()
    return [
        scripts.append(LOG, [], b"", None),
        scripts.put(LOG, [], b"", None, None),
        scripts.read(LOG, Query(1)),
        scripts.get(LOG, [], 1),
        scripts.remove(LOG, []),
        scripts.discard(LOG, 0, None, 1),
        scripts.count(LOG, [], 1),
        scripts.locate(LOG, 0, 0, 1),
        scripts.set_attributes(LOG, b"", None),
        scripts.delete(LOG),
        scripts.visit(LOG, 1),
        scripts.begin(LOG, 1),
        scripts.set_cursor(LOG, "client", "current"),
        scripts.read_cursor(LOG, "client", 1, 1, 1),
        scripts.remove_cursor(LOG, "client", 1),
    ]


@pytest.mark.parametrize("call", calls(), ids=lambda call: call.script.name)
def test_a_call_has_as_many_arguments_as_the_header_names(call: Call) -> None:
    assert call.script is not None
    declared = header(call.script.name)
    numbers = {int(number) for number in re.findall(r"\[(\d+)\]", declared)}
    repeated = {int(number) for number in re.findall(r"\[(\d+)\.\.\.\]", declared)}
    given_count = len(call.arguments) - 1 - len(log_keys("c", "n"))
    assert given_count == COMMON_ARGUMENTS + len(numbers)
    assert numbers | set(range(1, COMMON_ARGUMENTS + 1)) == set(range(1, given_count + 1))
    assert not repeated or min(repeated) == given_count + 1


def test_every_file_is_a_script_that_can_be_called() -> None:
    assert sorted(script.name for script in LogScripts().all()) == SCRIPT_NAMES
    assert sorted(call.script.name for call in calls() if call.script) == SCRIPT_NAMES


def test_a_call_names_the_keys_of_its_log_and_the_digest_of_its_text() -> None:
    keys = log_keys("collection", "name")
    for call in calls():
        assert call.script is not None
        digest = hashlib.sha1(call.script.text.encode(), usedforsecurity=False).hexdigest()
        words = list(call.command())
        assert words[:3] == ["EVALSHA", digest, len(keys)]
        assert words[3 : 3 + len(keys)] == list(keys)
        channel = log_channel("collection", "name")
        assert words[3 + len(keys) : 6 + len(keys)] == ["", channel, 8]


def test_repeated_arguments_follow_each_other() -> None:
    scripts = LogScripts()
    words = [*append_words(0, None, [b"a"]), *append_words(255, 1.5, [b"b", b"c"])]
    call = scripts.append(LOG, words, b"", b"known")
    own = ["1", b"known", b"", "", b"\0", 1, b"a", 1.5, b"\xff", 2, b"b", b"c"]
    assert list(call.arguments[-len(own) :]) == own
    assert list(scripts.remove(LOG, [KEY]).arguments[-1:]) == [b"\0" + bytes(7) + b"\1"]


async def test_redis_compiles_every_script_to_the_digest_that_is_called(store: Redis) -> None:
    for script in LogScripts().all():
        assert await store.script_load(script.text) == script.sha1


@pytest.mark.parametrize("name", sorted(FILE_NAMES))
def test_no_script_spells_a_key_or_reads_without_bound(name: str) -> None:
    text = (LUA / name).read_text()
    commands = set(re.findall(r"call(?:_chunked)?\('(\w+)'", text))
    assert not commands & {"KEYS", "SCAN", "SMEMBERS", "SORT", "HGETALL", "HKEYS", "FLUSHALL"}
    assert "restmq:" not in text


@given(collections, names)
@example("a", "}")
@example("{}", "a}{b}")
def test_all_keys_of_a_log_lie_in_one_slot_of_a_cluster(collection: str, name: str) -> None:
    assert len({key_slot(key.encode()) for key in log_keys(collection, name)}) == 1


@given(collections, names, collections, names)
@example("a", "b}", "a", "b%7D")
@example("a", "b", "a", "b}:order")
def test_two_logs_share_no_key_and_no_channel(
    collection: str, name: str, other_collection: str, other_name: str
) -> None:
    is_same = (collection, name) == (other_collection, other_name)
    one, other = log_keys(collection, name), log_keys(other_collection, other_name)
    assert bool(set(one) & set(other)) == is_same
    channels = {log_channel(collection, name), log_channel(other_collection, other_name)}
    assert (len(channels) == 1) == is_same
