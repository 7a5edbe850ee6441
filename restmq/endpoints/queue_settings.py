"""``/settings/Q``: the settings of one queue, as JSON.

They follow the specification of delivery, section 4.
"""

import msgspec
from aiohttp import web

from restmq.access import Section
from restmq.broker.broker import Broker
from restmq.endpoints.key_needs import PUBLISH, check_key
from restmq.endpoints.router import Route
from restmq.endpoints.web import Request, json_reply, query_parameters, read_body
from restmq.errors import InvalidInput

CRLF = b"\r\n"
PRODUCER = (Section.PRODUCER,)


class QueueSettingsEndpoint:
    """Settings of queues as REST resources."""

    def __init__(self, broker: Broker) -> None:
        self._configuration = broker.configuration

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        readers = (Section.CONSUMER,)
        return [
            Route("GET", "settings", readers, self.get_settings, changes=False, named=True),
            Route("PATCH", "settings", PRODUCER, self.patch_settings, changes=True, named=True),
            Route("DELETE", "settings", PRODUCER, self.delete_settings, changes=True, named=True),
        ]

    async def get_settings(self, request: Request, queue: str) -> web.StreamResponse:
        """``GET /settings/Q``: all settings that are in force."""
        callback = query_parameters(request).callback()
        return json_reply(await self._configuration.get(queue), callback, end=CRLF)

    async def patch_settings(self, request: Request, queue: str) -> web.StreamResponse:
        """``PATCH /settings/Q``: changes those that a JSON object names, all of them or none.

        null takes one back. The body is JSON whatever its Content-Type says.
        """
        callback = query_parameters(request).callback()
        changes = _parse(await read_body(request))
        # Whoever has a queue copied publishes to where the copies go.
        for target in _copy_targets(changes):
            check_key(request, PUBLISH, target)
        return json_reply(await self._configuration.change(queue, changes), callback, end=CRLF)

    async def delete_settings(self, request: Request, queue: str) -> web.StreamResponse:
        """``DELETE /settings/Q``: takes back all that was set for this queue."""
        callback = query_parameters(request).callback()
        return json_reply(await self._configuration.reset(queue), callback, end=CRLF)


def _copy_targets(changes: object) -> list[str]:
    """Return the queues to which messages are to be copied; what else it says is for others."""
    targets = changes.get("copies_to") if isinstance(changes, dict) else None
    if isinstance(targets, str):
        return [targets]
    return [each for each in targets if isinstance(each, str)] if isinstance(targets, list) else []


def _parse(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the settings are not valid JSON: {error}") from None
