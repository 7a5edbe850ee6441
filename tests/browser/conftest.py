"""A real browser in front of the real server, which may log nothing that looks like harm."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.server_process import ServerProcess, running_server

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WAIT_MILLISECONDS = 30_000
"""How long a page may take for anything, on a machine that does much else."""


class Dashboard:
    """A server, a browser, and a client that publishes and consumes beside it."""

    def __init__(
        self, server: ServerProcess, browser: Browser, session: aiohttp.ClientSession
    ) -> None:
        self.url = server.url
        self.server = server
        self.session = session
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.complaints: list[str] = []
        """What pages complained about: errors, refused content, dialogs."""

    async def open(self, path: str = "/ui/", **options: Any) -> Page:
        """Open a page in a window of its own, with a context of these options."""
        context = await self._browser.new_context(**options)
        self._contexts.append(context)
        context.set_default_timeout(WAIT_MILLISECONDS)
        page = await context.new_page()
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

        async def dismiss(dialog: Any) -> None:
            self.complaints.append(f"dialog: {dialog.message}")
            await dialog.dismiss()

        page.on("dialog", dismiss)
        await page.goto(self.url + path)
        return page

    async def close_pages(self) -> None:
        """Close what was opened."""
        for context in self._contexts:
            await context.close()
        self._contexts.clear()

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    async def open_queue(self, queue: str, **options: Any) -> Page:
        """Open the page of a queue."""
        return await self.open(f"/ui/queue?name={quote(queue, safe='')}", **options)

    async def add(self, queue: str, *values: bytes, content_type: str = "text/plain") -> None:
        """Publish over the API."""
        for value in values:
            async with self.session.post(
                f"{self.url}/q/{queue}", data=value, headers={"Content-Type": content_type}
            ) as answer:
                assert answer.status == 200

    async def take(self, queue: str) -> str | None:
        """Take a message over the API."""
        async with self.session.get(f"{self.url}/q/{queue}") as answer:
            return None if answer.status == 204 else (await answer.json())["value"]

    async def stats(self, queue: str) -> dict[str, Any]:
        """Ask the API what a queue looks like."""
        async with self.session.get(f"{self.url}/stats/{queue}") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def bury(self, queue: str, reason: str) -> None:
        """Lease the next message and give it up."""
        async with self.session.get(f"{self.url}/q/{queue}?lease=60") as answer:
            receipt = (await answer.json())["receipt"]
        async with self.session.post(
            f"{self.url}/lease/{receipt}", data={"dead": reason}
        ) as answer:
            assert answer.status == 200


@contextlib.asynccontextmanager
async def dashboard_of(server: ServerProcess) -> AsyncIterator[Dashboard]:
    """Open a browser for a server."""
    async with (
        async_playwright() as playwright,
        aiohttp.ClientSession() as session,
    ):
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=ARGUMENTS
        )
        try:
            yield Dashboard(server, browser, session)
        finally:
            await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_dashboard(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Dashboard]:
    """One server and one browser for the tests of a module: use fresh names."""
    folder = tmp_path_factory.mktemp("dashboard")
    async with running_server(folder) as server, dashboard_of(server) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def dashboard(shared_dashboard: Dashboard) -> AsyncIterator[Dashboard]:
    """The dashboard in a browser; its pages must not have complained at the end."""
    shared_dashboard.complaints.clear()
    yield shared_dashboard
    await shared_dashboard.close_pages()
    assert shared_dashboard.complaints == []
