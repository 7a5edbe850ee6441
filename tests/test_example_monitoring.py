"""The Grafana board and the alert rules name what /metrics tells, and nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric

from restmq.broker.census import Overview, Totals
from restmq.broker.measures import Measures
from restmq.broker.redis_state import RedisState
from restmq.broker.stats import QueueStats
from restmq.endpoints.metrics_families import (
    WorkerGauges,
    census_metrics,
    node_metrics,
    redis_metrics,
    request_metrics,
    server_metrics,
)

EXAMPLES = Path(__file__).parent.parent / "examples"
BOARD = EXAMPLES / "grafana" / "restmq.json"
RULES = EXAMPLES / "prometheus" / "restmq.rules.yml"
SCRAPING = EXAMPLES / "prometheus" / "prometheus.yml"

LABELS = {"by", "instance", "job", "le", "queue", "route", "state", "status", "storage", "version"}


def families() -> Iterator[Metric]:
    """Make one of every metric there is."""
    queue = QueueStats("q", 1, True, None, 1, rate_in=1.0)
    totals = Totals(1, 1, 0, 0, 0, 1, 1.0, 1.0, 1.0)
    told = ("used_memory", "maxmemory", "connected_clients", "aof_delayed_fsync", "evicted_keys")
    yield from server_metrics(Measures(), 0, WorkerGauges(0, 0, 0, 0), 1)
    yield from request_metrics([("/q", "200", 1)])
    yield from census_metrics(Overview(1, True, totals, (queue,), (queue,)), 2)
    yield from node_metrics(1)
    yield from redis_metrics([RedisState("redis", False, dict.fromkeys(told, "1"))])


def exported() -> set[str]:
    """Return the names of all samples."""
    return {sample.name for family in families() for sample in family.samples}


def named_in(text: str) -> set[str]:
    """Return the names of metrics in an expression, or in a whole file."""
    return set(re.findall(r"\brestmq_\w+", text))


def expressions(path: Path) -> str:
    """Return the text of a file without its words for people."""
    return re.sub(r'"?(?:description|summary)"?: ".*"', "", path.read_text())


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all panels but the rows between them."""
    yield from (panel for panel in board["panels"] if panel["type"] != "row")


@pytest.mark.parametrize("path", [BOARD, RULES], ids=lambda path: path.name)
def test_every_metric_that_is_named_is_exported(path: Path) -> None:
    named = named_in(expressions(path))
    assert len(named) > 10
    assert named <= exported(), named - exported()


def test_every_family_is_documented_by_its_unit_and_a_sentence() -> None:
    seen = set()
    for family in families():
        assert family.name.startswith("restmq_")
        assert family.name not in seen
        seen.add(family.name)
        assert family.documentation.endswith("."), family.name
        assert family.samples, family.name
        assert {label for sample in family.samples for label in sample.labels} <= LABELS
        if "second" in family.documentation and family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_the_board_shows_everything_that_is_exported() -> None:
    """But for what is the same thing in other words."""
    shown = named_in(BOARD.read_text())
    aside = {"restmq_build_info", "restmq_incoming_messages_per_second"}
    aside |= {"restmq_outgoing_messages_per_second"}
    expected = {family.name for family in families()} - aside
    for name in expected:
        assert any(each.startswith(name) for each in shown), name


def test_the_board_is_one_that_grafana_can_read() -> None:
    board = json.loads(BOARD.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels(board):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert [target["refId"] for target in panel["targets"]]
        for target in panel["targets"]:
            assert named_in(target["expr"]), panel["title"]
            for opening, closing in ("()", "[]", "{}"):
                assert target["expr"].count(opening) == target["expr"].count(closing)
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", BOARD.read_text()))
    assert used - {"__rate_interval", "__all"} <= variables


def test_the_rules_are_whole() -> None:
    yaml = pytest.importorskip("yaml")
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names) > 10
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
        assert named_in(rule["expr"]) or rule["expr"].startswith("up{"), rule["alert"]
    scraping = yaml.safe_load(SCRAPING.read_text())
    assert scraping["rule_files"] == [RULES.name]
    assert scraping["scrape_configs"][0]["metrics_path"] == "/metrics"
