"""The rows of several workers: what they add up to, and what becomes of a worker that died."""

import multiprocessing
import time

import pytest

from restmq.endpoints import metrics_sheet
from restmq.endpoints.metrics_sheet import Cells, Figures, Row, Sheet, new_cells

NAMES = ["done", "failed", "open"]


class Worker:
    """One that counts two things, and has some of another."""

    def __init__(self, cells: Cells, place: int, names: list[str] = NAMES) -> None:
        self.figures = Figures([0.0, 0.0], [0.0])
        self.sheet = Sheet(Row(cells, place), names, lambda: self.figures)

    def write(self, done: float, failed: float, open_now: float) -> None:
        """Write what was counted since the worker was started."""
        self.figures = Figures([done, failed], [open_now])
        self.sheet.write()


def test_rows_of_all_workers_are_added_up() -> None:
    cells = new_cells(3)
    first, second = Worker(cells, 0), Worker(cells, 2)
    first.write(1, 10, 5)
    second.write(2, 20, 6)
    for worker in (first, second):
        assert worker.sheet.total() == (Figures([3, 30], [11]), 2)


def test_one_that_takes_the_place_of_another_goes_on_from_there() -> None:
    cells = new_cells(2)
    Worker(cells, 1).write(5, 50, 1)
    successor = Worker(cells, 1)
    successor.write(2, 0, 7)
    assert successor.sheet.total() == (Figures([7, 50], [7]), 1)


def test_what_a_dead_worker_counted_stays_and_what_it_had_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = new_cells(2)
    Worker(cells, 0).write(5, 50, 1)
    later = time.monotonic() + metrics_sheet.LIVE_SECONDS + 1
    monkeypatch.setattr(metrics_sheet.time, "monotonic", lambda: later)
    other = Worker(cells, 1)
    other.write(1, 1, 1)
    assert other.sheet.total() == (Figures([6, 51], [1]), 1)


def test_one_that_stops_is_gone_at_once() -> None:
    cells = new_cells(2)
    stopping, other = Worker(cells, 0), Worker(cells, 1)
    stopping.write(5, 50, 1)
    stopping.figures = Figures([6, 50], [1])
    stopping.sheet.write(is_last=True)
    assert other.sheet.total() == (Figures([6, 50], [0]), 0)


def test_a_worker_that_counts_other_things_is_left_out() -> None:
    cells = new_cells(2)
    Worker(cells, 0, ["other", "things", "here"]).write(5, 50, 1)
    worker = Worker(cells, 1)
    worker.write(1, 1, 1)
    assert worker.sheet.total() == (Figures([1, 1], [1]), 1)
    assert Worker(cells, 0).sheet.total()[0] == Figures([1, 1], [1])


def test_alone_it_is_what_it_counted() -> None:
    sheet = Sheet(Row.alone(), NAMES, lambda: Figures([1, 2], [3]))
    sheet.write()
    assert sheet.total() == (Figures([1, 2], [3]), 1)


def test_too_many_figures_are_refused() -> None:
    figures = Figures([0.0] * metrics_sheet.MAX_ROW_VALUES, [])
    with pytest.raises(ValueError, match="figures are more than"):
        Sheet(Row.alone(), [], lambda: figures)


def _count(cells: Cells) -> None:
    row = Row.of_worker(cells)
    Sheet(row, NAMES, lambda: Figures([row.place, 1], [1])).write()


def test_processes_share_it() -> None:
    context = multiprocessing.get_context("spawn")
    cells = new_cells(3)
    for number in (1, 2):
        process = context.Process(target=_count, args=(cells,), name=f"restmq-worker-{number}")
        process.start()
        process.join()
        assert process.exitcode == 0
    assert Worker(cells, 0).sheet.total() == (Figures([3, 2], [2]), 2)
