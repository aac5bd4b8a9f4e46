"""The files that a model is exported to: how each is made, quantised, written, and run to be checked."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.extras import require
from ..common.quiet import quiet
from ..common.whole import Beside
from . import aotinductor, onnx_int8, openvino
from .recording import Program
from .seal import BLANK

LARGEST_ONNX = 2**31  # bytes that one ONNX file may hold
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    ending: of its name; `beside`: of a second file with the same name, which belongs to it; empty: one file is enough
    extra:  of pyproject.toml, that brings what it needs; None: PyTorch is enough
    make:   (program, example, any_batch, name of the output) -> what is to be written, in memory
    save:   (made, about, files) -> the bytes, into the open files, with a blank for the digest of the first
    open:   (paths) -> what runs them, images to logits
    int8:   by way of quantising -> (made, batches to calibrate on) -> made; none: it stays in floating point
    ready:  raises ValueError where something else that it needs is missing
    """

    name: str
    title: str
    ending: str
    extra: str | None
    make: Callable[[Program, Tensor, bool, str], Any]
    save: Callable[[Any, dict[str, Any], Sequence[Beside]], None]
    open: Callable[..., Run]
    int8: dict[str, Callable[[Any, Sequence[Tensor]], Any]]
    beside: str = ""
    ready: Callable[[], None] = lambda: None

    def require(self) -> None:
        """Raise ValueError, with the line that installs it, where a package or a compiler is missing."""
        if self.extra is not None:
            require(self.extra, f"export to {self.title}")
        self.ready()

    def paths(self, path: Path) -> list[Path]:
        """The files of a model that is called `path`."""
        return [path, path.with_suffix(self.beside)] if self.beside else [path]


def as_text(about: dict[str, Any]) -> dict[str, str]:
    """What a file says of itself, for those that hold text alone."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


def _make_onnx(program: Program, example: Tensor, any_batch: bool, output: str) -> Any:
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    if size >= LARGEST_ONNX:
        raise ValueError(f"the weights take {size / 1e9:.1f} GB, and one ONNX file holds 2.1: export to .xml or .pt2")
    with quiet():
        options: Any = {"input_names": ["images"], "output_names": [output], "verbose": False}
        made: Any = torch.onnx.export(program, (example,), dynamo=True, external_data=False, **options)
    return _named(made.model_proto)


def _named(proto: Any) -> Any:
    """The batch by its name in what goes in and comes out, where the exporter has called it `s34` or the like."""
    for value in (*proto.graph.input, *proto.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if first.dim_param:
            first.dim_param = "batch"
    return proto


def _save_onnx(proto: Any, about: dict[str, Any], files: Sequence[Beside]) -> None:
    texts = as_text({**about, **BLANK})
    kept = [entry for entry in proto.metadata_props if entry.key not in texts]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    for key, value in texts.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    files[0].file.write(proto.SerializeToString())


def session(path: Path) -> Any:
    """ONNX Runtime on a file, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it reports every constant that it leaves unfolded as a warning
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_session(session: Any) -> Run:
    """What runs it, images to logits."""
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def _make_torch(program: Program, example: Tensor, any_batch: bool, output: str) -> Program:
    return program


def _save_torch(program: Program, about: dict[str, Any], files: Sequence[Beside]) -> None:
    made = io.BytesIO()
    torch.export.save(program, made, extra_files={"vitrim.json": json.dumps(about)})
    with zipfile.ZipFile(made, "a") as package:
        package.comment = aotinductor.COMMENT
    files[0].file.write(made.getbuffer())


def _open_torch(path: Path) -> Run:
    with path.open("rb") as file, quiet():
        program = torch.export.load(io.BytesIO(file.read()))
    return program.module()


def _save_compiled(program: Program, about: dict[str, Any], files: Sequence[Beside]) -> None:
    aotinductor.compile_into(program, json.dumps(about), files[0].file)


FORMATS = {
    kind.name: kind
    for kind in (
        Format(
            "onnx",
            "ONNX",
            ".onnx",
            "export",
            _make_onnx,
            _save_onnx,
            lambda path: run_session(session(path)),
            {"dynamic": onnx_int8.dynamic, "static": onnx_int8.static},
        ),
        Format(
            "openvino",
            "OpenVINO",
            ".xml",
            "openvino",
            openvino.make,
            openvino.save,
            lambda *paths: openvino.start(openvino.read(*paths)),
            {"static": openvino.quantise},
            beside=".bin",
        ),
        Format("torch", "torch.export", ".pt2", None, _make_torch, _save_torch, _open_torch, {}),
        Format(
            "aotinductor",
            "AOTInductor",
            ".pt2",
            None,
            _make_torch,
            _save_compiled,
            aotinductor.open_package,
            {},
            ready=aotinductor.require_compiler,
        ),
    )
}
ENDINGS = tuple(dict.fromkeys(kind.ending for kind in FORMATS.values()))


def format_of(path: Path, name: str | None) -> Format:
    """The format of a file's ending, or the one named. Raises ValueError where the two do not agree.

    Example:
        >>> format_of(Path("fast.onnx"), None).title, format_of(Path("fast.pt2"), "aotinductor").title
        ('ONNX', 'AOTInductor')
    """
    if name is not None and name not in FORMATS:
        raise ValueError(f"format {name!r} is not known: choose one of {', '.join(FORMATS)}")
    ending = path.suffix.lower()
    if name is None:
        return next(kind for kind in FORMATS.values() if kind.ending == ending)
    if FORMATS[name].ending != ending:
        raise ValueError(f"{path} does not end as a file of {name}: it must end in {FORMATS[name].ending}")
    return FORMATS[name]
