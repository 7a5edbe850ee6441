"""The house keeps its order: imports run one way, and the engine knows no protocol."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "restmq"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
LUA_FILES = sorted((PACKAGE / "broker" / "lua").glob("*.lua"))
SHARED_ENDPOINT_MODULES = {
    "web",
    "replies",
    "parameters",
    "delivery",
    "router",
    "formats",
    "key_needs",
    "origins",
    "peers",
    "log_stream",
    "long_reply",
    "consumers",
    "websocket",
}
"""What endpoints share; each of the others speaks one protocol and knows no other."""

SHARED_LUA = {
    "common",
    "ready",
    "nodes",
    "leases",
    "overflow",
    "popped",
    "replies",
    "log_common",
    "log_reading",
}
"""Lua that stands in front of scripts and is none."""

LEVELS = {
    "errors": 0,
    "queue_settings": 1,
    "knobs": 1,
    "directory_lock": 1,
    "settings": 2,
    "settings_sources": 3,
    "codecs": 3,
    "access": 3,
    "access_log": 2,
    "access_rules": 1,
    "api_keys": 2,
    "followed_file": 1,
    "log_lines": 1,
    "rate_limits": 3,
    "tls": 1,
    "broker": 3,
    "queue_patterns": 4,
    "memcached": 3,
    "token_store": 4,
    "memory_redis": 3,
    "redis_process": 3,
    "redis_upkeep": 4,
    "runtime": 3,
    "workers": 3,
    "socket_activation": 3,
    "systemd_notify": 3,
    "endpoints": 4,
    "openapi": 5,
    "node": 6,
    "server": 7,
}
"""How high each part of the server stands; what is not here is the command line and its client."""


def imports(module: str) -> Iterator[str]:
    """Yield the full name of each module that ``module`` imports, wherever it does."""
    tree = ast.parse((PACKAGE / module).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports by a relative name"
            assert node.module is not None
            yield node.module
            if node.module in ("restmq", "restmq.endpoints", "restmq.broker", "restmq.codecs"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    """Return which part of the house a module's file, or its full name, belongs to."""
    words = re.split(r"[./]", name.removesuffix(".py"))
    return words[1] if words[0] == "restmq" and len(words) > 1 else words[0]


def own_imports(module: str) -> set[str]:
    """Return the modules of this package that ``module`` imports."""
    return {name for name in imports(module) if name.startswith("restmq.")}


def test_there_is_something_to_look_at() -> None:
    assert {"server.py", "cli/main.py", "broker/broker.py", "endpoints/web.py"} <= set(MODULES)
    assert LUA_FILES


@pytest.mark.parametrize("module", [name for name in MODULES if part(name) in LEVELS])
def test_the_server_imports_downwards_only(module: str) -> None:
    here = part(module)
    for name in own_imports(module):
        there = part(name)
        if there.startswith("__"):  # the version
            continue
        assert there in LEVELS, f"{module} imports {name}, which is no part of the server"
        lower = LEVELS[there] < LEVELS[here]
        assert lower or there == here, f"{module} imports {name}, which does not stand below it"


@pytest.mark.parametrize("module", [name for name in MODULES if part(name) == "broker"])
def test_the_broker_knows_no_protocol(module: str) -> None:
    foreign = {"aiohttp", "aiohttp_sse", "yarl", "multidict", "jinja2", "click"}
    assert not foreign & {part(name) for name in imports(module)}
    known = {"broker", "errors", "queue_settings", "__version__"}
    assert {part(name) for name in own_imports(module)} <= known


@pytest.mark.parametrize("module", [name for name in MODULES if part(name) == "codecs"])
def test_a_codec_needs_only_the_standard_library_and_the_errors(module: str) -> None:
    for name in imports(module):
        known = name.partition(".")[0] in sys.stdlib_module_names
        assert known or part(name) in ("codecs", "errors"), name


@pytest.mark.parametrize("module", [name for name in MODULES if part(name) == "endpoints"])
def test_endpoints_import_each_other_only_to_share_what_is_meant_for_all(module: str) -> None:
    others = {
        name.rpartition(".")[2]
        for name in own_imports(module)
        if name.startswith("restmq.endpoints.") and name.count(".") == 2
    }
    # A protocol may have several modules, named after it: queuey, queuey_fields and so on.
    protocol = Path(module).stem.partition("_")[0]
    others = {name for name in others if name.partition("_")[0] != protocol}
    assert others <= SHARED_ENDPOINT_MODULES, others - SHARED_ENDPOINT_MODULES


def test_only_the_server_starts_the_private_redis() -> None:
    users = {module for module in MODULES if "restmq.redis_process" in own_imports(module)}
    assert users == {"server.py", "cli/doctor/redis.py"}


def test_nothing_of_the_server_imports_the_command_line() -> None:
    inside = "restmq.cli"
    users = {
        module
        for module in MODULES
        if any(name == inside or name.startswith(f"{inside}.") for name in own_imports(module))
    }
    assert {module for module in users if not module.startswith("cli/")} == {"__main__.py"}


@pytest.mark.parametrize("module", [name for name in MODULES if not name.endswith("__init__.py")])
def test_each_module_says_what_lives_there(module: str) -> None:
    assert ast.get_docstring(ast.parse((PACKAGE / module).read_text()))


@pytest.mark.parametrize("path", LUA_FILES, ids=lambda path: path.name)
def test_each_lua_file_says_what_it_does_and_each_script_what_it_answers_and_costs(
    path: Path,
) -> None:
    lines = path.read_text().splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("--"))
    comment = "\n".join(lines[:end])
    assert re.match(rf"-- {re.escape(path.name)}: \w", comment)
    if path.stem not in SHARED_LUA:
        assert re.search(r"^-- reply  \S", comment, re.MULTILINE)
        assert re.search(r"^-- cost   \S", comment, re.MULTILINE)


def test_a_circle_of_imports_is_nowhere() -> None:
    names = {f"restmq.{module.removesuffix('.py').replace('/', '.')}": module for module in MODULES}
    below: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name in below or name not in names:
            return
        for imported in own_imports(names[name]):
            visit(imported, (*above, name))
        below.add(name)

    for name in names:
        visit(name, ())
