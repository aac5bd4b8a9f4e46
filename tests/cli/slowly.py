"""Run as a script inside a pseudo-terminal: one command line, whose progress is shown sooner.

Its arguments are the patience in seconds, then the command line. Every image takes a moment.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import torch

from vitrim import cli
from vitrim.cli.shared import measure
from vitrim.common import progress
from vitrim.data import photographs


def main() -> int:
    torch.set_num_threads(1)
    patience, *arguments = sys.argv[1:]
    progress.PATIENCE = float(patience)
    measure.throughput_in_turn = partial(measure.throughput_in_turn, seconds=0.05)  # ty: ignore[invalid-assignment]
    decode = photographs.decode
    photographs.decode = lambda *given: time.sleep(0.03) or decode(*given)  # ty: ignore[invalid-assignment]
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
