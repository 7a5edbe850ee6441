"""The walk-through of the Queuey specification, section 8, step by step against the real program.

The steps build on each other, so they run in order against one server.
"""

import json
import re
import uuid
from pathlib import Path
from typing import Any

from tests.process.clients import CurlAnswer, curl
from tests.server_process import running_server

KEY = ("-H", "Authorization: Application K")
SETTINGS = '[queuey.application_keys]\ndemo = "K"\nother = ["K2", "K3"]\n'


class Walk:
    """What one step leaves to the next: where the server is, and the ids of messages."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.url = f"{base}/v1/demo"
        self.ids: dict[str, str] = {}

    async def ask(self, *arguments: str, status: int = 200) -> Any:
        """Run curl with the key; returns the JSON."""
        answer = await curl(*KEY, *arguments)
        assert answer.status == status, answer
        return answer.json

    async def error(self, *arguments: str, status: int = 400) -> dict[str, str]:
        """Run curl with the key for what is to be refused; returns the texts by field."""
        answer = await self.ask(*arguments, status=status)
        assert answer["status"] == "error"
        errors: dict[str, str] = answer["error_msg"]
        return errors

    async def bodies(self, path: str) -> list[str]:
        """Read the bodies of messages."""
        return [each["body"] for each in (await self.ask(self.url + path))["messages"]]


def is_denied(answer: CurlAnswer) -> bool:
    """Whether the answer says that access was denied."""
    return answer.status == 403 and "Access was denied" in answer.body


async def step_01_the_heartbeat_beats(walk: Walk) -> None:
    assert (await curl("-I", f"{walk.base}/__heartbeat__")).status == 200


async def step_02_strangers_are_denied_and_unknown_applications_do_not_exist(walk: Walk) -> None:
    assert is_denied(await curl("-X", "POST", walk.url))
    assert (await curl(f"{walk.base}/v1/nobody")).status == 404


async def step_03_a_bad_key_is_401(walk: Walk) -> None:
    answer = await curl("-X", "POST", "-H", "Authorization: Application bad", walk.url)
    assert answer.status == 401
    assert answer.json["error_msg"].keys() == {"InvalidApplicationKey"}


async def step_04_a_queue_gets_a_name_and_the_defaults(walk: Walk) -> None:
    made = await walk.ask("-X", "POST", walk.url, status=201)
    assert re.fullmatch(r"[0-9a-f]{32}", made["queue_name"])
    assert (made["partitions"], made["type"], made["consistency"]) == (1, "user", "strong")


async def step_05_a_queue_is_made_as_asked(walk: Walk) -> None:
    made = await walk.ask("-d", "queue_name=q1", "-d", "partitions=2", walk.url, status=201)
    assert (made["queue_name"], made["partitions"]) == ("q1", 2)


async def step_06_the_list_tells_details_from_a_name_on(walk: Walk) -> None:
    query = "details=true&include_count=1&offset=q1&limit=1"
    [entry] = (await walk.ask(f"{walk.url}?{query}"))["queues"]
    assert (entry["queue_name"], entry["partitions"], entry["count"]) == ("q1", 2, 0)


async def step_07_a_message_goes_into_the_partition_that_is_named(walk: Walk) -> None:
    headers = ("-H", "X-Partition: 2", "-H", "Content-Type: text/plain")
    answer = await walk.ask(*headers, "-d", "hello", f"{walk.url}/q1", status=201)
    [message] = answer["messages"]
    assert message["partition"] == 2
    walk.ids["k1"] = message["key"]


async def step_08_reading_is_of_partition_1_unless_told(walk: Walk) -> None:
    assert await walk.bodies("/q1") == []
    [message] = (await walk.ask(f"{walk.url}/q1?partitions=1,2"))["messages"]
    assert (message["body"], message["message_id"]) == ("hello", walk.ids["k1"])
    assert isinstance(message["timestamp"], str)


async def step_09_a_batch_gets_ids_in_its_order(walk: Walk) -> None:
    batch = {"messages": [{"body": "a", "partition": 1}, {"body": "b", "partition": 1}]}
    arguments = ("-H", "Content-Type: application/json", "-d", json.dumps(batch))
    answer = await walk.ask(*arguments, f"{walk.url}/q1", status=201)
    one, two = (each["key"] for each in answer["messages"])
    assert uuid.UUID(one).time < uuid.UUID(two).time
    walk.ids["ka"], walk.ids["kb"] = one, two


async def step_10_since_is_inclusive_and_order_can_be_turned(walk: Walk) -> None:
    assert await walk.bodies(f"/q1?since={walk.ids['kb']}") == ["b"]
    assert await walk.bodies(f"/q1?since={walk.ids['ka']}") == ["a", "b"]
    assert await walk.bodies("/q1?order=descending&limit=1") == ["b"]


async def step_11_messages_are_read_by_id(walk: Walk) -> None:
    path = f"/q1/2%3A{walk.ids['k1']},1:{walk.ids['ka']}"
    assert await walk.bodies(path) == ["hello", "a"]
    assert await walk.bodies(f"/q1/{uuid.uuid1().hex}") == []


async def step_12_a_put_replaces_the_body_alone(walk: Walk) -> None:
    path = f"{walk.url}/q1/1:{walk.ids['ka']}"
    [before] = (await walk.ask(path))["messages"]
    answer = await walk.ask("-X", "PUT", "-H", "X-TTL: 60", "-d", "bye", path)
    assert answer == {"status": "ok"}
    assert (await walk.ask(path))["messages"] == [{**before, "body": "bye"}]


async def step_13_a_put_creates_what_is_not_there(walk: Walk) -> None:
    fresh = uuid.uuid1().hex
    await walk.ask("-X", "PUT", "-d", "new", f"{walk.url}/q1/{fresh}")
    assert await walk.bodies(f"/q1/1:{fresh}") == ["new"]
    assert "new" in await walk.bodies("/q1")


async def step_14_a_delete_can_be_repeated(walk: Walk) -> None:
    path = f"/q1/2:{walk.ids['k1']},{walk.ids['ka']}"
    for _ in range(2):
        assert await walk.ask("-X", "DELETE", walk.url + path) == {"status": "ok"}
        assert await walk.bodies(path) == []


async def step_15_bad_messages_are_refused_by_field(walk: Walk) -> None:
    url = f"{walk.url}/q1"
    assert (await walk.error("-H", "X-TTL: 0", "-d", "x", url)).keys() == {"ttl"}
    errors = await walk.error("-H", "X-Partition: 9", "-d", "x", url)
    assert errors == {"partition": "9 is greater than maximum value 2"}
    assert await walk.error("-X", "POST", url) == {"body": "Required"}


async def step_16_bad_queries_are_refused_by_field(walk: Walk) -> None:
    for query, field in (
        ("limit=1001", "limit"),
        ("partitions=1,fred", "partitions"),
        ("order=up", "order"),
    ):
        assert (await walk.error(f"{walk.url}/q1?{query}")).keys() == {field}


async def step_17_partitions_only_grow(walk: Walk) -> None:
    url = f"{walk.url}/q1"
    errors = await walk.error("-X", "PUT", "-d", "partitions=1", url)
    assert errors.keys() == {"InvalidUpdate"}
    assert (await walk.ask("-X", "PUT", "-d", "partitions=3", url))["partitions"] == 3


async def step_18_a_public_queue_is_read_by_anyone_and_written_by_its_owner(walk: Walk) -> None:
    await walk.ask("-d", "queue_name=pub", "-d", "type=public", walk.url, status=201)
    assert (await curl(f"{walk.url}/pub")).status == 200
    assert is_denied(await curl("-d", "x", f"{walk.url}/pub"))


async def step_19_principles_keep_out_even_the_owner(walk: Walk) -> None:
    form = ("-d", "queue_name=p", "-d", "principles=app:other")
    await walk.ask(*form, walk.url, status=201)
    assert is_denied(await curl(*KEY, f"{walk.url}/p"))
    await walk.ask("-d", "x", f"{walk.url}/p", status=201)
    for key in ("K2", "K3"):
        answer = await curl("-H", f"Authorization: Application {key}", f"{walk.url}/p")
        assert [each["body"] for each in answer.json["messages"]] == ["x"]


async def step_20_a_deleted_queue_is_gone(walk: Walk) -> None:
    assert await walk.ask("-X", "DELETE", f"{walk.url}/q1") == {"status": "ok"}
    assert (await walk.error(f"{walk.url}/q1", status=404)).keys() == {"InvalidQueueName"}


STEPS = [step for name, step in sorted(globals().items()) if name.startswith("step_")]


def write_settings(directory: Path) -> str:
    """Write the settings file; returns its path."""
    file = directory / "queuey.toml"
    file.write_text(SETTINGS)
    return str(file)


async def test_the_walk_through(tmp_path: Path) -> None:
    """All twenty steps."""
    assert len(STEPS) == 20
    async with running_server(tmp_path, "--config", write_settings(tmp_path)) as server:
        walk = Walk(server.url)
        for step in STEPS:
            await step(walk)


async def test_queues_and_their_messages_survive_a_kill_and_a_restart(tmp_path: Path) -> None:
    """What was answered with yes is there again, under the same ids and for the same readers."""
    async with running_server(tmp_path, "--config", write_settings(tmp_path)) as server:
        walk = Walk(server.url)
        form = ("-d", "queue_name=q", "-d", "partitions=2", "-d", "principles=app:demo")
        await walk.ask(*form, walk.url, status=201)
        for number in range(1, 5):
            headers = ("-H", f"X-Partition: {1 + number % 2}")
            await walk.ask(*headers, "-d", f"m{number}", f"{walk.url}/q", status=201)
        before = await walk.ask(f"{walk.url}/q?partitions=1,2")
        listed = await walk.ask(f"{walk.url}?include_count=1")
        for end in (server.kill, server.stop):
            await end()
            await server.start()
            assert await walk.ask(f"{walk.url}/q?partitions=1,2") == before
            assert await walk.ask(f"{walk.url}?include_count=1") == listed
            assert is_denied(await curl(f"{walk.url}/q"))
        await walk.ask("-d", "after", "-H", "X-Partition: 1", f"{walk.url}/q", status=201)
        assert (await walk.bodies("/q"))[-1] == "after"
