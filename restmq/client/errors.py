"""What the client raises beside the errors that the server names.

The server's refusals arrive as the class of ``restmq.errors`` whose code word they carry, so that
``except QueueFull`` or ``except StaleReceipt`` work as one reads them. These come from the client:

    RestMQError
    |-- Unavailable
    |   `-- ConnectionLost       the server is out of reach, or was lost before its answer
    |       `-- NoAnswer         it did not answer in time; a TimeoutError too
    |-- TlsRefused               its certificate cannot be trusted
    `-- CallFailed               ``call``: the one who answers had an error
        `-- CallTimedOut         ``call``: no reply in time; a TimeoutError too
"""

from restmq.errors import RestMQError, Unavailable


class ConnectionLost(Unavailable):
    """The server cannot be reached, or the connection broke before its answer.

    ``was_sent``: whether the request may have been carried out all the same.
    """

    code = "connection-lost"

    def __init__(self, text: str, *, was_sent: bool) -> None:
        super().__init__(text)
        self.was_sent = was_sent


class NoAnswer(ConnectionLost, TimeoutError):
    """There was no answer in time."""

    code = "no-answer"


class TlsRefused(RestMQError):
    """The server's certificate cannot be trusted, or it refuses the client's; no use to retry."""

    code = "tls-refused"


class CallFailed(RestMQError):
    """The one who answers a call had an error; the text is what it said."""

    code = "call-failed"


class CallTimedOut(CallFailed, TimeoutError):
    """No reply came in time. Whether the request was or will be handled is unknown."""

    code = "call-timed-out"
