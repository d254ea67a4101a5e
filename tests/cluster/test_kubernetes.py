"""The Kubernetes manifests: as KubeRay's definitions have them, and as the jobs and the network rules need them."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from kustomized import FOLDER, JOBS, SIZES, built, one, validate
from ray import __version__ as ray_version

import pairs
import servers
from cliploom import config, pools, registry
from cliploom.search import run as searches
from cliploom.search.tuner import concurrency
from cliploom.settings.data import Data
from cliploom.settings.evaluation import Evaluate
from cliploom.settings.training import Train
from cliploom.training.run import plan_run
from cliploom.training.trainer import needs, preflight

LIBRARY = servers.ROOT / "platform" / "cliploom"
REQUIRED_IN = {"curate": "data/curation/curate.py", "index": "data/indexing.py", "prepare": "data/prepare.py"}


def groups(size: str) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in one(f"sizes/{size}", "RayCluster")["spec"]["workerGroupSpecs"]}


def told_pools(size: str, folder: Path) -> list[pools.NodeType]:
    """What the jobs are told that the cluster may grow to."""
    path = folder / "pools.yaml"
    maps = {document["metadata"]["name"]: document for document in built(f"sizes/{size}") if "data" in document}
    path.write_text(maps["cliploom-pools"]["data"]["pools.yaml"])
    return pools.read(str(path))


def entry_point(job: str) -> list[str]:
    words: list[str] = one(f"jobs/{job}", "RayJob")["spec"]["entrypoint"].split()
    return words


def settings_of(job: str, *more: str) -> config.Config:
    """The settings that a RayJob's entry point gives, with `more` over them."""
    entry = entry_point(job)
    path = str(servers.ROOT / entry[entry.index("--config") + 1]) if "--config" in entry else None
    return config.load(path, [*(word for word in entry if "=" in word), *more])


def required(job: str) -> list[str]:
    """The keys without which a job refuses to start: what it, or the library where it leaves that to it, says."""
    files = [servers.ROOT / "jobs" / f"{job}.py", *([LIBRARY / REQUIRED_IN[job]] if job in REQUIRED_IN else [])]
    calls = [call for file in files for call in re.findall(r"\brequire\(config, (.+)\)", file.read_text())]
    return [key for call in calls for key in re.findall(r'"([\w.]+)"', call)]


def containers(size: str) -> list[dict[str, Any]]:
    spec = one(f"sizes/{size}", "RayCluster")["spec"]
    return [c for g in (spec["headGroupSpec"], *spec["workerGroupSpecs"]) for c in g["template"]["spec"]["containers"]]


def environment(size: str) -> dict[str, str]:
    """What all containers are told in which Ray runs."""
    maps = {document["metadata"]["name"]: document for document in built(f"sizes/{size}") if "data" in document}
    source = {"configMapRef": {"name": "cliploom-environment"}}
    assert all(source in container["envFrom"] for container in containers(size) if container["name"] != "agent")
    return dict(maps["cliploom-environment"]["data"])


@pytest.mark.parametrize("size", SIZES)
def test_kuberay_accepts_the_cluster(size: str) -> None:
    validate(one(f"sizes/{size}", "RayCluster"))


@pytest.mark.parametrize("job", JOBS)
def test_kuberay_accepts_the_job(job: str) -> None:
    validate(one(f"jobs/{job}", "RayJob"))


def test_the_schema_refuses_a_typing_error() -> None:
    """That it is no rubber stamp."""
    tree = copy.deepcopy(one("sizes/8", "RayCluster"))
    tree["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        validate(tree)


@pytest.mark.parametrize("folder", [f"sizes/{size}" for size in SIZES] + [f"jobs/{job}" for job in JOBS])
def test_kubectl_reads_it(folder: str) -> None:
    """As far as kubectl gets without a server: it decodes each document, and the known kinds strictly."""
    made = yaml.safe_dump_all(built(folder))
    command = ["kubectl", "annotate", "--local", "-f", "-", "checked=yes", "-o", "name"]
    answer = subprocess.run(command, input=made, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.splitlines()) == len(built(folder))


@pytest.mark.parametrize("size", SIZES)
def test_it_has_so_many_gpus_and_no_work_on_the_head(size: str) -> None:
    spec = one(f"sizes/{size}", "RayCluster")["spec"]
    train = groups(size)["train"]
    gpus = train["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert train["maxReplicas"] * int(gpus) == int(size)
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["enableInTreeAutoscaling"]
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] >= 1200
    assert spec["rayVersion"] == ray_version
    assert all(group["minReplicas"] == group["replicas"] == 0 for group in groups(size).values())


@pytest.mark.parametrize("size", SIZES)
def test_the_jobs_are_told_the_truth_of_its_pools(size: str, tmp_path: Path) -> None:
    """pools.yaml says once more what the groups are; labels are those of the settings."""
    told = {kind.pool: kind for kind in told_pools(size, tmp_path)}
    assert told.keys() == groups(size).keys() <= {Data().pool, Train().pool, Evaluate().pool}
    for name, group in groups(size).items():
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        memory = int(limits["memory"].removesuffix("Gi")) * 2**30
        kind = told[name]
        assert group["labels"] == {"pool": name}
        assert kind.most == group["maxReplicas"]
        assert kind.resources["CPU"] == int(limits["cpu"])
        assert kind.resources.get("GPU", 0) == int(limits.get("nvidia.com/gpu", 0))
        store = int(group["rayStartParams"]["object-store-memory"])
        assert kind.resources["memory"] <= memory - store  # Ray gives out what the object store leaves
        shm = {v["name"]: v["emptyDir"]["sizeLimit"] for v in group["template"]["spec"]["volumes"]}["shm"]
        assert store <= int(shm.removesuffix("Gi")) * 2**30


@pytest.mark.parametrize("size", SIZES)
def test_gpus_are_asked_for_by_product_and_spot_nodes_are_watched(size: str) -> None:
    for name, group in groups(size).items():
        spec = group["template"]["spec"]
        assert ("nvidia.com/gpu.product" in spec["nodeSelector"]) == (name != "ingest")
        assert [container["name"] for container in spec["containers"]] == ["ray-worker", "agent"]
        assert not spec["automountServiceAccountToken"]


@pytest.mark.parametrize("size", SIZES)
def test_nothing_runs_as_root_and_no_secret_stands_in_it(size: str) -> None:
    spec = one(f"sizes/{size}", "RayCluster")["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "cliploom-token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"]
    for container in containers(size):
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        for variable in container["env"]:
            assert "value" not in variable or "TOKEN" not in variable["name"]
    assert not [document for document in built(f"sizes/{size}") if document["kind"] == "Secret"]
    policy = one(f"sizes/{size}", "NetworkPolicy")["spec"]
    assert policy["podSelector"] == {"matchLabels": {"ray.io/cluster": "cliploom"}}
    assert not [rule for rule in policy["ingress"] if not rule.get("from")]


@pytest.mark.parametrize("job", JOBS)
def test_the_job_runs_what_there_is_with_all_settings_that_it_requires(job: str) -> None:
    assert entry_point(job)[:2] == ["python", f"jobs/{job}.py"]
    settings = settings_of(job)
    assert one(f"jobs/{job}", "RayJob")["spec"]["jobId"] == settings.run.name or settings.run.name is None
    assert required(job) or job == "clean"
    config.require(settings, *required(job))


@pytest.mark.parametrize("job", ["train", "tune"])
def test_what_trains_is_a_run_that_the_base_has_room_for(
    job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a few pairs, many times over, in place of the team's, and no node there yet."""
    told = told_pools("8", tmp_path)
    monkeypatch.setattr(pools, "_growth", lambda: told)
    monkeypatch.setattr(pools, "_nodes", list)
    uri = pairs.write(tmp_path / "pairs", shards=3)
    settings = settings_of(job, f"data.manifest={uri}", f"run.storage={tmp_path}", "train.epochs=10000")
    if job == "train":
        preflight(plan_run(settings))
    else:
        assert searches.plan(settings).total == settings.tune.trials
        assert concurrency(settings.tune, needs(settings), settings.train.pool) == 1


@pytest.mark.parametrize("job", JOBS)
def test_the_job_finds_the_teams_mlflow(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment("8").items():
        monkeypatch.setenv(name, value)
    assert registry.store_uri(settings_of(job)) == "https://mlflow.team"


@pytest.mark.parametrize("size", SIZES)
def test_mlflow_is_called_by_the_name_that_its_ingress_and_its_server_answer_to(size: str) -> None:
    """Nothing but the ingress reaches the server."""
    text = (FOLDER.parent / "mlflow" / "kubernetes" / "mlflow.yaml").read_text()
    parts = {document["kind"]: document["spec"] for document in yaml.safe_load_all(text)}
    [container] = parts["Deployment"]["template"]["spec"]["containers"]
    told = {variable["name"]: variable["value"] for variable in container["env"]}
    called = urlsplit(environment(size)["MLFLOW_TRACKING_URI"])
    assert (called.scheme, called.port) == ("https", None)
    assert [rule["host"] for rule in parts["Ingress"]["rules"]] == [called.hostname]
    assert [tls["hosts"] for tls in parts["Ingress"]["tls"]] == [[called.hostname]]
    assert told["ALLOWED_HOSTS"].split(",") == [called.hostname]


@pytest.mark.parametrize("name", ["kuberay", "kuberay-operator"])  # of KubeRay's manifests, of its Helm chart
def test_the_operator_reaches_the_head(name: str) -> None:
    rules = one("sizes/8", "NetworkPolicy")["spec"]["ingress"]
    [operator] = [peer["podSelector"] for rule in rules for peer in rule["from"] if "namespaceSelector" in peer]
    [wanted] = operator["matchExpressions"]
    assert operator == {"matchExpressions": [wanted]}
    assert (wanted["key"], wanted["operator"]) == ("app.kubernetes.io/name", "In")
    assert name in wanted["values"]


def test_every_job_has_a_manifest() -> None:
    assert {path.stem for path in (servers.ROOT / "jobs").glob("*.py")} == set(JOBS)


def test_the_dockerfile_passes_its_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    answer = subprocess.run([str(linter), "cluster/Dockerfile"], cwd=servers.ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


def test_the_image_holds_what_is_named_alone() -> None:
    lines = (FOLDER.parent / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in lines
    for name in (line[1:] for line in lines if line.startswith("!")):
        assert (servers.ROOT / name).exists(), name
