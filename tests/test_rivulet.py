"""rivulet's Python API against the real program, beyond the walk-through of its specification."""

import math
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from restmq import rivulet
from restmq.rivulet import IndexPolicy
from tests.server_thread import BlockingServer, server_on_a_thread


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockingServer]:
    """A server that the tests of this module share; restarting it is allowed."""
    with server_on_a_thread(tmp_path_factory.mktemp("rivulet")) as running:
        yield running


@pytest.fixture
def url(server: BlockingServer) -> str:
    """Where it is."""
    return server.url


@pytest.fixture
def deaf_url() -> Iterator[str]:
    """The address of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_channels_and_cursors_survive_a_restart(server: BlockingServer, fresh_name: str) -> None:
    """Stopped in order or killed: messages, cursors and ids are as they were."""
    client = rivulet.connect(server.url, client_id=fresh_name, channel_ids=[fresh_name])
    for number in range(6):
        client.write(fresh_name, number)
    assert [m["data"] for m in client.read(message_limit=2)[fresh_name]] == [0, 1]
    server.stop()
    with pytest.raises(rivulet.ConnectionError):
        client.ping()
    server.start()
    assert client.subscriptions == [fresh_name]
    assert [m["data"] for m in client.read(message_limit=2)[fresh_name]] == [2, 3]
    server.kill()
    server.start()
    client.write(fresh_name, 6)
    assert [(m["id"], m["data"]) for m in client.read()[fresh_name]] == [(5, 4), (6, 5), (7, 6)]


def test_one_client_serves_many_threads(url: str, fresh_name: str) -> None:
    """Each call has a connection of its own for as long as it takes."""
    client = rivulet.connect(url, channel_ids=[fresh_name])
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: client.write(fresh_name, number), range(400)))
        parts = list(pool.map(lambda _: client.read(message_limit=25), range(24)))
    data = [m["data"] for part in parts for m in part.get(fresh_name, [])]
    assert sorted(data) == [*range(400)]


def test_connections_are_kept_and_not_one_for_each_call(fresh_name: str) -> None:
    """A hundred calls of one thread use one connection."""
    accepted = []
    body = b'{"client": "c", "subscriptions": {}}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            accepted.append(connection)
            while b"\r\n\r\n" in connection.recv(65536):
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with rivulet.connect(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            for _ in range(100):
                assert client.subscriptions == []
        thread.join(20)
    assert not thread.is_alive()
    assert len(accepted) == 1


def test_a_read_can_wait(url: str, fresh_name: str) -> None:
    """It ends as soon as there is something, long before its time."""
    client = rivulet.connect(url, channel_ids=[fresh_name])
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(client.read, wait_seconds=60)
        client.write(fresh_name, "x")
        assert [m["data"] for m in reading.result(30)[fresh_name]] == ["x"]
    assert client.read(wait_seconds=1) == {}


def test_nothing_waits_longer_than_it_was_told(deaf_url: str) -> None:
    """Writing and subscribing end with TimeoutError, which is a BackendError."""
    client = rivulet.connect(deaf_url, timeout_seconds=0.2)
    for call in (
        lambda: client.write("x", "y", timeout_ms=50),
        lambda: client.subscribe(["x"], timeout_ms=50),
        client.read,
    ):
        with pytest.raises(rivulet.TimeoutError) as failure:
            call()
        assert isinstance(failure.value, rivulet.BackendError)
        assert isinstance(failure.value.__cause__, TimeoutError)
    with pytest.raises(rivulet.ConnectionError):
        client.ping()


def test_a_failure_part_way_leaves_the_channels_before(url: str, fresh_name: str) -> None:
    """What the server refuses is a BackendError with its words."""
    client = rivulet.connect(url)
    with pytest.raises(rivulet.BackendError, match="1024"):
        client.subscribe([fresh_name, "x" * 2000, f"{fresh_name}-later"])
    assert client.subscriptions == [fresh_name]


def test_subscriptions_come_in_the_order_of_their_cursors(url: str, fresh_name: str) -> None:
    """Then by name; and they are asked for each time."""
    names = [f"{fresh_name}-{index}" for index in range(3)]
    client, other = rivulet.connect(url), rivulet.connect(url)
    for index, name in enumerate(reversed(names)):
        for _ in range(index):
            other.write(name, "x")
    client.subscribe(names)
    assert client.subscriptions == names[::-1]
    same = rivulet.connect(url, client_id=client.client_id)
    same.unsubscribe(names[:2])
    assert client.subscriptions == names[2:]


@pytest.mark.parametrize(
    "data", [math.nan, math.inf, b"bytes", {1, 2}, {(1, 2): 3}, [object()], (x for x in "x")]
)
def test_what_json_cannot_hold_is_a_type_error(data: object) -> None:
    """And nothing is sent."""
    with pytest.raises(TypeError):
        rivulet.connect("http://127.0.0.1:1").write("x", data)


def test_data_that_holds_itself_is_a_type_error() -> None:
    """Also what is nested too deeply."""
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(TypeError):
        rivulet.connect("http://127.0.0.1:1").write("x", circle)


def test_arguments_are_checked_before_anything_is_asked() -> None:
    """ValueError or TypeError, as usual in Python."""
    nowhere = rivulet.connect("http://127.0.0.1:1")
    for wrong in ("redis://localhost:6379", "127.0.0.1:8888", "http://"):
        with pytest.raises(ValueError, match="http"):
            rivulet.connect(wrong)
    with pytest.raises(TypeError):
        rivulet.connect("http://127.0.0.1:1", decode_responses=True)
    with pytest.raises(ValueError, match="bufsize"):
        rivulet.connect("http://127.0.0.1:1", bufsize=-1)
    with pytest.raises(ValueError, match="empty"):
        rivulet.connect("http://127.0.0.1:1", client_id="")
    with pytest.raises(ValueError, match="255 bytes"):
        rivulet.connect("http://127.0.0.1:1", client_id="é" * 128)
    with pytest.raises(TypeError):
        rivulet.connect("http://127.0.0.1:1", redis_url="http://127.0.0.1:1")
    with pytest.raises(TypeError):
        rivulet.connect()
    with pytest.raises(ValueError, match="7"):
        nowhere.subscribe(["x"], 7)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        nowhere.unsubscribe("abc")
    with pytest.raises(TypeError):
        nowhere.subscribe([b"abc"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="wait_seconds"):
        nowhere.read(wait_seconds=61)
    nowhere.subscribe([])
    nowhere.unsubscribe([])


def test_connecting_is_lazy_unless_there_is_something_to_subscribe_to() -> None:
    """Then the failure shows at once."""
    assert rivulet.connect("http://127.0.0.1:1", client_id="a").client_id == "a"
    assert rivulet.connect(redis_url="http://127.0.0.1:1", client_id="b").client_id == "b"
    with pytest.raises(rivulet.BackendError):
        rivulet.connect("http://127.0.0.1:1", channel_ids=["x"])


def test_credentials_in_the_url_are_sent(tmp_path: Path, fresh_name: str) -> None:
    """Where acl.conf asks for a user."""
    acl = tmp_path / "acl.conf"
    sections = ("rest:producer", "rest:consumer")
    acl.write_text("".join(f"[{each}]\nusername = u\npassword = p:ä\n" for each in sections))
    with server_on_a_thread(tmp_path, "--acl", str(acl)) as guarded:
        address = guarded.url.removeprefix("http://")
        with pytest.raises(rivulet.ConnectionError, match="401"):
            rivulet.connect(guarded.url).ping()
        client = rivulet.connect(f"http://u:p%3A%C3%A4@{address}", channel_ids=[fresh_name])
        client.write(fresh_name, 1)
        assert [m["data"] for m in client.read()[fresh_name]] == [1]


def test_a_connection_that_the_server_closed_meanwhile_is_not_used(
    server: BlockingServer, fresh_name: str
) -> None:
    """The first call after a restart works."""
    client = rivulet.connect(server.url, channel_ids=[fresh_name])
    server.stop()
    server.start()
    client.write(fresh_name, 1)
    assert client.read() != {}


def _write_from_child(client: rivulet.Client, channel: str) -> None:
    for number in range(50):
        client.write(channel, ["child", number])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on
def test_a_forked_child_does_not_share_connections(url: str, fresh_name: str) -> None:
    """Parent and child write at the same time over the same client object."""
    client = rivulet.connect(url, channel_ids=[fresh_name])
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_write_from_child, args=(client, fresh_name))
    child.start()
    for number in range(50):
        client.write(fresh_name, ["parent", number])
    child.join(30)
    assert child.exitcode == 0
    data = [m["data"] for m in client.read()[fresh_name]]
    for who in ("parent", "child"):
        assert [number for writer, number in data if writer == who] == [*range(50)]


def test_times_do_not_go_back(url: str, fresh_name: str) -> None:
    """Microseconds since the epoch, in the order of the ids."""
    client = rivulet.connect(url, channel_ids=[fresh_name])
    for _ in range(20):
        client.write(fresh_name, None)
    times = [m["ts"] for m in client.read()[fresh_name]]
    assert times == sorted(times)
    assert all(isinstance(each, int) and abs(each / 1e6 - time.time()) < 60 for each in times)


def test_the_policies_have_rivulet_s_numbers() -> None:
    """Programs may have stored them."""
    assert [(policy.name, policy.value) for policy in IndexPolicy] == [
        ("EARLIEST", 0),
        ("CURRENT", 1),
        ("LATEST", 2),
    ]
