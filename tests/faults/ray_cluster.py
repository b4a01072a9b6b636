"""A Ray cluster on this machine, kept by a process of its own: `add` and `kill` a second node by stdin.

Prints one line of JSON per command. Two nodes on 127.0.0.1 and 127.0.0.2 share the file system, as two
machines share a network drive.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from ray.cluster_utils import Cluster


def main() -> None:
    node: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 100 << 20}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**node, "num_cpus": 2, "num_gpus": 2, "node_ip_address": "127.0.0.1"},
    )
    second: Any = None
    print(json.dumps({"address": cluster.address}), flush=True)
    for line in sys.stdin:
        if line.strip() == "add":
            second = cluster.add_node(num_cpus=1, num_gpus=0, node_ip_address="127.0.0.2", **node)
        elif line.strip() == "kill":
            cluster.remove_node(second, allow_graceful=False)
        else:
            break
        print(json.dumps({"done": line.strip()}), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
