"""AOTInductor's package: the model compiled to machine code ahead of time, in one .pt2 file with its weights."""

from __future__ import annotations

import io
import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..common.quiet import quiet
from .seal import BLANK

ABOUT = "extra/vitrim.json"  # where torch keeps the extra files of a .pt2
COMPILED = "/data/aotinductor/"
COMMENT = " ".join(*BLANK.items()).encode()  # of the zip file that a .pt2 is, which torch passes over


def require_compiler() -> None:
    """Raise ValueError where there is no C++ compiler, which torch would find out minutes later."""
    name = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")  # as torch chooses
    if not shutil.which(name):
        raise ValueError(
            f"AOTInductor compiles C++, and there is no compiler {name} here: install it, say in CXX where one is, or "
            "take the format torch, which needs none"
        )


def compile_into(program: torch.export.ExportedProgram, about: str, file: BinaryIO) -> None:
    """Compile a graph and write its package, the weights inside, with `about` as one of its extra files."""
    made = io.BytesIO()
    with quiet(), torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=made, inductor_configs={"freezing": True})
    with zipfile.ZipFile(made, "a") as package:
        package.writestr(f"{package.namelist()[0].partition('/')[0]}/{ABOUT}", about)
        package.comment = COMMENT
    file.write(made.getbuffer())


def open_package(path: Path) -> Any:
    """What runs a package, images to logits. This loads machine code: open only what you would run as a program."""
    import torch._inductor

    return torch._inductor.aoti_load_package(str(path))
