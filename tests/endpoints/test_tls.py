"""TLS on every listener that can have it, with certificates made here and changed on the way."""

import asyncio
import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from restmq.errors import StartupError
from restmq.tls import load_tls
from tests.endpoints.conftest import OpenNode
from tests.server_process import ServerProcess
from tests.support import START_TIMEOUT_SECONDS, eventually, free_port


def make_certificate(directory: Path, name: str = "server") -> tuple[Path, Path]:
    """Make a certificate that signs itself, for 127.0.0.1; returns it and its key."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One certificate and key for all tests that do not change them."""
    return make_certificate(tmp_path_factory.mktemp("certificates"))


def trusting(certificate: Path) -> ssl.SSLContext:
    """Return what a client needs that trusts this certificate alone."""
    return ssl.create_default_context(cafile=str(certificate))


def settings_of(pair: tuple[Path, Path], prefix: str = "tls") -> dict[str, str]:
    """Return the settings that name a pair of files."""
    return {f"{prefix}_certificate": str(pair[0]), f"{prefix}_key": str(pair[1])}


async def test_http_streams_and_websockets_are_served_over_tls(
    open_node: OpenNode, fresh_name: str, pair: tuple[Path, Path]
) -> None:
    """As without, and plain HTTP is not served there."""
    async with open_node(**settings_of(pair), access_log=True) as node:
        url, context = f"https://127.0.0.1:{node.node.port}", trusting(pair[0])
        big = b"x" * 300_000
        async with node.session.post(f"{url}/q/{fresh_name}", data=big, ssl=context) as answer:
            assert answer.status == 200
        async with node.session.get(
            f"{url}/q/{fresh_name}",
            ssl=context,
            headers={"Accept": "application/octet-stream"},
        ) as answer:
            assert await answer.read() == big
        async with (
            node.session.get(f"{url}/c/{fresh_name}?open=1", ssl=context) as stream,
            node.session.ws_connect(
                f"wss://127.0.0.1:{node.node.port}/ws/{fresh_name}", ssl=context
            ) as socket,
        ):
            await stream.content.readline()
            await socket.send_str("echo")
            assert await socket.receive_str(timeout=20) == "echo"
            async with node.session.post(
                f"{url}/q/{fresh_name}", data=b"to both", ssl=context
            ) as answer:
                assert answer.status == 200
            async with asyncio.timeout(20):
                assert b"to both" in await stream.content.readline()
                assert "to both" in await socket.receive_str()
        with pytest.raises(aiohttp.ClientError):
            await node.get("/healthz")


async def test_old_versions_of_tls_are_refused(
    open_node: OpenNode, pair: tuple[Path, Path]
) -> None:
    """1.2 is the least; a browser that asks for HTTP/2 as well is told to speak 1.1."""
    async with open_node(**settings_of(pair)) as node:
        old, new = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2
        for version, is_served in ((old, False), (new, True)):
            context = trusting(pair[0])
            # The library of the client would refuse it by itself otherwise.
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = ssl.TLSVersion.TLSv1
                context.maximum_version = version
            context.set_alpn_protocols(["h2", "http/1.1"])
            connecting = asyncio.open_connection("127.0.0.1", node.node.port, ssl=context)
            if not is_served:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await connecting
                continue
            _, writer = await connecting
            encryption = writer.get_extra_info("ssl_object")
            assert encryption.version() == "TLSv1.2"
            assert encryption.selected_alpn_protocol() == "http/1.1"
            writer.close()
            await writer.wait_closed()


async def test_rse_on_its_port_and_behind_its_own_tls_is_encrypted(
    open_node: OpenNode, fresh_name: str, pair: tuple[Path, Path]
) -> None:
    """So rse_https_only lets it through; and no header of a client makes HTTP into HTTPS."""
    forged = {"X-Forwarded-Proto": "https", "User-Agent": "t"}
    common: dict[str, Any] = {"rse_test_mode": True, "rse_https_only": True}
    port = free_port()
    async with open_node(**settings_of(pair), **common, rse_port=port) as node:
        context = trusting(pair[0])
        for url in (
            f"https://127.0.0.1:{port}/{fresh_name}",
            f"https://127.0.0.1:{node.node.port}/rse/{fresh_name}",
        ):
            async with node.session.get(url, ssl=context, headers={"User-Agent": "t"}) as answer:
                assert answer.status == 204
    async with open_node(**common) as node:
        assert (await node.get(f"/rse/{fresh_name}", headers=forged))[0] == 400
    async with open_node(**common, trusted_proxies=("127.0.0.1",)) as node:
        assert (await node.get(f"/rse/{fresh_name}", headers=forged))[0] == 204
        mixed = {**forged, "X-Forwarded-Proto": "https, http"}
        assert (await node.get(f"/rse/{fresh_name}", headers=mixed))[0] == 400


async def serial_of(port: int) -> bytes | None:
    """Return the certificate that a server shows."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return shown


def shown_by(certificate: Path) -> bytes:
    """Return a certificate as a server shows it."""
    return ssl.PEM_cert_to_DER_cert(certificate.read_text())


@contextlib.asynccontextmanager
async def program(tmp_path: Path, *flags: str) -> AsyncIterator[ServerProcess]:
    """Run the real program, whose probes need TLS."""
    server = ServerProcess(tmp_path / "data", flags, free_port())

    async def answers() -> bool:
        assert server.process.returncode is None, server.log_path.read_text()
        return "serves on https://" in server.log_path.read_text()

    try:
        await server.spawn()
        await eventually(answers, START_TIMEOUT_SECONDS)
        yield server
    finally:
        await server.stop()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sighup_has_the_files_read_again(tmp_path: Path, workers: str) -> None:
    """New connections see the new certificate, of HTTP and of STOMP; a bad one changes nothing."""
    first, second = make_certificate(tmp_path, "first"), make_certificate(tmp_path, "second")
    certificate, key = tmp_path / "tls.pem", tmp_path / "tls.key"

    def install(pair: tuple[Path, Path]) -> None:
        shutil.copy(pair[0], certificate)
        shutil.copy(pair[1], key)

    install(first)
    stomp_port = free_port()
    flags = (
        *("--tls-certificate", str(certificate), "--tls-key", str(key), "--workers", workers),
        *("--stomp-certificate", str(certificate), "--stomp-key", str(key)),
        *("--stomp-port", str(stomp_port)),
    )
    async with program(tmp_path, *flags) as server:

        async def all_show(pair: tuple[Path, Path]) -> bool:
            shown = {await serial_of(port) for port in (server.port, stomp_port) for _ in range(8)}
            return shown == {shown_by(pair[0])}

        await eventually(lambda: all_show(first), 20)
        certificate.write_text(second[0].read_text())  # which is not that of the key
        os.kill(server.pid, signal.SIGHUP)
        await eventually(lambda: "cannot be used" in server.log_path.read_text(), 20)
        assert await all_show(first)
        install(second)
        os.kill(server.pid, signal.SIGHUP)
        await eventually(lambda: all_show(second), 20)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("prefix", ["tls", "stomp"])
async def test_the_program_does_not_start_without_its_certificate(
    tmp_path: Path, workers: str, prefix: str
) -> None:
    """A line that says why, and the exit status of a wrong setting."""
    flags = (f"--{prefix}-certificate", "missing.pem", "--workers", workers)
    server = ServerProcess(tmp_path / "data", flags, free_port())
    await server.spawn()
    async with asyncio.timeout(START_TIMEOUT_SECONDS):
        assert await server.process.wait() == 2
    *_, line = server.log_path.read_text().splitlines()
    assert f"{prefix}_certificate missing.pem" in line


async def test_files_that_cannot_be_used_are_told_at_the_start(
    tmp_path: Path, open_node: OpenNode, pair: tuple[Path, Path]
) -> None:
    """With the setting and the file."""
    other = make_certificate(tmp_path, "other")
    encrypted = tmp_path / "encrypted.key"
    subprocess.run(
        ["openssl", "ec", "-in", other[1], "-aes256", "-passout", "pass:x", "-out", encrypted],
        check=True,
        capture_output=True,
    )
    for certificate, key, words in (
        (str(tmp_path / "missing.pem"), "", "missing.pem"),
        (str(pair[0]), str(other[1]), "cannot be used"),
        (str(pair[1]), "", "cannot be used"),
        (str(other[0]), str(encrypted), "encrypted"),
    ):
        with pytest.raises(StartupError, match=r"^tls_certificate ") as caught:
            load_tls(certificate, key, prefix="tls")
        assert words in str(caught.value)
    with pytest.raises(StartupError, match="tls_key goes with tls_certificate"):
        load_tls("", str(pair[1]), prefix="tls")
    assert load_tls("", "", prefix="tls") is None
    with pytest.raises(StartupError, match="stomp_certificate"):
        async with open_node(stomp_certificate=str(tmp_path / "missing.pem")):
            pass


async def test_files_that_change_while_they_are_read_are_read_again(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the old certificate would be served until the one after the new."""
    other = make_certificate(tmp_path, "other")
    certificate, key = tmp_path / "used.pem", tmp_path / "used.key"
    certificate.write_bytes(pair[0].read_bytes())
    key.write_bytes(pair[1].read_bytes())
    usual = ssl.SSLContext.load_cert_chain

    def replaced_after(context: ssl.SSLContext, *arguments: Any, **options: Any) -> None:
        usual(context, *arguments, **options)
        certificate.write_bytes(other[0].read_bytes())
        key.write_bytes(other[1].read_bytes())

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", replaced_after)
    loaded = load_tls(str(certificate), str(key), prefix="tls")
    assert loaded is not None
    assert await loaded.reload_if_changed() is True
    assert await loaded.reload_if_changed() is False
