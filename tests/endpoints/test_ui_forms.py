"""What the forms of the dashboard do, and what they say to mistakes."""

import re
from typing import Any

import aiohttp
import pytest

from restmq.endpoints import ui_queue
from tests.endpoints.conftest import NodeUnderTest
from tests.endpoints.ui_client import PageReader, bury, page_of, read, send, stats


async def test_publishing_stores_the_value_and_leads_back(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """With what was said about it; line breaks are those of a text."""
    status, location = await send(
        node,
        fresh_name,
        action="publish",
        value="one\r\ntwo",
        content_type="text/plain",
        ttl="60",
        priority="7",
        delay="",
        id="",
    )
    assert status == 303
    assert location == f"queue?name={fresh_name}&view=messages&did=published&count=1"
    assert "Published: 1." in (await read(node, f"/ui/{location}")).text
    async with node.session.get(f"{node.url}/m/{fresh_name}:1") as answer:
        message = await answer.json()
    assert message["value"] == "one\ntwo"
    assert message["priority"] == 7
    assert message["content_type"] == "text/plain"
    assert message["expires"] is not None


async def test_publishing_takes_lines_and_files(node: NodeUnderTest, fresh_name: str) -> None:
    status, location = await send(
        node, fresh_name, action="publish", value="a\r\nb\r\n\r\nc", lines="1"
    )
    assert (status, location.rpartition("=")[2]) == (303, "3")
    form = aiohttp.FormData({"action": "publish", "value": ""})
    form.add_field("file", b"\x00\xff\r\n", filename="some.bin")
    async with node.session.post(
        node.url + page_of(fresh_name), data=form, allow_redirects=False
    ) as answer:
        assert answer.status == 303
    async with node.session.get(f"{node.url}/ui/value?name={fresh_name}&number=4") as answer:
        assert await answer.read() == b"\x00\xff\r\n"


async def test_a_mistake_is_told_and_what_was_entered_stays(
    node: NodeUnderTest, fresh_name: str
) -> None:
    status, body = await send(
        node, fresh_name, action="publish", value="<b>keep</b>", ttl="never", id="k"
    )
    assert status == 400
    page = PageReader(body.encode())
    assert "ttl must be a whole number" in page.text
    assert "<b>keep</b>" in page.text
    assert [each["value"] for each in page.attributes("input") if each.get("name") == "ttl"] == [
        "never"
    ]
    assert (await stats(node, fresh_name))["len"] == 0
    status, body = await send(node, fresh_name, action="publish", value="")
    assert status == 400
    status, body = await send(node, fresh_name, action="publish", value="v" * 300_000, ttl="x")
    assert status == 400
    assert "vvv" not in body
    status, body = await send(node, fresh_name, action="dance")
    assert status == 400


async def test_pausing_and_resuming(node: NodeUnderTest, fresh_name: str) -> None:
    assert (await send(node, fresh_name, action="pause"))[0] == 303
    assert (await stats(node, fresh_name))["status"] == 0
    assert "Resume" in (await read(node, page_of(fresh_name))).text
    assert (await send(node, fresh_name, action="resume"))[0] == 303
    assert (await stats(node, fresh_name))["status"] == 1


async def test_settings_change_only_where_the_form_differs(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """An emptied field takes its setting back, and a mistake changes nothing."""
    page = await read(node, page_of(fresh_name, view="settings"))
    fields = {
        str(each["name"]): str(each.get("value") or "")
        for each in page.attributes("input")
        if each.get("id")
    }
    assert fields["max_attempts"] == "5"
    assert (await send(node, fresh_name, action="settings", **fields))[1].endswith("did=unchanged")
    changed = {
        **fields,
        "policy": "roundrobin",
        "max_attempts": "3",
        "ttl": "60",
        "copies_to": "a\r\nb",
        "delay": "0.5",
    }
    assert (await send(node, fresh_name, action="settings", **changed))[1].endswith("did=changed")

    async def in_force() -> dict[str, Any]:
        async with node.session.get(f"{node.url}/settings/{fresh_name}") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    settings = await in_force()
    assert (settings["max_attempts"], settings["ttl"], settings["delay"]) == (3, 60, 0.5)
    assert settings["copies_to"] == ["a", "b"]
    assert settings["policy"] == "roundrobin"
    status, body = await send(node, fresh_name, action="settings", max_attempts="1", ttl="soon")
    assert status == 400
    assert "ttl must be" in PageReader(body.encode()).text
    assert await in_force() == settings
    await send(node, fresh_name, action="settings", max_attempts="", ttl="none")
    settings = await in_force()
    assert (settings["max_attempts"], settings["ttl"]) == (5, None)
    assert (await send(node, fresh_name, action="reset"))[0] == 303
    assert (await in_force())["copies_to"] == []


async def test_purging_needs_a_post_and_a_confirmation(
    node: NodeUnderTest, fresh_name: str
) -> None:
    await node.add(fresh_name, "a", "b")
    for path in (
        page_of(fresh_name, action="purge", confirm="yes"),
        f"/ui/confirm?name={fresh_name}&action=purge&confirm=yes",
    ):
        assert (await node.get(path))[0] == 200
    status, body = await send(node, fresh_name, action="purge")
    assert status == 200
    assert "2 ready" in PageReader(body.encode()).text
    assert (await stats(node, fresh_name))["len"] == 2
    assert (await send(node, fresh_name, action="purge", confirm="yes"))[0] == 303
    assert (await stats(node, fresh_name))["len"] == 0


async def test_dead_letters_tell_their_reasons_and_go_back_or_away(
    node: NodeUnderTest, fresh_name: str
) -> None:
    await node.add(fresh_name, "a", "b", "c", "d")
    for reason in ("<b>no</b>", "late", "broken", "lost"):
        await bury(node, fresh_name, reason)
    page = await read(node, page_of(fresh_name, view="dead"))
    assert "<b>no</b> after 1 attempt" in page.text
    assert (await send(node, fresh_name, action="redrive", number="2"))[0] == 303
    assert (await send(node, fresh_name, action="redrive", number="2"))[0] == 404
    assert (await send(node, fresh_name, action="delete", number="1", view="dead"))[0] == 303
    found = await stats(node, fresh_name)
    assert (found["len"], found["dead"]) == (1, 2)
    status, _ = await send(node, fresh_name, action="drop")
    assert (status, (await stats(node, fresh_name))["dead"]) == (200, 2)
    await bury(node, fresh_name, "again")
    assert (await send(node, fresh_name, action="redrive"))[1].endswith("did=redriven&count=3")
    await bury(node, fresh_name, "once more")
    assert (await send(node, fresh_name, action="drop", confirm="yes"))[0] == 303
    assert (await stats(node, fresh_name))["dead"] == 0


async def test_a_page_ends_before_it_gets_large(
    node: NodeUnderTest, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for again every few seconds; the rest is on the pages that follow."""
    monkeypatch.setattr(ui_queue, "MAX_PAGE_BYTES", 1)
    await node.add(fresh_name, "a", "b", "c", "d")
    for _ in range(2):
        await bury(node, fresh_name, "bad")
    for view, key in (("messages", 3), ("dead", 1)):
        status, body = await node.get(page_of(fresh_name, view=view))
        shown = re.findall(rf"{fresh_name}:([0-9]+)".encode(), body)
        assert (status, set(shown)) == (200, {str(key).encode()})
    page = await read(node, page_of(fresh_name, view="dead"))
    assert f"queue?name={fresh_name}&view=dead&offset=1" in page.links()


async def test_dead_letters_are_paged(node: NodeUnderTest, fresh_name: str) -> None:
    await node.add(fresh_name, *map(str, range(30)))
    for _ in range(30):
        await bury(node, fresh_name, "no")
    page = await read(node, page_of(fresh_name, view="dead"))
    assert f"queue?name={fresh_name}&view=dead&offset=25" in page.links()
    page = await read(node, page_of(fresh_name, view="dead", offset=25))
    assert len(list(page.attributes("details"))) == 5
