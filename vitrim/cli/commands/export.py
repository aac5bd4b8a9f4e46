"""What `vitrim export` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...common.places import EXPORTED
from ..shared.options import MethodChoice, ModelOptions, OutputOptions
from ..shared.spec import PLACES, Command, option, required

FORMATS = ("onnx", "openvino", "torch", "aotinductor")


@dataclass(kw_only=True)
class ExportOptions:
    """File"""

    out: Path = required("the file to write: .onnx for ONNX Runtime, .xml for OpenVINO, .pt2 for PyTorch")
    format: str | None = option(
        "onnx, openvino, torch, or aotinductor, a .pt2 of machine code",
        shown="by the ending",
        choices=FORMATS,
        common=True,
    )
    int8: str | None = option(
        "compute in int8: static (.onnx, .xml), ranges measured on --calibration; dynamic (.onnx), when it runs",
        choices=("static", "dynamic"),
        common=True,
    )
    calibration: str | None = option(
        "images for --int8 static; those of --data are left out of them", common=True, metavar="PATH"
    )
    overwrite: bool = option("replace the file, where it is there", False, common=True)
    batch_size: int | None = option("the only size of batches that the file takes", shown="any size", common=True)
    with_preprocessing: bool = option(
        "let the file take uint8 images [batch, height, width, 3] and normalise them itself", False, common=True
    )
    data: str | None = option(
        "images to check the file on, as for evaluate", shown="random ones", common=True, metavar="PATH"
    )
    limit: int | None = option("number of these images, drawn at random", shown="32; 256 with --int8", common=True)
    seed: int = option("seed of methods and images that are drawn at random", 0)


EXPORT = Command(
    "export",
    "write a reduced model as an ONNX, OpenVINO or PyTorch file",
    "The file is run, and compared with the model, before it is there. It gives the prediction alone, so the "
    "last block computes no more, where the model allows that (--prediction-only).",
    (
        "vitrim export --model deit_small_patch16_224 --macs 0.6 --out fast.onnx",
        "vitrim export --checkpoint runs/evit --data val --int8 dynamic --out a.onnx",
    ),
    {"model": ModelOptions, "method": MethodChoice, "file": ExportOptions, "output": OutputOptions},
    PLACES,
    endings=EXPORTED,
)
