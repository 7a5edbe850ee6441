"""The Kubernetes manifests, held against themselves and against the server."""

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from restmq.access import Access, Section
from restmq.errors import KeyRequired
from restmq.node import Node
from restmq.settings import Settings, knobs
from restmq.settings_sources import load
from tests.deployment.programs import EXAMPLES, program

FOLDER = EXAMPLES / "kubernetes"

Manifest = dict[str, Any]


def manifests() -> Iterator[Manifest]:
    """Yield each manifest that the kustomization names."""
    for name in kustomization()["resources"]:
        for document in yaml.safe_load_all((FOLDER / name).read_text()):
            assert {"apiVersion", "kind", "metadata"} <= set(document), name
            yield document


def kustomization() -> Manifest:
    document = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert isinstance(document, dict)
    return document


def find(kind: str, name: str) -> Manifest:
    (found,) = [
        each for each in manifests() if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return found


def pods() -> dict[str, Manifest]:
    """Return the pods that are run, by the name of what runs them."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]
        for each in manifests()
        if each["kind"] in ("Deployment", "StatefulSet")
    }


def container(name: str) -> Manifest:
    (found,) = pods()[name]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def shipped_settings() -> Settings:
    return load({"config": str(FOLDER / "restmq.toml")}, {}, FOLDER)


def test_each_kind_is_of_the_version_that_has_it() -> None:
    versions = {
        "Namespace": "v1",
        "Secret": "v1",
        "Service": "v1",
        "Deployment": "apps/v1",
        "StatefulSet": "apps/v1",
        "PodDisruptionBudget": "policy/v1",
        "NetworkPolicy": "networking.k8s.io/v1",
        "Ingress": "networking.k8s.io/v1",
    }
    found = {each["kind"]: each["apiVersion"] for each in manifests()}
    assert found == versions


def test_all_files_are_part_of_it() -> None:
    document = kustomization()
    (generator,) = document["configMapGenerator"]
    named = {*document["resources"], *generator["files"], "kustomization.yaml", "README.rst"}
    assert named == {path.name for path in FOLDER.iterdir()}


def test_kubectl_can_build_it() -> None:
    built = subprocess.run(
        [program("kubectl"), "kustomize", FOLDER], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    documents = list(yaml.safe_load_all(built.stdout))
    assert len(documents) == len(list(manifests())) + 1
    names = {each["metadata"]["name"] for each in documents if each["kind"] == "ConfigMap"}
    (deployment,) = [each for each in documents if each["kind"] == "Deployment"]
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    assert names == {each["configMap"]["name"] for each in volumes if "configMap" in each}


async def test_probes_ask_for_routes_that_there_are_at_the_port_of_the_settings(
    redis_url: str,
) -> None:
    router = Node(Settings(), redis_url, Access.from_text("")).router
    open_routes = {f"/{each.segment}" for each in router.routes if not each.sections}
    server = container("restmq")
    ports = {each["name"]: each["containerPort"] for each in server["ports"]}
    wanted = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for probe, path in wanted.items():
        request = server[probe]["httpGet"]
        assert request["path"] == path
        assert path in open_routes
        assert ports[request["port"]] == shipped_settings().port


def test_the_command_and_its_settings_are_real(tmp_path: Path) -> None:
    server = container("restmq")
    command, flag, path = server["args"]
    assert (command, flag) == ("serve", "--config")
    (mount,) = [each for each in server["volumeMounts"] if each["name"] == "configuration"]
    files = kustomization()["configMapGenerator"][0]["files"]
    assert Path(path).relative_to(mount["mountPath"]).name in files
    settings = shipped_settings()
    assert Path(settings.acl).relative_to(mount["mountPath"]).name in files
    Access.load(str(FOLDER / Path(settings.acl).name))
    assert settings.listen == "0.0.0.0"
    # What is a secret goes by a variable, whose name is that of a setting.
    names = {each.environment for each in knobs()}
    secret = find("Secret", "restmq")["stringData"]
    for variable in server["env"]:
        assert variable["name"] in names
        assert variable["valueFrom"]["secretKeyRef"]["key"] in secret
    load({}, {"RESTMQ_REDIS_URL": secret["RESTMQ_REDIS_URL"]}, tmp_path)
    assert secret["redis-password"] in secret["RESTMQ_REDIS_URL"]
    assert pods()["restmq"]["metadata"]["annotations"]["prometheus.io/port"] == str(settings.port)


async def test_nobody_gets_in_from_outside_who_has_no_key(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is an Ingress, so what is shipped must not be open, whatever acl.conf says."""
    assert find("Ingress", "restmq")
    settings = shipped_settings()
    keys = Path(settings.keys)
    (mount,) = [each for each in container("restmq")["volumeMounts"] if each["name"] == "keys"]
    volumes = {each["name"]: each for each in pods()["restmq"]["spec"]["volumes"]}
    secret = find("Secret", volumes["keys"]["secret"]["secretName"])
    assert keys.parent == Path(mount["mountPath"])
    (tmp_path / keys.name).write_text(secret["stringData"][keys.name])
    access = Access.load(
        FOLDER / Path(settings.acl).name,
        str(tmp_path / keys.name),
        requires_key=settings.require_key,
    )
    for section in Section:
        assert not access.is_open(section)
        with pytest.raises(KeyRequired):
            access.check(section, "203.0.113.7", None, None)


def test_metrics_stay_in_the_cluster() -> None:
    """The path of the Ingress that is longer than / leads to a Service without pods."""
    (rule,) = find("Ingress", "restmq")["spec"]["rules"]
    paths = {each["path"]: each for each in rule["http"]["paths"]}
    assert paths["/metrics"]["pathType"] == "Prefix"
    service = find("Service", paths["/metrics"]["backend"]["service"]["name"])
    assert "selector" not in service["spec"]


def test_variables_of_services_are_not_taken_for_settings(tmp_path: Path) -> None:
    """Kubernetes would set RESTMQ_PORT, with which no server starts."""
    environ = {"RESTMQ_PORT": "tcp://10.0.0.1:80"}
    with pytest.raises(Exception, match="RESTMQ_PORT"):
        load({}, environ, tmp_path)
    for pod in pods().values():
        assert pod["spec"]["enableServiceLinks"] is False


def test_a_pod_has_time_to_drain() -> None:
    pod = pods()["restmq"]["spec"]
    word, seconds = container("restmq")["lifecycle"]["preStop"]["exec"]["command"]
    assert word == "sleep"
    needed = float(seconds) + shipped_settings().drain_seconds
    assert pod["terminationGracePeriodSeconds"] >= needed + 5
    # The Service has to hear of a pod that leaves before it stops to accept.
    assert float(seconds) >= 1


def test_selectors_find_what_they_are_meant_for() -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods().items()}
    for each in manifests():
        name, spec = each["metadata"]["name"], each.get("spec", {})
        match each["kind"]:
            case "Deployment" | "StatefulSet" | "PodDisruptionBudget":
                selector = spec["selector"]["matchLabels"]
            case "Service" if "selector" in spec:
                selector = spec["selector"]
                ports = {port["name"] for port in container(name)["ports"]}
                assert {port["targetPort"] for port in spec["ports"]} <= ports
            case "NetworkPolicy":
                selector = spec["podSelector"]["matchLabels"]
            case _:
                continue
        assert selector.items() <= labels[name].items(), (each["kind"], name)
    (rule,) = find("Ingress", "restmq")["spec"]["rules"]
    *_, path = rule["http"]["paths"]
    service = find("Service", path["backend"]["service"]["name"])
    ports = {port["name"] for port in service["spec"]["ports"]}
    assert path["backend"]["service"]["port"]["name"] in ports


def test_one_server_may_leave_and_the_others_serve_on() -> None:
    deployment = find("Deployment", "restmq")["spec"]
    assert deployment["replicas"] >= 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert find("PodDisruptionBudget", "restmq")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("name", ["restmq", "redis"])
def test_nothing_runs_as_root_or_writes_where_it_should_not(name: str) -> None:
    pod = pods()[name]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    own = container(name)["securityContext"]
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    volumes = {each["name"] for each in pod.get("volumes", [])}
    claims = find("StatefulSet", "redis")["spec"]["volumeClaimTemplates"] if name == "redis" else []
    volumes |= {each["metadata"]["name"] for each in claims}
    assert {each["name"] for each in container(name)["volumeMounts"]} == volumes


def test_redis_keeps_what_it_is_given() -> None:
    flags = shlex.join(container("redis")["args"])
    assert "--appendonly yes --appendfsync always --maxmemory-policy noeviction" in flags
    (mount,) = container("redis")["volumeMounts"]
    assert f"--dir {mount['mountPath']}" in flags
    service = find("Service", find("StatefulSet", "redis")["spec"]["serviceName"])
    secret = find("Secret", "restmq")["stringData"]["RESTMQ_REDIS_URL"]
    (port,) = service["spec"]["ports"]
    assert f"@{service['metadata']['name']}:{port['port']}/" in secret
