"""Queuey's clients for tests: one of an application that nobody else has, and strangers."""

import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

from tests.endpoints.conftest import NodeUnderTest, OpenNode


class QueueyClient:
    """Talks to one application with one key; paths are relative to the application."""

    def __init__(self, node: NodeUnderTest, application: str, key: str | None) -> None:
        self.node = node
        self.application = application
        self.headers = {} if key is None else {"Authorization": f"Application {key}"}

    def path(self, path: str) -> str:
        """The path on the server."""
        return f"/v1/{self.application}{path}"

    async def call(
        self, method: str, path: str = "", headers: dict[str, str] | None = None, **options: Any
    ) -> tuple[int, Any]:
        """Send one request; returns the status and the JSON."""
        headers = {**self.headers, **(headers or {})}
        status, body = await self.node.call(method, self.path(path), headers=headers, **options)
        return status, json.loads(body)

    async def ok(self, method: str, path: str = "", status: int = 200, **options: Any) -> Any:
        """Send one request that is to succeed; returns the JSON."""
        found, answer = await self.call(method, path, **options)
        assert (found, answer["status"]) == (status, "ok"), answer
        return answer

    async def error(self, method: str, path: str = "", **options: Any) -> tuple[int, str, str]:
        """Send one request that is to fail; returns the status, the field and the text."""
        status, answer = await self.call(method, path, **options)
        assert answer.keys() == {"status", "error_msg"}, answer
        assert answer["status"] == "error"
        [(field, text)] = answer["error_msg"].items()
        return status, field, text

    async def create(self, name: str = "q", **form: Any) -> Any:
        """Make a queue."""
        return await self.ok("POST", status=201, data={"queue_name": name, **form})

    async def post(self, *bodies: str, queue: str = "q", partition: int | None = None) -> list[str]:
        """Post messages as one batch; returns their ids."""
        items = [{"body": body, "partition": partition} for body in bodies]
        answer = await self.ok("POST", f"/{queue}", status=201, json={"messages": items})
        return [each["key"] for each in answer["messages"]]

    async def messages(self, path: str = "/q", **options: Any) -> list[dict[str, Any]]:
        """Read messages."""
        found: list[dict[str, Any]] = (await self.ok("GET", path, **options))["messages"]
        return found

    async def bodies(self, path: str = "/q", **options: Any) -> list[str]:
        """Read the bodies of messages."""
        return [message["body"] for message in await self.messages(path, **options)]

    async def count(self, queue: str = "q") -> int:
        """Count the messages of a queue."""
        answer = await self.ok("GET", f"?include_count=1&limit=1&offset={queue}")
        [entry] = answer["queues"]
        assert entry["queue_name"] == queue
        found: int = entry["count"]
        return found

    def with_key(self, key: str | None) -> "QueueyClient":
        """Talk to the same application with another key, or with none."""
        return QueueyClient(self.node, self.application, key)


def id_ahead(message_id: str, seconds: int) -> str:
    """Return an id of a time that lies so far after that of another."""
    first = uuid.UUID(message_id)
    ticks = first.time + seconds * 10_000_000
    middle, high = ticks >> 32 & 0xFFFF, ticks >> 48 | 0x1000
    return uuid.UUID(fields=(ticks & 0xFFFFFFFF, middle, high, 0x80, 0, 5)).hex


@contextlib.asynccontextmanager
async def queuey(
    open_node: OpenNode, *more_keys: str, **settings: Any
) -> AsyncIterator[QueueyClient]:
    """Open a node with an application of a fresh name, whose key is ``K``."""
    application = f"app_{uuid.uuid4().hex}"
    keys = (f"{application}=K", *more_keys)
    async with open_node(queuey_application_keys=keys, **settings) as node:
        yield QueueyClient(node, application, "K")
