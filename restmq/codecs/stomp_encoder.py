"""STOMP frames to bytes: any frame, and MESSAGE fast.

No header is ever refused, since it may come from another protocol and has to reach this one's
consumers: a character that a version has no way to write becomes a space, so that no value can
start another header or frame. These are LF and the colon of a name in 1.0, a CR at the end of a
line in 1.0 and 1.1, and NUL in all of them. A header without a name is left out, and in 1.0 so
is one whose name would begin or end with a space and be read as another.
"""

import re
from collections.abc import Mapping
from typing import Final

from restmq.codecs.stomp import COMMANDS_WITH_BODY, CONNECTING_COMMANDS, PADDING, Version

HEART_BEAT: Final = b"\n"
"""What an idle side sends."""

MESSAGE_HEADERS: Final = frozenset(
    {"destination", "subscription", "message-id", "ack", "redelivered", "delivery-attempt"}
    | {"content-length", "content-type", "receipt", "transaction"}
)
"""What the server says of a message, or its sender told only the server: no user headers."""

_ESCAPES_1_1: Final = {"\\": "\\\\", "\n": "\\n", ":": "\\c", "\0": " "}
_ESCAPES: Final[dict[Version, dict[int, str]]] = {
    "1.0": str.maketrans({"\n": " ", "\0": " "}),
    "1.1": str.maketrans(_ESCAPES_1_1),
    "1.2": str.maketrans({**_ESCAPES_1_1, "\r": "\\r"}),
}
_FINAL_CARRIAGE_RETURNS: Final = re.compile(r"\r+\Z")


def encode_headers(headers: Mapping[str, str], version: Version | None) -> bytes:
    """Write headers as lines; None as the version writes without escapes, as 1.0 does."""
    lines = "".join([f"{name}:{value}\n" for name, value in headers.items()])
    count = len(headers)
    if (
        lines.count(":") != count
        or lines.count("\n") != count
        or "\\" in lines
        or "\r" in lines
        or "\0" in lines
        or "" in headers
        or (version in (None, "1.0") and any(name != name.strip(PADDING) for name in headers))
    ):
        lines = "".join(
            [_encode_line(name, value, version or "1.0") for name, value in headers.items()]
        )
    return lines.encode("utf-8", "replace")


def _encode_line(name: str, value: str, version: Version) -> str:
    escapes = _ESCAPES[version]
    name = name.translate(escapes)
    value = value.translate(escapes)
    if version == "1.0":
        name = name.replace(":", " ")
        if name != name.strip(PADDING):  # it would be read as another name
            return ""
    # Without an escape for CR, one before the LF would be taken for a part of the line end.
    value = _FINAL_CARRIAGE_RETURNS.sub(lambda match: " " * len(match[0]), value)
    return f"{name}:{value}\n" if name else ""


def encode_frame(
    command: str, headers: Mapping[str, str], body: bytes = b"", *, version: Version | None
) -> bytes:
    """Write one frame of a client or a server.

    ``version`` is the one agreed on, None before that. SEND, MESSAGE and ERROR get the
    ``content-length`` of the body, whatever ``headers`` say of it.

    Raises ValueError for a body that the command cannot carry.
    """
    if command in CONNECTING_COMMANDS:
        version = None
    if command not in COMMANDS_WITH_BODY:
        if body:
            raise ValueError(f"{command} carries no body")
        return b"%b\n%b\n\0" % (command.encode(), encode_headers(headers, version))
    if "content-length" in headers:
        headers = {name: value for name, value in headers.items() if name != "content-length"}
    return b"%b\n%bcontent-length:%d\n\n%b\0" % (
        command.encode(),
        encode_headers(headers, version),
        len(body),
        body,
    )


def encode_receipt(receipt_id: str, version: Version | None) -> bytes:
    """Write the RECEIPT for a frame that asked for it."""
    return encode_frame("RECEIPT", {"receipt-id": receipt_id}, version=version)


def encode_error(
    message: str,
    version: Version | None,
    *,
    detail: str = "",
    receipt_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Write the ERROR frame after which the connection is closed; its body is for people.

    ``message`` is one short line. ``detail`` may say more; without it the body repeats the line.
    ``receipt_id`` is that of the frame at fault, and ``headers`` come after the standard ones.
    """
    all_headers = {"message": message, "content-type": "text/plain"}
    if receipt_id is not None:
        all_headers["receipt-id"] = receipt_id
    all_headers.update(headers or {})
    body = (detail or message).encode("utf-8", "replace")
    return encode_frame("ERROR", all_headers, body, version=version)


def encode_message_content(
    body: bytes,
    headers: Mapping[str, str],
    version: Version,
    *,
    content_type: str | None = None,
    attempt: int = 1,
) -> bytes:
    """Write all of a MESSAGE that is the same for every consumer of a version.

    ``headers`` are the user's; those of MESSAGE_HEADERS among them are left out. ``attempt``: how
    many times it was delivered, this time included; from the second on the frame says so.
    """
    if not MESSAGE_HEADERS.isdisjoint(headers):
        headers = {name: value for name, value in headers.items() if name not in MESSAGE_HEADERS}
    if content_type is not None:
        headers = {"content-type": content_type, **headers}
    return b"%bcontent-length:%d\n%b\n%b\0" % (
        b"redelivered:true\ndelivery-attempt:%d\n" % attempt if attempt > 1 else b"",
        len(body),
        encode_headers(headers, version) if headers else b"",
        body,
    )


class MessageEncoder:
    """Writes the MESSAGE frames of one destination for one subscription.

    ``needs_ack`` is whether the consumer has to acknowledge; 1.2 then tells the id for it.
    ``subscription_id`` is None only for a 1.0 client that gave none.
    """

    __slots__ = ("_names_ack", "_start")

    def __init__(
        self, version: Version, destination: str, subscription_id: str | None, *, needs_ack: bool
    ) -> None:
        headers = {"destination": destination}
        if subscription_id is not None:
            headers["subscription"] = subscription_id
        self._start = b"MESSAGE\n%bmessage-id:" % encode_headers(headers, version)
        self._names_ack = needs_ack and version == "1.2"

    def encode(self, delivery: int, content: bytes) -> bytes:
        """Write the frame of a delivery, by its number on the connection.

        ``content`` comes from ``encode_message_content`` for the same version. The number is the
        ``message-id``, and the ``ack`` where there is one.
        """
        if self._names_ack:
            return b"%b%d\nack:%d\n%b" % (self._start, delivery, delivery, content)
        return b"%b%d\n%b" % (self._start, delivery, content)
