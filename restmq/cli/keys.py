"""The commands for API keys: keys add, keys list, keys remove.

They change the file that a server follows, on the machine where it is; no server need run.
"""

import functools
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import click

from restmq.api_keys import (
    ApiKey,
    ApiKeys,
    Permission,
    check_name,
    check_pattern,
    digest_of,
    format_time,
    new_key,
    parse_permissions,
    parse_time,
)
from restmq.cli.common import Printer, print_rows, say

EXIT_CODES: Final = (
    "Exit codes: 0 it is done, 1 there is no such key, 2 the command line, a setting or the file "
    "is wrong"
)
_SPAN: Final = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

_FILE_OPTIONS: Final = (
    ("--file", "keys", "The file of keys.  [default: the server's, by its settings]"),
    ("--acl", "acl", "The access control file, beside which the file of keys is."),
    ("--config", "config", "TOML file with the server's settings."),
)


def _takes_file(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which file, and that file as ``path``."""

    @functools.wraps(function)
    def run(keys: str | None, acl: str | None, config: str | None, **arguments: object) -> None:
        from restmq.access import keys_path
        from restmq.settings_sources import load

        flags = {"keys": keys, "acl": acl, "config": config}
        settings = load(flags, os.environ, Path.cwd())
        function(path=keys_path(settings.keys, settings.acl), **arguments)

    decorated: Callable[..., None] = run
    for flag, name, help_text in reversed(_FILE_OPTIONS):
        decorated = click.option(flag, name, metavar="PATH", help=help_text)(decorated)
    return decorated


@click.group(
    help="""Make, list and remove API keys, which let programs use some queues.

    `add` prints a key, and that once; what is kept is its hash, in a file that only its owner
    can read: keys.conf beside acl.conf, if the setting `keys` names no other. A running server
    follows that file within seconds, and at once on SIGHUP. Clients send a key as "Authorization:
    Bearer KEY" or "X-API-Key: KEY", with --user key:KEY, or to STOMP as passcode of the login key;
    pages that cannot send headers with a stream, as its parameter api_key.

    What a key allows:

    \b
      publish   add messages
      consume   take, lease, acknowledge, delete and stream messages
      view      look at queues: figures, settings, messages without taking them
      manage    settings, policy, start and stop, purge, redrive, priorities

    \b
    Patterns of --queues, with the wildcards * and ?:
      jobs.*         queues by their names
      /rse/orders    a channel of RSE; /channels/news, /cursors/CLIENT, /v1/APPLICATION/QUEUE and
                     /topic/NAME (of STOMP) are written likewise
      *              everything; the dashboard and the metrics take this, with view

    \b
    Examples:
      restmq keys add --queues 'jobs.*' --can publish,consume --name worker
      restmq keys list
      restmq keys remove 0a1b2c3d4e5f""",
    epilog=EXIT_CODES,
)
def keys() -> None:
    """Hold the commands."""


@keys.command(
    help="""Make a key and print it, this once.

    \b
    Examples:
      restmq keys add --queues 'jobs.*' --can publish,consume
      restmq keys add --queues '*' --can view --name dashboard --expires 90d
      KEY=$(restmq keys add --queues 'jobs.*,mail' --can consume)""",
    epilog=EXIT_CODES,
)
@click.option(
    "--queues",
    required=True,
    multiple=True,
    metavar="PATTERN,...",
    help="The queues it is for, by their names; may be given several times.",
)
@click.option(
    "--can",
    required=True,
    multiple=True,
    metavar="PERMISSION,...",
    help=f"What it allows: {', '.join(Permission)}.",
)
@click.option("--name", default="", metavar="TEXT", help="What people know it by.")
@click.option(
    "--expires",
    metavar="TIME",
    help="When it ends: a time from now such as 12h or 90d, or a date, 2027-01-31 (UTC).",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as a JSON object.")
@_takes_file
def add(
    path: Path,
    queues: tuple[str, ...],
    can: tuple[str, ...],
    name: str,
    expires: str | None,
    as_json: bool,
) -> None:
    """Make a key."""
    from restmq.key_file import change_keys

    text = new_key()
    now = int(time.time())
    try:
        key = ApiKey(
            digest_of(text),
            tuple(check_pattern(each) for each in _split(queues)),
            parse_permissions(_split(can)),
            check_name(name),
            now,
            None if expires is None else _read_expiry(expires, now),
        )
        if not key.patterns:
            raise ValueError("--queues names no pattern")
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    is_new = change_keys(path, lambda known: [*known, key])
    if is_new and os.geteuid() == 0:
        say(f"{path} is new and belongs to root alone; to let a server of another user read it:")
        say(f"  chown USER: {shlex.quote(str(path))}")
    say(f"{path} has the key {key.id}; this is the only time that it is shown")
    if as_json:
        Printer().json({"key": text, **_fields(key)})
    else:
        Printer().line(text.encode())


@keys.command(
    "list",
    help="""List the keys by their ids, with what they allow; not the keys themselves.

    \b
    Examples:
      restmq keys list
      restmq keys list --json""",
    epilog=EXIT_CODES,
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each.")
@_takes_file
def list_command(path: Path, as_json: bool) -> None:
    """List the keys."""
    from restmq.key_file import read_keys

    known = read_keys(path)
    if as_json:
        for key in known:
            Printer().json({**_fields(key), "expired": key.has_expired})
        return
    header = ("Id", "Name", "Queues", "Can", "Created", "Expires")
    print_rows(header, [_row(key) for key in known])


@keys.command(
    help="""Remove keys by their ids, as `restmq keys list` tells them.

    A running server refuses them within seconds, and ends what they began.

    \b
    Examples:
      restmq keys remove 0a1b2c3d4e5f""",
    epilog=EXIT_CODES,
)
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@_takes_file
def remove(path: Path, ids: tuple[str, ...]) -> None:
    """Remove keys."""
    from restmq.errors import NotFound
    from restmq.key_file import change_keys

    def without(known: ApiKeys) -> list[ApiKey]:
        missing = set(ids) - {key.id for key in known}
        if missing:
            raise NotFound(f"{path} has no key {', '.join(sorted(missing))}; nothing was removed")
        return [key for key in known if key.id not in ids]

    change_keys(path, without)


def _split(texts: Iterable[str]) -> list[str]:
    parts = (part.strip() for text in texts for part in text.split(","))
    return list(dict.fromkeys(filter(None, parts)))


def _read_expiry(text: str, now: int) -> int:
    span = _SPAN.fullmatch(text)
    moment = now + int(span[1]) * _UNIT_SECONDS[span[2]] if span else parse_time(text)
    if moment <= now:
        raise ValueError(f"--expires {text} is over")
    format_time(moment)  # raises if it is beyond the calendar
    return moment


def _fields(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "queues": key.patterns,
        "can": [each for each in Permission if each in key.permissions],
        "created": None if key.created is None else format_time(key.created),
        "expires": None if key.expires is None else format_time(key.expires),
    }


def _row(key: ApiKey) -> list[str]:
    expires = "never" if key.expires is None else format_time(key.expires)
    return [
        key.id,
        key.name,
        json.dumps(key.patterns, ensure_ascii=False) if _is_odd(key.patterns) else _join(key),
        ",".join(each for each in Permission if each in key.permissions),
        "" if key.created is None else format_time(key.created),
        f"{expires} (expired)" if key.has_expired else expires,
    ]


def _is_odd(patterns: Iterable[str]) -> bool:
    return any("," in each or not each.isprintable() for each in patterns)


def _join(key: ApiKey) -> str:
    return ",".join(key.patterns)
