"""The blocking face: every method from threads, and nothing left when it is closed."""

import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep

import pytest

from restmq.client import (
    BlockingClient,
    CallFailed,
    CallTimedOut,
    InvalidInput,
    NotFound,
    QueueSettings,
    Request,
    RestMQError,
    StaleReceipt,
)
from tests.server_thread import BlockingServer, server_on_a_thread

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockingServer]:
    """A server that the tests of this module share; restarting it is allowed."""
    with server_on_a_thread(tmp_path_factory.mktemp("client")) as running:
        yield running


@pytest.fixture
def client(server: BlockingServer) -> Iterator[BlockingClient]:
    """A client of it, which must leave no thread behind."""
    before = set(threading.enumerate())
    with BlockingClient(server.url) as opened:
        yield opened
    assert client_threads(before) == []


def client_threads(before: Collection[threading.Thread]) -> list[str]:
    """Return the names of the threads that clients have started since; others may start some."""
    names = [thread.name for thread in threading.enumerate() if thread not in before]
    return [name for name in names if name.startswith("restmq")]


def wait_until(predicate: Callable[[], object], timeout_seconds: float = 20) -> None:
    """Poll with a deadline."""
    deadline = monotonic() + timeout_seconds
    while not predicate():
        assert monotonic() < deadline
        sleep(0.01)


def test_messages_are_published_taken_and_leased(client: BlockingClient, fresh_name: str) -> None:
    """The same methods with the same arguments, without await."""
    assert client.publish(fresh_name, {"n": 1}, priority=9) == f"{fresh_name}:1"
    assert client.publish_many(fresh_name, "abc") == [f"{fresh_name}:{n}" for n in (2, 3, 4)]
    assert [message.text for message in client.peek(fresh_name, 2)] == ['{"n":1}', "a"]
    taken = client.take(fresh_name)
    assert taken is not None
    assert taken.json() == {"n": 1}
    with client.lease(fresh_name) as message:
        assert (message.text, message.value, message.queue) == ("a", b"a", fresh_name)
        assert (message.attempt, message.number, message.content_type) == (1, 2, None)
        assert not message.is_settled
        assert not message.is_lost
    assert message.is_settled
    with pytest.raises(StaleReceipt):
        message.ack()
    with pytest.raises(ZeroDivisionError), client.lease(fresh_name) as message:
        print(1 / 0)
    assert client.message(message.key).attempts == 1
    [again] = client.lease_many(fresh_name, 1, lease_seconds=5)
    assert (again.key, again.attempt) == (message.key, 2)
    again.extend(100)
    again.nack(delay=1000)
    client.reschedule(again.key, delay=0)
    client.set_priority(again.key, 0)
    assert [message.text for message in client.take_many(fresh_name, 10)] == ["c", "b"]
    with client.lease(fresh_name, wait_seconds=0) as nothing:
        assert nothing is None


def test_queues_are_looked_after(client: BlockingClient, fresh_name: str) -> None:
    """Settings, dead letters, figures."""
    assert client.settings(fresh_name) == QueueSettings()
    assert client.change_settings(fresh_name, max_attempts=2).max_attempts == 2
    assert client.reset_settings(fresh_name) == QueueSettings()
    key = client.publish(fresh_name, "v")
    [message] = client.lease_many(fresh_name, 1)
    message.bury("bad")
    assert [letter.reason for letter in client.dead_letters(fresh_name)] == ["bad"]
    assert client.redrive(fresh_name) == 1
    assert client.drop_dead_letters(fresh_name) == 0
    client.pause(fresh_name)
    assert client.stats(fresh_name).is_paused
    client.resume(fresh_name)
    client.cancel(key)
    with pytest.raises(NotFound):
        client.message(key)
    assert not client.purge(fresh_name)
    assert fresh_name in [queue.name for queue in client.queues()]


def test_channels_and_cursors(client: BlockingClient, fresh_name: str) -> None:
    """Written, read, and followed."""
    channel, cursor = client.channel(fresh_name), client.cursor(fresh_name)
    cursor.subscribe(fresh_name, start="earliest")
    assert channel.write({"a": 1}).id == 1
    assert [entry.data for entry in cursor.read()[fresh_name]] == [{"a": 1}]
    assert cursor.positions() == {fresh_name: 1}
    followed = channel.follow(after=0)
    assert next(followed).data == {"a": 1}
    channel.write(2)
    assert next(followed).data == 2
    followed.close()  # type: ignore[attr-defined]  # it is a generator
    assert [entry.data for entry in channel.read(after=1)] == [2]
    assert channel.state().count == 2
    assert channel.prune(before=2) == 1
    assert fresh_name in list(client.channels())
    cursor.seek(fresh_name, 1)
    cursor.unsubscribe(fresh_name)
    cursor.delete()
    channel.delete()


def test_a_handler_that_blocks_keeps_its_lease(client: BlockingClient, fresh_name: str) -> None:
    """The lease is extended by the client's own thread."""
    client.publish_many(fresh_name, "ab")
    with client.consume(fresh_name, lease_seconds=1, prefetch=2) as messages:
        for message in messages:
            with message:
                sleep(1.6)
            break
    assert message.attempt == 1
    assert message.is_settled
    stats = client.stats(fresh_name)
    assert (stats.ready, stats.leased) == (1, 0)


def test_many_threads_consume_through_one_client(client: BlockingClient, fresh_name: str) -> None:
    """Each message is handled by one of them, and each is stopped from another thread."""
    count, threads = 100, 4
    handled: Counter[str] = Counter()
    lock = threading.Lock()
    consumers = [client.consume(fresh_name, prefetch=5) for _ in range(threads)]

    def work(index: int) -> None:
        for message in consumers[index]:
            with message, lock:
                handled[message.text] += 1

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, index) for index in range(threads)]
        client.publish_many(fresh_name, [str(number) for number in range(count)])
        wait_until(lambda: handled.total() >= count)
        for consumer in consumers:
            consumer.stop()
        for future in futures:
            future.result()
    assert handled == Counter(str(number) for number in range(count))
    stats = client.stats(fresh_name)
    assert (stats.ready, stats.leased) == (0, 0)


def test_a_listener_gets_what_comes(client: BlockingClient, fresh_name: str) -> None:
    """An ordinary generator."""
    got: list[str] = []

    def listen() -> None:
        for message in client.listen(fresh_name):
            got.append(message.text)
            if len(got) == 2:
                return

    thread = threading.Thread(target=listen)
    thread.start()
    wait_until(lambda: client.stats(fresh_name).consumers == 1)
    client.publish_many(fresh_name, "ab")
    thread.join(20)
    assert got == ["a", "b"]
    gc.collect()
    wait_until(lambda: client.stats(fresh_name).consumers == 0)


def test_calls_are_answered_by_plain_functions(
    server: BlockingServer, client: BlockingClient, fresh_name: str
) -> None:
    """Several at a time, each on a thread; closing the answerer ends its serving."""
    together = threading.Barrier(3, timeout=20)

    def double(request: Request) -> object:
        together.wait()
        return 2 * request.json(int)

    def fail(request: Request) -> object:
        raise LookupError("no such thing")

    answerer = BlockingClient(server.url)
    ended: list[str] = []

    def serve(queue: str, handler: Callable[[Request], object]) -> None:
        with pytest.raises(RestMQError, match="closed"):
            answerer.serve(queue, handler, concurrency=3)
        ended.append(queue)

    threads = [
        threading.Thread(target=serve, args=(fresh_name, double)),
        threading.Thread(target=serve, args=(f"{fresh_name}-fail", fail)),
    ]
    for thread in threads:
        thread.start()
    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(lambda n: client.call(fresh_name, n).json(), range(3)))
    assert replies == [0, 2, 4]
    with pytest.raises(CallFailed, match="no such thing"):
        client.call(f"{fresh_name}-fail", "x")
    with pytest.raises(CallTimedOut):
        client.call(f"{fresh_name}-nobody", "x", timeout_seconds=0.1)
    answerer.close()
    for thread in threads:
        thread.join(20)
    assert len(ended) == 2
    with pytest.raises(InvalidInput):
        client.serve(fresh_name, double, concurrency=0)


def test_closing_ends_what_other_threads_wait_for(server: BlockingServer, fresh_name: str) -> None:
    """With an error that says why; what is asked later gets it at once."""
    client = BlockingClient(server.url)
    errors: list[RestMQError] = []

    def wait(work: Callable[[], object]) -> None:
        try:
            work()
        except RestMQError as error:
            errors.append(error)

    waiting: list[Callable[[], object]] = [
        lambda: client.take(fresh_name, wait_seconds=60),
        lambda: next(iter(client.listen(fresh_name))),
        lambda: client.call(f"{fresh_name}-call", 1),
    ]
    threads = [threading.Thread(target=wait, args=(work,)) for work in waiting]
    for thread in threads:
        thread.start()
    with BlockingClient(server.url) as other:
        wait_until(lambda: other.stats(fresh_name).consumers == 1)
        wait_until(lambda: other.stats(f"{fresh_name}-call").ready == 1)
    client.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(errors) == 3
    with pytest.raises(RestMQError, match="closed"):
        client.publish(fresh_name, "v")
    client.close()


def test_a_client_that_nobody_closes_is_told_of(server: BlockingServer) -> None:
    """By a ResourceWarning, and its thread ends all the same."""
    before = set(threading.enumerate())
    client = BlockingClient(server.url)
    client.stats("q")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del client
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    assert client_threads(before) == []


def test_bad_arguments_start_no_thread() -> None:
    """They are told first."""
    before = set(threading.enumerate())
    with pytest.raises(InvalidInput):
        BlockingClient("nonsense")
    assert client_threads(before) == []


INTERRUPTED = """
import sys
from restmq.client import BlockingClient

with BlockingClient(sys.argv[1]) as client:
    try:
        for message in getattr(client, sys.argv[2])(sys.argv[3]):
            print("got", message.text, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(client.stats(sys.argv[3]).ready, flush=True)
"""


@pytest.mark.parametrize("method", ["consume", "listen"])
def test_ctrl_c_ends_waiting_for_a_message(
    server: BlockingServer, client: BlockingClient, fresh_name: str, method: str
) -> None:
    """As a KeyboardInterrupt and nothing else, and the client can be used on."""
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, server.url, method, fresh_name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            if method == "listen":
                wait_until(lambda: client.stats(fresh_name).consumers == 1)
            client.publish(fresh_name, "a")
            assert process.stdout is not None
            assert process.stdout.readline() == b"got a\n"
            process.send_signal(signal.SIGINT)
            told, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert told.startswith(b"interrupted\n")
    assert (process.returncode, errors) == (0, b"")


def test_consuming_goes_on_over_a_restart(
    server: BlockingServer, client: BlockingClient, fresh_name: str
) -> None:
    """In the middle of a handler, whether the server is stopped or killed."""
    client.publish_many(fresh_name, "abcd")
    got: list[tuple[str, int]] = []
    for message in client.consume(fresh_name, prefetch=2):
        with message:
            got.append((message.text, message.attempt))
            if message.text in "ac":
                (server.stop if message.text == "a" else server.kill)()
                server.start()
        if message.text == "d":
            break
    assert got == [("a", 1), ("b", 1), ("c", 1), ("d", 1)]
