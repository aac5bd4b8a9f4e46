"""The shapes in the annotations hold. In a process of its own: the checks would break fullgraph compilation here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_annotated_shapes_hold():
    script = Path(__file__).with_name("_shapes_checked.py")
    command = [sys.executable, str(script)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(script.parent), str(script.parents[1])))}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]}\n{done.stderr[-4000:]}"
    assert done.stdout.splitlines()[-1] == "all shapes hold"
