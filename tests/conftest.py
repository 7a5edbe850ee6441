"""Fixtures for all tests."""

import uuid
from collections.abc import Iterator

import pytest

from tests.support import redis_on_a_thread


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one real Redis that all tests of this worker share; use fresh names in it."""
    with redis_on_a_thread(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def fresh_name() -> str:
    """A queue name that no other test uses."""
    return f"queue-{uuid.uuid4().hex}"
