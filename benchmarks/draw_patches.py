"""Draw what methods do with the patches of a photograph: docs/images/patches.jpg.

    pip install scikit-image  # whose photographs are drawn
    python benchmarks/draw_patches.py --checkpoint deit_tiny_patch16_224.safetensors

The photograph is `skimage.data.chelsea()`: Chelsea the cat, by Stefan van der Walt, dedicated to the public domain
(CC0), which ships with scikit-image. The model is DeiT-Ti with its published weights; no method is trained.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import timm
from PIL import Image
from skimage import data

import vitrim
from vitrim.view import figure

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "patches.jpg"
NAMES, BUDGET = ("evit", "bat", "idlevit", "tome"), 0.65
LARGEST = 200_000  # bytes


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="weights of DeiT-Ti")
    model = timm.create_model("deit_tiny_patch16_224", checkpoint_path=parser.parse_args().checkpoint).eval()
    fast = [vitrim.reduce(model, name, macs=BUDGET) for name in NAMES]
    drawn = io.BytesIO()
    figure(fast, Image.fromarray(data.chelsea())).savefig(drawn, dpi=100)
    Image.open(drawn).convert("RGB").save(PICTURE, quality=82, optimize=True)
    assert PICTURE.stat().st_size < LARGEST, "the picture is too large for the repository"


if __name__ == "__main__":
    main()
