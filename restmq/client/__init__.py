"""The Python client of a RestMQ server: asynchronous, and with a blocking face.

    from restmq.client import Client

    async with Client("http://127.0.0.1:8888") as client:
        await client.publish("jobs", {"name": "Ann"})
        async for message in client.consume("jobs", prefetch=10):
            async with message:                    # acks; nacks if the block raises
                await greet(message.json()["name"])

    from restmq.client import BlockingClient

    with BlockingClient("http://127.0.0.1:8888") as client:
        client.publish("jobs", {"name": "Ann"})
        for message in client.consume("jobs"):
            with message:
                greet(message.json()["name"])

It follows the specification of delivery. Errors are the classes of ``restmq.errors``, by the code
words of the server, and those of ``restmq.client.errors``.
"""

from restmq.client.blocking import BlockingClient, BlockingLeasedMessage
from restmq.client.calls import Reply, Request
from restmq.client.channels import Channel, ChannelState, Cursor, Entry
from restmq.client.client import Client
from restmq.client.consumer import Consumer
from restmq.client.errors import CallFailed, CallTimedOut, ConnectionLost, NoAnswer, TlsRefused
from restmq.client.messages import DeadLetter, LeasedMessage, Message, StoredMessage
from restmq.client.stats import QueueStats
from restmq.errors import (
    AccessDenied,
    Conflict,
    CredentialsRequired,
    InvalidInput,
    NotFound,
    Overloaded,
    QueueFull,
    RateLimited,
    RestMQError,
    StaleReceipt,
    StoreUnavailable,
    TooLarge,
    Unavailable,
)
from restmq.queue_settings import QueueSettings

__all__ = [
    "AccessDenied",
    "BlockingClient",
    "BlockingLeasedMessage",
    "CallFailed",
    "CallTimedOut",
    "Channel",
    "ChannelState",
    "Client",
    "Conflict",
    "ConnectionLost",
    "Consumer",
    "CredentialsRequired",
    "Cursor",
    "DeadLetter",
    "Entry",
    "InvalidInput",
    "LeasedMessage",
    "Message",
    "NoAnswer",
    "NotFound",
    "Overloaded",
    "QueueFull",
    "QueueSettings",
    "QueueStats",
    "RateLimited",
    "Reply",
    "Request",
    "RestMQError",
    "StaleReceipt",
    "StoreUnavailable",
    "StoredMessage",
    "TlsRefused",
    "TooLarge",
    "Unavailable",
]
