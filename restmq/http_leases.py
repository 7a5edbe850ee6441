"""Settling leases over HTTP: section 2 of the specification of delivery, seen from a client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from restmq.errors import AccessDenied, InvalidInput, RestMQError, StaleReceipt, Unavailable
from restmq.http_client import (
    MAX_MESSAGE_CHARACTERS,
    Answer,
    HttpClient,
    decimal,
    one_line,
    queue_path,
)

ACKED_PER_REQUEST = 50
"""Receipts that one request names: they stand in its URL, whose length servers limit."""

MAX_RECEIPTS_CHARACTERS = 6000
MAX_RECEIPT_CHARACTERS = 2000

DEFAULT_LEASE_SECONDS = 30.0
"""The lease of a queue that sets none."""

FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Settler:
    """Settles leases by their receipts. Every method may raise Unavailable and AccessDenied."""

    client: HttpClient

    def ack(self, receipts: Sequence[str]) -> list[str | RestMQError]:
        """Acknowledge each; returns the key, or what was wrong with the receipt, in their order."""
        if len(",".join(receipts)) > MAX_RECEIPTS_CHARACTERS and len(receipts) > 1:
            half = len(receipts) // 2
            return [*self.ack(receipts[:half]), *self.ack(receipts[half:])]
        try:
            answer = self.client.request("DELETE", lease_path(*receipts))
        except RestMQError as error:
            self.raise_unless_about_a_receipt(error)
            if len(receipts) == 1:
                return [error]
            # One that is malformed may have spoilt the request for the others.
            return [outcome for receipt in receipts for outcome in self.ack([receipt])]
        entries = [answer.json_object()] if len(receipts) == 1 else answer.json_array()
        if len(entries) != len(receipts):
            raise RestMQError(f"{answer.url} did not answer for each receipt")
        return [_outcome(entry) for entry in entries]

    def release(self, receipt: str, delay_seconds: float = 0, keep_attempt: bool = False) -> str:
        """Give a message back; returns its key. Raises StaleReceipt, or InvalidInput."""
        fields = {"release": decimal(delay_seconds)}
        if keep_attempt:
            fields["attempt"] = "keep"
        return str(self._post(receipt, fields).json_object().get("key"))

    def bury(self, receipt: str, reason: str) -> str:
        """Put a message with the dead letters; returns its key. Raises as ``release``."""
        return str(self._post(receipt, {"dead": reason}).json_object().get("key"))

    def extend(self, receipt: str, seconds: float) -> float:
        """Hold a lease for so long from now; returns when it ends. Raises as ``release``."""
        answer = self._post(receipt, {"extend": decimal(seconds)})
        expires = answer.json_object().get("expires")
        if not isinstance(expires, int | float):
            raise RestMQError(f"{answer.url} does not say when the lease ends")
        return expires

    @staticmethod
    def raise_unless_about_a_receipt(error: RestMQError) -> None:
        """Raise an error that other receipts would meet as well."""
        if isinstance(error, Unavailable | AccessDenied):
            raise error

    def _post(self, receipt: str, fields: Mapping[str, str]) -> Answer:
        return self.client.request(
            "POST", lease_path(receipt), body=form_body(fields), content_type=FORM
        )


def queue_lease_seconds(client: HttpClient, queue: str) -> float:
    """How long a lease of this queue lasts that names no time.

    The default when the server does not tell, since who may lease may not read settings.
    """
    try:
        settings = client.request("GET", queue_path("/settings/", queue)).json_object()
    except RestMQError:
        return DEFAULT_LEASE_SECONDS
    return lease_seconds_of(settings)


def lease_seconds_of(settings: Mapping[str, object]) -> float:
    """Return what the settings of a queue say about leases; the default if they say nothing."""
    seconds = settings.get("lease_seconds")
    if isinstance(seconds, int | float) and seconds >= 1:
        return seconds
    return DEFAULT_LEASE_SECONDS


def form_body(fields: Mapping[str, str]) -> bytes:
    """Spell fields as the body of a form, of the content type ``FORM``."""
    return urlencode(fields, errors="surrogateescape").encode()


def lease_path(*receipts: str) -> str:
    """Return the path that settles these leases. Raises InvalidInput for what is no receipt."""
    for receipt in receipts:
        if not receipt or "," in receipt or len(receipt) > MAX_RECEIPT_CHARACTERS:
            raise InvalidInput("this is no receipt; use the one that came with the leased message")
    return "/lease/" + ",".join(quote(each, safe="", errors="surrogateescape") for each in receipts)


def _outcome(entry: dict[str, object]) -> str | RestMQError:
    if entry.get("acked"):
        return str(entry.get("key"))
    text = one_line(str(entry.get("message") or entry.get("error")))[:MAX_MESSAGE_CHARACTERS]
    kind = StaleReceipt if entry.get("error") == StaleReceipt.code else RestMQError
    return kind(text)
