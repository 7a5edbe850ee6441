"""What a messaging protocol needs beside the facade: to subscribe, to send, to ask other nodes."""

from collections.abc import Callable

from restmq.broker.asking import Asking
from restmq.broker.broker import Broker
from restmq.broker.new_queues import NewQueues
from restmq.broker.pubsub import Channels
from restmq.broker.sending import Sender
from restmq.broker.subscriptions import Subscriptions
from restmq.broker.topics import Topics


class Messaging:
    """The parts of one node, over the queues of ``broker``.

    ``may_create``: which queues that do not exist it may make. ``lease_seconds`` and
    ``max_attempts`` are for queues whose own settings do not say; 0 is no limit.
    """

    def __init__(
        self,
        broker: Broker,
        may_create: Callable[[str], bool],
        lease_seconds: float,
        max_attempts: int,
    ) -> None:
        stores = broker._stores
        self._channels = Channels(stores.disk.backend)
        self.subscriptions = Subscriptions(stores, lease_seconds, max_attempts)
        self.sender = Sender(stores, may_create)
        self.topics = Topics(broker.node, stores.disk.committer, self._channels)
        self.new_queues = NewQueues(self._channels, broker.list_queues)
        self.asking = Asking(broker.node, stores.disk, self._channels)
        broker.consumer_counts.append(lambda: self.subscriptions.binding_count)

    async def close(self) -> None:
        """Finish what was begun; before the broker is closed."""
        await self.new_queues.close()
        await self._channels.close()
        await self.sender.close()
        await self.subscriptions.close()
