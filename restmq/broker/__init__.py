"""The broker: the engine that knows queues and nothing of any protocol.

It imports neither aiohttp nor the codecs nor the endpoints; endpoints hold a ``Broker``.
"""
