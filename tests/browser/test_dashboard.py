"""The dashboard in a real browser, before the real server."""

import asyncio
import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Dashboard, dashboard_of
from tests.server_process import running_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

expect.set_options(timeout=30_000)

HOSTILE = "<script>alert('name')</script><img src=x onerror=alert(1)>"
NARROW = {"width": 360, "height": 740}


async def has_sideways_scrolling(page: Page) -> bool:
    """Whether the page is wider than its window."""
    wider: bool = await page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    return wider


async def test_a_message_is_published_in_the_page_and_seen_consumed(dashboard: Dashboard) -> None:
    """The page shows it by itself: there, and then taken."""
    page = await dashboard.open_queue("orders")
    await page.get_by_label("Value", exact=True).fill('{"item": "tea"}')
    await page.get_by_role("button", name="Publish").click()
    await expect(page.get_by_role("status").filter(has_text="Published: 1.")).to_be_visible()
    ready = page.locator(".tile dd[data-figure=ready]")
    await expect(ready).to_have_text("1")
    message = page.locator("details.message")
    await expect(message).to_have_count(1)
    await message.locator("summary").click()
    await expect(message.locator("pre.json .key")).to_have_text('"item"')
    await message.locator("summary").click()
    await page.locator("h1").click()  # nobody reads the list any more
    assert await dashboard.take("orders") == '{"item": "tea"}'
    await expect(ready).to_have_text("0")
    await expect(page.locator("details.message")).to_have_count(0)
    await expect(page.locator("#list")).to_contain_text("No message is ready.")


async def test_a_chart_moves_with_the_traffic(dashboard: Dashboard) -> None:
    """On the overview, for all queues and for the one; a new queue appears by itself."""
    await dashboard.add("first", b"x")
    page = await dashboard.open()
    await expect(page.locator("#live")).to_have_text("live")
    row = page.locator("tr[data-row=clicks]")
    await expect(row).to_have_count(0)

    async def publish() -> None:
        while True:
            await dashboard.add("clicks", *[b"v"] * 20)

    traffic = asyncio.create_task(publish())
    try:
        await expect(row).to_have_count(1)
        await expect(row.locator("td.in")).not_to_have_text("0")
        line = row.locator(".chart .line.in")
        await expect(line).to_have_attribute("d", re.compile("L"))
        drawn = await line.get_attribute("d")
        await expect(line).not_to_have_attribute("d", drawn or "")
        total = page.locator(".rates b[data-figure=in]")
        await expect(total).not_to_have_text("0")
    finally:
        traffic.cancel()
        await asyncio.gather(traffic, return_exceptions=True)


async def test_a_queue_is_paused_and_resumed(dashboard: Dashboard) -> None:
    """The page's button does it, and another page shows it without being loaded again."""
    await dashboard.add("jobs", b"x")
    overview = await dashboard.open()
    badge = overview.locator("tr[data-row=jobs] [data-paused]")
    await expect(badge).to_be_hidden()
    page = await dashboard.open_queue("jobs")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert (await dashboard.stats("jobs"))["status"] == 0
    await expect(badge).to_be_visible()
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("button", name="Pause")).to_be_visible()
    assert (await dashboard.stats("jobs"))["status"] == 1


async def test_a_dead_letter_is_redriven(dashboard: Dashboard) -> None:
    """It tells its reason, and is ready again afterwards."""
    await dashboard.add("hooks", b"one", b"two")
    await dashboard.bury("hooks", "HTTP 500 from <b>shop</b>")
    await dashboard.bury("hooks", "timeout")
    page = await dashboard.open_queue("hooks")
    await page.get_by_role("link", name="Dead letters").click()
    await expect(page.locator(".letter")).to_have_count(2)
    await expect(page.locator(".letter .reason b").first).to_have_text("HTTP 500 from <b>shop</b>")
    await page.get_by_role("button", name="Redrive message 1").click()
    await expect(
        page.get_by_role("status").filter(has_text="Back in the queue: 1.")
    ).to_be_visible()
    await expect(page.locator(".letter")).to_have_count(1)
    assert await dashboard.take("hooks") == "one"
    await page.get_by_role("link", name="Drop all…").click()
    await page.get_by_role("button", name="Drop them").click()
    await expect(page.locator("#list")).to_contain_text("No dead letters.")
    assert (await dashboard.stats("hooks"))["dead"] == 0


async def test_purging_asks_first(dashboard: Dashboard) -> None:
    await dashboard.add("scratch", b"a", b"b")
    page = await dashboard.open_queue("scratch")
    await page.get_by_role("link", name="Purge…").click()
    await expect(page.locator("h1")).to_have_text("Purge scratch?")
    await page.get_by_role("link", name="Cancel").click()
    assert (await dashboard.stats("scratch"))["len"] == 2
    await page.get_by_role("link", name="Purge…").click()
    await page.get_by_role("button", name="Purge the queue").click()
    await expect(page.get_by_role("status").filter(has_text="The queue is empty.")).to_be_visible()
    assert (await dashboard.stats("scratch"))["len"] == 0


async def test_settings_are_changed_in_the_page(dashboard: Dashboard) -> None:
    page = await dashboard.open_queue("reports")
    await page.get_by_role("link", name="Settings").click()
    await page.get_by_label("Most attempts").fill("2")
    await page.get_by_label("Policy").select_option("roundrobin")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_label("Most attempts")).to_have_value("2")
    assert (await dashboard.stats("reports"))["policy"] == 2
    await page.get_by_label("Time to live").fill("soon")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("alert").filter(has_text="ttl must be")).to_be_visible()
    await expect(page.get_by_label("Time to live")).to_have_value("soon")
    dashboard.complaints.clear()  # the browser notes the status 400 of what was wrong


async def test_hostile_names_values_and_reasons_do_no_harm(dashboard: Dashboard) -> None:
    """All is text: no dialog, no complaint about the policy, and a live page stays what it is."""
    page = await dashboard.open_queue(HOSTILE)
    await page.get_by_label("Value", exact=True).fill(f'{{"html": "{HOSTILE}"}}')
    await page.get_by_role("button", name="Publish").click()
    await page.locator("details.message summary").first.click()
    await expect(page.locator("pre.value").first).to_contain_text(HOSTILE)
    await expect(page.locator("h1")).to_have_text(HOSTILE)
    assert await page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    overview = await dashboard.open()
    await expect(overview.locator("#live")).to_have_text("live")
    link = overview.get_by_role("link", name=HOSTILE, exact=True)
    await expect(link).to_be_visible()
    await link.click()
    await expect(overview.locator("h1")).to_have_text(HOSTILE)


async def test_the_policy_would_stop_a_script_that_came_through(dashboard: Dashboard) -> None:
    """Were markup ever not escaped, it still could not run."""
    page = await dashboard.open()
    ran = await page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            return window.ran === true;
        }"""
    )
    assert not ran
    assert any("Content Security Policy" in text for text in dashboard.complaints)
    dashboard.complaints.clear()


async def test_pages_fit_a_narrow_screen_in_the_dark(dashboard: Dashboard) -> None:
    """360 pixels wide no page scrolls sideways, long names and values included."""
    long = "averylongnamewithoutanybreak" * 12
    await dashboard.add(long, b"v" * 3000, b"\x00\xff" * 600)
    await dashboard.bury(long, "reason" * 60)
    async with dashboard.session.post(
        f"{dashboard.url}/channels/{long}", json={"data": "d" * 900, "src": "s" * 200}
    ) as answer:
        assert answer.status == 201
    page = await dashboard.open(viewport=NARROW, color_scheme="dark")
    paths = ["", f"queue?name={long}", f"queue?name={long}&view=dead"]
    paths += [f"queue?name={long}&view={view}" for view in ("consumers", "settings")]
    paths += [f"confirm?name={long}&action=purge", "logs", f"channel?name={long}", "nodes", "redis"]
    for path in paths:
        await page.goto(f"{dashboard.url}/ui/{path}")
        for summary in await page.locator("details.message > summary").all():
            await summary.click()
        assert not await has_sideways_scrolling(page), path
    ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = await dashboard.open(color_scheme="light")
    assert ground != await light.evaluate("getComputedStyle(document.body).backgroundColor")
    red, green, blue = (int(part) for part in ground.removeprefix("rgb(").rstrip(")").split(","))
    assert max(red, green, blue) < 64


async def test_the_keyboard_is_enough(dashboard: Dashboard) -> None:
    """The slash goes to the search, and what has the focus is marked."""
    await dashboard.add("alpha", b"x")
    await dashboard.add("beta", b"x")
    page = await dashboard.open()
    await page.keyboard.press("Tab")
    await expect(page.get_by_text("Skip to the content")).to_be_focused()
    await page.keyboard.press("/")
    search = page.get_by_label("Search queues by name")
    await expect(search).to_be_focused()
    await page.keyboard.type("ALPH")
    await page.keyboard.press("Enter")
    row = page.locator("tr[data-row]")
    await expect(row).to_have_count(1)
    link = page.get_by_role("link", name="alpha")
    for _ in range(30):
        await page.keyboard.press("Tab")
        if await link.evaluate("link => link === document.activeElement"):
            break
    await expect(link).to_be_focused()
    assert await link.evaluate("link => getComputedStyle(link).outlineStyle") == "solid"
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_have_text("alpha")
    await page.locator("summary").first.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("details.message pre")).to_be_visible()


async def test_pages_work_without_script(dashboard: Dashboard) -> None:
    await dashboard.add("plain", b"x")
    page = await dashboard.open(java_script_enabled=False)
    await page.get_by_role("link", name="plain").click()
    await page.get_by_label("Value", exact=True).fill("by hand")
    await page.get_by_role("button", name="Publish").click()
    await expect(page.locator("details.message")).to_have_count(2)
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("button", name="Resume")).to_be_visible()


async def test_the_classic_pages_lead_to_the_dashboard(dashboard: Dashboard) -> None:
    await dashboard.add("old", b"x")
    page = await dashboard.open("/")
    await page.get_by_role("link", name="Dashboard", exact=True).click()
    await expect(page.locator("#live")).to_have_text("live")
    await page.get_by_role("link", name="Manual").first.click()
    await page.get_by_role("link", name="Dashboard", exact=True).click()
    await expect(page.get_by_role("link", name="old", exact=True)).to_be_visible()


async def test_a_page_comes_to_life_again_after_the_server_was_gone(tmp_path: Path) -> None:
    """It says that it is not live, and goes on by itself."""
    async with running_server(tmp_path) as server, dashboard_of(server) as dashboard:
        page = await dashboard.open()
        await expect(page.locator("#live")).to_have_text("live")
        assert await server.stop() == 0
        await expect(page.locator("#live")).to_have_text("reconnecting")
        await server.start()
        await expect(page.locator("#live")).to_have_text("live")
        await dashboard.add("fresh", b"x")
        await expect(page.locator("tr[data-row=fresh]")).to_have_count(1)


async def test_the_pages_work_behind_a_password(tmp_path: Path) -> None:
    """The browser shows it once, also for the stream and for forms."""
    acl = tmp_path / "acl.conf"
    sections = ("rest:consumer", "rest:producer")
    acl.write_text("".join(f"[{each}]\nusername = me\npassword = se:cret\n" for each in sections))
    async with (
        running_server(tmp_path, "--acl", str(acl)) as server,
        dashboard_of(server) as dashboard,
    ):
        password = {"username": "me", "password": "se:cret"}
        page = await dashboard.open(http_credentials=password)
        await expect(page.locator("#live")).to_have_text("live")
        await page.goto(f"{server.url}/ui/queue?name=guarded")
        await page.get_by_label("Value", exact=True).fill("inside")
        await page.get_by_role("button", name="Publish").click()
        await expect(page.locator("details.message")).to_have_count(1)
        assert dashboard.complaints == []
