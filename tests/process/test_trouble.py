"""What bad input gets from the real program, and that it leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from tests.process.clients import UPGRADE, Api, Message, bare_connection, exchange, open_api
from tests.server_process import ServerProcess, running_server

MAX_BODY_BYTES = 100_000
ALLOWED_ORIGIN = "https://allowed.example"
FOREIGN_ORIGIN = "https://foreign.example"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """A server that the tests of this module share; use fresh names."""
    flags = ["--fsync", "no", "--max-body-bytes", str(MAX_BODY_BYTES)]
    flags += ["--allowed-origins", ALLOWED_ORIGIN]
    async with running_server(tmp_path_factory.mktemp("trouble"), *flags) as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    """The everyday requests to that server."""
    async with open_api(server.url) as client:
        yield client


async def status_of(api: Api, method: str, path: str, **options: object) -> int:
    """Send a request and return the status of the answer."""
    async with api.session.request(method, api.url + path, **options) as answer:
        status: int = answer.status
        return status


async def snapshot(api: Api) -> Message:
    """Return what the server tells of all queues."""
    statistics: Message = await api.get_json("/stats")
    return statistics


class TestNames:
    REQUESTS = (
        ("GET", "/q/{}", None),
        ("POST", "/q/{}", "value=v"),
        ("DELETE", "/q/{}", None),
        ("GET", "/?queue={}", None),
        ("POST", "/?queue={}", "value=v"),
        ("GET", "/c/{}", None),
        ("GET", "/ws/{}", None),
        ("GET", "/p/{}", None),
        ("POST", "/p/{}", "policy=broadcast"),
        ("GET", "/stats/{}", None),
        ("GET", "/control/{}", None),
        ("POST", "/control/{}", "status=stop"),
        ("GET", "/j/{}", None),
        ("POST", "/queue/{}", 'body={{"cmd":"add","value":"v"}}'),
        ("POST", "/queue", 'body={{"cmd":"add","queue":"{}","value":"v"}}'),
    )

    @pytest.mark.parametrize("name", ["n" * 1024, "ü" * 512], ids=["ascii", "unicode"])
    async def test_of_1024_bytes_work(self, api, name):
        assert await api.add(name, "v") == f"{name}:1"
        assert await api.pop(name) == {"key": f"{name}:1", "value": "v", "count": 0}

    @pytest.mark.parametrize("name", ["n" * 1025, "%C3%BC" * 512 + "n"], ids=["ascii", "unicode"])
    @pytest.mark.parametrize(("method", "path", "form"), REQUESTS)
    async def test_of_1025_bytes_are_refused_everywhere(self, api, method, path, form, name):
        await self.check_refusal(api, method, path, form, name)

    @pytest.mark.parametrize(
        ("method", "path", "form"),
        [
            ("POST", "/q/{}", "value=v"),
            ("DELETE", "/q/{}", None),
            ("POST", "/?queue={}", "value=v"),
            ("GET", "/c/{}", None),
            ("GET", "/ws/{}", None),
            ("GET", "/p/{}", None),
            ("POST", "/p/{}", "policy=broadcast"),
            ("POST", "/control/{}", "status=stop"),
            ("GET", "/j/{}", None),
            ("POST", "/queue", 'body={{"cmd":"add","queue":"{}","value":"v"}}'),
        ],
    )
    async def test_that_are_empty_are_refused(self, api, method, path, form):
        await self.check_refusal(api, method, path, form, "")

    @pytest.mark.parametrize("name", ["%FF", "%C3", "a%ED%A0%80", "%00%FE"])
    @pytest.mark.parametrize(("method", "path", "form"), REQUESTS[:-1])
    async def test_that_are_not_utf_8_are_refused_everywhere(self, api, method, path, form, name):
        await self.check_refusal(api, method, path, form, name)

    async def check_refusal(
        self, api: Api, method: str, path: str, form: str | None, name: str
    ) -> None:
        before = await snapshot(api)
        headers = UPGRADE if path.startswith("/ws/") else FORM if form else {}
        body = form and form.format(name)
        # As URL, a name would be decoded and encoded again; so the bytes are written as they are.
        lines = [f"{method} {path.format(name)} HTTP/1.1", "Host: x"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        lines += [f"Content-Length: {len(body or '')}", "", body or ""]
        port = int(api.url.rpartition(":")[2])
        async with bare_connection(port) as (reader, writer):
            writer.write("\r\n".join(lines).encode())
            async with asyncio.timeout(10):
                assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        assert await snapshot(api) == before


class TestParameters:
    @pytest.mark.parametrize("ttl", ["0", "-1", "abc", "1.5", "9" * 20, "+1", "1 ", "1e3", "٣"])
    async def test_a_ttl_that_is_no_whole_number_of_seconds_is_refused(self, api, ttl, fresh_name):
        form = {"queue": fresh_name, "value": "v", "ttl": ttl}
        command = {"cmd": "add", "queue": fresh_name, "value": "v", "ttl": ttl}
        assert await status_of(api, "POST", f"/q/{fresh_name}", data=form) == 400
        assert await status_of(api, "POST", "/", data=form) == 400
        assert await status_of(api, "POST", "/queue", json=command) == 400
        assert await api.length(fresh_name) == 0
        assert await api.add(fresh_name, "first") == f"{fresh_name}:1"

    @pytest.mark.parametrize("ttl", [0, -1, 1.5, 10**20, True, [1], {}, "", "abc"])
    async def test_nor_is_one_in_a_command(self, api, ttl, fresh_name):
        command = {"cmd": "add", "queue": fresh_name, "value": "v", "ttl": ttl}
        assert await status_of(api, "POST", "/queue", json=command) == 400
        assert await api.length(fresh_name) == 0

    @pytest.mark.parametrize("form", ["policy=random", "policy=", "", "policy=ROUNDROBIN", "x=1"])
    async def test_a_policy_that_is_none_is_refused_and_changes_nothing(
        self, api, form, fresh_name
    ):
        await api.set_policy(fresh_name, "roundrobin")
        path = f"/p/{fresh_name}"
        assert await status_of(api, "POST", path, data=form, headers=FORM) == 400
        assert (await api.get_json(path))["value"] == "roundrobin"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"{}",
            b"[]",
            b'"add"',
            b"null",
            b'{"cmd":""}',
            b'{"cmd":null}',
            b'{"cmd":1}',
            b'{"cmd":["add"]}',
            b'{"cmd":"add"} more',
            b'{"cmd":"\xff"}',
            b'{"cmd":"add","queue":1,"value":"v"}',
            b'{"cmd":"add","queue":"\\ud800","value":"v"}',
            b"[" * 30_000,
            b'{"cmd":' * 5_000,
        ],
        ids=lambda body: body[:24],
    )
    async def test_a_command_that_cannot_be_read_is_refused(self, api, body):
        as_json = {"Content-Type": "application/json"}
        assert await status_of(api, "POST", "/queue", data=body, headers=as_json) == 400
        form = urlencode({"body": body})
        assert await status_of(api, "POST", "/queue", data=form, headers=FORM) == 400
        assert await status_of(api, "GET", "/readyz") == 200

    @pytest.mark.parametrize(
        "callback",
        [
            "alert(1)//",
            "a-b",
            "1a",
            "a b",
            "<script>",
            "a\r\nX-Injected: 1",
            "a;b",
            "a[0]",
            "ä",
            "a" * 129,
            "a\0",
            "%FF",
        ],
    )
    async def test_a_callback_that_is_no_plain_name_is_refused_and_takes_nothing(
        self, api, callback, fresh_name
    ):
        await api.add(fresh_name, "stays")
        for method, path in (
            ("GET", f"/q/{fresh_name}"),
            ("GET", "/"),
            ("POST", f"/q/{fresh_name}"),
            ("DELETE", f"/q/{fresh_name}"),
            ("GET", f"/c/{fresh_name}"),
            ("GET", f"/stats/{fresh_name}"),
            ("GET", "/stats"),
            ("GET", f"/control/{fresh_name}"),
            ("GET", f"/p/{fresh_name}"),
        ):
            parameters = {"callback": callback, "queue": fresh_name, "value": "v"}
            url = api.url + path
            async with api.session.request(method, url, params=parameters) as answer:
                assert answer.status == 400, path
                assert "X-Injected" not in answer.headers
                assert answer.content_type == "application/json"
        assert [message["value"] for message in await api.drain(fresh_name)] == ["stays"]


class TestBodies:
    async def test_of_the_largest_size_are_stored_and_one_byte_more_is_not(self, api, fresh_name):
        path = f"/q/{fresh_name}"
        headers = {"Content-Type": "text/plain"}
        for size_bytes, status in ((MAX_BODY_BYTES, 200), (MAX_BODY_BYTES + 1, 413)):
            body = b"x" * size_bytes
            assert await status_of(api, "POST", path, data=body, headers=headers) == status
        stored = await api.drain(fresh_name)
        assert [len(message["value"]) for message in stored] == [MAX_BODY_BYTES]

    @pytest.mark.parametrize("kind", ["form", "multipart", "chunked", "command"])
    async def test_over_the_limit_are_refused_in_every_form(self, api, kind, fresh_name):
        value = "x" * MAX_BODY_BYTES
        path = f"/q/{fresh_name}"
        options: dict[str, object] = {"data": {"value": value}}
        if kind == "multipart":
            boundary = "--b\r\nContent-Disposition: form-data; name=value\r\n\r\n"
            options["data"] = f"{boundary}{value}\r\n--b--\r\n".encode()
            options["headers"] = {"Content-Type": "multipart/form-data; boundary=b"}
        elif kind == "chunked":
            options["data"] = self.in_chunks(value.encode())
        elif kind == "command":
            path = "/queue"
            options = {"json": {"cmd": "add", "queue": fresh_name, "value": value}}
        assert await status_of(api, "POST", path, **options) == 413
        assert await api.length(fresh_name) == 0
        assert await api.add(fresh_name, "first") == f"{fresh_name}:1"

    async def in_chunks(self, body: bytes) -> AsyncIterator[bytes]:
        """Yield a body in parts, so that nobody knows its length before the end."""
        for start in range(0, len(body) + 1, 10_000):
            yield body[start : start + 10_000] or b"x"

    async def test_that_are_announced_too_large_are_refused_before_they_come(
        self, server, fresh_name
    ):
        head = f"POST /q/{fresh_name} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
        async with bare_connection(server.port) as (reader, writer):
            writer.write(head.encode())
            async with asyncio.timeout(10):
                assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")

    @pytest.mark.parametrize(
        "request_bytes",
        [
            b"\0\1\2 garbage\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /q/x HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
            b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /q/x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST /q/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /q/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"ZZ\r\nv\r\n0\r\n\r\n",
        ],
        ids=lambda request_bytes: request_bytes[-30:],
    )
    async def test_of_requests_that_are_not_http_are_refused(self, server, api, request_bytes):
        before = await snapshot(api)
        answer = await exchange(server.port, request_bytes)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), answer[:100]
        assert await snapshot(api) == before


class TestOrigins:
    CHANGING = (
        ("POST", "/q/{}"),
        ("POST", "/?queue={}"),
        ("GET", "/q/{}"),
        ("GET", "/?queue={}"),
        ("DELETE", "/q/{}"),
        ("POST", "/p/{}"),
        ("POST", "/control/{}"),
        ("POST", "/queue/{}"),
        ("GET", "/c/{}"),
        ("GET", "/ws/{}"),
        ("POST", "/collectd/event"),
    )
    FORM = "value=v&policy=roundrobin&status=stop&body={%22cmd%22:%22take%22}"

    @pytest.mark.parametrize("origin", [FOREIGN_ORIGIN, "null", "https://allowed.example.evil"])
    @pytest.mark.parametrize(("method", "path"), CHANGING)
    async def test_that_are_foreign_may_change_and_take_nothing(
        self, api, fresh_name, method, path, origin
    ):
        await api.add(fresh_name, "stays")
        before = await snapshot(api)
        headers = {"Origin": origin, **(UPGRADE if "/ws/" in path else FORM)}
        options = {"headers": headers, "data": self.FORM if method == "POST" else None}
        url = api.url + path.format(fresh_name)
        async with api.session.request(method, url, **options) as answer:
            assert answer.status == 403
            assert "Access-Control-Allow-Origin" not in answer.headers
        assert await snapshot(api) == before
        assert (await api.pop(fresh_name))["value"] == "stays"

    async def test_that_are_foreign_cannot_read_what_they_may_ask_for(self, api):
        headers = {"Origin": FOREIGN_ORIGIN}
        async with api.session.get(f"{api.url}/stats", headers=headers) as answer:
            assert "Access-Control-Allow-Origin" not in answer.headers

    async def test_that_are_the_servers_own_may_do_everything(self, api, fresh_name):
        headers = {"Origin": api.url}
        path = f"/q/{fresh_name}"
        data = {"value": "v"}
        assert await status_of(api, "POST", path, data=data, headers=headers) == 200
        assert await status_of(api, "GET", path, headers=headers) == 200

    async def test_that_are_allowed_get_headers_that_let_them_read(self, api, fresh_name):
        headers = {"Origin": ALLOWED_ORIGIN}
        for method, path, data, status in (
            ("POST", f"/q/{fresh_name}", {"value": "v"}, 200),
            ("GET", f"/q/{fresh_name}", None, 200),
            ("GET", f"/q/{fresh_name}", None, 204),
            ("GET", f"/c/{fresh_name}", None, 200),
            ("POST", f"/p/{fresh_name}", {"policy": "bad"}, 400),
        ):
            url = api.url + path
            async with api.session.request(method, url, data=data, headers=headers) as answer:
                assert answer.status == status
                assert answer.headers["Access-Control-Allow-Origin"] == ALLOWED_ORIGIN
                assert "Origin" in answer.headers["Vary"]

    async def test_that_are_allowed_may_open_websockets(self, api, fresh_name):
        url = f"{api.url}/ws/{fresh_name}"
        async with api.session.ws_connect(url, origin=ALLOWED_ORIGIN) as websocket:
            await websocket.send_str("hello")
            assert await websocket.receive_str(timeout=10) == "hello"

    @pytest.mark.parametrize("path", ["/q/x", "/", "/queue", "/p/x", "/control/x"])
    async def test_that_are_allowed_get_their_preflight_answered(self, api, path):
        headers = {
            "Origin": ALLOWED_ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-mine",
        }
        async with api.session.options(api.url + path, headers=headers) as answer:
            assert answer.status in (200, 204)
            assert answer.headers["Access-Control-Allow-Origin"] == ALLOWED_ORIGIN
            assert "POST" in answer.headers["Access-Control-Allow-Methods"]
            assert "x-mine" in answer.headers["Access-Control-Allow-Headers"].lower()
        headers["Origin"] = FOREIGN_ORIGIN
        async with api.session.options(api.url + path, headers=headers) as answer:
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert "Access-Control-Allow-Methods" not in answer.headers
