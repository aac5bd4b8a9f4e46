"""What Evo-ViT's representative is worth without training: the real DeiT-Ti on Imagenette's photographs.

    python benchmarks/evovit_representative.py

The paper's method sends one representative of the uninformative tokens through each block; the authors' DeiT code has
none, and in blocks 0 to 3 only the block's own class attention counts there (their trade-off of 1). Top-1 over all 1000
classes, on the first --per-class validation photographs of each class, crop 1.0; docs/methods/evovit.md quotes it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import timm

import vitrim
from vitrim.backbones.timm.checkpoints import load_checkpoint
from vitrim.core.reductions import Keep
from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import environment, evaluate_many

SHARED = Path(os.environ.get("VITRIM_SHARED", Path(__file__).resolve().parents[2] / "shared"))


class Alone(vitrim.EvoViT):
    """Informative tokens go through the block without a representative; the others stay as they were."""

    def forward(self, tokens, evidence, place):
        fused = super().forward(tokens, evidence, place)
        return None if fused is None else Keep(fused.index, scores=fused.scores)


class AloneByTheCode(Alone):
    """The same, and before the first place only a block's own class attention counts."""

    def observe(self, tokens, evidence, block):
        if block < self.places[0].block:
            return evidence.class_attention() if self._needed(block) else None
        return super().observe(tokens, evidence, block)


def dense_model():
    model = timm.create_model("deit_tiny_patch16_224")
    load_checkpoint(model, SHARED / "weights" / "deit_tiny_patch16_224.safetensors")
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--per-class", type=int, default=100)
    args = parser.parse_args()
    dense = dense_model()
    ways = {"paper": vitrim.EvoViT, "no representative": Alone, "no representative, trade-off 1": AloneByTheCode}
    models = {name: vitrim.reduce(dense, way(keep=args.keep)) for name, way in ways.items()}
    folder = SHARED / "data" / "imagenette" / "val"
    photographs = open_dataset(folder, dense, crop_pct=1.0, limit_per_class=args.per_class)
    found = evaluate_many({"dense": dense, **models}, open_loader(photographs, 32, 0))
    figures = {name: {"top1": r.top1, "interval": r.top1_interval, "images": r.images} for name, r in found.items()}
    print(json.dumps({**vars(args), **environment(), "rows": figures}, indent=1))


if __name__ == "__main__":
    main()
