"""What the doctor finds on a machine: each mistake, and nothing where there is none."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from restmq.cli.doctor.findings import Finding, Findings, Level, Thresholds, bytes_text
from restmq.cli.doctor.machine import (
    Machine,
    check_disk_space,
    check_fsync,
    check_huge_pages,
    check_libraries,
    check_overcommit,
    check_workers,
    existing_parent,
)

ROOT = Path(__file__).parents[3]
TELL_LIMIT = """
import sys
from restmq.cli.doctor.machine import check_file_limit
for each in check_file_limit(int(sys.argv[1]) or None):
    print(each.level, each.what, bool(each.remedy))
"""


def machine(tmp_path: Path, **files: str) -> Machine:
    """A machine whose kernel has these files."""
    places = {
        "overcommit": "proc/sys/vm/overcommit_memory",
        "huge_pages": "sys/kernel/mm/transparent_hugepage/enabled",
        "quota": "sys/fs/cgroup/cpu.max",
    }
    for name, text in files.items():
        file = tmp_path / places[name]
        file.parent.mkdir(parents=True)
        file.write_text(text + "\n")
    return Machine(tmp_path / "proc", tmp_path / "sys")


def only(found: Findings) -> Finding:
    """The one finding; it says what to do exactly when something is wrong."""
    (finding,) = found
    assert bool(finding.remedy) is (finding.level is not Level.OK)
    assert "\n" not in finding.what + finding.remedy
    return finding


@pytest.mark.parametrize(
    ("limit", "consumers", "level"),
    [
        (200, 0, "warning"),
        (200, 500, "problem"),
        (500, 500, "problem"),
        (600, 500, "ok"),
        (1200, 0, "ok"),
    ],
)
def test_too_few_open_files_are_found(limit: int, consumers: int, level: str) -> None:
    """In a process whose hard limit is so; the soft one does not matter."""
    done = subprocess.run(
        [sys.executable, "-c", TELL_LIMIT, str(consumers)],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, limit)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith(level + " ")
    assert done.stdout.endswith(f"{level != 'ok'}\n")
    assert f"{limit:,}" in done.stdout


@pytest.mark.parametrize(("policy", "level"), [("0", "warning"), ("2", "warning"), ("1", "ok")])
def test_a_kernel_that_may_not_let_redis_fork_is_found(
    tmp_path: Path, policy: str, level: str
) -> None:
    """By its file."""
    finding = only(check_overcommit(machine(tmp_path, overcommit=policy)))
    assert (finding.level, finding.check) == (level, "overcommit")


@pytest.mark.parametrize(
    ("text", "redis_turns_them_off", "level"),
    [
        ("[always] madvise never", False, "warning"),
        ("[always] madvise never", True, "ok"),
        ("always [madvise] never", False, "ok"),
        ("always madvise [never]", False, "ok"),
    ],
)
def test_huge_pages_are_found(
    tmp_path: Path, text: str, redis_turns_them_off: bool, level: str
) -> None:
    """If nobody turns them off."""
    finding = only(check_huge_pages(machine(tmp_path, huge_pages=text), redis_turns_them_off))
    assert (finding.level, finding.check) == (level, "huge-pages")


def test_a_kernel_that_does_not_tell_is_no_finding(tmp_path: Path) -> None:
    """As on other systems."""
    unknown = machine(tmp_path)
    assert list(check_overcommit(unknown)) == []
    assert list(check_huge_pages(unknown, False)) == []
    assert unknown.cores() >= 1


def test_too_many_workers_are_found(tmp_path: Path) -> None:
    """More than cores, and more than a container may use of them."""
    cores = len(os.sched_getaffinity(0))
    free = machine(tmp_path / "free", quota="max 100000")
    assert only(check_workers(free, cores)).level is Level.OK
    assert only(check_workers(free, cores + 1)).level is Level.WARNING
    small = machine(tmp_path / "small", quota="50000 100000")
    assert small.cores() == 0.5
    assert only(check_workers(small, 1)).level is Level.OK
    finding = only(check_workers(small, 2))
    assert (finding.level, finding.check) == (Level.WARNING, "workers")
    assert "0.5" in finding.what


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize(("size", "level"), [("1m", "problem"), ("300m", "warning")])
def test_a_full_disk_is_found(tmp_path: Path, size: str, level: str) -> None:
    """On a small one, which is mounted for this."""
    tell = (
        "import sys, pathlib; from restmq.cli.doctor.machine import check_disk_space\n"
        "for each in check_disk_space(pathlib.Path(sys.argv[1], 'yet/to/come')): print(each.level)"
    )
    script = f'mount -t tmpfs -o size={size} none "$1" && exec "$2" -c "$3" "$1"'
    words = ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), sys.executable, tell]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("this container may not mount")
    assert done.stdout == f"{level}\n", done.stderr


def test_disk_space_is_judged_by_its_thresholds(tmp_path: Path) -> None:
    """Also where nothing can be mounted."""
    huge = 1 << 60
    for thresholds, level in (
        (Thresholds(scarce_disk_bytes=0, full_disk_bytes=0), "ok"),
        (Thresholds(scarce_disk_bytes=huge, full_disk_bytes=0), "warning"),
        (Thresholds(scarce_disk_bytes=huge, full_disk_bytes=huge), "problem"),
    ):
        finding = only(check_disk_space(tmp_path / "not/there", thresholds=thresholds))
        assert (finding.level, finding.check) == (level, "disk-space")
        assert str(tmp_path) in finding.what


def test_a_slow_disk_is_found(tmp_path: Path) -> None:
    """Slower than a threshold; and the look leaves nothing behind."""
    assert only(check_fsync(tmp_path, Thresholds(slow_fsync_seconds=60))).level is Level.OK
    finding = only(check_fsync(tmp_path / "not/there", Thresholds(slow_fsync_seconds=0)))
    assert (finding.level, finding.check) == (Level.WARNING, "fsync-time")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written_is_told() -> None:
    """Not raised."""
    finding = only(check_fsync(Path("/proc/self")))
    assert (finding.level, finding.check) == (Level.WARNING, "fsync-time")
    assert "/proc/self" in finding.what


def test_the_nearest_directory_that_exists_is_found(tmp_path: Path) -> None:
    """Upwards."""
    file = tmp_path / "file"
    file.touch()
    assert existing_parent(tmp_path) == tmp_path
    assert existing_parent(tmp_path / "a/b") == tmp_path
    assert existing_parent(file / "a") == tmp_path


def install(directory: Path, name: str, version: str) -> None:
    """Leave the metadata of a library, as pip does."""
    information = directory / f"{name}-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("7.2", ">=7.2,<9", True),
        ("7.2.0", ">=7.2.0.0,<9", True),
        ("8.10.1", ">=7.2,<9", True),
        ("7.1.9", ">=7.2,<9", False),
        ("9.0", ">=7.2,<9", False),
        ("9.0rc1", ">=7.2,<9", False),
        ("0.1", "", True),
    ],
)
def test_libraries_that_do_not_fit_are_found(
    tmp_path: Path, version: str, wanted: str, fits: bool
) -> None:
    """By the metadata that is installed."""
    install(tmp_path, "sample", version)
    for form in (f"sample{wanted}", f"sample[extra]{wanted} ; python_version > '3'"):
        finding = only(check_libraries([form], [str(tmp_path)]))
        assert (finding.level, finding.check) == ("ok" if fits else "problem", "libraries")
        assert version in finding.what


def test_a_library_that_is_missing_is_found(tmp_path: Path) -> None:
    """But not one that only tests need."""
    install(tmp_path, "sample", "1")
    needed = ["sample>=1", "other>=2", 'third>=3; extra == "test"']
    bad, good = check_libraries(needed, [str(tmp_path)])
    assert (bad.level, good.level) == (Level.PROBLEM, Level.OK)
    assert "other is not installed" in bad.what
    assert "other>=2" in bad.remedy


def test_what_this_program_needs_is_here() -> None:
    """As far as its metadata is installed."""
    assert all(each.level is Level.OK for each in check_libraries())


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")],
)
def test_sizes_are_told_in_the_unit_that_fits(size: int, text: str) -> None:
    """From bytes to tebibytes."""
    assert bytes_text(size) == text
