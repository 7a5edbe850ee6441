"""A worker with the Python client: handles messages of a queue, several at a time, loses none.

    python client_worker.py jobs
    python client_worker.py jobs --publish 0.5 2 'oh no'       (in another terminal)

Each message is leased and handled in a block: it is acknowledged when the block ends, comes again
after a pause when it raises, and its lease is extended for as long as it runs. After five attempts
(the setting max_attempts) it is a dead letter. The loop goes on when the server is restarted.
SIGTERM or Ctrl-C let what is in hand finish; a worker that is killed loses nothing either, since
its leases run out.

work() sleeps for as many seconds as the value says, and fails for what is no number; put yours in
its place. Messages may come twice, so it must not matter if the same one is done again.
"""

import argparse
import asyncio
import signal

from restmq.client import Client, LeasedMessage, RestMQError

RETRY_SECONDS = 5


async def work(message: LeasedMessage) -> None:
    """Do what the message asks for; whatever is raised means that it failed."""
    await asyncio.sleep(float(message.text))


async def handle(message: LeasedMessage) -> None:
    """Handle one message, and tell what became of it."""
    try:
        async with message:
            await work(message)
    except RestMQError as error:  # it was handled, but the server does not know: it comes again
        print(f"{message.key} was not settled: {error}", flush=True)
    except Exception as error:
        print(f"{message.key} failed: {error}; again in {RETRY_SECONDS} s", flush=True)
    else:
        print(f"{message.key} done", flush=True)


async def run(arguments: argparse.Namespace) -> None:
    """Publish, or work until a signal."""
    async with Client(arguments.server) as client:
        if arguments.publish:
            for key in await client.publish_many(arguments.queue, arguments.publish):
                print(key)
            return
        messages = client.consume(
            arguments.queue, prefetch=arguments.at_once, retry_delay=RETRY_SECONDS
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, messages.stop)
        # The group waits for those in hand when the loop has been stopped.
        async with asyncio.TaskGroup() as group, messages:
            async for message in messages:
                group.create_task(handle(message))


def main() -> None:
    """Read the command line and work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("queue")
    parser.add_argument("--server", metavar="URL", default="http://127.0.0.1:8888")
    parser.add_argument("--at-once", metavar="N", type=int, default=4, help="messages in hand")
    parser.add_argument("--publish", metavar="VALUE", nargs="+", help="publish these instead")
    arguments = parser.parse_args()
    try:
        asyncio.run(run(arguments))
    except RestMQError as error:
        raise SystemExit(f"the server cannot be used: {error}") from error


if __name__ == "__main__":
    main()
