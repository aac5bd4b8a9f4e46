"""The files that a model is exported to: how each is written, and how it is run to be checked."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ..common.extras import require

LARGEST_ONNX = 2**31  # bytes that one ONNX file may hold
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    extra: of pyproject.toml, that brings what it needs; None: PyTorch is enough
    write: (program, example, about) -> the file's bytes, into the open file
    open:  (path) -> what runs it, images to logits
    """

    name: str
    extra: str | None
    write: Callable[[torch.export.ExportedProgram, Tensor, dict[str, Any], BinaryIO], None]
    open: Callable[[Path], Run]

    def require(self) -> None:
        """Raise ValueError, with the line that installs it, where a package is missing."""
        if self.extra is not None:
            require(self.extra, f"export to {self.name}")


def record(model: nn.Module, example: Tensor, any_batch: bool) -> torch.export.ExportedProgram:
    """The model's graph for batches of any size, or of the example's."""
    shapes = ({0: torch.export.Dim.DYNAMIC},) if any_batch else None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch takes for a constant
        return torch.export.export(model, (example,), dynamic_shapes=shapes)


def _write_onnx(program: torch.export.ExportedProgram, example: Tensor, about: dict[str, Any], file: BinaryIO) -> None:
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    if size >= LARGEST_ONNX:
        raise ValueError(f"the weights take {size / 1e9:.1f} GB, and one ONNX file holds 2.1: give --out a .pt2 file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options: Any = {"input_names": ["images"], "output_names": [about["output"]], "verbose": False}
        made: Any = torch.onnx.export(program, (example,), dynamo=True, external_data=False, **options)
    made.model.metadata_props.update({key: _text(value) for key, value in about.items()})
    file.write(_named(made.model_proto).SerializeToString())


def _named(proto: Any) -> Any:
    """The batch by its name in what goes in and comes out, where the exporter has called it `s34` or the like."""
    for value in (*proto.graph.input, *proto.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if first.dim_param:
            first.dim_param = "batch"
    return proto


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it reports every constant that it leaves unfolded as a warning
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def _write_torch(program: torch.export.ExportedProgram, example: Tensor, about: dict[str, Any], file: BinaryIO) -> None:
    made = io.BytesIO()
    torch.export.save(program, made, extra_files={"vitrim.json": json.dumps(about)})
    file.write(made.getbuffer())


def _open_torch(path: Path) -> Run:
    with path.open("rb") as file:
        program = torch.export.load(io.BytesIO(file.read()))
    return program.module()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


FORMATS = {
    ".onnx": Format("ONNX", "export", _write_onnx, _open_onnx),
    ".pt2": Format("torch.export", None, _write_torch, _open_torch),
}
