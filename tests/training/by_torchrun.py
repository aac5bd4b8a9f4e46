"""A script in two processes that torchrun's launcher finds, starts and watches; they are forked, as torch is imported
already where this runs (tests/fresh.py). Each process that imports it anew would take five seconds.

python by_torchrun.py SCRIPT ARGUMENT ...
"""

import runpy
import sys

from torch.distributed.launcher import LaunchConfig, elastic_launch


def work(script: str, *arguments: str) -> None:
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    nodes = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 2, "run_id": "test", "max_restarts": 0}
    meeting = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}  # as --standalone says
    elastic_launch(LaunchConfig(**nodes, **meeting, start_method="fork"), work)(*sys.argv[1:])
