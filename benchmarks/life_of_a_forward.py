"""Follow a photograph through one forward: the tables of docs/life-of-a-forward.md.

    python benchmarks/life_of_a_forward.py [--image FILE]

Needs the real DeiT-Ti and a photograph (VITRIM_SHARED, default ../shared). Prints for EViT, ToMe and IdleViT what each
block sees and costs, and what the dense and the reduced model say. Figures only: nothing of the photograph is written.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import timm
import torch
from timm.data import create_transform

import vitrim
from vitrim.backbones.timm.checkpoints import load_checkpoint
from vitrim.data import data_config
from vitrim.data.decoding import decode

SHARED = Path(os.environ.get("VITRIM_SHARED", Path(__file__).resolve().parents[2] / "shared"))
MODEL = "deit_tiny_patch16_224"
IMAGE = SHARED / "data" / "imagenette" / "val" / "n02102040" / "ILSVRC2012_val_00004650.JPEG"
METHODS = {"EViT(keep=0.7)": vitrim.EViT(0.7), "ToMe(r=13)": vitrim.ToMe(13), "IdleViT(keep=0.7)": vitrim.IdleViT(0.7)}


def open_image(path: Path, dense) -> torch.Tensor:
    """The photograph [1, 3, height, width] as the model wants it."""
    return create_transform(**data_config(dense), is_training=False)(decode(str(path), "RGB"))[None]


def answer(name: str, logits: torch.Tensor) -> str:
    probability, index = logits.softmax(dim=-1).max(dim=-1)
    return f"{name}: class {index.item()} with {100 * probability.item():.1f} %"


def blocks(fast: vitrim.ReducedViT, trace: list[vitrim.BlockTrace]) -> str:
    """One row for each block: patch tokens in attention and MLP, patches that have a token, and the cost."""
    rows = ["| block | in attention | in the MLP | patches that some token stands for | million MACs |"]
    rows.append("|---:|---:|---:|---:|---:|")
    for block, record in zip(vitrim.profile(fast).blocks, trace, strict=True):
        standing = int((record.owners >= 0).sum())
        cost = f"{(block.macs + block.method_macs) / 1e6:.1f}"
        rows.append(f"| {block.block} | {block.attention_tokens} | {block.mlp_tokens} | {standing} | {cost} |")
    return "\n".join(rows)


@torch.no_grad()
def main() -> None:
    """Print what happens to the photograph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, default=IMAGE)
    path = parser.parse_args().image
    dense = timm.create_model(MODEL)
    load_checkpoint(dense, SHARED / "weights" / f"{MODEL}.safetensors")
    image = open_image(path, dense.eval())
    print(f"{path.name} through {MODEL}\n\n{answer('dense', dense(image))}")
    for name, method in METHODS.items():
        fast = vitrim.reduce(dense, method)
        logits, trace = fast(image, trace=True)
        share = 100 * vitrim.profile(fast).share
        print(f"\n{name}\n\n{blocks(fast, trace)}\n")
        print(f"{answer(name, logits)}, at {share:.1f} % of the dense cost")


if __name__ == "__main__":
    main()
