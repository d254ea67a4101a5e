"""The YAML for `ray up`: a cloud's base with a size laid over it, and values for its names.

    python cluster/render.py aws|gcp 1|8|64|1024 NAME=VALUE ... > cluster.yaml

What the size says of a key wins over the base; null takes the key away. A name without a value is an error.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
_NAME = re.compile(r"\$\{(\w+)\}")


def render(cloud: str, gpus: str, values: Mapping[str, str]) -> dict[str, Any]:
    """The settings of a cluster.

    Raises:
        KeyError: a name of the base's has no value; its argument is the names that have none.
    """
    base = yaml.safe_load((FOLDER / f"{cloud}.yaml").read_text(encoding="utf-8"))
    size = yaml.safe_load((FOLDER / "sizes" / f"{cloud}-{gpus}.yaml").read_text(encoding="utf-8"))
    tree: dict[str, Any] = _filled(_laid(base, size or {}), values)
    if missing := sorted(set(_NAME.findall(yaml.safe_dump(tree)))):
        raise KeyError(", ".join(missing))
    return tree


def _laid(base: Any, over: Any) -> Any:
    """`over` on `base`: mappings key by key, anything else in place of what was there."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    merged = base | {key: _laid(base.get(key), value) for key, value in over.items()}
    return {key: value for key, value in merged.items() if value is not None}


def _filled(node: Any, values: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, values) for value in node]
    if isinstance(node, str):
        return _NAME.sub(lambda match: values.get(match[1], match[0]), node)
    return node


def main() -> int:
    """Print the YAML."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cloud", choices=["aws", "gcp"])
    parser.add_argument("gpus", choices=["1", "8", "64", "1024"])
    parser.add_argument("values", nargs="*", metavar="NAME=VALUE")
    options = parser.parse_args()
    try:
        tree = render(options.cloud, options.gpus, dict(value.split("=", 1) for value in options.values))
    except KeyError as error:
        print(f"error: give a value for {error.args[0]}: NAME=VALUE", file=sys.stderr)
        return 2
    except ValueError:
        print(f"error: {' '.join(options.values)}: write NAME=VALUE", file=sys.stderr)
        return 2
    print(yaml.safe_dump(tree, sort_keys=False), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
