"""What ``restmq doctor`` asks a Redis: version, durability, memory, clock, and who may reach it."""

import contextlib
import re
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import redis
from redis.cluster import ClusterNode
from redis.connection import Connection, SSLConnection
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from redis.sentinel import SentinelConnectionPool

from restmq.cli.doctor.findings import (
    DEFAULTS,
    Finding,
    Findings,
    Thresholds,
    bytes_text,
    ok,
    problem,
    warning,
)
from restmq.errors import StartupError
from restmq.knobs import without_password
from restmq.redis_process import find_program

TIMEOUT_SECONDS = 5.0
PING_SAMPLES = 21
CLOCK_SAMPLES = 5
OLDEST_REDIS = (6, 2)
NO_EVICTION = "noeviction"

# redis-py's errors have two roots.
REDIS_ERRORS = (RedisError, RedisClusterException, OSError, ValueError)


@dataclass
class RedisState:
    """One Redis, and what it told about itself."""

    client: redis.Redis
    name: str
    """What people call it, without its password."""
    is_memory: bool
    """Whether it is for queues with storage=memory, which are not to survive it."""
    is_cluster: bool
    """Whether it was found as a part of a cluster, so that the others are known too."""
    info: Mapping[str, Any]
    config: Mapping[str, str] | None
    """None if it does not let us see its configuration."""

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine."""
        options = self.client.connection_pool.connection_kwargs
        return "path" in options or options.get("host") in ("127.0.0.1", "::1", "localhost")

    @property
    def directory(self) -> Path | None:
        """Where it keeps its data, if that is on this machine."""
        if not self.is_local or self.config is None or not self.config.get("dir"):
            return None
        return Path(self.config["dir"])

    @property
    def turns_huge_pages_off(self) -> bool:
        """Whether it does so for itself, as from 6.2 on unless told otherwise."""
        return self.config is None or self.config.get("disable-thp", "yes") == "yes"


def reach(url: str, is_memory: bool = False) -> Iterator[RedisState | Finding]:
    """Ask each Redis that ``url`` stands for; one that cannot be asked is a finding."""
    name = without_password(url)
    remedy = "start it, or correct the address; no message can be stored without it"
    try:
        clients = list(_clients(url))
    except REDIS_ERRORS as error:
        yield problem("redis", f"{name} is out of reach: {_reason(error)}", remedy)
        return
    for client in clients:
        if len(clients) > 1:
            options = client.connection_pool.connection_kwargs
            name = f"{options.get('host')}:{options.get('port')}"
        try:
            info = client.info("all")
        except REDIS_ERRORS as error:
            yield problem("redis", f"{name} is out of reach: {_reason(error)}", remedy)
            continue
        is_cluster = urlsplit(url).scheme == "redis+cluster"
        yield RedisState(client, name, is_memory, is_cluster, info, _configuration(client))


def _clients(url: str) -> Iterator[redis.Redis]:
    """Make a client for each Redis that holds messages: of a cluster, each primary."""
    parts = urlsplit(url)
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
    }
    if parts.scheme not in ("redis+sentinel", "redis+cluster"):
        yield redis.Redis.from_url(url, **options)
        return
    login = urlsplit("//" + parts.netloc.rpartition("@")[0] + "@host")
    signed = options | {
        "username": unquote(login.username or "") or None,
        "password": unquote(login.password or "") or None,
        "ssl": dict(parse_qsl(parts.query)).get("tls") in ("1", "true"),
    }
    if parts.scheme == "redis+sentinel":
        service, _, database = parts.path.strip("/").partition("/")
        hosts = _hosts(parts.netloc, 26379)
        sentinel = redis.Sentinel(hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        yield sentinel.master_for(  # type: ignore[no-untyped-call]
            service, db=int(database or 0), **signed
        )
        return
    nodes = [
        ClusterNode(host, port)  # type: ignore[no-untyped-call]
        for host, port in _hosts(parts.netloc, 6379)
    ]
    with redis.RedisCluster(startup_nodes=nodes, **signed) as cluster:
        primaries = cluster.get_primaries()
    for node in primaries:
        yield redis.Redis(host=node.host, port=node.port, **signed)


def _hosts(netloc: str, default_port: int) -> list[tuple[str, int]]:
    found = []
    for text in netloc.rpartition("@")[2].split(","):
        parts = urlsplit(f"//{text}")
        found.append((parts.hostname or "127.0.0.1", parts.port or default_port))
    return found


def _configuration(client: redis.Redis) -> Mapping[str, str] | None:
    try:
        told = client.config_get("*")
    except ResponseError:  # many who rent out a Redis keep it to themselves
        return None
    return {str(name): str(value) for name, value in told.items()}


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def private_url(data_dir: Path) -> str | None:
    """Return the address of the private Redis of a data directory; None if it does not run."""
    path = data_dir / "run" / "redis.sock"
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return None
    return "unix://" + quote(str(path))


def check_private_program() -> Finding:
    """See whether there is a program to start a private Redis with."""
    try:
        program = find_program()
    except StartupError as error:
        return problem("redis-version", str(error), "apt-get install redis-server")
    return ok("redis-version", f"a private Redis would be started with {program}")


def check_redis(
    state: RedisState,
    thresholds: Thresholds = DEFAULTS,
    clock: Callable[[], float] = time.time,
) -> Findings:
    """Look at all that does not depend on this machine's disks and kernel."""
    yield _check_version(state)
    yield from _check_role(state)
    if not state.is_memory:
        yield from _check_last_writes(state)
    if state.config is None:
        yield warning(
            "redis-config",
            f"{state.name} does not tell how it is configured (CONFIG GET is not allowed)",
            "see for yourself that it has appendonly yes, appendfsync always and noeviction",
        )
    else:
        yield from _check_config(state, state.config)
    yield from _check_memory(state, thresholds)
    try:
        yield _check_clock(state, thresholds, clock)
        yield _check_latency(state, thresholds)
    except REDIS_ERRORS as error:
        yield problem("redis", f"{state.name} was lost: {_reason(error)}", "look into its log")


def _check_version(state: RedisState) -> Finding:
    valkey = state.info.get("valkey_version")
    text = str(valkey or state.info.get("redis_version", "0"))
    numbers = re.match(r"(\d+)\.(\d+)", text)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    product = "Valkey" if valkey else "Redis"
    if valkey or version >= OLDEST_REDIS:
        return ok("redis-version", f"{state.name} is {product} {text}")
    return problem(
        "redis-version",
        f"{state.name} is Redis {text}, which lacks what this program uses",
        "run Redis 6.2 or later, or Valkey",
    )


def _check_role(state: RedisState) -> Findings:
    if state.info.get("role") == "slave":
        yield problem(
            "redis-role",
            f"{state.name} is a replica, and takes no messages",
            "name the primary, or let Sentinel name it with redis+sentinel://",
        )
    if state.info.get("cluster_enabled") and not state.is_cluster:
        yield problem(
            "redis-role",
            f"{state.name} is a node of a Redis Cluster, and refuses queues of other nodes",
            "write redis+cluster:// in front of its address",
        )


def _check_last_writes(state: RedisState) -> Findings:
    failed = {
        "rdb_last_bgsave_status": "its last snapshot failed",
        "aof_last_write_status": "its last write to the append-only file failed",
        "aof_last_bgrewrite_status": "its last rewrite of the append-only file failed",
    }
    found = [text for name, text in failed.items() if state.info.get(name, "ok") != "ok"]
    for text in found:
        yield problem(
            "redis-writes",
            f"{state.name}: {text}, so that it may refuse to store messages",
            "look into its log; mostly the disk is full, or its directory may not be written",
        )
    delayed = int(state.info.get("aof_delayed_fsync", 0))
    if delayed:
        yield warning(
            "redis-writes",
            f"{state.name} waited {delayed:,} times for a disk that was behind",
            "put its data on a faster disk, or one that others leave alone",
        )
    if not found and not delayed:
        yield ok("redis-writes", f"{state.name} could write all it had to")


def _check_config(state: RedisState, config: Mapping[str, str]) -> Findings:
    if not state.is_memory:
        yield _check_persistence(state, config)
    yield _check_eviction(state, config)
    if _is_open(config) and _lets_anyone_in(state.client):
        yield problem(
            "redis-open",
            f"{state.name} lets everyone in who can reach it: it has no password",
            "set requirepass and name the password in redis_url, or bind 127.0.0.1",
        )


def _check_persistence(state: RedisState, config: Mapping[str, str]) -> Finding:
    if config.get("appendonly") != "yes":
        kept = "keeps only snapshots" if config.get("save") else "keeps nothing on disk"
        return problem(
            "redis-persistence",
            f"{state.name} {kept} (appendonly no): a restart loses messages",
            "set appendonly yes and appendfsync always",
        )
    fsync = config.get("appendfsync")
    if fsync == "always":
        return ok("redis-persistence", f"{state.name} has appendonly yes, appendfsync always")
    finding = warning if fsync == "everysec" else problem
    return finding(
        "redis-persistence",
        f"{state.name} has appendfsync {fsync}: a crash loses messages that publishers were told "
        "are safe",
        "set appendfsync always; with RestMQ many messages share one fsync",
    )


def _check_eviction(state: RedisState, config: Mapping[str, str]) -> Finding:
    policy, limit = config.get("maxmemory-policy", ""), int(config.get("maxmemory", "0"))
    shown = f"{state.name} has maxmemory-policy {policy}"
    if policy == NO_EVICTION:
        return ok("redis-eviction", shown)
    remedy = "set maxmemory-policy noeviction; publishers are told then that there is no room"
    if limit:
        return problem("redis-eviction", f"{shown}: it deletes messages to make room", remedy)
    what = f"{shown}, which deletes messages once maxmemory is set"
    return warning("redis-eviction", what, remedy)


def _is_open(config: Mapping[str, str]) -> bool:
    """Whether a stranger on the network needs neither a password nor an address of this machine."""
    if config.get("requirepass") or config.get("protected-mode") == "yes":
        return False
    if config.get("port") == "0" and config.get("tls-port", "0") == "0":
        return False
    addresses = config.get("bind", "").split()
    local = ("127.", "::1", "-127.", "-::1")
    return not addresses or any(not each.startswith(local) for each in addresses)


def _lets_anyone_in(client: redis.Redis) -> bool:
    """Whether Redis answers without credentials; users of its ACL show in no configuration."""
    pool = client.connection_pool
    secret = ("username", "password", "credential_provider", "connection_pool")
    options = {name: each for name, each in pool.connection_kwargs.items() if name not in secret}
    kind: type[Connection] = pool.connection_class
    if isinstance(pool, SentinelConnectionPool):
        options["host"], options["port"] = pool.get_master_address()  # type: ignore[no-untyped-call]
        kind = SSLConnection if issubclass(kind, SSLConnection) else Connection
    strangers = redis.ConnectionPool(connection_class=kind, **options)
    try:
        redis.Redis(connection_pool=strangers).ping()
    except REDIS_ERRORS:
        return False
    finally:
        strangers.disconnect()
    return True


def _check_memory(state: RedisState, thresholds: Thresholds) -> Findings:
    used, limit = int(state.info.get("used_memory", 0)), int(state.info.get("maxmemory", 0))
    if limit and used > thresholds.full_memory_share * limit:
        yield warning(
            "redis-memory",
            f"{state.name} uses {bytes_text(used)} of {bytes_text(limit)}",
            "raise maxmemory, or drain the largest queues (restmq top --sort depth)",
        )
    else:
        of = f" of {bytes_text(limit)}" if limit else ""
        yield ok("redis-memory", f"{state.name} uses {bytes_text(used)}{of}")


def _check_clock(state: RedisState, thresholds: Thresholds, clock: Callable[[], float]) -> Finding:
    best_seconds, difference = float("inf"), 0.0
    for _ in range(CLOCK_SAMPLES):
        sent = time.perf_counter()
        seconds, microseconds = state.client.time()
        took = time.perf_counter() - sent
        if took < best_seconds:
            best_seconds = took
            difference = clock() - took / 2 - (seconds + microseconds / 1e6)
    ahead = "ahead of" if difference > 0 else "behind"
    what = f"the clock of this machine is {abs(difference):.3f} s {ahead} that of {state.name}"
    remedy = "let both follow one time server (timedatectl set-ntp true)"
    if abs(difference) > thresholds.clock_problem_seconds:
        return problem("clock", f"{what}, so delays and expiry times of publishers are off", remedy)
    if abs(difference) > thresholds.clock_warning_seconds:
        return warning("clock", what, remedy)
    return ok("clock", what)


def _check_latency(state: RedisState, thresholds: Thresholds) -> Finding:
    taken = []
    for _ in range(PING_SAMPLES):
        start = time.perf_counter()
        with contextlib.suppress(ResponseError):  # to refuse is to answer
            state.client.ping()
        taken.append(time.perf_counter() - start)
    seconds = statistics.median(taken)
    what = f"{state.name} answers within {1000 * seconds:.2f} ms"
    if seconds > thresholds.slow_redis_seconds:
        remedy = "bring the server nearer to its Redis, or look for slow commands with SLOWLOG GET"
        return warning("redis-latency", what, remedy)
    return ok("redis-latency", what)
