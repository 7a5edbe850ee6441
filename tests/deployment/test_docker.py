"""The Dockerfile and the compose file, as far as they can be checked without an engine."""

import asyncio
import fnmatch
import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click.testing
import pytest
import yaml

from restmq.access import Access
from restmq.cli.main import cli
from restmq.settings_sources import load
from tests.deployment.programs import EXAMPLES, ROOT, program
from tests.server_process import running_server
from tests.support import eventually, free_port

DOCKER = EXAMPLES / "docker"
PATIENCE_SECONDS = 120
PIP = (sys.executable, "-m", "pip")


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, its continued lines joined."""

    word: str
    rest: str

    @property
    def arguments(self) -> list[str]:
        """What an instruction in the form of a JSON array says."""
        found = json.loads(self.rest)
        assert isinstance(found, list)
        return found


def read_dockerfile() -> list[list[Instruction]]:
    """Return the instructions of each stage."""
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if line and not line.startswith("#"))
    stages: list[list[Instruction]] = []
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append(Instruction(word, rest.strip()))
    return stages


def only(stage: list[Instruction], word: str) -> Instruction:
    (found,) = [each for each in stage if each.word == word]
    return found


def environment_of_image() -> dict[str, str]:
    _, final = read_dockerfile()
    return dict(each.split("=", 1) for each in shlex.split(only(final, "ENV").rest))


def compose() -> dict[str, Any]:
    document = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    assert isinstance(document, dict)
    return document


def copied() -> list[str]:
    """Return what the build stage copies out of the checkout."""
    build, _ = read_dockerfile()
    return [
        source.removeprefix("./")
        for each in build
        if each.word == "COPY"
        for source in each.rest.split()[:-1]
    ]


def seconds(text: str) -> int:
    return int(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def test_only_instructions_that_there_are_stand_in_the_dockerfile() -> None:
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL"}
    known |= {"HEALTHCHECK", "ENTRYPOINT", "CMD"}
    build, final = read_dockerfile()
    assert {each.word for each in build + final} <= known
    assert [each.rest.split()[-1] for each in build if each.word == "FROM"] == ["build"]
    assert only(final, "COPY").rest == "--from=build /opt/restmq /opt/restmq"


def test_what_is_copied_is_there_and_is_not_ignored() -> None:
    rules = (DOCKER / "Dockerfile.dockerignore").read_text().split("\n")
    for name in copied():
        assert (ROOT / name).exists()
        ignored = False
        for rule in rules:
            if rule and not rule.startswith("#"):
                is_exception = rule.startswith("!")
                if fnmatch.fnmatch(name, rule.removeprefix("!")):
                    ignored = not is_exception
        assert not ignored, name


def test_what_is_copied_is_enough_to_install_the_whole_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed here, and a test does not download it")
    source = tmp_path / "source"
    source.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, source)
    (install,) = [
        each.rest for each in read_dockerfile()[0] if each.word == "RUN" and "install" in each.rest
    ]
    assert install.startswith("/opt/restmq/bin/pip install ")
    *_, here = flags = install.split()[1:]
    assert here == "."
    for command in (
        [*PIP, *flags[:-1], "--help"],  # refuses flags that it does not know
        [sys.executable, "-c", "from setuptools import setup; setup()", "--quiet", "build"],
    ):
        checked = subprocess.run(
            command, cwd=source, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        assert checked.returncode == 0, checked.stderr
    target = source / "build" / "lib"
    wanted = {
        path.relative_to(source)
        for path in (source / "restmq").rglob("*")
        if path.is_file() and path.suffix in (".py", ".lua", ".html", ".css", ".js", ".svg")
    }
    assert len(wanted) > 100
    assert {path for path in wanted if not (target / path).is_file()} == set()


def test_the_image_runs_a_command_that_there_is_as_somebody_who_is_not_root() -> None:
    _, final = read_dockerfile()
    assert only(final, "USER").rest == "10001:10001"
    (entry,) = only(final, "ENTRYPOINT").arguments
    scripts = (ROOT / "setup.cfg").read_text()
    assert f"{entry} = restmq.cli.main:main" in scripts
    command = only(final, "CMD").arguments
    shown = click.testing.CliRunner().invoke(cli, [*command, "--help"])
    assert shown.exit_code == 0
    assert "RESTMQ_REDIS_URL" in shown.output
    assert only(final, "STOPSIGNAL").rest == "SIGTERM"


def test_the_settings_of_the_image_are_settings(tmp_path: Path) -> None:
    environ = environment_of_image()
    settings = load({}, environ, tmp_path)
    names = [name for name in environ if name.startswith("RESTMQ_")]
    assert names
    for name in names:  # what is no setting would be passed over in silence
        assert settings.sources[name.removeprefix("RESTMQ_").lower()] == name
    _, final = read_dockerfile()
    assert settings.port == int(only(final, "EXPOSE").rest.split()[0])
    assert [str(settings.data_dir)] == only(final, "VOLUME").arguments
    assert only(final, "WORKDIR").rest == str(settings.data_dir)


async def test_the_health_check_knows_a_server_that_is_ready(tmp_path: Path) -> None:
    _, final = read_dockerfile()
    _, _, command = only(final, "HEALTHCHECK").rest.partition("CMD ")
    program_name, *arguments = json.loads(command)
    assert program_name == "python"

    async def status(port: int) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(each.replace(":8888/", f":{port}/") for each in arguments),
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)

    async with running_server(tmp_path) as server:
        assert await status(server.port) == 0
    assert await status(free_port()) != 0


def test_the_services_of_compose_fit_together() -> None:
    document = compose()
    services = document["services"]
    assert set(services) == {"restmq", "redis", "redis-memory"}
    for name, service in services.items():
        assert set(service["networks"]) <= set(document["networks"])
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in document["volumes"] or (DOCKER / source).is_dir(), source
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in services[other], (
                f"{name} waits for {other}, which never says so"
            )
    build = services["restmq"]["build"]
    context = (DOCKER / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).samefile(DOCKER / "Dockerfile")
    assert document["networks"]["back"]["internal"] is True
    # Whoever is asked for by name is on a network that both share.
    assert "back" in services["restmq"]["networks"]
    variables = (DOCKER / "env.example").read_text()
    assert "REDIS_PASSWORD=" in variables


def test_the_settings_of_compose_are_settings(tmp_path: Path) -> None:
    service = compose()["services"]["restmq"]
    given = {
        name: value.replace("${REDIS_PASSWORD:?see env.example}", "secret")
        for name, value in service["environment"].items()
    }
    settings = load({}, {**environment_of_image(), **given}, tmp_path)
    for name in given:
        assert settings.sources[name.removeprefix("RESTMQ_").lower()] == name
    assert settings.redis_url == "redis://:secret@redis:6379/0"
    assert settings.memory_redis_url == "redis://:secret@redis-memory:6379/0"
    assert seconds(service["stop_grace_period"]) >= settings.drain_seconds + 10
    assert service["ports"] == [f"127.0.0.1:8888:{settings.port}"]
    (volume,) = service["volumes"]
    source, inside, mode = volume.split(":")
    assert mode == "ro"
    Access.load(str(DOCKER / source / Path(settings.acl).relative_to(inside)))


@pytest.mark.parametrize(("name", "is_durable"), [("redis", True), ("redis-memory", False)])
async def test_redis_takes_the_flags_and_is_found_healthy(
    tmp_path: Path, name: str, is_durable: bool
) -> None:
    service = compose()["services"][name]
    server, *flags = [
        str(each).replace("${REDIS_PASSWORD:?see env.example}", "secret")
        for each in service["command"]
    ]
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        program(server),
        *flags,
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    client = [program("redis-cli"), "-p", str(port), "-a", "secret", "--no-auth-warning"]

    def ask(*words: str) -> str:
        answer = subprocess.run([*client, *words], capture_output=True, text=True, check=False)
        return answer.stdout.strip()

    try:
        await eventually(lambda: ask("ping") == "PONG", PATIENCE_SECONDS)
        kind, check = service["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        check = check.replace("redis-cli", f"redis-cli -p {port}")
        for password, status in (("secret", 0), ("wrong", 1)):
            checked = subprocess.run(
                ["sh", "-c", check],
                env={
                    "REDISCLI_AUTH": password,
                    "PATH": str(Path(client[0]).parent) + ":/bin:/usr/bin",
                },
                capture_output=True,
                check=False,
            )
            assert checked.returncode == status
        wanted = {"appendonly": "yes" if is_durable else "no", "maxmemory-policy": "noeviction"}
        if is_durable:
            wanted["appendfsync"] = "always"
            assert service["volumes"] == ["redis-data:/data"]
        else:
            wanted["save"] = ""
        for setting, value in wanted.items():
            assert ask("config", "get", setting).split("\n")[1:] == ([value] if value else [])
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)
