"""The shipped nginx site: accepted by nginx, and live in front of a real server."""

import asyncio
import contextlib
import io
import os
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from yarl import URL

from tests.deployment.programs import EXAMPLES, program, replace_once
from tests.server_process import running_server
from tests.support import eventually, free_port

SITE = EXAMPLES / "nginx" / "restmq.conf"
PATIENCE_SECONDS = 30

CONFIGURATION = """
{user}
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
worker_processes 2;
events {{ worker_connections 256; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/site.conf;
}}
"""


def write_site(directory: Path, backend_port: int, port: int, tls_port: int) -> Path:
    """Write the site with ports and a certificate of its own, and an nginx.conf around it."""
    certificate, key = directory / "site.pem", directory / "site.key"
    command = (
        f"{program('openssl')} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        " -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    site = replace_once(
        SITE.read_text(),
        ("    server 127.0.0.1:8888 ", f"    server 127.0.0.1:{backend_port} "),
        ("    listen 80;", f"    listen 127.0.0.1:{port};"),
        ("    listen [::]:80;", ""),
        ("    listen 443 ssl http2;", f"    listen 127.0.0.1:{tls_port} ssl http2;"),
        ("    listen [::]:443 ssl http2;", ""),
        ("/etc/nginx/tls/mq.example.pem", str(certificate)),
        ("/etc/nginx/tls/mq.example.key", str(key)),
        ("/var/log/nginx/restmq.log", f"{directory}/site.log"),
    )
    (directory / "site.conf").write_text(site)
    configuration = directory / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    configuration.write_text(CONFIGURATION.format(user=user, directory=directory))
    return configuration


class Site(NamedTuple):
    """A server behind nginx, and a client of nginx."""

    url: str
    plain_url: str
    session: aiohttp.ClientSession


Open = Callable[..., contextlib.AbstractAsyncContextManager[Site]]


@pytest.fixture
def open_site(tmp_path: Path) -> Open:
    """Run a server with more flags if need be, and nginx in front of it."""

    @contextlib.asynccontextmanager
    async def opened(*flags: str, local_address: str = "127.0.0.1") -> AsyncIterator[Site]:
        nginx = program("nginx")
        port, tls_port = free_port(), free_port()
        flags = ("--trusted-proxies", "127.0.0.1", *flags)
        async with running_server(tmp_path, *flags) as server:
            configuration = write_site(tmp_path, server.port, port, tls_port)
            process = await asyncio.create_subprocess_exec(
                *(nginx, "-p", str(tmp_path), "-c", str(configuration)),
                stderr=asyncio.subprocess.DEVNULL,
            )
            context = ssl.create_default_context(cafile=str(tmp_path / "site.pem"))
            connector = aiohttp.TCPConnector(ssl=context, local_addr=(local_address, 0))
            try:
                async with aiohttp.ClientSession(connector=connector) as session:
                    site = Site(
                        f"https://127.0.0.1:{tls_port}", f"http://127.0.0.1:{port}", session
                    )

                    async def answers() -> bool:
                        assert process.returncode is None, (tmp_path / "error.log").read_text()
                        try:
                            async with session.get(f"{site.url}/healthz") as answer:
                                return answer.status in (200, 401)
                        except aiohttp.ClientError:
                            return False

                    await eventually(answers, PATIENCE_SECONDS)
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        yield site
            finally:
                if process.returncode is None:
                    process.terminate()
                await process.wait()

    return opened


def test_nginx_accepts_the_site(tmp_path: Path) -> None:
    configuration = write_site(tmp_path, 8888, free_port(), free_port())
    checked = subprocess.run(
        [program("nginx"), "-t", "-p", tmp_path, "-c", configuration],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr


async def test_metrics_are_for_machines_beside_it(open_site: Open) -> None:
    """By whatever spelling of the address."""
    async with open_site(local_address="127.0.0.2") as site:
        for path in (
            "/metrics",
            "/metrics/",
            "//metrics",
            "/metrics/x",
            "/%6detrics",
            "/x/../metrics",
        ):
            async with site.session.get(URL(f"{site.url}{path}", encoded=True)) as answer:
                assert answer.status == 403, path
    async with open_site() as site, site.session.get(f"{site.url}/metrics") as answer:
        assert answer.status == 200


def test_settling_is_not_tried_again_at_another_server() -> None:
    """It would call the receipt stale that the first one has just settled."""
    text = SITE.read_text()
    found = re.search(r"location ~ \^/lease\(/\|\$\) \{(.*?)\}", text, re.DOTALL)
    assert found is not None
    assert re.search(r"proxy_next_upstream +off;", found[1])
    assert "proxy_pass" in found[1]


async def test_messages_and_streams_go_through_it(
    open_site: Open, tmp_path: Path, fresh_name: str
) -> None:
    async with open_site() as site:
        await check_messages(site, fresh_name)
        for accept in ("text/event-stream", "text/plain"):
            await check_stream(site, f"{fresh_name}-{accept}", accept)
        await check_stream_of_log(site, fresh_name)
        await check_websocket(site, f"{fresh_name}-ws")
        await check_waiting(site, f"{fresh_name}-wait")
    logged = (tmp_path / "site.log").read_text()
    assert f"GET /q/{fresh_name}-wait" in logged
    assert "wait=30" not in logged, "a query may hold an API key"


async def publish(site: Site, queue: str, value: str) -> None:
    url = URL(f"{site.url}/q/{queue}", encoded=True)
    async with site.session.post(url, data={"value": value}) as answer:
        assert answer.status == 200


async def check_messages(site: Site, queue: str) -> None:
    session = site.session
    for name, decoded in ((queue, queue), (f"{queue}%2Fb%20c", f"{queue}/b c")):
        await publish(site, name, "hello")
        async with session.get(URL(f"{site.url}/q/{name}", encoded=True)) as answer:
            message = await answer.json()
            assert (message["key"], message["value"]) == (f"{decoded}:1", "hello")
    async with session.get(f"{site.plain_url}/q/x", allow_redirects=False) as answer:
        assert answer.status == 308
    # The limit of the server, and not that of nginx, answers what is just too long.
    too_long = io.BytesIO(b"x" * (16 * 1024 * 1024 + 1))
    async with session.post(f"{site.url}/q/{queue}", data=too_long) as answer:
        assert answer.status == 413
        assert (await answer.json())["error"] == "too-large"


async def check_stream(site: Site, queue: str, accept: str) -> None:
    stream = f"{site.url}/c/{queue}?open=1"
    async with site.session.get(stream, headers={"Accept": accept}) as answer:
        assert answer.content_type == accept
        await read_until(answer, b"open")
        for value in ("first", "second"):
            await publish(site, queue, value)
            # The stream is still open: a buffer in between would keep this back.
            await read_until(answer, value.encode())


async def check_stream_of_log(site: Site, name: str) -> None:
    channel = f"{site.url}/channels/{name}"
    accept = {"Accept": "text/event-stream"}
    async with site.session.get(f"{channel}/messages", headers=accept) as answer:
        await read_until(answer, b"retry")
        async with site.session.post(channel, json={"data": "written"}) as written:
            assert written.status == 201
        await read_until(answer, b"written")


async def read_until(answer: aiohttp.ClientResponse, expected: bytes) -> None:
    received = b""
    while expected not in received:
        piece = await answer.content.readany()
        assert piece, received
        received += piece


async def check_websocket(site: Site, queue: str) -> None:
    async with site.session.ws_connect(f"{site.url}/ws/{queue}?open=1") as websocket:
        assert (await websocket.receive_json())["event"] == "open"
        await publish(site, queue, "v")
        assert (await websocket.receive_json())["value"] == "v"
        await websocket.send_str("echo")
        assert await websocket.receive_str() == "echo"


async def check_waiting(site: Site, queue: str) -> None:
    waiting = asyncio.ensure_future(site.session.get(f"{site.url}/q/{queue}?wait=30"))
    await publish(site, queue, "awaited")
    async with await waiting as answer:
        assert (await answer.json())["value"] == "awaited"


async def test_the_server_learns_who_asks(open_site: Open, tmp_path: Path, fresh_name: str) -> None:
    rules = tmp_path / "acl.conf"
    rules.write_text("[rest:consumer]\nhosts_deny = 127.0.0.2\n")
    lie = {"X-Forwarded-For": "10.1.2.3"}
    async with open_site("--acl", str(rules), local_address="127.0.0.2") as site:
        async with site.session.get(f"{site.url}/q/{fresh_name}", headers=lie) as answer:
            assert answer.status == 401
            assert "127.0.0.2" in (await answer.json())["message"]
        async with site.session.post(f"{site.url}/q/{fresh_name}", data={"value": "v"}) as answer:
            assert answer.status == 200
        async with site.session.get(f"{site.url}/metrics") as answer:
            assert answer.status == 403
