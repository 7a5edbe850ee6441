"""Rate limits of the real server: who asks too often is told to wait, in each protocol's words."""

import asyncio
import json

import pytest

from tests.endpoints.conftest import OpenNode
from tests.endpoints.stomp_client import stomp_node

SLOW = 1 / 3600
"""Requests a second: so few that the bucket stays empty for the test."""


@pytest.mark.parametrize("path", ["/q/{}", "/stats/{}", "/nowhere"])
async def test_one_request_too_many_is_refused(
    open_node: OpenNode, fresh_name: str, path: str
) -> None:
    """429 with Retry-After, in the shape of all errors; nothing is done."""
    async with open_node(rate_limit=SLOW, rate_burst=3) as node:
        url = node.url + path.format(fresh_name)
        for _ in range(3):
            async with node.session.get(url) as answer:
                assert answer.status != 429
        async with node.session.get(url) as answer:
            assert answer.status == 429
            assert 3000 < int(answer.headers["Retry-After"]) <= 3600
            assert (await answer.json())["error"] == "rate-limited"
        # Probes say whether the server lives, and not whether others ask too much.
        for probe in ("/healthz", "/readyz"):
            assert (await node.get(probe))[0] == 200


async def test_a_request_counts_once_however_it_is_served(
    open_node: OpenNode, fresh_name: str
) -> None:
    """Some are begun in one way and served in another."""
    async with open_node(rate_limit=SLOW, rate_burst=4) as node:
        assert (await node.post(f"/q/{fresh_name}", data=b"not known yet"))[0] == 200
        assert (await node.post(f"/q/{fresh_name}", data=b"quick"))[0] == 200
        assert (await node.get(f"/q/{fresh_name}?count=1"))[0] == 200
        assert (await node.get(f"/q/{fresh_name}"))[0] == 200
        assert (await node.get(f"/q/{fresh_name}"))[0] == 429


async def test_clients_behind_a_trusted_proxy_are_told_apart(
    open_node: OpenNode, fresh_name: str
) -> None:
    """And those that only say who they are are not."""
    for proxies, status in (((), 429), (("127.0.0.1",), 204)):
        async with open_node(rate_limit=SLOW, rate_burst=1, trusted_proxies=proxies) as node:
            for number, expected in ((1, 204), (2, status), (1, 429)):
                headers = {"X-Forwarded-For": f"10.0.0.{number}"}
                assert (await node.get(f"/q/{fresh_name}", headers=headers))[0] == expected


async def test_other_shapes_of_errors(open_node: OpenNode, fresh_name: str) -> None:
    """Queuey and RSE have shapes of their own; the header is there as well."""
    async with open_node(rate_limit=SLOW, rate_burst=1, rse_test_mode=True) as node:
        await node.get(f"/rse/{fresh_name}")
        async with node.session.get(f"{node.url}/rse/{fresh_name}") as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) > 0
            assert "too many requests" in (await answer.json())["message"]
    async with open_node(rate_limit=SLOW, rate_burst=1, queuey_application_keys=("app=K",)) as node:
        await node.get("/v1/app")
        async with node.session.get(f"{node.url}/v1/app") as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) > 0
            assert list(json.loads(await answer.read())["error_msg"]) == ["rate"]


async def test_frames_of_stomp_count(open_node: OpenNode, fresh_name: str) -> None:
    """What was sent before is stored; then the client gets an ERROR."""
    async with stomp_node(open_node, rate_limit=SLOW, rate_burst=3) as node:
        async with node.client() as client:  # which is the first
            await client.call("SEND", b"1", destination=fresh_name)
            await client.call("SEND", b"2", destination=fresh_name)
            await client.send_frame("SEND", b"3", destination=fresh_name)
            error = await client.error()
        assert "too many requests" in error.headers["message"]


async def test_a_burst_of_parallel_requests_is_cut_to_its_size(
    open_node: OpenNode, fresh_name: str
) -> None:
    """So many are served, whichever they are."""
    async with open_node(rate_limit=SLOW, rate_burst=5) as node:
        answers = await asyncio.gather(*(node.get(f"/q/{fresh_name}") for _ in range(20)))
        assert sorted(status for status, _ in answers) == [204] * 5 + [429] * 15


async def test_logins_of_stomp_count(open_node: OpenNode) -> None:
    """So that passcodes cannot be guessed one after the other."""
    async with stomp_node(
        open_node, rate_limit=SLOW, rate_burst=2, stomp_login="a", stomp_passcode="b"
    ) as node:
        for told in ("passcode is wrong", "passcode is wrong", "too many requests"):
            async with node.client(None) as client:
                await client.send_frame("CONNECT", accept_version="1.2", host="x", login="a")
                error = await client.error()
            assert told in error.headers["message"]
