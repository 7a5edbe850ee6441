"""The dashboard's pages of nodes and of Redis."""

import time
from collections.abc import Mapping
from typing import NamedTuple

from restmq.broker.broker import Broker
from restmq.broker.redis_state import RedisState
from restmq.endpoints.ui_pages import Pages
from restmq.endpoints.ui_text import (
    NOTHING,
    Shown,
    show_bytes,
    show_duration,
    show_number,
    show_time,
)
from restmq.endpoints.web import Reply, Request

_OLDEST_VERSION = (6, 2)

Fields = Mapping[str, str]


class Fact(NamedTuple):
    """One line about Redis."""

    label: str
    shown: Shown
    is_bad: bool = False
    """Whether somebody should look at it."""


class Group(NamedTuple):
    """Facts that belong together."""

    title: str
    facts: list[Fact]


class ShownRedis(NamedTuple):
    """A Redis as its page shows it."""

    title: str
    description: str
    problem: str | None
    groups: list[Group]


class SystemPages:
    """Shows what the server consists of."""

    def __init__(self, broker: Broker, pages: Pages) -> None:
        self._broker = broker
        self._pages = pages

    async def show_nodes(self, request: Request) -> Reply:
        """Show the live nodes."""
        nodes = await self._broker.census.nodes()
        values = {
            "page": "nodes",
            "nodes": nodes,
            "own": self._broker.node,
            "now": time.time(),
            "versions": len({node.version for node in nodes}),
        }
        return self._pages.render(request, "nodes.html", values)

    async def show_redis(self, request: Request) -> Reply:
        """Show what Redis tells of itself."""
        states = await self._broker.redis_states.read()
        values = {"page": "redis", "servers": [_shown(state) for state in states]}
        return self._pages.render(request, "redis.html", values)


def _shown(state: RedisState) -> ShownRedis:
    title = "Redis of queues in memory" if state.is_memory_only else "Redis"
    fields, groups = state.fields, []
    if fields:
        groups = [
            Group("Server", _server_facts(fields)),
            Group("Memory", _memory_facts(fields)),
            Group("Persistence", _persistence_facts(fields, state.is_memory_only)),
            Group("Load", _load_facts(fields)),
        ]
    return ShownRedis(title, state.description, state.problem, groups)


def _server_facts(fields: Fields) -> list[Fact]:
    is_valkey = "valkey_version" in fields
    version = fields.get("valkey_version") or fields.get("redis_version", "")
    name = "Valkey" if is_valkey else "Redis"
    return [
        Fact("Version", _text(f"{name} {version}"), not is_valkey and _is_old(version)),
        Fact("Mode", _text(fields.get("redis_mode"))),
        Fact("Role", _text(fields.get("role")), fields.get("role") not in ("master", None)),
        Fact("Replicas", _count(fields, "connected_slaves")),
        Fact("Up for", _seconds(fields, "uptime_in_seconds")),
        Fact("System", _text(fields.get("os"))),
    ]


def _memory_facts(fields: Fields) -> list[Fact]:
    used, most = _integer(fields, "used_memory"), _integer(fields, "maxmemory")
    limit = show_bytes(most) if most else Shown("no limit")
    policy = fields.get("maxmemory_policy", "")
    return [
        Fact("Used", _bytes(fields, "used_memory"), bool(most) and used > 0.9 * most),
        Fact("Most so far", _bytes(fields, "used_memory_peak")),
        Fact("From the system", _bytes(fields, "used_memory_rss")),
        Fact("Limit", limit),
        # Anything else would let Redis forget messages.
        Fact("When it is full", _text(policy), bool(most) and policy != "noeviction"),
        Fact("Fragmentation", _text(fields.get("mem_fragmentation_ratio"))),
    ]


def _persistence_facts(fields: Fields, is_memory_only: bool) -> list[Fact]:
    has_log = fields.get("aof_enabled") == "1"
    saved = _integer(fields, "rdb_last_save_time")
    facts = [
        Fact(
            "Append-only file", Shown("on" if has_log else "off"), not (has_log or is_memory_only)
        ),
    ]
    if has_log:
        facts += [
            Fact("Its size", _bytes(fields, "aof_current_size")),
            _status(fields, "Last write", "aof_last_write_status"),
            _status(fields, "Last rewrite", "aof_last_bgrewrite_status"),
            Fact("Delayed fsyncs", _count(fields, "aof_delayed_fsync")),
        ]
    return [
        *facts,
        Fact("Last snapshot", show_time(float(saved)) if saved else NOTHING),
        _status(fields, "It ended", "rdb_last_bgsave_status"),
        Fact("Changes since", _count(fields, "rdb_changes_since_last_save")),
    ]


def _load_facts(fields: Fields) -> list[Fact]:
    rejected = _integer(fields, "rejected_connections")
    return [
        Fact("Commands a second", _count(fields, "instantaneous_ops_per_sec")),
        Fact("Commands so far", _count(fields, "total_commands_processed")),
        Fact("Clients", _count(fields, "connected_clients")),
        Fact("Blocked clients", _count(fields, "blocked_clients")),
        Fact("Rejected connections", _count(fields, "rejected_connections"), rejected > 0),
        Fact("Evicted keys", _count(fields, "evicted_keys"), _integer(fields, "evicted_keys") > 0),
    ]


def _status(fields: Fields, label: str, name: str) -> Fact:
    word = fields.get(name)
    return Fact(label, _text(word), word not in ("ok", None))


def _is_old(version: str) -> bool:
    numbers = version.split(".")[:2]
    return all(part.isdigit() for part in numbers) and tuple(map(int, numbers)) < _OLDEST_VERSION


def _integer(fields: Fields, name: str) -> int:
    text = fields.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _text(text: str | None) -> Shown:
    return Shown(text) if text else NOTHING


def _count(fields: Fields, name: str) -> Shown:
    return show_number(_integer(fields, name)) if name in fields else NOTHING


def _bytes(fields: Fields, name: str) -> Shown:
    return show_bytes(_integer(fields, name)) if name in fields else NOTHING


def _seconds(fields: Fields, name: str) -> Shown:
    return show_duration(_integer(fields, name)) if name in fields else NOTHING
