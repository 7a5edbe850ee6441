"""WebSocket text frames as a server sends them: whole and unmasked (RFC 6455, section 5.2).

Only what a fan-out needs: the same bytes go to every consumer of a message. Handshake, pings,
closing and reading stay with the HTTP library.
"""

import struct

_FINAL_TEXT = 0x81
_LENGTH_16_BITS = 126
_LENGTH_64_BITS = 127


def encode_text_frame(payload: bytes) -> bytes:
    """Return one unfragmented text frame; ``payload`` must be UTF-8."""
    length = len(payload)
    if length < _LENGTH_16_BITS:
        return struct.pack(">BB", _FINAL_TEXT, length) + payload
    if length < 1 << 16:
        return struct.pack(">BBH", _FINAL_TEXT, _LENGTH_16_BITS, length) + payload
    return struct.pack(">BBQ", _FINAL_TEXT, _LENGTH_64_BITS, length) + payload
