"""An agent that obeys: it reads commands from one channel and answers in another.

    restmq serve --rse-test-mode true
    python rse/agent.py web-1
    python rse/control.py web-1 Ping                    (in another terminal)

The commands of the agent web-1 are events of the channel /agents/web-1/commands, and its answers
those of /agents/web-1/results. It knows the commands Ping, Uptime, Echo (which answers its Data)
and Stop. Both channels work through firewalls, as the agent only ever asks.

An agent that was restarted finds the commands of the last two minutes again; it leaves out those
that have been answered, which the other channel tells.
"""

import asyncio
import time

import aiohttp
from events import Event, EventClient, make_parser, note

STARTED = time.monotonic()


def obey(command: str, data: object) -> object:
    """Do what a command says, and return the answer."""
    if command == "Ping":
        return "Pong"
    if command == "Uptime":
        return round(time.monotonic() - STARTED, 1)
    if command == "Echo":
        return data
    return "stopping" if command == "Stop" else f"unknown command {command!r}"


async def serve(client: EventClient, name: str) -> None:
    """Answer commands until one says Stop."""
    results = f"/agents/{name}/results"
    answered = {request_of(event) for event in await client.all(results, echo="true")}
    note(f"{name} is listening")
    async for event in client.follow(f"/agents/{name}/commands"):
        request = request_of(event)
        if request is None or request in answered:
            continue
        command = str(event["data"].get("Event"))
        answer = obey(command, event["data"].get("Data"))
        await client.post(results, {"Event": "Result", "RequestId": request, "Data": answer})
        answered.add(request)
        print(f"{command}: {answer}", flush=True)
        if command == "Stop":
            return


def request_of(event: Event) -> str | None:
    """Return what tells a command and its answer from others; None for events of another kind."""
    data = event["data"]
    request = data.get("RequestId") if isinstance(data, dict) else None
    return request if isinstance(request, str) else None


async def run(server: str, token: str | None, name: str) -> None:
    """Connect and serve."""
    async with EventClient(server, "example-agent", token) as client:
        await serve(client, name)


def main() -> None:
    """Read the command line and serve."""
    arguments = make_parser(__doc__).parse_args()
    try:
        asyncio.run(run(arguments.server, arguments.token, arguments.name))
    except aiohttp.ClientResponseError as error:
        raise SystemExit(f"refused: {error.status} {error.message}") from error
    except aiohttp.ClientError as error:
        raise SystemExit(f"cannot reach the server: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
