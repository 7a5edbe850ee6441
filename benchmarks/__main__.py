"""The command line of the benchmark: reads options, runs the rows in rounds, reports."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks import machine, report
from benchmarks.delivery_rows import DELIVERY_ROWS
from benchmarks.harness import CHECKOUT, Bench, BenchmarkError, raise_file_limit
from benchmarks.log_rows import LOG_ROWS
from benchmarks.report import RowResult
from benchmarks.rows import BASIC_ROWS, Row
from benchmarks.servers import Server
from benchmarks.stomp_rows import STOMP_ROWS

ROWS: tuple[type[Row], ...] = (*BASIC_ROWS, *DELIVERY_ROWS, *LOG_ROWS, *STOMP_ROWS)
DISTURBED_CPU_SHARE = 0.10
INTERRUPTED = 130
REPORT_COLUMNS = 130


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        prog="benchmarks/run", description="Measures RestMQ beside other servers; see README.rst."
    )
    rows = ", ".join(row.name for row in ROWS)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each row (3)")
    parser.add_argument("--seconds", type=int, default=5, help="of one measurement (5)")
    parser.add_argument("--only", type=_names, default=[], help=f"rows, of {rows}")
    parser.add_argument("--servers", type=_names, default=[], help="names of servers (all)")
    parser.add_argument("--output", type=Path, help="where the JSON goes (benchmarks/results/)")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path.cwd(),
        help="holds the servers' data while they run; should be on a real disk (here)",
    )
    parser.add_argument("--connections", type=int, default=64, help="for requests (64)")
    parser.add_argument("--consumers", type=int, default=1000, help="for fan-out (1000)")
    parser.add_argument("--burst", type=int, default=50, help="messages in a burst (50)")
    parser.add_argument("--idle-connections", type=int, default=2000, help="for idle (2000)")
    parser.add_argument("--queues", type=int, default=200_000, help="for queues (200000)")
    parser.add_argument(
        "--queuey-queues", type=int, default=1_000_000, help="for queuey-queues (1000000)"
    )
    parser.add_argument("--server-core", type=int, default=cores[0], help="core of the server")
    parser.add_argument("--client-core", type=int, default=cores[-1], help="core of the load")
    return parser


def choose_rows(parser: argparse.ArgumentParser, names: Sequence[str]) -> list[Row]:
    """The rows of these names, or all; ends the program when there is no such row."""
    known = {row.name for row in ROWS}
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no such row: {', '.join(unknown)}")
    return [row() for row in ROWS if not names or row.name in names]


def choose_contenders(bench: Bench, row: Row, names: Sequence[str]) -> list[type[Server]]:
    """The servers of a row that are wanted and installed; a note tells of the others."""
    chosen = []
    for contender in row.contenders:
        if names and contender.name not in names:
            continue
        if reason := contender.why_missing():
            bench.note(f"{contender.name} is left out: {reason}")
        else:
            chosen.append(contender)
    return chosen


def run_row(bench: Bench, row: Row, contenders: list[type[Server]], console: Console) -> RowResult:
    """Measures every server in turn, round after round; one that fails is left out from then on."""
    result = RowResult(row)
    try:
        row.check(bench)
    except BenchmarkError as error:
        bench.note(f"{row.name} is left out: {error}")
        return result
    for round_number in range(1, bench.rounds + 1):
        for contender in list(contenders):
            directory = bench.directory / f"{row.name}-{round_number}-{contender.name}"
            try:
                with contender(bench, directory) as server:
                    numbers = measure(bench, row, server)
            except (BenchmarkError, OSError) as error:
                bench.note(f"{row.name}, {contender.name}, round {round_number} FAILED: {error}")
                contenders.remove(contender)
                continue
            result.measured.setdefault(contender.name, []).append(numbers)
            first = row.metrics[0]
            value = f"{numbers[first.name]:,.1f} {first.unit}"
            console.print(f"{row.name} {round_number}/{bench.rounds} {contender.name}: {value}")
    note_disturbance(bench, result)
    return result


def measure(bench: Bench, row: Row, server: Server) -> dict[str, float]:
    """Measures one server once, and how much else went on meanwhile."""
    start, others = time.monotonic(), machine.other_cpu_seconds()
    numbers = row.measure(bench, server)
    share = (machine.other_cpu_seconds() - others) / (time.monotonic() - start)
    return numbers | {"other_cpu_share": share, "load_average": os.getloadavg()[0]}


def note_disturbance(bench: Bench, result: RowResult) -> None:
    """Remarks on measurements during which other processes were busy."""
    for server, rounds in result.measured.items():
        share = max(numbers["other_cpu_share"] for numbers in rounds)
        if share > DISTURBED_CPU_SHARE:
            bench.note(
                f"{result.row.name}, {server}: disturbed, others took up to {share:.2f} of a core"
            )


def make_bench(options: argparse.Namespace, directory: Path) -> Bench:
    """The settings of this run."""
    return Bench(
        directory=directory,
        rounds=options.rounds,
        seconds=options.seconds,
        connections=options.connections,
        consumers=options.consumers,
        burst=options.burst,
        idle_connections=options.idle_connections,
        queues=options.queues,
        queuey_queues=options.queuey_queues,
        server_core=options.server_core,
        client_core=options.client_core,
    )


def main() -> int:
    """Runs the benchmark; 0 when everything that was asked for could be measured."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the former
        signal.signal(number, signal.default_int_handler)
    parser = build_parser()
    options = parser.parse_args()
    rows = choose_rows(parser, options.only)
    raise_file_limit()
    os.sched_setaffinity(0, {options.client_core})
    progress = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.directory) as temporary:
        bench = make_bench(options, Path(temporary).resolve())
        plan = [(row, choose_contenders(bench, row, options.servers)) for row in rows]
        versions = {server.name: server.version() for _, servers in plan for server in servers}
        facts = machine.describe(bench.directory, versions)
        for warning in machine.warnings(facts):
            bench.note(warning)
        results = [run_row(bench, row, servers, progress) for row, servers in plan]
    settings = {name: value for name, value in asdict(bench).items() if name != "notes"}
    settings["directory"] = str(options.directory)
    facts["load_average_at_end"] = os.getloadavg()
    run = report.as_json(facts, settings, results, bench.notes)
    output = options.output or CHECKOUT / "benchmarks" / "results" / _file_name()
    report.write_json(output, run)
    terminal = Console()
    wide = terminal if terminal.is_terminal else Console(width=REPORT_COLUMNS)
    report.print_report(wide, run, results)
    print(f"written to {output}")
    return 1 if any("FAILED" in note for note in bench.notes) else 0


def _file_name() -> str:
    return time.strftime("%Y%m%d-%H%M%S.json", time.gmtime())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
