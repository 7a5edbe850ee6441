"""What ``restmq doctor --url`` asks a running server."""

import ipaddress
import time
from email.utils import parsedate_to_datetime

from restmq.cli.doctor.findings import DEFAULTS, Findings, Thresholds, ok, problem, warning
from restmq.errors import AccessDenied, RestMQError
from restmq.http_client import HttpClient, ServerAddress

DATE_GRAIN_SECONDS = 1.0
"""The date of an answer is in whole seconds."""


def check_server(address: ServerAddress, thresholds: Thresholds = DEFAULTS) -> Findings:
    """Ask whether it is alive and ready, who may ask it, and what time it is there."""
    url = address.url
    with HttpClient(address) as client:
        try:
            start = time.time()
            alive = client.request("GET", "/healthz")
            middle = (start + time.time()) / 2
        except RestMQError as error:
            yield problem("server", str(error), "start it, or correct --url")
            return
        if alive.body.strip() != b"alive":
            yield problem("server", f"{url} is no RestMQ server", "correct --url")
            return
        yield from _check_ready(client)
        yield from _check_date(url, alive.headers.get("date"), middle, thresholds)
        yield from _check_access(client)
    if address.credentials is not None and address.scheme == "http" and not _is_local(address.host):
        yield warning(
            "clear-password",
            f"the password for {url} crosses the network in clear",
            "put a proxy with TLS in front of the server, and use https://",
        )


def _check_ready(client: HttpClient) -> Findings:
    url = client.address.url
    try:
        client.request("GET", "/readyz")
    except RestMQError as error:
        yield problem("server", f"{url} is not ready: {error}", "look into the server's log")
    else:
        yield ok("server", f"{url} is alive and ready")


def _check_date(url: str, date: str | None, middle: float, thresholds: Thresholds) -> Findings:
    if date is None:
        return
    try:
        told = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return
    # Anything within the second that it names fits.
    behind, ahead = told - middle, middle - told - DATE_GRAIN_SECONDS
    difference = max(behind, ahead, 0.0)
    what = f"the clock of {url} and of this machine are {difference:.0f} s apart"
    if difference > thresholds.clock_warning_seconds:
        remedy = "let both follow one time server (timedatectl set-ntp true)"
        yield warning("server-clock", what, remedy)
    else:
        yield ok("server-clock", f"{url} has the time of this machine")


def _check_access(client: HttpClient) -> Findings:
    url = client.address.url
    try:
        client.request("GET", "/stats", {"limit": 1})
    except AccessDenied as error:
        yield warning(
            "server-access", f"{url} does not let us see its queues: {error}", "add --user"
        )
    except RestMQError as error:
        yield problem("server", f"{url} does not tell its queues: {error}", "look into its log")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
