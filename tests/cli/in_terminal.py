"""Run as a script inside a pseudo-terminal: command lines one after the other, the terminal as wide as each asks for.

Its arguments are JSON: pairs of a width and a command line, or Python's own printing where that is `print`.
"""

from __future__ import annotations

import fcntl
import json
import struct
import sys
import termios
from functools import cache, partial

import timm
import torch

import vitrim
from vitrim import cli
from vitrim.cli import methods
from vitrim.cli.shared import measure
from vitrim.common import progress
from vitrim.common.on_meta import on_meta

MARK = "\f"  # between the outputs of two command lines


def print_in_python() -> None:
    with on_meta():
        fast = vitrim.reduce(timm.create_model("deit_small_patch16_224"), "evit", keep=0.7)
    print(fast)
    fast.summary()
    print(vitrim.profile(fast))


def main() -> None:
    torch.set_num_threads(1)
    progress.PATIENCE = 0.0
    methods._answers = cache(methods._answers)  # ty: ignore[invalid-assignment]  they are the same at every width
    measure.throughput_in_turn = partial(measure.throughput_in_turn, seconds=0.001)  # ty: ignore[invalid-assignment]
    for width, arguments in map(json.loads, sys.argv[1:]):
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        if arguments == ["print"]:
            print_in_python()
        elif cli.main(arguments):
            sys.exit(f"{arguments} failed")
        print(MARK, end="", flush=True)


if __name__ == "__main__":
    main()
