"""The client over TLS, for all that it does."""

import asyncio
import ssl
import subprocess
from contextlib import aclosing
from pathlib import Path

import pytest

from restmq.client import Client, Request, TlsRefused
from tests.endpoints.conftest import OpenNode
from tests.support import eventually


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a key and a certificate that signs itself, for 127.0.0.1."""
    path = tmp_path / "server.pem"
    key = tmp_path / "server.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=server"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


async def test_a_client_that_trusts_the_server_works(
    open_node: OpenNode, certificate: Path, fresh_name: str
) -> None:
    """Requests, streams and WebSockets; one that does not trust it is told at once."""

    async def echo(request: Request) -> object:
        return request.value

    context = ssl.create_default_context(cafile=str(certificate))
    async with open_node(tls_certificate=str(certificate)) as node:
        url = f"https://127.0.0.1:{node.node.port}"
        async with Client(url, ssl_context=context) as client:
            await client.publish(fresh_name, b"x" * 300_000)
            async with client.lease(fresh_name) as message:
                assert len(message.value) == 300_000
            async with aclosing(client.listen(fresh_name)) as messages:
                first = asyncio.ensure_future(anext(messages))
                await eventually(lambda: listens(client, fresh_name))
                await client.publish(fresh_name, "v")
                assert (await first).text == "v"
            serving = asyncio.create_task(client.serve(f"{fresh_name}-echo", echo))
            assert (await client.call(f"{fresh_name}-echo", "ping")).text == "ping"
            serving.cancel()
            await asyncio.wait([serving])
        async with Client(url) as client:
            with pytest.raises(TlsRefused, match="certificate"):
                await client.publish(fresh_name, "v")
            with pytest.raises(TlsRefused):
                await anext(aiter(client.consume(fresh_name)))


async def listens(client: Client, queue: str) -> bool:
    """Whether somebody does."""
    return (await client.stats(queue)).consumers == 1
