"""The YAML for `ray up`: as Ray's own validator has it, and as the jobs and the network rules need it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.render import render
from ray.autoscaler._private.util import prepare_config, validate_config

import servers
from cliploom import config, pools, registry
from cliploom.cluster import SYSTEM
from cliploom.settings.data import Data
from cliploom.settings.evaluation import Evaluate
from cliploom.settings.training import Train

SIZES = ["1", "8", "64", "1024"]
VALUES = {
    "aws": ["REGION=us-west-2", "SUBNET=subnet-1", "SECURITY_GROUP=sg-1"],
    "gcp": ["REGION=us-west1", "ZONE=us-west1-a", "PROJECT=ours", "VM_IMAGE=projects/p/global/images/i"],
}
IMAGES = ["IMAGE=registry/cliploom:cpu", "CUDA_IMAGE=registry/cliploom:cuda", "MLFLOW=https://mlflow"]
ALL = [(cloud, size) for cloud in VALUES for size in SIZES]


def rendered(cloud: str, size: str) -> dict[str, Any]:
    return render(cloud, size, dict(value.split("=", 1) for value in [*VALUES[cloud], *IMAGES]))


@pytest.mark.parametrize(("cloud", "size"), ALL)
def test_ray_accepts_it(cloud: str, size: str) -> None:
    prepared = prepare_config(rendered(cloud, size))
    validate_config(prepared)
    assert prepared["head_node_type"] == "head"


@pytest.mark.parametrize("cloud", VALUES)
def test_ray_refuses_a_typing_error(cloud: str) -> None:
    """That the validator is no rubber stamp."""
    tree = rendered(cloud, "8")
    tree["available_node_types"]["train"]["resource"] = {}
    with pytest.raises(Exception, match="resource"):
        validate_config(prepare_config(tree))


@pytest.mark.parametrize(("cloud", "size"), ALL)
def test_it_has_so_many_gpus_and_no_work_on_the_head(cloud: str, size: str) -> None:
    tree = rendered(cloud, size)
    kinds = tree["available_node_types"]
    assert kinds["train"]["max_workers"] * kinds["train"]["resources"]["GPU"] == int(size)
    assert kinds["head"]["resources"]["CPU"] == 0
    assert kinds["head"]["max_workers"] == 0
    assert "scheduling" not in kinds["head"]["node_config"]  # GCP: on demand
    assert "InstanceMarketOptions" not in kinds["head"]["node_config"]  # AWS
    assert tree["max_workers"] == sum(kind["max_workers"] for kind in kinds.values())
    assert all(kind.get("min_workers", 0) == 0 for kind in kinds.values())  # nothing is paid for that nobody uses
    assert tree["idle_timeout_minutes"] >= 20


@pytest.mark.parametrize(("cloud", "size"), ALL)
def test_its_labels_are_the_pools_of_the_settings(cloud: str, size: str, tmp_path: Path) -> None:
    path = tmp_path / "ray_bootstrap_config.yaml"  # as the head finds it
    path.write_text(yaml.safe_dump(rendered(cloud, size)))
    settings = {Data().pool, Train().pool, Evaluate().pool}
    found = {kind.pool for kind in pools.read(str(path))}
    assert found == settings - ({"ingest"} if size == "1" else set())


@pytest.mark.parametrize(("cloud", "size"), ALL)
def test_the_world_gets_in_by_ssh_and_token_alone(cloud: str, size: str) -> None:
    tree = rendered(cloud, size)
    [start] = [line for line in tree["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--ray-client-server-port=0" in start
    assert "--env RAY_AUTH_MODE=token" in tree["docker"]["run_options"]
    assert "~/.ray/auth_token" in tree["file_mounts"]
    for kind in tree["available_node_types"].values():
        node = kind["node_config"]
        if cloud == "aws":  # with a group and a role of one's own, Ray makes none, whose rules would be wide
            assert node["SecurityGroupIds"] == ["sg-1"]
            assert node["IamInstanceProfile"]["Name"] in ("cliploom-head", "cliploom-worker")
            assert node["MetadataOptions"]["HttpTokens"] == "required"
            assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])
        else:
            assert node["tags"] == {"items": ["cliploom"]}  # which the firewall's rules name
            assert node["networkInterfaces"][0]["subnetwork"].endswith("/cliploom")


@pytest.mark.parametrize("cloud", VALUES)
def test_the_job_of_the_guide_finds_mlflow(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for option in rendered(cloud, "8")["docker"]["run_options"]:
        if variable := re.fullmatch(r"--env (MLFLOW_\w+)=(.*)", option):
            monkeypatch.setenv(*variable.groups())
    guide = (servers.ROOT / "cluster" / "README.md").read_text().replace("\\\n", " ")
    [job] = re.findall(r"^python cluster/submit\.py train --config (jobs/.*)", guide, re.M)
    path, *words = shlex.split(job)
    assert registry.store_uri(config.load(str(servers.ROOT / path), words)) == "https://mlflow"


@pytest.mark.parametrize("cloud", VALUES)
def test_mlflows_user_comes_to_every_node_in_a_file(
    cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.utils.credentials import read_mlflow_creds

    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    tree = rendered(cloud, "8")
    place = Path("~/.mlflow/credentials")
    assert tree["file_mounts"][str(place)] == str(place)
    place.expanduser().parent.mkdir()
    place.expanduser().write_text("[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = secret\n")
    assert read_mlflow_creds() == ("ada", "secret")
    place.expanduser().write_text("")
    assert read_mlflow_creds() == (None, None)
    assert not re.search("username|password", yaml.safe_dump(tree), re.I)
    for commands in (tree["head_start_ray_commands"], tree["worker_start_ray_commands"]):
        assert any(re.search(r"chmod 600 .*~/\.mlflow/credentials", command) for command in commands)


def test_ray_brings_files_to_the_home_of_the_images_user() -> None:
    """It looks for the home in the image's environment alone, and takes /root where that does not say it."""
    dockerfile = (servers.ROOT / "cluster" / "Dockerfile").read_text()
    assert "--create-home --shell /bin/bash ray" in dockerfile
    assert "ENV HOME=/home/ray" in dockerfile


@pytest.mark.parametrize("cloud", VALUES)
def test_spot_nodes_are_watched(cloud: str) -> None:
    tree = rendered(cloud, "8")
    assert any(f"agent.py --cloud {cloud} --address $RAY_HEAD_IP:6379" in c for c in tree["worker_start_ray_commands"])


def test_the_versions_are_the_locked_ones() -> None:
    """Ray and Python of the image are those of the environment; the image installs nothing else."""
    dockerfile = (servers.ROOT / "cluster" / "Dockerfile").read_text()
    assert "-c constraints.txt" in dockerfile
    assert re.search(rf"^ray=={re.escape(version('ray'))}$", (servers.ROOT / "constraints.txt").read_text(), re.M)


@pytest.mark.parametrize("file", ["cluster/Dockerfile", "README.md"])
def test_nodes_are_told_what_a_cluster_of_one_machine_is(file: str) -> None:
    told = re.findall(r"RAY_([a-z_]+)=(\d+)\b", (servers.ROOT / file).read_text())
    assert dict(told) == {name: str(value) for name, value in SYSTEM.items()}


def test_a_name_without_a_value_is_an_error() -> None:
    command = [sys.executable, "cluster/render.py", "aws", "8", *VALUES["aws"]]
    answer = subprocess.run(command, cwd=servers.ROOT, capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stderr == "error: give a value for CUDA_IMAGE, IMAGE, MLFLOW: NAME=VALUE\n"
    answer = subprocess.run([*command, *IMAGES], cwd=servers.ROOT, capture_output=True, text=True)
    assert yaml.safe_load(answer.stdout) == rendered("aws", "8")
