"""The OpenAPI 3.1 description of the HTTP interface, a module for each protocol.

Nothing here does I/O: functions return what will be JSON. Numbers come from where they are
enforced, so that the description cannot say another limit than the server keeps.
"""

from restmq.openapi.document import describe

__all__ = ["describe"]
