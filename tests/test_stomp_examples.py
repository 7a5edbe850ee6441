"""The examples of STOMP: a worker, request and reply, and a page in a real browser."""

import asyncio
import contextlib
import os
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import async_playwright, expect

from tests.endpoints.stomp_client import send, stomp_client, subscribe
from tests.server_process import ROOT, running_server
from tests.support import eventually, free_port

EXAMPLES = ROOT / "examples" / "stomp"
DEADLINE_SECONDS = 60
CHROMIUM = shutil.which("chromium")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@contextlib.asynccontextmanager
async def example(name: str, *words: str) -> AsyncIterator[Process]:
    """Run a program until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / name), *words),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def next_line(process: Process) -> str:
    """Return the next line that it prints."""
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_SECONDS):
        return (await process.stdout.readline()).decode().rstrip("\n")


async def test_a_worker_works_off_what_rest_added(tmp_path: Path) -> None:
    """What fails comes again and ends among the dead; what a killed worker held goes on."""
    port = free_port()
    async with (
        running_server(tmp_path, "--stomp-port", str(port)) as server,
        aiohttp.ClientSession(server.url) as session,
    ):

        async def is_over() -> bool:
            async with session.get("/stats/jobs") as answer:
                stats = await answer.json()
                return bool(stats["dead"] == 1 and not stats["leased"] and not stats["ready"])

        async with example("worker.py", "jobs", "--port", str(port)) as worker:
            await session.post("/q/jobs", data={"value": '{"name": "Ann"}'})
            assert await next_line(worker) == "hello Ann"
            await session.post("/q/jobs", data={"value": "no JSON"})
            for _ in range(5):
                assert (await next_line(worker)).startswith("failed: JSONDecodeError")
            await session.post("/q/jobs", data={"value": '{"name": "Bob"}'})
            assert await next_line(worker) == "hello Bob"
            await eventually(is_over, DEADLINE_SECONDS)
        async with example("worker.py", "jobs", "--port", str(port)) as worker:
            await session.post("/q/jobs", data={"value": '{"name": "Eve"}'})
            assert await next_line(worker) == "hello Eve"


async def test_a_request_is_answered(tmp_path: Path) -> None:
    port = free_port()
    async with (
        running_server(tmp_path, "--stomp-port", str(port)),
        example("answer.py", "--port", str(port)),
    ):
        for numbers, answer in ((("1", "2", "3.5"), "6.5"), (("x",), "error: could not convert")):
            async with example("ask.py", *numbers, "--port", str(port)) as asker:
                assert (await next_line(asker)).startswith(answer)
                assert await asker.wait() == 0


@contextlib.asynccontextmanager
async def folder_served() -> AsyncIterator[str]:
    """Serve the folder of the examples; yields its origin."""
    site = web.Application()
    site.router.add_static("/", EXAMPLES)
    runner = web.AppRunner(site)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@needs_chromium
async def test_a_page_listens_and_sends_with_stompjs(tmp_path: Path) -> None:
    """It loads nothing from elsewhere, gets text as it was sent, and acknowledges."""
    stomp_port = free_port()
    async with folder_served() as origin, async_playwright() as playwright:
        flags = ("--stomp-port", str(stomp_port), "--allowed-origins", origin)
        async with running_server(tmp_path, *flags) as server:
            browser = await playwright.chromium.launch(
                executable_path=CHROMIUM, args=CHROMIUM_FLAGS
            )
            page = await browser.new_page()
            asked: list[str] = []
            problems: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: problems.append(str(error)))
            await page.goto(f"{origin}/listen.html")
            await page.fill("[name=server]", server.url.replace("http", "ws") + "/stomp")
            await page.click("text=Listen")
            await expect(page.locator("#status")).to_have_text("listening to /topic/news")
            await page.fill("[name=body]", "first: \\ ☕")
            await page.click("text=Send")
            messages = page.locator("#messages li")
            await expect(messages).to_have_text(["first: \\ ☕"])
            async with stomp_client(stomp_port) as client:
                await send(client, "/topic/news", "zwölf\n".encode(), x="a:b\\")
                await expect(messages).to_have_text(["first: \\ ☕", "zwölf"])
                await page.fill("[name=destination]", "/queue/jobs")
                await page.click("text=Listen")
                await expect(page.locator("#status")).to_have_text("listening to /queue/jobs")
                await send(client, "/queue/jobs", b"1", b"2")
                await expect(messages).to_have_text(["first: \\ ☕", "zwölf", "1", "2"])
                await browser.close()
                await subscribe(client, "/queue/jobs")
                await client.assert_quiet()
            assert problems == []
            assert all(url.startswith(origin) for url in asked), asked


def test_the_library_comes_with_its_licence() -> None:
    assert "Apache License" in (EXAMPLES / "stompjs" / "LICENSE").read_text()
