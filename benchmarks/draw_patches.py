"""Draw what methods do with the patches of a photograph: docs/images/patches.jpg, and a picture for each method's page.

    pip install scikit-image  # whose photographs are drawn
    python benchmarks/draw_patches.py --checkpoint deit_tiny_patch16_224.safetensors

The photograph is `skimage.data.chelsea()`: Chelsea the cat, by Stefan van der Walt, dedicated to the public domain
(CC0), which ships with scikit-image. The model is DeiT-Ti with its published weights; no method is trained.
"""

from __future__ import annotations

import argparse
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from PIL import Image
from skimage import data
from torch import nn

import vitrim
from vitrim.view import figure

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
BUDGET = 0.65
SIDE_BY_SIDE = ("evit", "bat", "idlevit", "tome")
# The page of each method -> the methods on it; the baselines have one page for all.
PAGES = {
    **{name: (name,) for name in vitrim.METHODS if name not in ("topk", "random", "grid")},
    "baselines": ("topk", "random", "grid"),
}
LARGEST, LARGEST_OF_PAGE = 200_000, 60_000  # bytes


def main() -> None:
    """Draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="weights of DeiT-Ti")
    torch.manual_seed(0)  # of parts that are learned
    model = timm.create_model("deit_tiny_patch16_224", checkpoint_path=parser.parse_args().checkpoint).eval()
    warnings.simplefilter("ignore", vitrim.UntrainedWarning)  # the pages say so
    draw("patches", model, SIDE_BY_SIDE, LARGEST)
    for page, names in PAGES.items():
        draw(f"patches-{page}", model, names, LARGEST_OF_PAGE, (9,) if len(names) > 1 else None)


def draw(
    name: str, model: nn.Module, methods: Sequence[str], largest: int, blocks: Sequence[int] | None = None
) -> None:
    """One picture, of so many bytes at most."""
    fast = [vitrim.reduce(model, method, macs=BUDGET) for method in methods]
    drawn, path = io.BytesIO(), IMAGES / f"{name}.jpg"
    figure(fast, Image.fromarray(data.chelsea()), blocks).savefig(drawn, dpi=100)
    Image.open(drawn).convert("RGB").save(path, quality=82 if largest == LARGEST else 74, optimize=True)
    assert path.stat().st_size < largest, f"{path} is too large for the repository"


if __name__ == "__main__":
    main()
