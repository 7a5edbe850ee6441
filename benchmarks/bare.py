"""An aiohttp application that stores nothing: what the HTTP framework itself costs.

It answers the routes that the rows use with the shapes that RestMQ answers, so that the ratio of
the two is the price of storing and delivering. Run as ``python -m benchmarks.bare PORT``.
"""

import asyncio
import json
import sys

import uvloop
from aiohttp import web

MESSAGE = json.dumps({"key": "Q:1", "value": "x" * 100, "count": 0}, separators=(",", ":"))


async def add(request: web.Request) -> web.Response:
    """Reads the classic form and answers a key."""
    form = await request.post()
    if not form.get("value"):
        raise web.HTTPBadRequest
    return web.Response(text="Q:1\r\n")


async def pop(request: web.Request) -> web.Response:
    """Answers a constant message."""
    return web.Response(text=MESSAGE, content_type="application/json")


async def stream(request: web.Request) -> web.StreamResponse:
    """Opens an event stream on which nothing happens, until the client leaves."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await asyncio.Event().wait()
    return response


def build_application() -> web.Application:
    """The application with its three routes."""
    application = web.Application()
    application.router.add_post("/q/{queue}", add)
    application.router.add_get("/q/{queue}", pop)
    application.router.add_get("/c/{queue}", stream)
    return application


async def serve(port: int) -> None:
    """Serves on the loopback address until cancelled."""
    runner = web.AppRunner(build_application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
