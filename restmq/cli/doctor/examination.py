"""What ``restmq doctor`` looks at, in order; the checks are in the modules beside this one."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from restmq.cli.doctor.access import check_access, check_proxies
from restmq.cli.doctor.findings import Finding, Findings, ok, problem
from restmq.cli.doctor.machine import (
    Machine,
    check_disk_space,
    check_file_limit,
    check_fsync,
    check_huge_pages,
    check_libraries,
    check_overcommit,
    check_workers,
)
from restmq.cli.doctor.redis import (
    RedisState,
    check_private_program,
    check_redis,
    private_url,
    reach,
)
from restmq.cli.doctor.server import check_server
from restmq.cli.doctor.settings import check_durability, check_files, check_places
from restmq.cli.doctor.tls import check_certificates
from restmq.errors import SettingsError
from restmq.http_client import ServerAddress
from restmq.settings import Settings
from restmq.settings_sources import load


def examine(
    flags: Mapping[str, object],
    consumers: int | None = None,
    server: ServerAddress | None = None,
    machine: Machine | None = None,
) -> Findings:
    """Look at everything that a server started here with these flags would stand on.

    ``consumers``: connections that one node shall bear. ``server``: a running one to ask too.
    Changes nothing, and raises nothing for what it finds.
    """
    machine = machine or Machine()
    yield from check_libraries()
    yield from check_file_limit(consumers)
    try:
        settings = load(flags, os.environ, Path.cwd())
    except SettingsError as error:
        yield problem("settings", str(error), "correct it: the server does not start with it")
    else:
        yield ok("settings", f"they can be read ({settings.config_file or 'there is no file'})")
        yield from check_access(settings)
        yield from check_proxies(settings)
        yield from check_files(settings)
        yield from check_certificates(settings)
        yield from check_places(settings)
        yield from check_workers(machine, settings.workers)
        yield from _check_storage(settings, machine)
    if server is not None:
        yield from check_server(server)


def _check_storage(settings: Settings, machine: Machine) -> Findings:
    """Look at each Redis; the private one as it runs, or else as it would be started."""
    url = settings.external_redis_url
    if url is not None:
        yield from _check_redis(url, machine, is_private=False)
    else:
        yield from check_disk_space(settings.data_dir)
        yield from check_fsync(settings.data_dir)
        url = private_url(settings.data_dir)
        if url is not None:
            yield from _check_redis(url, machine, is_private=True)
        else:
            yield check_private_program()
            yield from check_durability(settings)
            yield from _check_kernel(machine, redis_turns_huge_pages_off=True)
    if settings.memory_redis_url:
        for each in reach(settings.memory_redis_url, is_memory=True):
            yield from check_redis(each) if isinstance(each, RedisState) else (each,)


def _check_redis(url: str, machine: Machine, is_private: bool) -> Findings:
    for each in reach(url):
        if isinstance(each, Finding):
            yield each
            continue
        with contextlib.closing(each.client):
            yield from check_redis(each)
        if each.is_local:
            yield from _check_kernel(machine, each.turns_huge_pages_off)
        if each.directory is not None and not is_private:
            yield from _check_directory(each.directory)


def _check_kernel(machine: Machine, redis_turns_huge_pages_off: bool) -> Findings:
    yield from check_overcommit(machine)
    yield from check_huge_pages(machine, redis_turns_huge_pages_off)


def _check_directory(directory: Path) -> Findings:
    """Look at the disk of a Redis that others run, as far as this user may."""
    if not os.access(directory, os.W_OK | os.X_OK):
        yield ok("disk-space", f"{directory} was not looked at: it is for Redis only")
        return
    yield from check_disk_space(directory)
    yield from check_fsync(directory)
