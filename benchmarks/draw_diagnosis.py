"""Draw two plots of a diagnosis: docs/images/diagnosis.png.

    pip install scikit-image  # whose photographs are looked at
    python benchmarks/draw_diagnosis.py --checkpoint deit_tiny_patch16_224.safetensors

The photographs are those of `skimage.data` that ship with scikit-image and show something to recognise; none of them is
shown. The model is DeiT-Ti with its published weights; no method is trained.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import timm
import torch
from PIL import Image
from skimage import data

import vitrim
from vitrim.data.pictures import prepared
from vitrim.view.diagnosis.plots import plots

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "diagnosis.png"
NAMES, BUDGET = ("evit", "bat", "idlevit", "tome"), 0.65
PHOTOGRAPHS = (data.astronaut, data.camera, data.chelsea, data.clock, data.coffee, data.coins, data.horse, data.rocket)
LARGEST = 200_000  # bytes


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="weights of DeiT-Ti")
    model = timm.create_model("deit_tiny_patch16_224", checkpoint_path=parser.parse_args().checkpoint).eval()
    config = vitrim.data.data_config(model)
    images = torch.stack([prepared(Image.fromarray(each()), config) for each in PHOTOGRAPHS])
    drawn = plots(vitrim.view.diagnose([vitrim.reduce(model, name, macs=BUDGET) for name in NAMES], [images]))
    parts = [_pixels(drawn[name]) for name in ("similarity", "inattentive")]
    whole = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    for number, part in enumerate(parts):
        whole.paste(part, (0, sum(before.height for before in parts[:number])))
    whole.quantize(64).save(PICTURE, optimize=True)
    assert PICTURE.stat().st_size < LARGEST, "the picture is too large for the repository"


def _pixels(figure: object) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, dpi=110)  # ty: ignore[unresolved-attribute]
    return Image.open(file).convert("RGB")


if __name__ == "__main__":
    main()
