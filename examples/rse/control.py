"""Send one command to an agent and print its answer.

    python rse/agent.py web-1                           (in another terminal)
    python rse/control.py web-1 Ping
    python rse/control.py web-1 Echo '{"any": "JSON"}'
    python rse/control.py web-1 Stop

The command goes to the channel /agents/NAME/commands; the answer is the event of the channel
/agents/NAME/results that carries the same RequestId. It ends with status 1 if none comes in time.
"""

import asyncio
import json
import uuid

import aiohttp
from events import EventClient, make_parser


async def ask(client: EventClient, name: str, command: str, data: object) -> object:
    """Send a command and return the answer, however long it takes."""
    request = str(uuid.uuid4())
    event = {"Event": command, "RequestId": request, "Data": data}
    await client.post(f"/agents/{name}/commands", event)
    async for event in client.follow(f"/agents/{name}/results"):
        answer = event["data"]
        if isinstance(answer, dict) and answer.get("RequestId") == request:
            return answer.get("Data")
    raise AssertionError("a channel has no end")


async def run(
    server: str, token: str | None, name: str, command: str, data: object, timeout_seconds: float
) -> object:
    """Connect and ask; raises TimeoutError if no answer comes."""
    async with EventClient(server, "example-control", token) as client:
        async with asyncio.timeout(timeout_seconds):
            return await ask(client, name, command, data)


def main() -> None:
    """Read the command line and send one command."""
    parser = make_parser(__doc__)
    parser.add_argument("command", help="Ping, Uptime, Echo or Stop")
    parser.add_argument("data", nargs="?", type=json.loads, help="any JSON that goes with it")
    parser.add_argument(
        "--timeout-seconds",
        type=float,
        default=60,
        metavar="N",
        help="longest wait for the answer (default: %(default)s)",
    )
    arguments = parser.parse_args()
    try:
        answer = asyncio.run(run(**vars(arguments)))
    except TimeoutError:
        raise SystemExit("no answer; is the agent running?") from None
    except aiohttp.ClientResponseError as error:
        raise SystemExit(f"refused: {error.status} {error.message}") from error
    except aiohttp.ClientError as error:
        raise SystemExit(f"cannot reach the server: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    print(json.dumps(answer, ensure_ascii=False))


if __name__ == "__main__":
    main()
