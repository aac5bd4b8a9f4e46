"""OpenVINO's files, an `.xml` with its weights in a `.bin` beside it: made, quantised, written and opened."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.extras import without_telemetry
from ..common.quiet import quiet
from ..common.whole import Beside
from .seal import BLANK
from .signal_stack import keeping_signal_stack

OURS = "vitrim"  # of the file's rt_info, what vitrim has written
WEIGHTS = "weights_sha256"


@contextlib.contextmanager
def quietly() -> Generator[None]:
    """Nothing is sent (`without_telemetry`) and nothing printed by what is imported and called meanwhile."""
    with quiet(), without_telemetry(), contextlib.redirect_stdout(io.StringIO()):  # NNCF draws bars
        yield


@functools.cache
def _core() -> Any:
    """OpenVINO with its CPU plugin, made once and never freed (see `signal_stack.py`)."""
    with quietly():
        import openvino

        core = openvino.Core()
        core.get_versions("CPU")  # loads the plugin
    return core


def make(program: torch.export.ExportedProgram, example: Tensor, any_batch: bool, output: str) -> Any:
    """OpenVINO's model of a graph, its input and output by name, its image size fixed."""
    with quietly():
        import openvino

        try:
            model = openvino.convert_model(program)
        except RuntimeError as error:  # which its own errors of conversion are
            missing = str(error).partition("for operations: ")[2].split("\n")[0] or str(error).split("\n")[0]
            raise ValueError(f"OpenVINO has no operator for {missing[:120]}: export to .onnx or .pt2") from error
        model.inputs[0].get_tensor().set_names({"images"})
        model.outputs[0].get_tensor().set_names({output})
        model.reshape([-1 if any_batch else len(example), *example.shape[1:]])
    return model


def quantise(model: Any, batches: Sequence[Tensor]) -> Any:
    """The model in int8 by NNCF, its ranges from these batches, one image or the file's batch each."""
    _core()  # before NNCF makes others: its signal stack is the one to come back to
    with quietly(), keeping_signal_stack():
        import nncf

        return nncf.quantize(
            model,
            nncf.Dataset([batch.numpy() for batch in batches]),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
            advanced_parameters=_settings(nncf),
        )


def _settings(nncf: Any) -> Any:
    """Without SmoothQuant: on DeiT it costs accuracy (docs/deploy.md, int8)."""
    off = nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1)
    return nncf.AdvancedQuantizationParameters(smooth_quant_alphas=off)


def save(model: Any, about: dict[str, Any], files: Sequence[Beside]) -> None:
    """Write the model into two files, .xml and .bin. The first says in its rt_info, under "vitrim", what it is, and
    which .bin it belongs to."""
    with quietly():
        import openvino

        xml, weights = (str(file.name) for file in files)
        _serialize(openvino, model, xml, weights)  # which gives the digest of the weights
        for key, value in {**about, WEIGHTS: digest(files[1].name), **BLANK}.items():
            model.set_rt_info(value if isinstance(value, str) else json.dumps(value), [OURS, key])
        _serialize(openvino, model, xml, weights)


def _serialize(openvino: Any, model: Any, xml: str, weights: str) -> None:
    try:
        openvino.serialize(model, xml, weights)
    except RuntimeError as error:  # which OpenVINO raises for a disk that is full
        raise OSError(f"OpenVINO cannot write it (is the disk full?): {' '.join(str(error).split())[:120]}") from error


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(xml: Path, weights: Path) -> Any:
    """The model of two files. Raises ValueError where they are no such pair."""
    with quietly():
        try:
            return _core().read_model(str(xml), str(weights))
        except RuntimeError as error:
            raise ValueError(
                f"{xml} and {weights.name} are no model that OpenVINO reads: one is damaged, or they belong to two "
                "exports: copy both, or export again"
            ) from error


def about(model: Any) -> dict[str, str]:
    """What `save` has written of the model; empty for another's."""
    return dict(model.get_rt_info([OURS]).value) if model.has_rt_info([OURS]) else {}


def start(model: Any, precision: str = "f32") -> Any:
    """What runs a model, images to logits, with as many threads as torch has, as soon as each batch comes.

    precision: of what is not int8. OpenVINO's own choice is bfloat16 where the processor has it: faster, but its logits
    are further from the model's.
    """
    with quietly():
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": precision,
        }
        request = _core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda images: torch.from_numpy(request.infer([images.numpy()])[0].copy())
