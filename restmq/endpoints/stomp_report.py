"""Who is connected over STOMP, to all nodes, and what they hold: what ``/stats`` tells of it.

Nodes are asked when somebody wants to know, so it costs nothing otherwise. Connections come a page
at a time, by their names; every list has a limit, and what stands beside it tells of the rest.
"""

import asyncio
import base64
import binascii
import heapq
from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple, cast

import msgspec

from restmq.broker.keys import message_key
from restmq.broker.messaging import Messaging
from restmq.codecs.stomp_commands import Subscription
from restmq.endpoints.stomp_access import Peer
from restmq.endpoints.stomp_connection import Connection
from restmq.endpoints.stomp_destinations import Kind
from restmq.endpoints.web import Parameters
from restmq.errors import InvalidInput

MAX_CONNECTIONS: Final = 1000
"""Connections on one page."""

MAX_TOPICS: Final = 1000
"""Topics of one node, by name."""

MAX_SUBSCRIPTIONS: Final = 20
"""Subscriptions of one connection."""

MAX_MESSAGES: Final = 20
"""Messages that one subscription holds."""

MAX_ANSWER_BYTES: Final = 512 * 1024
"""A page of one node ends early when it is so large."""

MAX_NAME_BYTES: Final = 100

_TOPIC_START: Final = f"{Kind.TOPIC.value}/"


class SubscriptionReport(msgspec.Struct):
    """One subscription; ``messages`` are the keys of what it holds unacknowledged."""

    id: str | None
    destination: str
    ack: str
    prefetch: int | None
    held: int
    messages: list[str]


class ConnectionReport(msgspec.Struct):
    """One connection; its name is unique among all nodes, and says which of them has it."""

    connection: str
    login: str | None
    address: str
    via: str
    version: str | None
    seconds: float
    unsent_bytes: int
    held: int
    subscription_count: int
    subscriptions: list[SubscriptionReport]


class Question(msgspec.Struct):
    """What is asked of all nodes: connections after a name, maybe only those of one queue."""

    queue: str | None
    after: str
    limit: int


class NodeReport(msgspec.Struct):
    """What one node tells."""

    connections: int
    subscriptions: int
    topics: dict[str, int]
    has_more_topics: bool
    clients: list[ConnectionReport]
    has_more: bool


class _Named(NamedTuple):
    name: str
    connection: Connection


_encode = msgspec.msgpack.Encoder().encode
_decode_question = msgspec.msgpack.Decoder(Question).decode
_decode_report = msgspec.msgpack.Decoder(NodeReport).decode


class Reports:
    """Answers what other nodes ask of this one's connections, and asks them of theirs."""

    def __init__(
        self, messaging: Messaging, node: str, connections: Callable[[], Collection[Connection]]
    ) -> None:
        self._messaging = messaging
        self._node = node
        self._connections = connections
        messaging.asking.answer_with(self._answer)

    def listen(self) -> None:
        """Answer from now on: this node has, or had, a connection."""
        self._messaging.asking.listen()

    async def tell(self, parameters: Parameters, queue: str | None) -> dict[str, object]:
        """Return what all nodes know, as JSON has it, by the parameters ``stomp`` and ``after``.

        Raises InvalidInput, Unavailable.
        """
        limit = parameters.integer(b"stomp", 1, MAX_CONNECTIONS)
        if limit is None:
            raise InvalidInput(f"stomp must be a whole number from 1 to {MAX_CONNECTIONS}")
        question = Question(queue, parameters.text(b"after") or "", limit)
        answers = await self._messaging.asking.ask(_encode(question))
        reports = []
        silent_nodes = answers.silent_nodes
        for content in answers.contents:
            try:
                reports.append(_decode_report(content))
            except msgspec.MsgspecError:  # a node of another version
                silent_nodes = None if silent_nodes is None else silent_nodes + 1
        clients, following = _merge(reports, limit)
        told: dict[str, object] = {
            "connections": sum(report.connections for report in reports),
            "subscriptions": sum(report.subscriptions for report in reports),
            "silent_nodes": silent_nodes,
            "clients": clients,
            "next": following,
        }
        if queue is None:
            topics: dict[str, int] = {}
            for report in reports:
                for name, count in report.topics.items():
                    topics[name] = topics.get(name, 0) + count
            has_more = len(topics) > MAX_TOPICS or any(each.has_more_topics for each in reports)
            told["topics"] = dict(heapq.nsmallest(MAX_TOPICS, topics.items()))
            told["has_more_topics"] = has_more
        return told

    def _answer(self, content: bytes) -> bytes:
        try:
            question = _decode_question(content)
        except msgspec.MsgspecError:  # a node of another version
            return b""
        return _encode(self._report(question))

    def _report(self, question: Question) -> NodeReport:
        queue = question.queue
        of_queue = [
            each
            for each in self._connections()
            if queue is None or any(s.has_queue(queue) for s in each.subscribers.values())
        ]
        named = (_Named(f"{self._node}-{each.number:012d}", each) for each in of_queue)
        wanted = (each for each in named if each.name > question.after)
        page = heapq.nsmallest(question.limit + 1, wanted, key=lambda each: each.name)
        clients = []
        size = 0
        for name, connection in page[: question.limit]:
            clients.append(describe(name, connection, queue))
            size += len(_encode(clients[-1]))
            if size > MAX_ANSWER_BYTES:
                break
        topics = self._count_topics() if queue is None else {}
        return NodeReport(
            connections=len(of_queue),
            subscriptions=sum(len(each.subscribers) for each in of_queue),
            topics=dict(heapq.nsmallest(MAX_TOPICS, topics.items())),
            has_more_topics=len(topics) > MAX_TOPICS,
            clients=clients,
            has_more=len(clients) < len(page),
        )

    def _count_topics(self) -> dict[str, int]:
        counts = self._messaging.topics.counts().items()
        start = len(_TOPIC_START)
        return {name[start:]: count for name, count in counts if name.startswith(_TOPIC_START)}


def _merge(reports: Iterable[NodeReport], limit: int) -> tuple[list[ConnectionReport], str | None]:
    """Return a page of all, and the name after which the next one begins, if there is more."""
    clients: list[ConnectionReport] = []
    has_more = False
    # Names begin with that of the node, so those of one node lie together.
    for report in sorted(reports, key=lambda each: [c.connection for c in each.clients[:1]]):
        clients += report.clients
        if report.has_more or len(clients) > limit:
            has_more = True
            break
    has_more |= len(clients) > limit
    del clients[limit:]
    return clients, clients[-1].connection if has_more else None


def describe(name: str, connection: Connection, queue: str | None) -> ConnectionReport:
    """Return what can be told of a connection, and of its subscriptions or those to one queue."""
    held: dict[Subscription, list[str]] = {}
    counts: dict[Subscription, int] = {}
    for delivery in connection.deliveries.values():
        binding = delivery.binding
        subscription, _ = cast(tuple[Subscription, object], binding.owner)
        counts[subscription] = counts.get(subscription, 0) + 1
        shown = held.setdefault(subscription, [])
        if len(shown) < MAX_MESSAGES:
            shown.append(message_key(binding.queue, delivery.message.number))
    subscriptions: list[SubscriptionReport] = []
    for subscription, subscriber in connection.subscribers.items():
        if len(subscriptions) == MAX_SUBSCRIPTIONS:
            break
        if queue is None or subscriber.has_queue(queue):
            subscriptions.append(
                SubscriptionReport(
                    id=subscription.subscription_id,
                    destination=subscription.destination,
                    ack=subscription.ack,
                    prefetch=subscriber.prefetch if subscriber.is_counted else None,
                    held=counts.get(subscription, 0),
                    messages=held.get(subscription, []),
                )
            )
    return ConnectionReport(
        connection=name,
        login=login_of(connection.peer),
        address=connection.peer.address,
        via=connection.wire.kind,
        version=connection.session.version,
        seconds=round(asyncio.get_running_loop().time() - connection.opened_at, 3),
        unsent_bytes=connection.wire.unsent_bytes,
        held=len(connection.deliveries),
        subscription_count=len(connection.subscribers),
        subscriptions=subscriptions,
    )


def login_of(peer: Peer) -> str | None:
    """Return the login that a client gave, with CONNECT or with its handshake; None if neither."""
    scheme, _, encoded = (peer.authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        pair = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return pair.partition(":")[0][:MAX_NAME_BYTES]
