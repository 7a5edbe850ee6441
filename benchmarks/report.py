"""Results: medians, ratios and verdicts, as a table and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rows import Metric, Row


@dataclass
class RowResult:
    """Everything measured for one row: for each server the numbers of each round."""

    row: Row
    measured: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def values(self, server: str, metric: Metric) -> list[float]:
        """One number of one server over the rounds."""
        return [numbers[metric.name] for numbers in self.measured.get(server, [])]

    def summary(self) -> Iterable[dict[str, Any]]:
        """A record for each server and metric."""
        for metric in self.row.metrics:
            reference = self.values(metric.reference, metric) if metric.reference else []
            for server in self.measured:
                values = self.values(server, metric)
                if values:
                    yield _record(self.row.name, server, metric, values, reference)


def _record(
    row: str, server: str, metric: Metric, values: list[float], reference: list[float]
) -> dict[str, Any]:
    median = statistics.median(values)
    ratio = median / statistics.median(reference) if reference else None
    bounded = ratio if metric.reference else median
    return {
        "row": row,
        "server": server,
        "metric": metric.name,
        "unit": metric.unit,
        "median": median,
        "values": values,
        "reference": metric.reference if reference else None,
        "ratio": ratio,
        "target": _target(metric) if server == "restmq" else "",
        "met": _is_met(metric, bounded) if server == "restmq" else None,
    }


def _target(metric: Metric) -> str:
    of_what = f" x {metric.reference}" if metric.reference else f" {metric.unit}".rstrip()
    if metric.at_least is not None:
        return f">= {metric.at_least:g}{of_what}"
    if metric.at_most is not None:
        return f"<= {metric.at_most:,g}{of_what}"
    return ""


def _is_met(metric: Metric, value: float | None) -> bool | None:
    """Whether the value keeps the metric's bounds; None when it has none, or there is no value."""
    if value is None or (metric.at_least is None and metric.at_most is None):
        return None
    if metric.at_least is not None and value < metric.at_least:
        return False
    return metric.at_most is None or value <= metric.at_most


def as_json(
    machine: dict[str, Any], settings: dict[str, Any], results: list[RowResult], notes: list[str]
) -> dict[str, Any]:
    """The whole run."""
    return {
        "machine": machine,
        "settings": settings,
        "notes": notes,
        "results": [record for result in results for record in result.summary()],
        "measured": {result.row.name: result.measured for result in results},
    }


def write_json(path: Path, run: dict[str, Any]) -> None:
    """Writes the run to a file, whose directory need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=1) + "\n")


def print_report(console: Console, run: dict[str, Any], results: list[RowResult]) -> None:
    """Prints the machine, a table for each row, and the notes."""
    machine = run["machine"]
    load = ", ".join(f"{value:.2f}" for value in machine["load_average"])
    console.print(f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}")
    console.print(
        f"load average {load} at the start; data on {machine['file_system']}, "
        f"fdatasync {machine['fdatasync_median_us']:g} us"
    )
    for name, version in machine["versions"].items():
        console.print(f"  {name}: {version}", highlight=False)
    for result in results:
        if result.measured:
            console.print(_table(result))
    for note in run["notes"]:
        console.print(f"note: {note}", highlight=False, markup=False)


def _table(result: RowResult) -> Table:
    table = Table(title=result.row.title, title_justify="left")
    for heading in ("what", "server"):
        table.add_column(heading, no_wrap=True)
    for heading in ("median", "lowest to highest", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("target", no_wrap=True)
    titles = {metric.name: metric.title for metric in result.row.metrics}
    last = None
    for record in result.summary():
        if last is not None and last != record["metric"]:
            table.add_section()
        title = titles[record["metric"]] if last != record["metric"] else ""
        last = record["metric"]
        table.add_row(title, record["server"], *_cells(record))
    return table


def _cells(record: dict[str, Any]) -> tuple[str, str, str, str]:
    values, unit = record["values"], record["unit"]
    ratio = "" if record["ratio"] is None else f"{record['ratio']:.2f} x {record['reference']}"
    verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[record["met"]]
    return (
        f"{_number(record['median'])} {unit}".rstrip(),
        f"{_number(min(values))} to {_number(max(values))}",
        ratio,
        f"{record['target']} {verdict}".strip(),
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
