"""`open_exported`: a file of `vitrim export` as a model, images to logits, whatever it runs in and takes."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.absent import absent
from ..common.extras import require
from ..common.quiet import quiet
from . import aotinductor, openvino
from .checking import filled
from .formats import ENDINGS, FORMATS, Run, run_session, session
from .prepared import as_pixels
from .seal import holds

NEEDED = ("model", "batch_size", "preprocessing", "mean", "std", "input_size", "classes", "gmacs", "dense_gmacs")


@dataclass(frozen=True)
class FileCost:
    """What a file says of its cost, by the names of `vitrim.profile`'s result."""

    gmacs: float
    dense_gmacs: float
    tokens: list[int]
    patches: int
    params: int

    @property
    def share(self) -> float:
        """Share of the dense cost."""
        return self.gmacs / self.dense_gmacs

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return round(1e9 * self.gmacs)


class OpenedFile(nn.Module):
    """An exported file that is called as its model was: prepared images [b, c, height, width] to logits [b, k].

    A file of one batch size is given batches of that size, the last one filled up; one with preprocessing is given the
    pixels that the images come from. It computes on the CPU.

    about: what the file says of itself: model, methods, mean, std, input_size, batch_size, gmacs, format, int8 ...
    """

    def __init__(self, path: Path, about: Mapping[str, Any], run: Run):
        super().__init__()
        self.path, self.about, self.num_classes = path, dict(about), int(about["classes"])
        self._run: Callable[[Tensor], Tensor] = lambda images: run(images)  # a module would be taken for a part
        size = about["batch_size"]
        self._size = None if size == "any" else int(size)

    def forward(self, images: Tensor) -> Tensor:
        if list(images.shape[1:]) != self.about["input_size"]:
            wanted = ", ".join(map(str, self.about["input_size"]))
            raise ValueError(f"images are {list(images.shape)}, and {self.path} takes [batch, {wanted}]")
        given = as_pixels(images, self.about) if self.about["preprocessing"] else images.float()
        parts = [given] if self._size is None else [filled(part, self._size) for part in given.split(self._size)]
        return torch.cat([self._run(part.contiguous()) for part in parts])[: len(images)]

    @property
    def runtime(self) -> str:
        """What it runs in, by the names of `--runtime` and of the formats: onnx, onnx-int8, torch ..."""
        return f"{self.about['format']}-int8" if self.about.get("int8") else self.about["format"]

    @property
    def cost(self) -> FileCost:
        """Of one image, as counted when the file was written."""
        about = self.about
        return FileCost(about["gmacs"], about["dense_gmacs"], about["tokens"], about["patches"], about["params"])


def open_exported(path: str | Path) -> OpenedFile:
    """A file of `vitrim export` (.onnx, .xml, .pt2) as a model.

    Nothing is unpickled. A .pt2 of AOTInductor is machine code, which runs when it is opened: open only one that you
    would run as a program. Raises ValueError where there is no such file, vitrim has not written it, it is damaged or
    was changed later (by its digest: 0.4 s for 350 MB), the .bin beside an .xml belongs to another, or a package is
    missing.

    Example:
        >>> made = vitrim.export(model, "dense.pt2", images=images)
        >>> from vitrim.deploy import open_exported
        >>> opened = open_exported("dense.pt2")
        >>> opened(images).shape, opened.about["batch_size"], opened.about["format"]
        (torch.Size([2, 2]), 'any', 'torch')
    """
    path = Path(path).expanduser()
    ending = path.suffix.lower()
    if ending not in OPENERS:
        raise ValueError(f"{path} is no exported file: it must end in {' or '.join(ENDINGS)}")
    if not path.is_file():
        raise ValueError(absent("file", path, "give one that vitrim.export has written"))
    whole = holds(path)
    if whole is False:
        raise ValueError(f"{path} is damaged, or was changed after it was exported: copy it again, or export again")
    about, run = OPENERS[ending](path)
    if whole is None:
        raise ValueError(f"{path} has no digest to check it by: export again, with this version of vitrim")
    return OpenedFile(path, about, run)


def is_exported(name: str) -> bool:
    """Whether a name is that of an exported file, by its ending.

    Example:
        >>> is_exported("fast.onnx"), is_exported("deit_tiny_patch16_224")
        (True, False)
    """
    return Path(name).suffix.lower() in ENDINGS


def _onnx(path: Path) -> tuple[dict[str, Any], Run]:
    require("export", f"{path}")
    try:
        opened = session(path)
    except Exception as error:  # onnxruntime has its own, which share nothing
        raise _damaged(path, error) from error
    return _checked(path, opened.get_modelmeta().custom_metadata_map), run_session(opened)


def _openvino(path: Path) -> tuple[dict[str, Any], Run]:
    require("openvino", f"{path}")
    weights = path.with_suffix(FORMATS["openvino"].beside)
    if not weights.is_file():
        raise ValueError(f"{path} needs its weights, {weights.name}, beside it")
    model = openvino.read(path, weights)
    about = _checked(path, openvino.about(model))
    if about.get(openvino.WEIGHTS) != openvino.digest(weights):
        raise ValueError(f"{weights} is damaged, or belongs to another file than {path}: copy both, or export again")
    return about, openvino.start(model)


def _pt2(path: Path) -> tuple[dict[str, Any], Run]:
    try:
        with zipfile.ZipFile(path) as package:
            names = package.namelist()
            found = [name for name in names if name.partition("/")[2] == aotinductor.ABOUT]
            said = json.loads(package.read(found[0])) if found else {}
        about = _checked(path, said)
        if any(aotinductor.COMPILED in name for name in names):
            return about, aotinductor.open_package(path)
        with _without_pickle(), quiet():
            return about, torch.export.load(io.BytesIO(path.read_bytes())).module()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} cannot be opened: it holds more than tensors, and no more is unpickled") from error
    except (zipfile.BadZipFile, OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error


@contextmanager
def _without_pickle() -> Generator[None]:
    """Torch reads tensors of a .pt2 by pickle: some versions any object, others where a safe reading has failed. With
    this variable it takes tensors and plain values alone, and refuses whatever else a file holds."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _checked(path: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says, as values. Raises ValueError where vitrim has not written it."""
    about = {key: _value(value) for key, value in said.items()}
    missing = [key for key in NEEDED if key not in about]
    if missing:
        raise ValueError(
            f"{path} does not say which images it takes ({', '.join(missing[:2])} is missing): give a file that this "
            "version of vitrim export has written"
        )
    return about


def _value(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be opened: {' '.join(str(error).split())[:120] or type(error).__name__}")


OPENERS = {".onnx": _onnx, ".xml": _openvino, ".pt2": _pt2}
