"""The walk-through of the rivulet specification, section 9, each step against the real program.

Each step has channels and clients of its own, so the steps run in any order.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from restmq import rivulet
from restmq.rivulet import IndexPolicy
from tests.server_thread import server_on_a_thread


@pytest.fixture(scope="module")
def u(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # the specification's name
    """The address of a server that all steps share."""
    with server_on_a_thread(tmp_path_factory.mktemp("rivulet")) as server:
        yield server.url


@pytest.fixture
def alice(fresh_name: str) -> str:
    """A client id that no other step uses."""
    return f"alice-{fresh_name}"


def ids(messages: dict[str, list[Any]], channel: str) -> list[int]:
    """Return the ids of what was read of a channel."""
    return [message["id"] for message in messages.get(channel, [])]


def write_all(client: rivulet.Client, channel: str, count: int) -> None:
    """Write so many messages."""
    for number in range(1, count + 1):
        client.write(channel, number)


def test_step_01_a_new_client_has_an_id_and_nothing_to_read(u: str) -> None:
    c = rivulet.connect(u)
    assert c.ping() is True
    assert len(c.client_id) == 32
    assert c.subscriptions == []
    assert c.read() == {}


def test_step_02_connecting_subscribes(u: str, alice: str, fresh_name: str) -> None:
    a = rivulet.connect(u, client_id=alice, channel_ids=[fresh_name])
    assert a.subscriptions == [fresh_name]
    assert a.read() == {}


def test_step_03_a_message_is_read_once(u: str, alice: str, fresh_name: str) -> None:
    a = rivulet.connect(u, client_id=alice, channel_ids=[fresh_name])
    a.write(fresh_name, "one")
    [m] = a.read()[fresh_name]
    assert (m["id"], m["src"], m["data"]) == (1, alice, "one")
    assert isinstance(m["ts"], int)
    assert abs(m["ts"] - time.time() * 10**6) < 60 * 10**6
    assert a.read() == {}


def test_step_04_one_read_gives_all_channels(u: str, fresh_name: str) -> None:
    channels = [f"{fresh_name}-{index}" for index in range(3)]
    c = rivulet.connect(u, channel_ids=channels)
    for number in range(10):
        for channel in channels:
            c.write(channel, f"{channel} {number}")
    messages = c.read()
    assert set(messages) == set(channels)
    for channel in channels:
        assert ids(messages, channel) == [*range(1, 11)]
        data = [message["data"] for message in messages[channel]]
        assert data == [f"{channel} {number}" for number in range(10)]


def test_step_05_a_read_has_a_limit(u: str, fresh_name: str) -> None:
    c = rivulet.connect(u, channel_ids=[fresh_name])
    write_all(c, fresh_name, 10)
    assert ids(c.read(message_limit=5), fresh_name) == [1, 2, 3, 4, 5]
    assert ids(c.read(message_limit=5), fresh_name) == [6, 7, 8, 9, 10]
    assert c.read(message_limit=5) == {}


def test_step_06_earliest_begins_with_what_is_there(u: str, alice: str, fresh_name: str) -> None:
    a = rivulet.connect(u, client_id=alice, channel_ids=[fresh_name])
    write_all(a, fresh_name, 10)
    b = rivulet.connect(u, client_id=f"bob-{fresh_name}")
    b.subscribe([fresh_name], index_policy=IndexPolicy.EARLIEST)
    assert len(b.read()[fresh_name]) == 10
    assert len(a.read()[fresh_name]) == 10


def test_step_07_latest_and_a_new_current_begin_after_the_last(u: str, fresh_name: str) -> None:
    a = rivulet.connect(u, channel_ids=[fresh_name])
    write_all(a, fresh_name, 10)
    assert len(a.read()[fresh_name]) == 10
    dave, erin = rivulet.connect(u), rivulet.connect(u)
    dave.subscribe([fresh_name], IndexPolicy.LATEST)
    erin.subscribe([fresh_name])
    write_all(a, fresh_name, 10)
    for client in (a, dave, erin):
        assert ids(client.read(), fresh_name) == [*range(11, 21)]


def test_step_08_a_new_process_resumes(u: str, alice: str, fresh_name: str) -> None:
    a = rivulet.connect(u, client_id=alice, channel_ids=[fresh_name])
    write_all(a, fresh_name, 10)
    assert ids(a.read(message_limit=4), fresh_name) == [1, 2, 3, 4]
    again = rivulet.connect(u, client_id=alice)
    again.subscribe([fresh_name])
    assert ids(again.read(), fresh_name) == [5, 6, 7, 8, 9, 10]


def test_step_09_a_cursor_can_be_rewound_and_skip(u: str, fresh_name: str) -> None:
    a = rivulet.connect(u, channel_ids=[fresh_name])
    write_all(a, fresh_name, 10)
    first = a.read()
    a.subscribe([fresh_name], IndexPolicy.EARLIEST)
    assert a.read() == first
    write_all(a, fresh_name, 3)
    a.subscribe([fresh_name], IndexPolicy.LATEST)
    assert a.read() == {}


def test_step_10_a_writer_need_not_subscribe(u: str, alice: str, fresh_name: str) -> None:
    reader = rivulet.connect(u, channel_ids=[fresh_name])
    rivulet.connect(u, client_id=alice).write(fresh_name, "hello")
    [message] = reader.read()[fresh_name]
    assert (message["src"], message["data"]) == (alice, "hello")


def test_step_11_data_is_any_json_value(u: str, fresh_name: str) -> None:
    c = rivulet.connect(u, channel_ids=[fresh_name])
    c.write(fresh_name, {"k": [1, 2]})
    with pytest.raises(TypeError):
        c.write(fresh_name, object())
    assert [message["data"] for message in c.read()[fresh_name]] == [{"k": [1, 2]}]


def test_step_12_unsubscribing(u: str, fresh_name: str) -> None:
    kept, left = f"{fresh_name}-kept", f"{fresh_name}-left"
    c = rivulet.connect(u, channel_ids=[kept, left])
    c.unsubscribe([f"{fresh_name}-never-seen"])
    c.unsubscribe([left])
    assert c.subscriptions == [kept]
    c.write(left, 1)
    c.write(kept, 2)
    assert set(c.read()) == {kept}


def test_step_13_who_leaves_takes_what_the_others_have_read(u: str, fresh_name: str) -> None:
    first, second, newcomer = (rivulet.connect(u) for _ in range(3))
    first.subscribe([fresh_name])
    second.subscribe([fresh_name])
    write_all(first, fresh_name, 15)
    assert ids(first.read(message_limit=10), fresh_name) == [*range(1, 11)]
    assert ids(second.read(message_limit=4), fresh_name) == [*range(1, 5)]
    second.unsubscribe([fresh_name])
    newcomer.subscribe([fresh_name], IndexPolicy.EARLIEST)
    assert ids(newcomer.read(), fresh_name) == [*range(11, 16)]
    assert ids(first.read(), fresh_name) == [*range(11, 16)]


def test_step_14_the_last_to_leave_takes_everything(u: str, fresh_name: str) -> None:
    last, newcomer = rivulet.connect(u, channel_ids=[fresh_name]), rivulet.connect(u)
    write_all(last, fresh_name, 5)
    last.unsubscribe([fresh_name])
    newcomer.subscribe([fresh_name], IndexPolicy.EARLIEST)
    assert newcomer.read() == {}
    last.write(fresh_name, "new")
    assert [message["data"] for message in newcomer.read()[fresh_name]] == ["new"]


def trimmed_channel(u: str, channel: str) -> rivulet.Client:
    """Write and read 100 messages with a small buffer; returns a newcomer at the earliest."""
    sole = rivulet.connect(u, bufsize=10, channel_ids=[channel])
    for number in range(1, 101):
        sole.write(channel, number)
        assert ids(sole.read(), channel) == [number]
    newcomer = rivulet.connect(u, bufsize=10)
    newcomer.subscribe([channel], IndexPolicy.EARLIEST)
    return newcomer


def test_step_15_what_everyone_has_read_is_trimmed_to_bufsize(u: str, fresh_name: str) -> None:
    newcomer = trimmed_channel(u, fresh_name)
    assert ids(newcomer.read(), fresh_name) == [*range(91, 101)]


def test_step_16_ids_that_were_trimmed_do_not_stop_a_reader(u: str, fresh_name: str) -> None:
    newcomer = trimmed_channel(u, fresh_name)
    assert ids(newcomer.read(message_limit=5), fresh_name) == [91, 92, 93, 94, 95]
    assert ids(newcomer.read(message_limit=5), fresh_name) == [96, 97, 98, 99, 100]
    assert newcomer.read(message_limit=5) == {}


def test_step_17_two_threads_share_what_one_client_reads(
    u: str, alice: str, fresh_name: str
) -> None:
    rivulet.connect(u, client_id=alice, channel_ids=[fresh_name])
    has_written = threading.Event()

    def read() -> list[int]:
        client, seen = rivulet.connect(u, client_id=alice), []
        while True:
            is_last = has_written.is_set()
            new = ids(client.read(message_limit=7), fresh_name)
            seen += new
            if is_last and not new:
                return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            write_all(rivulet.connect(u), fresh_name, 1000)
        finally:
            has_written.set()
        seen = [reader.result() for reader in readers]
    assert sorted(seen[0] + seen[1]) == [*range(1, 1001)]


def test_step_18_writers_in_parallel_leave_no_gap(u: str, fresh_name: str) -> None:
    reader = rivulet.connect(u, channel_ids=[fresh_name])

    def write(writer: int) -> None:
        client = rivulet.connect(u)
        for number in range(250):
            client.write(fresh_name, [writer, number])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    messages = reader.read(message_limit=1000)
    assert ids(messages, fresh_name) == [*range(1, 1001)]
    data = [message["data"] for message in messages[fresh_name]]
    for writer in range(4):
        assert [number for who, number in data if who == writer] == [*range(250)]


def test_step_19_a_wrong_port_is_told(fresh_name: str) -> None:
    nowhere = rivulet.connect("http://127.0.0.1:1")
    with pytest.raises(rivulet.ConnectionError) as failed_ping:
        nowhere.ping()
    with pytest.raises(rivulet.BackendError) as failed_write:
        nowhere.write(fresh_name, "x")
    for failure in (failed_ping, failed_write):
        assert isinstance(failure.value, rivulet.RivuletError)
        assert failure.value.__cause__ is not None


def test_step_20_arguments_that_cannot_be_meant_are_refused(u: str) -> None:
    c = rivulet.connect(u)
    with pytest.raises(TypeError):
        c.subscribe("abc")
    with pytest.raises(ValueError, match="message_limit"):
        c.read(message_limit=0)
