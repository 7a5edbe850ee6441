"""Questions to all nodes: who answers, who stays silent, and what cannot be read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest
from redis.asyncio import Redis

from restmq.broker import asking
from restmq.broker.asking import Answers
from restmq.broker.broker import Broker
from restmq.broker.keys import QUESTION_CHANNEL
from restmq.broker.messaging import Messaging
from restmq.errors import Unavailable
from restmq.redis_process import RedisProcess
from tests.broker.conftest import MakeBroker
from tests.support import eventually


@contextlib.asynccontextmanager
async def open_messaging(broker: Broker) -> AsyncIterator[Messaging]:
    """Open a node's part of it."""
    messaging = Messaging(broker, lambda queue: True, 30, 5)
    try:
        yield messaging
    finally:
        await messaging.close()


async def test_all_that_listen_answer_and_this_node_first(
    make_broker: MakeBroker, fresh_name: str
) -> None:
    """Several may be asked at the same time, also in a cluster, which cannot count who hears."""
    question = fresh_name.encode()
    async with (
        open_messaging(await make_broker()) as one,
        open_messaging(await make_broker()) as other,
        open_messaging(await make_broker()),
    ):

        def answering(word: bytes):  # type: ignore[no-untyped-def]
            return lambda content: word + content if content.startswith(question) else b""

        one.asking.answer_with(answering(b"one "))
        other.asking.answer_with(answering(b"other "))
        other.asking.listen()

        async def is_complete() -> bool:
            return len((await one.asking.ask(question)).contents) == 2

        await eventually(is_complete)
        asked = [one.asking.ask(question + b"%d" % number) for number in range(20)]
        for number, answers in enumerate(await asyncio.gather(*asked)):
            content = question + b"%d" % number
            assert answers.contents == [b"one " + content, b"other " + content]
        one.asking.listen()
        again = await one.asking.ask(question)
        assert again.contents == [b"one " + question, b"other " + question]


async def test_an_answer_that_fails_counts_and_the_next_one_comes(
    redis_url: str, fresh_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    question = fresh_name.encode()
    fails = True

    def answer(content: bytes) -> bytes:
        if content == question and fails:
            raise ValueError("no answer")
        return b"other " + content

    async with (
        Broker(redis_url) as broker,
        Broker(redis_url) as other_broker,
        open_messaging(broker) as one,
        open_messaging(other_broker) as other,
    ):
        other.asking.answer_with(answer)
        other.asking.listen()
        probe = question + b" probe"

        async def is_heard() -> bool:
            return b"other " + probe in (await one.asking.ask(probe)).contents

        await eventually(is_heard)
        told = await one.asking.ask(question)
        assert (told.contents, told.silent_nodes) == ([b""], 0)
        assert "no answer" in caplog.text
        fails = False
        assert b"other " + question in (await one.asking.ask(question)).contents


async def test_what_fails_to_be_heard_does_not_end_the_hearing(
    redis_url: str, fresh_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes] = []

    def hear(_: str, data: bytes) -> None:
        heard.append(data)
        if data == b"bad":
            raise ValueError("not understood")

    async with (
        Broker(redis_url) as broker,
        open_messaging(broker) as one,
        contextlib.aclosing(Redis.from_url(redis_url)) as redis,
    ):
        await one._channels.listen(fresh_name, hear).listening
        await redis.publish(fresh_name, b"bad")
        await redis.publish(fresh_name, b"good")
        await eventually(lambda: heard == [b"bad", b"good"])
    assert "not understood" in caplog.text


async def test_where_nobody_could_be_asked_nobody_is_called_silent(
    private_redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the connection to hear the answers over cannot be made."""
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.2)
    async with Broker(private_redis.url) as broker, open_messaging(broker) as one:
        one.asking.answer_with(lambda _: b"mine")

        async def refuse() -> NoReturn:
            raise ConnectionError("no more connections")

        monkeypatch.setattr(broker._disk.backend, "subscriber", refuse)
        with pytest.raises(Unavailable, match="could not be asked"):
            await one.asking.ask(b"who?")


async def test_a_cluster_cannot_tell_who_is_silent(
    cluster_url: str, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.2)
    async with Broker(cluster_url) as broker, open_messaging(broker) as one:
        one.asking.answer_with(lambda _: b"mine")

        async def answers() -> Answers | None:
            with contextlib.suppress(Unavailable):  # until its own channel is open
                return await one.asking.ask(fresh_name.encode())
            return None

        told = await eventually(answers)
        assert told is not None
        assert told == ([b"mine"], None)


async def test_a_silent_node_is_counted_and_nonsense_does_no_harm(
    redis_url: str, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.5)
    async with (
        Broker(redis_url) as broker,
        open_messaging(broker) as one,
        contextlib.aclosing(Redis.from_url(redis_url)) as redis,
        redis.pubsub() as silent,
    ):
        one.asking.answer_with(lambda _: b"mine")
        one.asking.listen()
        await silent.subscribe(QUESTION_CHANNEL)

        async def answers() -> Answers | None:
            told = await one.asking.ask(fresh_name.encode())
            return told if told.silent_nodes else None

        told = await eventually(answers)
        assert told is not None
        assert told.contents[0] == b"mine"
        await redis.publish(QUESTION_CHANNEL, b"nonsense")
        assert (await one.asking.ask(b"again")).contents[0] == b"mine"
