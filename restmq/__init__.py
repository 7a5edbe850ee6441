"""RestMQ: a message queue server for any HTTP client, durable over Redis."""

__version__ = "1.0.0"
