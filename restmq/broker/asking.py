"""Questions that one node asks all nodes, and their answers: for what only nodes know.

Nothing of it is stored. Questions go over one channel of Redis, and each node that asks hears its
answers on a channel of its own. A node that does not answer in time is counted as silent.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from restmq.broker.backend import ClusterBackend
from restmq.broker.keys import QUESTION_CHANNEL, answer_channel
from restmq.broker.pubsub import Channel, Channels
from restmq.broker.scripts import command
from restmq.broker.store import Store
from restmq.errors import RestMQError, Unavailable

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 1.0
"""How long to wait for answers."""

Answerer = Callable[[bytes], bytes]
"""Answers a question, within a megabyte or so."""


class _Question(NamedTuple):
    node: str
    number: int
    content: bytes


class _Answer(NamedTuple):
    number: int
    content: bytes


class Answers(NamedTuple):
    """What came back: that of this node first."""

    contents: list[bytes]
    silent_nodes: int | None
    """How many more heard the question, and did not answer in time; None: a cluster cannot tell."""


class _Waiting:
    def __init__(self) -> None:
        self.contents: list[bytes] = []
        self.heard = 0
        """Answers that came, be they empty."""
        self.expected: int | None = None
        """How many there will be; None while that is not known."""
        self.is_complete = asyncio.Event()

    def check(self) -> None:
        if self.expected is not None and self.heard >= self.expected:
            self.is_complete.set()


_encode = msgspec.msgpack.Encoder().encode
_decode_question = msgspec.msgpack.Decoder(_Question).decode
_decode_answer = msgspec.msgpack.Decoder(_Answer).decode


class Asking:
    """One node's part in it."""

    def __init__(self, node: str, store: Store, channels: Channels) -> None:
        self._node = node
        self._submit = store.committer.submit
        # In a cluster, PUBLISH counts only who is connected to the same server.
        self._counts_all = not isinstance(store.backend, ClusterBackend)
        self._channels = channels
        self._answerer: Answerer = lambda _: b""
        self._is_answering = False
        self._answers: Channel | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._count = 0

    def answer_with(self, answerer: Answerer) -> None:
        """Answer what this node itself asks, and from ``listen`` on what others do."""
        self._answerer = answerer

    def listen(self) -> None:
        """Answer what other nodes ask; a node that has nothing to tell need not."""
        if not self._is_answering:
            self._is_answering = True
            self._channels.listen(QUESTION_CHANNEL, self._hear_question)

    async def ask(self, content: bytes) -> Answers:
        """Ask all nodes; takes ``ANSWER_SECONDS`` at most.

        Raises ``Unavailable``, also if nobody could be asked in that time.
        """
        if self._answers is None:
            channel = answer_channel(self._node)
            self._answers = self._channels.listen(channel, self._hear_answer)
        self._count += 1
        number = self._count
        waiting = self._waiting[number] = _Waiting()
        receivers: int | None = None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await asyncio.shield(self._answers.listening)
                question = _encode(_Question(self._node, number, content))
                receivers = await self._submit(command("PUBLISH", QUESTION_CHANNEL, question))
                if self._counts_all:
                    waiting.expected = receivers
                    waiting.check()
                await waiting.is_complete.wait()
        except TimeoutError:
            logger.debug("%d nodes of %s answered", waiting.heard, waiting.expected)
        finally:
            del self._waiting[number]
        if receivers is None:
            raise Unavailable("the other nodes could not be asked; try again in a moment")
        silent = max(receivers - waiting.heard, 0) if self._counts_all else None
        return Answers([self._answerer(content), *waiting.contents], silent)

    def _hear_question(self, _: str, data: bytes) -> None:
        try:
            question = _decode_question(data)
        except msgspec.MsgspecError:  # a node of another version
            logger.debug("a question cannot be read")
            return
        # One's own is answered without a detour; the empty answer is there to be counted.
        is_own = question.node == self._node
        content = b"" if is_own else self._answer(question.content)
        answer = _encode(_Answer(question.number, content))
        if is_own:
            self._hear_answer("", answer)
            return
        call = command("PUBLISH", answer_channel(question.node), answer)
        try:
            told = self._submit(call)
        except RestMQError as error:
            logger.debug("cannot answer: %s", error)
        else:
            told.add_done_callback(lambda told: told.cancelled() or told.exception())

    def _answer(self, content: bytes) -> bytes:
        """Answer another node; with nothing if that fails, so that it need not wait."""
        try:
            return self._answerer(content)
        except Exception:
            logger.exception("a question of another node could not be answered")
            return b""

    def _hear_answer(self, _: str, data: bytes) -> None:
        try:
            answer = _decode_answer(data)
        except msgspec.MsgspecError:
            logger.debug("an answer cannot be read")
            return
        waiting = self._waiting.get(answer.number)
        if waiting is None:
            return
        waiting.heard += 1
        if answer.content:
            waiting.contents.append(answer.content)
        waiting.check()
