"""What a cluster's YAML says that it may grow to. Placement itself is seen in tests/integration/test_growing.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliploom import pools
from cliploom.errors import InputError

YAML = """
max_workers: 3
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}, node_config: {}}
  small: {resources: {CPU: 4}, node_config: {}, labels: {pool: ingest}, max_workers: 2}
  large: {resources: {CPU: 8, GPU: 1}, node_config: {}, max_workers: 9}
"""


def test_node_types_are_read_without_the_head_and_with_the_limit_on_all(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(YAML)
    small, large = pools.read(str(path))
    assert small == pools.NodeType("ingest", {"CPU": 4}, 2)
    assert large == pools.NodeType(None, {"CPU": 8, "GPU": 1}, 3)


@pytest.mark.parametrize("text", ["[", "3", "max_workers: 2", "max_workers: 2\navailable_node_types: {a: {}}"])
def test_what_is_no_clusters_yaml_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"CLIPLOOM_NODE_TYPES: .*cluster\.yaml is no cluster's YAML"):
        pools.read(str(path))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="/nowhere"):
        pools.read("/nowhere")
