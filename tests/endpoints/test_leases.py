"""Taking and leasing, from outside (specification of delivery, section 2)."""

import asyncio
import json
import time
from typing import Any
from urllib.parse import quote

import pytest

from restmq.broker.message import LeasedMessage
from restmq.broker.receipts import write_receipt
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import eventually

BYTES = {"Accept": "application/octet-stream"}


async def lease(
    node: NodeUnderTest, queue: str, parameters: str = "lease=30", **options: Any
) -> dict[str, Any]:
    """Lease one message."""
    status, body = await node.get(f"/q/{queue}?{parameters}", **options)
    assert status == 200, body
    answer: dict[str, Any] = json.loads(body)
    return answer


async def settle(
    node: NodeUnderTest, receipt: str, method: str = "DELETE", **form: object
) -> tuple[int, Any]:
    """Settle a lease; returns the status and the answer."""
    data = {name: str(value) for name, value in form.items()}
    status, body = await node.call(method, f"/lease/{receipt}", data=data or None)
    return status, json.loads(body)


async def stats(node: NodeUnderTest, queue: str) -> dict[str, Any]:
    """Return what /stats tells of a queue."""
    answer: dict[str, Any] = json.loads((await node.get(f"/stats/{queue}"))[1])
    return answer


def receipt_of_nothing(queue: str) -> str:
    """Return a receipt in its right form that was never given out."""
    return write_receipt(queue, LeasedMessage(1, b"", 1, "0" * 16, 0.0, 1.0))


class TestTaking:
    async def test_count_takes_up_to_so_many_as_a_list(self, node, fresh_name):
        await node.add(fresh_name, "a", "b", "c")
        status, body = await node.get(f"/q/{fresh_name}?count=2")
        assert status == 200
        assert json.loads(body) == [
            {"key": f"{fresh_name}:1", "value": "a", "count": 0},
            {"key": f"{fresh_name}:2", "value": "b", "count": 0},
        ]
        assert len(json.loads((await node.get(f"/q/{fresh_name}?count=1000"))[1])) == 1
        assert await node.get(f"/q/{fresh_name}?count=1") == (204, b"")

    @pytest.mark.parametrize(
        "bad",
        [
            *("count=0", "count=1001", "count=x", "count=1.5", "peek=0", "peek=1001", "peek=x"),
            *("wait=-1", "wait=61", "wait=60.5", "wait=x", "wait=nan"),
            *("lease=0", "lease=0.9", "lease=43201", "lease=x", "lease=-5", "lease=1e3"),
        ],
    )
    async def test_bad_values_are_refused_by_name_and_consume_nothing(self, node, fresh_name, bad):
        name, _, value = bad.partition("=")
        await node.add(fresh_name, "a")
        headers = {f"X-RestMQ-{name}": value}
        for path, extra in ((f"/q/{fresh_name}?{bad}", {}), (f"/q/{fresh_name}", headers)):
            status, body = await node.get(path, headers=extra)
            assert status == 400
            assert name in json.loads(body)["message"]
        assert (await node.get(f"/?queue={fresh_name}&{bad}"))[0] == 400
        assert (await stats(node, fresh_name))["len"] == 1

    @pytest.mark.parametrize("also", ["lease=30", "lease", "count=2"])
    async def test_peek_goes_without_what_takes(self, node, fresh_name, also):
        await node.add(fresh_name, "a")
        assert (await node.get(f"/q/{fresh_name}?peek=1&{also}"))[0] == 400
        assert (await stats(node, fresh_name))["len"] == 1

    async def test_wait_holds_the_request_until_a_message_comes(self, node, fresh_name):
        waiting = asyncio.create_task(node.get(f"/q/{fresh_name}?wait=20.5"))
        await eventually(lambda: is_waited_for(node, fresh_name))
        await node.add(fresh_name, "a")
        status, body = await waiting
        assert (status, json.loads(body)["value"]) == (200, "a")

    async def test_wait_ends_with_204_and_zero_does_not_wait(self, node, fresh_name):
        assert await node.get(f"/q/{fresh_name}?wait=0") == (204, b"")
        assert await node.get(f"/q/{fresh_name}?wait=0.05") == (204, b"")
        assert await node.get(f"/q/{fresh_name}?wait=0.05&count=3") == (204, b"")
        assert (await node.get(f"/?queue={fresh_name}&wait=0.05"))[0] == 404

    @pytest.mark.parametrize("parameters", ["wait=30", "wait=30&lease=30", "wait=30&count=5"])
    async def test_a_client_that_leaves_while_waiting_consumes_nothing(
        self, node, fresh_name, parameters
    ):
        waiting = asyncio.create_task(node.get(f"/q/{fresh_name}?{parameters}"))
        await eventually(lambda: is_waited_for(node, fresh_name))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await node.add(fresh_name, "a")

        async def is_there_untouched() -> bool:
            _, body = await node.get(f"/m/{fresh_name}:1")
            found = json.loads(body)
            return (found["state"], found["attempts"]) == ("ready", 0)

        await eventually(is_there_untouched)
        assert json.loads((await node.get(f"/q/{fresh_name}"))[1])["value"] == "a"

    async def test_parameters_come_as_headers_too(self, node, fresh_name):
        await node.add(fresh_name, "a", "b", "c")
        _, body = await node.get(f"/q/{fresh_name}", headers={"x-restmq-peek": "2"})
        assert len(json.loads(body)) == 2
        headers = {"X-RestMQ-Lease": "60", "X-RestMQ-Count": "1"}
        _, body = await node.get(f"/q/{fresh_name}?count=2", headers=headers)
        assert [message["attempt"] for message in json.loads(body)] == [1, 1]

    async def test_jsonp_wraps_lists(self, node, fresh_name):
        await node.add(fresh_name, "a")
        _, body = await node.get(f"/q/{fresh_name}?count=5&callback=f")
        assert body.startswith(b"f([{")


class TestTheValueAlone:
    async def test_a_take_gives_the_body_and_tells_the_key_in_a_header(self, node, fresh_name):
        queue = f"{fresh_name}/a b\r\nü%"
        headers = {"Content-Type": "text/html"}
        await node.post(f"/q/{quote(queue)}", data=b"<script>", headers=headers)
        async with node.session.get(f"{node.url}/q/{quote(queue)}", headers=BYTES) as answer:
            assert (answer.status, await answer.read()) == (200, b"<script>")
            assert answer.headers["Content-Type"] == "text/html"
            # It must not become a page of this server.
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Security-Policy"] == "sandbox"
            assert answer.headers["X-RestMQ-Key"] == quote(queue) + ":1"
            assert "X-RestMQ-Receipt" not in answer.headers

    async def test_a_lease_tells_all_it_needs_in_headers(self, node, fresh_name):
        await node.add(fresh_name, "ü")
        url = f"{node.url}/q/{fresh_name}?lease=30"
        async with node.session.get(url, headers=BYTES) as answer:
            assert await answer.read() == "ü".encode()
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert answer.headers["X-RestMQ-Key"] == f"{fresh_name}:1"
            assert answer.headers["X-RestMQ-Attempt"] == "1"
            expires = float(answer.headers["X-RestMQ-Expires"])
            receipt = answer.headers["X-RestMQ-Receipt"]
        assert time.time() < expires < time.time() + 31
        assert await settle(node, receipt) == (200, {"key": f"{fresh_name}:1", "acked": True})

    async def test_an_empty_queue_and_a_count_are_answered_as_ever(self, node, fresh_name):
        assert await node.get(f"/q/{fresh_name}", headers=BYTES) == (204, b"")
        await node.add(fresh_name, "a")
        _, body = await node.get(f"/q/{fresh_name}?count=1", headers=BYTES)
        assert json.loads(body)[0]["value"] == "a"

    async def test_a_type_that_cannot_stand_in_a_header_is_not_told(self, node, fresh_name):
        """Other protocols may let publishers say what they like."""
        types = ("text/plain\r\nX-Evil: 1", "text/ü", "a\tb")
        for number, bad in enumerate(types, start=1):
            await node.node.broker.add(fresh_name, b"v", content_type=bad)
            async with node.session.get(f"{node.url}/q/{fresh_name}", headers=BYTES) as answer:
                assert answer.headers["Content-Type"] == "application/octet-stream"
                assert answer.headers["X-RestMQ-Key"] == f"{fresh_name}:{number}"
                assert "X-Evil" not in answer.headers


class TestLeasing:
    async def test_a_leased_message_tells_attempt_receipt_and_expiry(self, node, fresh_name):
        await node.add(fresh_name, "v")
        found = await lease(node, fresh_name)
        receipt = found.pop("receipt")
        expires = found.pop("expires")
        assert found == {"key": f"{fresh_name}:1", "value": "v", "count": 0, "attempt": 1}
        assert quote(receipt, safe="") == receipt
        assert time.time() + 28 < expires < time.time() + 31
        assert await node.get(f"/q/{fresh_name}") == (204, b"")

    async def test_several_are_leased_at_once_each_with_its_receipt(self, node, fresh_name):
        await node.add(fresh_name, "a", "b", "c")
        _, body = await node.get(f"/q/{fresh_name}?lease=30&count=2")
        first, second = json.loads(body)
        assert (first["value"], second["value"], first["count"]) == ("a", "b", 0)
        assert (await settle(node, second["receipt"]))[0] == 200
        assert (await settle(node, first["receipt"]))[0] == 200
        assert (await stats(node, fresh_name))["leased"] == 0

    @pytest.mark.parametrize("parameters", ["lease=", "lease"])
    async def test_a_lease_without_a_time_lasts_as_the_settings_say(
        self, node, fresh_name, parameters
    ):
        await node.call("PATCH", f"/settings/{fresh_name}", json={"lease_seconds": 1000})
        await node.add(fresh_name, "v")
        found = await lease(node, fresh_name, parameters)
        assert time.time() + 900 < found["expires"] < time.time() + 1001

    async def test_the_root_leases_too(self, node, fresh_name):
        await node.add(fresh_name, "v")
        _, body = await node.get(f"/?queue={fresh_name}&lease=1.5")
        assert json.loads(body)["attempt"] == 1

    async def test_an_expired_lease_comes_back_at_the_head_and_its_receipt_is_stale(
        self, node, fresh_name
    ):
        await node.add(fresh_name, "a", "b")
        first = await lease(node, fresh_name, "lease=1")
        again = await lease_value(node, fresh_name, "a")
        assert again["attempt"] == 2
        status, answer = await settle(node, first["receipt"])
        assert (status, answer["error"]) == (409, "stale-receipt")
        assert (await settle(node, again["receipt"]))[0] == 200

    async def test_too_many_deliveries_lead_to_the_dead_letters(self, node, fresh_name):
        await node.call("PATCH", f"/settings/{fresh_name}", json={"max_attempts": 2})
        await node.add(fresh_name, "v")
        for attempt in (1, 2):
            found = await lease(node, fresh_name)
            assert found["attempt"] == attempt
            await settle(node, found["receipt"], "POST", release=0)
        assert await node.get(f"/q/{fresh_name}") == (204, b"")
        _, body = await node.get(f"/dead/{fresh_name}")
        assert json.loads(body)[0]["attempts"] == 2

    async def test_a_lease_waits_for_a_message(self, node, fresh_name):
        waiting = asyncio.create_task(lease(node, fresh_name, "lease=30&wait=20"))
        await eventually(lambda: is_waited_for(node, fresh_name))
        await node.add(fresh_name, "v")
        assert (await waiting)["attempt"] == 1

    async def test_a_ttl_ends_after_the_lease(self, node, fresh_name):
        await node.post(f"/q/{fresh_name}?ttl=1", data={"value": "v"})
        found = await lease(node, fresh_name)
        expires = json.loads((await node.get(f"/m/{fresh_name}:1"))[1])["expires"]
        await eventually(lambda: time.time() > expires)
        assert (await settle(node, found["receipt"], "POST", extend=30))[0] == 200
        assert (await settle(node, found["receipt"], "POST", release=0))[0] == 200
        assert await node.get(f"/q/{fresh_name}") == (204, b"")


class TestSettling:
    async def test_an_ack_is_done_once(self, node, fresh_name):
        await node.add(fresh_name, "v")
        receipt = (await lease(node, fresh_name))["receipt"]
        assert await settle(node, receipt) == (200, {"key": f"{fresh_name}:1", "acked": True})
        status, answer = await settle(node, receipt)
        assert (status, answer["error"]) == (409, "stale-receipt")
        assert (await node.get(f"/m/{fresh_name}:1"))[0] == 404

    async def test_several_are_answered_each_in_its_place(self, node, fresh_name):
        await node.add(fresh_name, "a", "b")
        first = (await lease(node, fresh_name))["receipt"]
        second = (await lease(node, fresh_name))["receipt"]
        unknown = receipt_of_nothing(fresh_name)
        names = [first, unknown, "malformed", second, first]
        status, answer = await settle(node, ",".join(names))
        assert status == 200
        assert answer[0] == {"key": f"{fresh_name}:1", "acked": True}
        assert (answer[1]["receipt"], answer[1]["error"]) == (unknown, "stale-receipt")
        assert (answer[2]["receipt"], answer[2]["error"]) == ("malformed", "invalid-input")
        assert answer[3] == {"key": f"{fresh_name}:2", "acked": True}
        assert answer[4]["error"] == "stale-receipt"
        assert (await stats(node, fresh_name))["leased"] == 0

    async def test_receipts_of_several_queues_may_stand_together(self, node, fresh_name):
        names = [f"{fresh_name}-{index}" for index in range(3)]
        receipts = []
        for name in names:
            await node.add(name, "v")
            receipts.append((await lease(node, name))["receipt"])
        status, answer = await settle(node, ",".join(receipts), "POST", release=0)
        assert (status, answer) == (200, [{"key": f"{n}:1", "released": True} for n in names])

    async def test_more_than_a_thousand_are_refused(self, node):
        assert (await settle(node, "," * 1000))[0] == 400

    @pytest.mark.parametrize(
        "receipt", ["x", "", "1.2.3", "7.0123456789abcdef.", "7.0123456789abcdef.!!", "%ff", "a/b"]
    )
    async def test_what_is_no_receipt_is_refused(self, node, receipt):
        assert (await node.call("DELETE", f"/lease/{receipt}"))[0] == 400
        assert (await node.post(f"/lease/{receipt}", data={"extend": "5"}))[0] == 400

    async def test_an_unknown_one_is_stale(self, node, fresh_name):
        receipt = receipt_of_nothing(fresh_name)
        assert (await settle(node, receipt))[0] == 409
        for form in ({"extend": 5}, {"release": 0}, {"dead": "x"}):
            assert (await settle(node, receipt, "POST", **form))[0] == 409
        assert fresh_name not in json.loads((await node.get("/stats"))[1])["queues"]

    async def test_extend_counts_from_now(self, node, fresh_name):
        await node.add(fresh_name, "v")
        found = await lease(node, fresh_name, "lease=1000")
        status, answer = await settle(node, found["receipt"], "POST", extend=100.5)
        assert (status, answer.keys()) == (200, {"key", "expires"})
        assert time.time() + 95 < answer["expires"] < time.time() + 102
        assert (await settle(node, found["receipt"]))[0] == 200

    async def test_a_released_message_is_at_the_head_and_the_attempt_counts(self, node, fresh_name):
        await node.add(fresh_name, "a", "b")
        receipt = (await lease(node, fresh_name))["receipt"]
        expected = {"key": f"{fresh_name}:1", "released": True}
        assert await settle(node, receipt, "POST", release=0) == (200, expected)
        again = await lease(node, fresh_name)
        assert (again["value"], again["attempt"]) == ("a", 2)
        assert (await settle(node, receipt))[0] == 409

    async def test_the_attempt_can_be_kept(self, node, fresh_name):
        await node.add(fresh_name, "v")
        for _ in range(7):  # more than max_attempts
            found = await lease(node, fresh_name)
            assert found["attempt"] == 1
            form = {"release": 0, "attempt": "keep"}
            assert (await settle(node, found["receipt"], "POST", **form))[0] == 200

    async def test_a_release_may_be_delayed(self, node, fresh_name):
        await node.add(fresh_name, "v")
        receipt = (await lease(node, fresh_name))["receipt"]
        assert (await settle(node, receipt, "POST", release=100.5))[0] == 200
        figures = await stats(node, fresh_name)
        assert (figures["delayed"], figures["leased"], figures["ready"]) == (1, 0, 0)

    async def test_a_buried_message_is_a_dead_letter_with_its_reason(self, node, fresh_name):
        await node.add(fresh_name, "v")
        receipt = (await lease(node, fresh_name))["receipt"]
        expected = {"key": f"{fresh_name}:1", "buried": True}
        assert await settle(node, receipt, "POST", dead="no such ü") == (200, expected)
        _, body = await node.get(f"/dead/{fresh_name}")
        assert json.loads(body)[0]["reason"] == "no such ü"
        assert (await settle(node, receipt))[0] == 409

    @pytest.mark.parametrize(
        "form",
        [
            {},
            {"extend": ""},
            {"release": ""},
            {"dead": ""},
            {"attempt": "keep"},
            {"extend": "5", "release": "0"},
            {"release": "0", "dead": "x"},
            {"extend": "5", "dead": "x"},
            {"extend": "0"},
            {"extend": "43201"},
            {"extend": "x"},
            {"release": "-1"},
            {"release": "x"},
            {"release": "1e99"},
            {"release": "0", "attempt": "drop"},
            {"release": "5", "attempt": "keep"},
            {"extend": "5", "attempt": "keep"},
            {"dead": "x" * 1001},
            {"dead": "two\nlines"},
            {"acked": "1"},
        ],
    )
    async def test_bad_verbs_are_refused_and_the_lease_goes_on(self, node, fresh_name, form):
        await node.add(fresh_name, "v")
        receipt = (await lease(node, fresh_name))["receipt"]
        status, body = await node.post(f"/lease/{receipt}", data=form)
        assert (status, json.loads(body)["error"]) == (400, "invalid-input")
        assert (await settle(node, receipt))[0] == 200

    async def test_verbs_come_from_query_and_headers_too(self, node, fresh_name):
        await node.add(fresh_name, "v")
        receipt = (await lease(node, fresh_name))["receipt"]
        assert (await node.post(f"/lease/{receipt}?extend=60"))[0] == 200
        assert (await node.post(f"/lease/{receipt}", headers={"X-RestMQ-Extend": "60"}))[0] == 200
        two = {"X-RestMQ-Extend": "60"}
        assert (await node.post(f"/lease/{receipt}?release=0", headers=two))[0] == 400

    async def test_jsonp_wraps(self, node, fresh_name):
        await node.add(fresh_name, "v")
        receipt = (await lease(node, fresh_name))["receipt"]
        assert (await node.call("DELETE", f"/lease/{receipt}?callback=a-b"))[0] == 400
        _, body = await node.call("DELETE", f"/lease/{receipt}?callback=f")
        assert body.startswith(b"f({")

    async def test_settling_belongs_to_the_consumer(self, open_node: OpenNode, fresh_name):
        async with open_node("[rest:producer]\nhosts_deny = all\n") as node:
            await node.node.broker.add(fresh_name, b"v")
            receipt = (await lease(node, fresh_name))["receipt"]
            assert (await settle(node, receipt, "POST", extend=5))[0] == 200
            assert (await settle(node, receipt))[0] == 200
        async with open_node("[rest:consumer]\nhosts_deny = all\n") as node:
            assert (await settle(node, receipt))[0] == 401


async def lease_value(node: NodeUnderTest, queue: str, value: str) -> dict[str, Any]:
    """Lease until the message of this value comes; others are given back."""
    found = await lease(node, queue, "lease=30&wait=20")
    while found["value"] != value:
        await settle(node, found["receipt"], "POST", release=0, attempt="keep")
        found = await lease(node, queue, "lease=30&wait=20")
    return found


def is_waited_for(node: NodeUnderTest, queue: str) -> bool:
    """Return whether a request on this node waits for a message of the queue."""
    interest = node.node.broker._stores.located(queue).listeners._interests.get(queue)
    return interest is not None and bool(interest.owners)
