"""An ONNX model in int8, by ONNX Runtime's quantiser: activations measured beforehand (static), or as they come."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..common.quiet import quiet

PRODUCTS = ["MatMul", "Gemm", "Conv"]  # the rest (softmax, norms, top-k) is little work, and stays in floating point


def static(proto: Any, batches: Sequence[Tensor]) -> Any:
    """Weights and activations in int8, whose ranges are those that these batches reach."""
    from onnxruntime import quantization as tool

    class Batches(tool.CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[Tensor] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:  # ty: ignore[incompatible-method-override]
            batch = next(self.left, None)
            return None if batch is None else {proto.graph.input[0].name: batch.numpy()}

    options: dict[str, Any] = {
        "quant_format": tool.QuantFormat.QOperator,  # as fast as QDQ
        "op_types_to_quantize": PRODUCTS,
        "per_channel": True,
        "activation_type": tool.QuantType.QUInt8,
        "weight_type": tool.QuantType.QInt8,
        "reduce_range": not has_wide_products(),
        "extra_options": {"MatMulConstBOnly": True},  # products with weights: attention's own decide which tokens stay
    }
    return _through_files(proto, lambda source, target: tool.quantize_static(source, target, Batches(), **options))


def dynamic(proto: Any, batches: Sequence[Tensor]) -> Any:
    """Weights in int8; activations too, in the range that each batch has when it comes. Needs no images."""
    from onnxruntime import quantization as tool

    options: dict[str, Any] = {
        "op_types_to_quantize": ["MatMul", "Gemm"],
        "per_channel": True,
        "weight_type": tool.QuantType.QInt8,
        "reduce_range": not has_wide_products(),
    }
    return _through_files(proto, lambda source, target: tool.quantize_dynamic(source, target, **options))


def has_wide_products() -> bool:
    """Whether this processor adds products of bytes in 32 bits (VNNI, or ARM's). Older ones add pairs of them in 16,
    which overflow: weights must then do with 7 bits."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else "vnni"
    return any(flag in flags for flag in ("vnni", "amx_int8", "asimddp"))


def _through_files(proto: Any, quantise: Callable[[str, str], None]) -> Any:
    """The quantiser reads and writes files."""
    import onnx

    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        bare = onnx.ModelProto()
        bare.CopyFrom(proto)
        del bare.graph.value_info[:]  # of shapes inside: some exporters' contradict those that the quantiser infers
        source.write_bytes(bare.SerializeToString())
        quantise(str(source), str(target))
        return onnx.load(target)
