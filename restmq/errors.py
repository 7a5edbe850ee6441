"""Every error RestMQ raises on purpose, as one tree.

Each class carries a stable ``code`` word that clients may rely on; the text is for people and
says what to change. Endpoints translate codes to their protocol (``endpoints/web.py`` holds the
HTTP table); nothing below the endpoints knows a status number.

    RestMQError
    |-- InvalidInput             what the client sent cannot be used
    |   |-- UnsupportedMediaType a body of a kind this route does not read
    |   `-- TooLarge             a body over ``max_body_bytes``
    |-- NotFound                 the thing named does not exist
    |-- Conflict                 it exists, but not in a state in which this can be done
    |   `-- StaleReceipt         the lease ran out or was settled
    |-- QueueFull                the queue holds as much as its settings allow
    |-- MethodNotAllowed         it does, but not for this HTTP method
    |-- AccessDenied             the peer may not do this
    |   |-- CredentialsRequired  it may, with the right user name and password
    |   |   |-- KeyRequired      it may, with an API key
    |   |   `-- InvalidKey       the API key is not known, or has expired
    |   `-- Forbidden            the peer is known, and may not do this
    |-- ForeignOrigin            a page of another site that is not allowed asked for this
    |-- Unavailable              cannot be done now; ask again
    |   |-- StoreUnavailable     Redis is out of reach
    |   |-- Overloaded           a bounded buffer of this node is full
    |   `-- RateLimited          the peer asks for too much in too short a time
    `-- StartupError             the server cannot start; the text says why
        `-- SettingsError        a setting, the settings file or acl.conf is wrong
"""


class RestMQError(Exception):
    """The root of the tree; ``str(error)`` is one line for people."""

    code = "internal-error"


class InvalidInput(RestMQError):
    """What the client sent cannot be used; nothing was changed."""

    code = "invalid-input"


class UnsupportedMediaType(InvalidInput):
    """The body is of a kind that this route does not read."""

    code = "unsupported-media-type"


class TooLarge(InvalidInput):
    """The body is over the limit; the text names the limit in bytes."""

    code = "too-large"


class NotFound(RestMQError):
    """The thing named does not exist."""

    code = "not-found"


class Conflict(RestMQError):
    """The thing named exists, but not in a state in which this can be done."""

    code = "conflict"


class StaleReceipt(Conflict):
    """The lease that the receipt names ran out, or was settled; another delivery may be on."""

    code = "stale-receipt"


class QueueFull(RestMQError):
    """The queue holds as many messages as its ``max_length`` allows; nothing was stored."""

    code = "queue-full"


class MethodNotAllowed(RestMQError):
    """The thing named exists, but cannot be used this way."""

    code = "method-not-allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"use one of: {allowed}")
        self.allowed = allowed


class AccessDenied(RestMQError):
    """The peer may not do this, whatever it says about itself."""

    code = "access-denied"


class CredentialsRequired(AccessDenied):
    """The peer may do this with the right user name and password."""

    code = "credentials-required"


class KeyRequired(CredentialsRequired):
    """The server was set to serve only those who show an API key."""

    code = "key-required"


class InvalidKey(CredentialsRequired):
    """The API key is not known, or has expired."""

    code = "invalid-key"


class Forbidden(AccessDenied):
    """The peer is known, and may not do this; other credentials might."""

    code = "forbidden"


class ForeignOrigin(RestMQError):
    """A page from another site asked for something that only allowed origins may do."""

    code = "foreign-origin"


class Unavailable(RestMQError):
    """It cannot be done now; the same request may succeed in ``retry_after_seconds``."""

    code = "unavailable"
    retry_after_seconds = 1


class StoreUnavailable(Unavailable):
    """Redis is out of reach, so nothing can be promised. Whether a change was made is unknown."""

    code = "store-unavailable"


class Overloaded(Unavailable):
    """A bounded buffer of this node is full; nothing was changed."""

    code = "overloaded"


class RateLimited(Unavailable):
    """The peer asks for more in a second than the settings allow; nothing was done."""

    code = "rate-limited"


class StartupError(RestMQError):
    """The server cannot start; the text says why and what to do."""

    code = "startup-error"


class SettingsError(StartupError):
    """A setting, the settings file or the access file is wrong."""

    code = "settings-error"
