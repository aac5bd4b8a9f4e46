"""The answers to wrong commands and calls, as `answers.md` has them: read, run, written again.

python tests/answers.py     # after a change of messages or of the list: write all answers anew, then read the diff
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("answers.md")
SHELL, PYTHON = "$ ", ">>> "
MISTAKE = 2  # the exit code of a command that was mistyped
_ENTRY = re.compile(r"^(\$ .*|>>> .*)\n(?:((?!\$ |>>> |```|\n).*)\n)*", re.MULTILINE)


OWN = '''import torch
import vitrim


class Largest(vitrim.Method):
    """Keep the patch tokens of the largest norm."""

    name, title = "largest", "keep the largest"

    def __init__(self, keep=0.5, at=None):
        super().__init__(keep, at)

    def forward(self, tokens, evidence, place):
        return vitrim.Keep(tokens.patches.norm(dim=-1).topk(self.count(place, tokens.n) + 999, dim=1).indices)

    def count(self, place, n):
        return max(1, int(place.keep * n))


class Uncounted(Largest):
    """Keep as many tokens as nobody knows."""

    name, title = "uncounted", "keep some"

    def count(self, place, n):
        return {}["n"]
'''


def entries(text: str) -> list[tuple[str, str]]:
    """(what was typed, its answer as the file has it), in order."""
    found = [match[0].rstrip("\n").partition("\n") for match in _ENTRY.finditer(text)]
    return [(typed, answer) for typed, _, answer in found]


def answer_to(typed: str, names: dict[str, Any]) -> str:
    """What vitrim says: what a command prints, with its exit code if that is not 2; or the error that a call raises."""
    return _command(typed.removeprefix(SHELL)) if typed.startswith(SHELL) else _call(typed, names)


def _command(line: str) -> str:
    from vitrim import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _forgotten():
        code = cli.main(shlex.split(line)[1:])
    ended = "" if code == MISTAKE else f" [exit code {code}]"
    return f"{out.getvalue()}{err.getvalue().rstrip()}{ended}"


@contextlib.contextmanager
def _forgotten() -> Iterator[None]:
    """Methods that a command registers are not known to the next one."""
    from vitrim.methods import METHODS

    before = dict(METHODS)
    try:
        yield
    finally:
        METHODS.clear()
        METHODS.update(before)
        sys.modules.pop("own", None)


def _call(typed: str, names: dict[str, Any]) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = eval(typed.removeprefix(PYTHON), dict(names))
    except Exception as error:
        kind = "ValueError" if isinstance(error, ValueError) else type(error).__name__
        return f"{kind}: {error}"
    return f"no error: {result!r}"[:200]


@contextlib.contextmanager
def prepared() -> Iterator[dict[str, Any]]:
    """In a folder with the files that `answers.md` lists at its top; the names that its calls use."""
    before, offline = Path.cwd(), os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield _prepare()
        finally:
            os.chdir(before)
            os.environ.pop("HF_HUB_OFFLINE")
            if offline is not None:
                os.environ["HF_HUB_OFFLINE"] = offline


def _prepare() -> dict[str, Any]:
    import numpy as np
    import timm
    import torch
    import torchvision
    from PIL import Image
    from safetensors.torch import save_file

    import vitrim

    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64, num_classes=10).eval()
    save_file(model.state_dict(), "ten.safetensors")
    Path("notes.pth").write_text("no weights")
    Path("run.toml").write_text("keeep = 0.7\n")
    Path("cut.toml").write_text("keep = ")
    Path("cut.json").write_text('{"keep": ')
    Path("map.csv").write_text("cat,0\ndog;1\n")
    Path("own.py").write_text(OWN)
    picture = Image.new("RGB", (64, 64))
    for file in ("three/cat/1.png", "three/dog/1.png", "three/owl/1.png", "flat/1.png", "splits/val/cat/1.png"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
    for index in range(10):
        Path(f"ten/c{index}").mkdir(parents=True)
        picture.save(f"ten/c{index}/1.png")
    Path("empty").mkdir()
    fast = vitrim.reduce(model, "evit", keep=0.7)
    fast.save("saved")
    siglip = timm.create_model("vit_base_patch16_siglip_224", depth=4, embed_dim=96, num_heads=3)
    strict = vitrim.reduce(timm.create_model("vit_tiny_patch16_224", depth=4), "evit")
    tower = torchvision.models.VisionTransformer(32, 16, 1, 1, 16, 16)
    hugging = type(
        "BeitForImageClassification", (torch.nn.Module,), {"__module__": "transformers.models.beit.modeling_beit"}
    )
    return {
        **{"vitrim": vitrim, "timm": timm, "torch": torch, "np": np},
        **{"model": model, "fast": fast, "images": torch.rand(2, 3, 64, 64), "picture": picture},
        **{"siglip": siglip, "strict": strict, "torchvision_model": tower, "transformers_model": hugging()},
    }


def written(text: str, answer: Callable[[str], str]) -> str:
    """The file's text with the answers of now."""
    return _ENTRY.sub(lambda match: f"{(typed := match[0].splitlines()[0])}\n{answer(typed)}\n", text)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with prepared() as known:
        new = written(FILE.read_text(encoding="utf-8"), lambda typed: answer_to(typed, known))
    FILE.write_text(new, encoding="utf-8")
    print(f"{len(entries(new))} answers written to {FILE}")
