"""The settings of int8 that were tried for `vitrim export --int8`: top-1 and agreement of DeiT-Ti, dense and with EViT.

    python benchmarks/int8_tried.py --json benchmarks/results/int8_tried.json      # about 15 minutes on two processors

Photographs as in benchmarks/int8.py. Each row changes what it names in vitrim's own setting. Agreement is with the same
model in float32.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from pathlib import Path

import int8
import timm
import torch

from vitrim.deploy import onnx_int8, openvino
from vitrim.deploy.checking import logits_of
from vitrim.deploy.formats import FORMATS
from vitrim.deploy.recording import record
from vitrim.deploy.writing import beside, saved
from vitrim.evaluate import environment

WEIGHTS_ALONE = {"MatMulConstBOnly": True}


def onnx_rows(tool) -> dict:
    """Arguments of ONNX Runtime's `quantize_static`, over vitrim's; None: dynamic."""
    every = ["MatMul", "Gemm", "Conv"]
    return {
        "vitrim's": {},
        "dynamic": None,
        "QDQ": {"quant_format": tool.QuantFormat.QDQ},
        "QDQ, what products give in float32 (slow)": {
            "quant_format": tool.QuantFormat.QDQ,
            "extra_options": {**WEIGHTS_ALONE, "OpTypesToExcludeOutputQuantization": every},
        },
        "QDQ, mean of the ranges": {
            "quant_format": tool.QuantFormat.QDQ,
            "extra_options": {**WEIGHTS_ALONE, "CalibMovingAverage": True},
        },
        "QDQ, every operator": {
            "quant_format": tool.QuantFormat.QDQ,
            "op_types_to_quantize": None,
            "extra_options": {},
        },
        "one scale for each weight": {"per_channel": False},
        "symmetric int8 activations": {
            "activation_type": tool.QuantType.QInt8,
            "extra_options": {**WEIGHTS_ALONE, "ActivationSymmetric": True},
        },
        "weights of 7 bits": {"reduce_range": True},
        "patch embedding in float32": {"op_types_to_quantize": every[:2]},
    }


def openvino_rows(nncf) -> dict:
    """(images, advanced parameters, arguments of NNCF's `quantize`), over vitrim's."""
    smooth = nncf.AdvancedSmoothQuantParameters
    off = {"smooth_quant_alphas": smooth(matmul=-1, convolution=-1)}
    attention = nncf.IgnoredScope(types=["ScaledDotProductAttention"], validate=False)
    patches = nncf.IgnoredScope(types=["ScaledDotProductAttention", "Convolution"], validate=False)
    return {
        "vitrim's": (128, off, {}),
        "16 images": (16, off, {}),
        "64 images": (64, off, {}),
        "SmoothQuant, NNCF's alpha": (128, {}, {}),
        "SmoothQuant, alpha 0.5": (128, {"smooth_quant_alphas": smooth(matmul=0.5)}, {}),
        "queries and keys in float32": (128, off, {"ignored_scope": attention}),
        "these and patch embedding in float32": (128, off, {"ignored_scope": patches}),
        "no bias correction": (128, {**off, "disable_bias_correction": True}, {}),
        "symmetric activations": (128, off, {"preset": nncf.QuantizationPreset.PERFORMANCE}),
        "without model_type": (128, off, {"model_type": None}),
    }


def changed_onnx(change):
    """vitrim's quantiser with other arguments."""
    from onnxruntime import quantization as tool

    if change is None:
        return onnx_int8.dynamic
    whole = tool.quantize_static

    def quantise(proto, batches):
        tool.quantize_static = lambda source, target, reader, **given: whole(
            source, target, reader, **{**given, **change}
        )
        try:
            return onnx_int8.static(proto, batches)
        finally:
            tool.quantize_static = whole

    return quantise


def changed_openvino(images, advanced, change):
    def quantise(model, batches):
        with openvino.quietly():
            import nncf

            data = nncf.Dataset([batch.numpy() for batch in batches[:images]])
            more = {"model_type": nncf.ModelType.TRANSFORMER, **change}
            parameters = nncf.AdvancedQuantizationParameters(**advanced)
            return nncf.quantize(model, data, subset_size=images, advanced_parameters=parameters, **more)

    return quantise


def tried(args):
    with openvino.quietly():
        import nncf
        from onnxruntime import quantization as tool
    dense = timm.create_model("deit_tiny_patch16_224", checkpoint_path=str(args.checkpoint)).eval()
    images, labels, calibration = int8.photographs(dense, args)
    kinds = {"onnx": {k: changed_onnx(v) for k, v in onnx_rows(tool).items()}}
    kinds["openvino"] = {k: changed_openvino(*v) for k, v in openvino_rows(nncf).items()}
    for model_name, model in int8.models_of(dense, args.macs).items():
        wanted = logits_of(model, images, None).argmax(dim=1)
        example = torch.zeros(2, *images.shape[1:])
        for name, rows in kinds.items():
            for words, quantise in rows.items():
                kind = FORMATS[name]
                made = quantise(kind.make(record(model, example, True), example, True, "logits"), calibration.split(1))
                with tempfile.TemporaryDirectory() as folder, beside(kind, Path(folder) / f"a{kind.ending}") as files:
                    found = logits_of(saved(kind, made, {}, files), images, None).argmax(dim=1)
                right, same = (100 * float((found == each).float().mean()) for each in (labels, wanted))
                yield {"model": model_name, "format": name, "setting": words, "top1": right, "agreement": same}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--data", type=Path, default=int8.SHARED / "data" / "imagenette")
    parser.add_argument(
        "--checkpoint", type=Path, default=int8.SHARED / "weights" / "deit_tiny_patch16_224.safetensors"
    )
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    rows = []
    with torch.inference_mode():
        for row in tried(args):
            rows.append(row)
            print("  ".join(f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
    if args.json:
        versions = {name: int8.version(name) for name in ("onnxruntime", "openvino", "nncf")}
        args.json.write_text(json.dumps({**environment(), **versions, "rows": rows}, indent=2) + os.linesep)


if __name__ == "__main__":
    main()
