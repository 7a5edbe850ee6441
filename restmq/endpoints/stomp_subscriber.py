"""One subscription of a STOMP connection: a queue, a topic, or all that a wildcard matches."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from restmq.broker.holders import Binding, Delivery
from restmq.broker.limits import MAX_PREFETCH
from restmq.broker.topics import TopicMessage
from restmq.codecs.stomp_commands import Subscription
from restmq.codecs.stomp_encoder import MessageEncoder, encode_message_content
from restmq.endpoints.stomp_destinations import Destination, Kind, for_subscribing
from restmq.endpoints.stomp_shared import Client, Shared
from restmq.errors import InvalidInput, RestMQError

AUTO_PREFETCH: Final = 100
"""Messages without acknowledgement that are on their way to the kernel at a time."""

MAX_BOUND_QUEUES: Final = 10_000
"""Queues that one wildcard subscription may stand for."""


class Subscriber:
    """What the broker knows of one subscription."""

    __slots__ = (
        "_bindings",
        "_connection",
        "_destination",
        "_encoder",
        "_is_open",
        "_shared",
        "_subscription",
        "is_counted",
        "prefetch",
    )

    def __init__(self, connection: Client, shared: Shared, subscription: Subscription) -> None:
        """Raises InvalidInput if there can be no such subscription."""
        self._connection = connection
        self._shared = shared
        self._subscription = subscription
        self._destination: Destination = for_subscribing(
            subscription.destination, connection.session.session_id
        )
        is_queue = self._destination.kind is Kind.QUEUE
        self.is_counted = is_queue and subscription.ack != "auto"
        """Whether its messages count against the limit of the connection."""
        self.prefetch = self._read_prefetch()
        self._bindings: dict[str, Binding | None] = {}
        self._is_open = True
        self._encoder: MessageEncoder | None = None

    def _read_prefetch(self) -> int:
        asked = self._subscription.prefetch_count
        if not self.is_counted:
            return AUTO_PREFETCH
        if asked is not None and asked > MAX_PREFETCH:
            raise InvalidInput(f"prefetch-count is over {MAX_PREFETCH}")
        return asked or self._shared.settings.stomp_prefetch

    def join(self) -> asyncio.Future[None]:
        """Begin; the future is done when nothing that is sent from then on is missed."""
        if self._destination.kind is not Kind.QUEUE:
            return self._shared.messaging.topics.subscribe(self._topic, self._hear)
        if self._destination.is_wildcard:
            watch = self._shared.messaging.new_queues.watch
            return self._shared.spawn(watch(self._destination.name, self._found), self._connection)
        return self._shared.spawn(self._bind(self._destination.name), self._connection)

    def leave(self, held: Mapping[Binding, Sequence[Delivery]]) -> list[asyncio.Future[Any]]:
        """End; what it holds goes back. The futures are done when it is there."""
        self._is_open = False
        messaging = self._shared.messaging
        if self._destination.kind is not Kind.QUEUE:
            messaging.topics.unsubscribe(self._topic, self._hear)
            return []
        if self._destination.is_wildcard:
            messaging.new_queues.unwatch(self._destination.name, self._found)
        bindings = [binding for binding in self._bindings.values() if binding is not None]
        self._bindings = {}
        return [
            outcome
            for binding in bindings
            for outcome in messaging.subscriptions.unbind(binding, held.get(binding, ()))
        ]

    def has_queue(self, queue: str) -> bool:
        """Return whether it gets messages of this queue."""
        return queue in self._bindings

    # Queues

    async def _bind(self, queue: str) -> None:
        """Raises RestMQError if the queue does not exist and may not be made."""
        self._bindings[queue] = None
        messaging = self._shared.messaging
        await messaging.sender.check(queue)
        binding = await messaging.subscriptions.bind(
            queue,
            self._connection,
            self.prefetch,
            is_counted=self.is_counted,
            owner=(self._subscription, self._make_encoder(queue)),
        )
        if self._is_open:
            self._bindings[queue] = binding
        else:
            messaging.subscriptions.unbind(binding, ())

    def _found(self, queue: str) -> None:
        """Bind to a queue that a wildcard matches."""
        if not self._is_open or queue in self._bindings:
            return
        if len(self._bindings) >= MAX_BOUND_QUEUES:
            self._connection.refuse(
                "too many queues", f"a wildcard may stand for {MAX_BOUND_QUEUES} queues at most"
            )
            return
        self._bindings[queue] = None
        self._shared.spawn(self._bind_found(queue), self._connection)

    async def _bind_found(self, queue: str) -> None:
        try:
            await self._bind(queue)
        except RestMQError as error:
            self._connection.fail(error, None)

    def _make_encoder(self, name: str) -> MessageEncoder:
        version = self._connection.session.version
        assert version is not None
        subscription, destination = self._subscription, self._destination
        return MessageEncoder(
            version,
            destination.spell(name) if destination.is_wildcard else subscription.destination,
            subscription.subscription_id,
            needs_ack=subscription.ack != "auto",
        )

    # Topics

    @property
    def _topic(self) -> str:
        return f"{self._destination.kind.value}/{self._destination.name}"

    def _hear(self, topic: str, message: TopicMessage) -> None:
        connection = self._connection
        version = connection.session.version
        if version is None or not self._is_open:
            return
        content = message.encoded.get(version)
        if content is None:
            attributes = message.attributes
            content = message.encoded[version] = encode_message_content(
                message.value,
                attributes.headers or {},
                version,
                content_type=attributes.content_type,
            )
        if self._destination.is_wildcard:
            encoder = self._make_encoder(topic.partition("/")[2])
        else:
            encoder = self._encoder or self._make_encoder(self._destination.name)
            self._encoder = encoder
        number = connection.session.start_delivery(self._subscription, needs_ack=False)
        connection.write_topic(encoder.encode(number, content))
