"""One of several processes at one run; it writes down which parts it has computed.

python shared_run.py DATA OUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from small_runs import run_on

from vitrim.inference.journal import Journal

if __name__ == "__main__":
    data, out = map(Path, sys.argv[1:])
    add, own = Journal.add, out.with_name(f"computed-{os.environ['RANK']}")

    def noting(self, number, *rest):
        with open(own, "a") as file:
            file.write(f"{number}\n")
        add(self, number, *rest)

    Journal.add = noting
    run_on(data, out, part=4)
