"""Completion by the shell: the command that prints its script, and the names of queues."""

import re
import threading
from collections.abc import Iterable, Iterator

import click
from click.shell_completion import CompletionItem, get_completion_class

from restmq.cli.common import DEFAULT_URL
from restmq.cli.listing import stats_pages
from restmq.errors import RestMQError
from restmq.http_client import HttpClient, parse_address

PROGRAM = "restmq"
COMPLETE_VARIABLE = "_RESTMQ_COMPLETE"
SHELLS = ("bash", "zsh", "fish")

ANSWER_SECONDS = 1.0
"""Nobody waits longer than this for names after the Tab key."""

MAX_NAMES = 100

# A shell puts a name in as it is; what would need quotes, or what bash splits words at, does more
# harm than good there.
_PLAIN_NAME = re.compile(r"[\w./@%+,=-]+")

COMPLETION_HELP = f"""Print the script by which a shell completes commands, options and queues.

The names of queues come from the server that --url or RESTMQ_URL names, when it answers within
{ANSWER_SECONDS:g} second.

\b
Examples:
  restmq completion bash > ~/.local/share/bash-completion/completions/restmq
  restmq completion zsh > ~/.zfunc/_restmq
  restmq completion fish > ~/.config/fish/completions/restmq.fish
  source <(restmq completion bash)

Prints the script."""
COMPLETION_EXIT_CODES = "Exit codes: 0 it is printed, 2 the command line is wrong"


@click.command("completion", help=COMPLETION_HELP, epilog=COMPLETION_EXIT_CODES)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script of click for this program."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"there is no completion for {shell}")
    script = kind(ctx.find_root().command, {}, PROGRAM, COMPLETE_VARIABLE)
    # Not source(): it runs the shell first to see how old it is, and this may be another machine.
    click.echo(script.source_template % script.source_vars())


class QueueName(click.types.StringParamType):
    """An argument that names a queue; the shell offers those that the server has."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that begin so; none if the server does not tell them in time."""
        url = ctx.params.get("url") or DEFAULT_URL
        names = _names_in_time(str(url), ctx.params.get("user"), incomplete)
        return [CompletionItem(name) for name in names if _PLAIN_NAME.fullmatch(name)]


def complete_queues(commands: Iterable[click.Command]) -> None:
    """Let the shell complete each argument of these commands that names a queue."""
    for command in commands:
        for parameter in command.params:
            if isinstance(parameter, click.Argument) and parameter.name == "queue":
                parameter.type = QueueName()


def _names_in_time(url: str, user: str | None, beginning: str) -> list[str]:
    found: list[str] = []
    # A thread that the end of the program ends, because no timeout of a socket limits the whole.
    asking = threading.Thread(
        target=lambda: found.extend(_names(url, user, beginning)), daemon=True, name="queue names"
    )
    asking.start()
    asking.join(ANSWER_SECONDS)
    return list(found)


def _names(url: str, user: str | None, beginning: str) -> Iterator[str]:
    try:
        with HttpClient(parse_address(url, user)) as client:
            page = next(stats_pages(client, beginning, MAX_NAMES))
    except RestMQError:
        return  # the line that is being typed is no place for an error
    names = page["queues"]
    if isinstance(names, dict):
        yield from names
