"""Measures RestMQ beside a bare aiohttp handler and beside other servers; see README.rst."""
