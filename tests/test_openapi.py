"""The description of the HTTP interface: whole, sound in itself, and true to what is enforced."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from restmq.access import Access
from restmq.endpoints.web import HTTP_STATUS
from restmq.errors import InvalidInput
from restmq.node import Node
from restmq.openapi import describe
from restmq.queue_settings import QueueSettings, check_changes
from restmq.settings import Settings
from tests.endpoints.conftest import NodeUnderTest, open_node  # noqa: F401 - a fixture

METHODS = {"get", "post", "put", "patch", "delete"}

REFUSED = {("rse", method) for method in ("HEAD", "PUT", "PATCH", "DELETE")}
"""Rows that are there only to refuse in words of their own, or to answer HEAD."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return describe()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and description of every operation."""
    for path, item in document["paths"].items():
        assert set(item) <= METHODS | {"parameters"}, path
        for method in METHODS & set(item):
            yield path, method, item[method]


async def test_what_is_described_is_served_and_the_other_way_round(
    document: dict[str, Any], redis_url: str
) -> None:
    router = Node(Settings(), redis_url, Access.from_text("")).router
    served = {(route.segment, route.method) for route in router.routes} - REFUSED
    described = {(path.split("/")[1], method.upper()) for path, method, _ in operations(document)}
    assert described - served == set(), "no route serves this"
    assert served - described == set(), "restmq/openapi says nothing of this"


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for each in value.values():
                yield from walk(each)
        elif isinstance(value, list):
            for each in value:
                yield from walk(each)

    references = set(walk(document))
    assert references
    for reference in references:
        found: Any = document
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]
    for name in document["components"]["schemas"]:
        assert f"#/components/schemas/{name}" in references, f"nothing refers to {name}"


def test_every_operation_has_a_name_of_its_own_and_says_who_may(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    schemes = set(document["components"]["securitySchemes"])
    tags = {tag["name"] for tag in document["tags"]}
    used = set()
    for path, method, operation in operations(document):
        assert operation["summary"], (path, method)
        assert set(operation["tags"]) <= tags
        used |= {name for each in operation["security"] for name in each}
    assert used == schemes


def test_every_parameter_of_a_path_is_described(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        wanted = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        found = [each for each in item.get("parameters", []) if each["in"] == "path"]
        assert {each["name"] for each in found} == wanted, path
        assert all(each["required"] for each in found)


def test_every_schema_is_one(document: dict[str, Any]) -> None:
    def schemas(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            yield from ([value["schema"]] if "schema" in value else [])
            for each in value.values():
                yield from schemas(each)
        elif isinstance(value, list):
            for each in value:
                yield from schemas(each)

    found = [*schemas(document["paths"]), *document["components"]["schemas"].values()]
    for schema in found:
        jsonschema_rs.meta.validate({"$schema": DIALECT, **schema})


DIALECT = "https://json-schema.org/draft/2020-12/schema"


def test_every_status_that_errors_can_have_is_described(document: dict[str, Any]) -> None:
    described = {
        int(status) for _, _, operation in operations(document) for status in operation["responses"]
    }
    # 405 is the answer to what is not described.
    assert set(HTTP_STATUS.values()) - {405} <= described
    codes = document["components"]["schemas"]["Error"]["properties"]["error"]["enum"]
    assert set(HTTP_STATUS) < set(codes)


def validator(document: dict[str, Any], name: str) -> jsonschema_rs.Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema_rs.validator_for({"$schema": DIALECT, **schema})


def limits_of(schema: Any) -> Iterator[float]:
    """Yield the bounds of numbers in a schema."""
    if isinstance(schema, dict):
        for bound in ("minimum", "maximum"):
            if bound in schema:
                yield schema[bound]
        for each in schema.values():
            yield from limits_of(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from limits_of(each)


@pytest.mark.parametrize("name", QueueSettings.__struct_fields__)
def test_a_setting_is_described_as_it_is_checked(document: dict[str, Any], name: str) -> None:
    change = validator(document, "QueueSettingsChange")
    schema = document["components"]["schemas"]["QueueSettingsChange"]["properties"][name]
    tried: list[Any] = [None, "none", "no such word", True, [], ["a", "a"], ["a", "b"], {}, ""]
    tried += [word for each in [schema, *schema.get("anyOf", [])] for word in each.get("enum", [])]
    for bound in limits_of(schema):
        tried += [bound - 1, bound, bound + 1, bound + 0.5]
    for value in tried:
        try:
            check_changes({name: value})
        except InvalidInput:
            is_accepted = False
        else:
            is_accepted = True
        # To JSON Schema 5.0 is a whole number; the server wants it written as one.
        if not (isinstance(value, float) and value.is_integer()):
            assert change.is_valid({name: value}) == is_accepted, value


def test_no_other_settings_are_described(document: dict[str, Any]) -> None:
    assert not validator(document, "QueueSettingsChange").is_valid({"colour": "red"})
    in_force = document["components"]["schemas"]["QueueSettings"]["properties"]
    assert set(in_force) == set(QueueSettings.__struct_fields__)


async def test_it_is_served_with_a_tag(node: NodeUnderTest, document: dict[str, Any]) -> None:
    url = f"{node.url}/openapi.json"
    async with node.session.get(url) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        assert json.loads(await answer.read()) == json.loads(json.dumps(document))
        tag = answer.headers["ETag"]
    for known in (tag, f'"other", W/{tag}', "*"):
        async with node.session.get(url, headers={"If-None-Match": known}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")
            assert answer.headers["ETag"] == tag
            assert answer.headers.get("Content-Length") is None
    async with node.session.get(url, headers={"If-None-Match": '"other"'}) as answer:
        assert answer.status == 200
    async with node.session.head(url) as answer:
        assert (answer.status, answer.headers["ETag"]) == (200, tag)
    assert (await node.get("/openapi.json/more"))[0] == 404


@pytest.fixture
async def node(open_node: Any, tmp_path: Path) -> Any:  # noqa: F811 - the fixture of this name
    async with open_node() as opened:
        yield opened
