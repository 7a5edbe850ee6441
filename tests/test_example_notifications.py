"""The page of examples/queuey in a real browser: what comes is shown, what is dismissed is gone."""

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.server_process import ROOT, running_server
from tests.support import free_port

EXAMPLE = ROOT / "examples" / "queuey"
DEADLINE_MILLISECONDS = 60_000
CHROMIUM = shutil.which("chromium")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@contextlib.asynccontextmanager
async def static_pages() -> AsyncIterator[str]:
    """Serve the example's folder; yields its address."""
    application = web.Application()
    application.router.add_static("/", EXAMPLE)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


class Notifications:
    """The server of the example, what it has in its queues, and pages that show that."""

    def __init__(
        self, session: aiohttp.ClientSession, browser: Browser, pages: str, server: str
    ) -> None:
        self.session = session
        self.browser = browser
        self.pages = pages
        self.server = server

    async def send(self, queue: str, *bodies: str) -> None:
        """Post messages."""
        for body in bodies:
            url = f"{self.server}/v1/demo/{queue}"
            headers = {"Content-Type": "text/plain"}
            async with self.session.post(url, data=body, headers=headers) as answer:
                assert answer.status == 201

    async def create(self, queue: str, **settings: str) -> None:
        """Make a queue."""
        form = {"queue_name": queue, **settings}
        async with self.session.post(f"{self.server}/v1/demo", data=form) as answer:
            assert answer.status == 201

    async def bodies(self, queue: str) -> list[str]:
        """Read what is in a queue."""
        async with self.session.get(f"{self.server}/v1/demo/{queue}") as answer:
            return [each["body"] for each in (await answer.json())["messages"]]

    async def page(self, queue: str, key: str = "K", since: str = "") -> Page:
        """Open the page, fill in its form and have it show the queue."""
        page = await self.browser.new_page()
        page.set_default_timeout(DEADLINE_MILLISECONDS)
        await page.goto(f"{self.pages}/notify.html?server={self.server}&queue={queue}")
        await page.fill("input[name=key]", key)
        await page.select_option("select[name=since]", since)
        await page.click("#follow button")
        return page


@pytest.fixture
async def notifications(tmp_path: Path) -> AsyncIterator[Notifications]:
    """The example as its README has it."""
    async with static_pages() as pages:
        settings = f'[server]\nallowed_origins = ["{pages}"]\n'
        settings += '[queuey.application_keys]\ndemo = "K"\n'
        (tmp_path / "restmq.toml").write_text(settings)
        headers = {"Authorization": "Application K"}
        async with (
            running_server(tmp_path) as server,
            aiohttp.ClientSession(headers=headers) as session,
            async_playwright() as playwright,
        ):
            browser = await playwright.chromium.launch(
                executable_path=CHROMIUM, args=CHROMIUM_FLAGS
            )
            yield Notifications(session, browser, pages, server.url)
            await browser.close()


async def shows(page: Page, *bodies: str) -> None:
    """Wait until the page shows just these, the newest first."""
    shown = page.locator("#notifications .body")
    await expect(shown).to_have_text(list(bodies), timeout=DEADLINE_MILLISECONDS)


async def test_notifications_come_and_go_on_every_page(notifications: Notifications) -> None:
    one = await notifications.page("joe")
    await expect(one.locator("#state")).to_contain_text("Following", timeout=DEADLINE_MILLISECONDS)
    await notifications.send("joe", "first", "<b>second</b> & é")
    await shows(one, "<b>second</b> & é", "first")
    await one.fill("input[name=body]", "third, by the page")
    await one.click("#send button")
    await shows(one, "third, by the page", "<b>second</b> & é", "first")
    other = await notifications.page("joe")
    await shows(other, "third, by the page", "<b>second</b> & é", "first")
    await other.click("#notifications li:nth-child(2) button")
    await shows(other, "third, by the page", "first")
    assert await notifications.bodies("joe") == ["first", "third, by the page"]
    later = await notifications.page("joe", since="0")
    await notifications.send("joe", "fourth")
    for page, more in ((one, 3), (other, 2), (later, 0)):
        await expect(page.locator("#notifications li")).to_have_count(
            1 + more, timeout=DEADLINE_MILLISECONDS
        )


async def test_a_public_queue_is_followed_without_a_key(notifications: Notifications) -> None:
    await notifications.create("news", type="public")
    await notifications.send("news", "old")
    page = await notifications.page("news", key="")
    await shows(page, "old")
    await notifications.send("news", "new")
    await shows(page, "new", "old")
    await expect(page.locator("#notifications button")).to_have_count(0)
    await page.fill("input[name=body]", "mine")
    await page.click("#send button")
    await expect(page.locator("#state")).to_contain_text(
        "Not sent: 403", timeout=DEADLINE_MILLISECONDS
    )


async def test_a_wrong_key_is_told(notifications: Notifications) -> None:
    page = await notifications.page("joe", key="wrong")
    await expect(page.locator("#state")).to_contain_text(
        "Refused, 401: Invalid application key", timeout=DEADLINE_MILLISECONDS
    )
