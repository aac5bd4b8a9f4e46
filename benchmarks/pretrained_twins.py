"""Does a reduced model of transformers keep as much of its promise as its twin in timm, which has the same weights?

    python benchmarks/pretrained_twins.py --threads 2 --rounds 25 --json benchmarks/results/pretrained_twins.json

ViT-S/16, CLIP-B/16 and DINOv2-S/14 at 224 pixels, of the published shapes and with random weights, which do not change
the speed; dense, and with EViT and ToMe at half of the MACs, in float32. All models of one shape are timed in turn in
one run, each as its library's users call it: transformers' outputs, poolers and hidden states of every patch included.
kept is the median over the rounds of (dense time / reduced time), times the share of MACs. Before anything is timed,
both twins must give the same, dense and reduced.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table_text import markdown
from torch import Tensor, nn

import vitrim
from vitrim.evaluate import environment
from vitrim.evaluate.timing import times_in_turn

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("timm", "transformers")
METHODS = ("evit", "tome")
TOLERANCE = 1e-3  # of the largest value


@dataclass(frozen=True)
class Shape:
    """twin: transformers' class, as in tests/pretrained/twins.py; config: of it; size: the arguments of timm's model"""

    twin: str
    config: str
    width: int
    heads: int
    patch: int
    classes: int = 0

    def models(self) -> tuple[Any, nn.Module, Any]:
        """transformers' model, timm's with its weights, and what knows both."""
        import transformers

        sys.path.insert(0, str(ROOT / "tests" / "pretrained"))
        from twins import TWINS

        twin = next(twin for twin in TWINS if twin.name == self.twin)
        sizes = {"hidden_size": self.width, "num_attention_heads": self.heads, "patch_size": self.patch}
        rest = {"num_hidden_layers": 12, "intermediate_size": 4 * self.width, "image_size": 224}
        labels = {"num_labels": self.classes} if self.classes else {}
        config = getattr(transformers, self.config)(**sizes, **rest, **labels)
        ours = getattr(transformers, self.twin)(config).eval()
        theirs = twin.timm(
            img_size=224, patch_size=self.patch, embed_dim=self.width, depth=12, num_heads=self.heads, mlp_ratio=4,
            num_classes=self.classes,
        )  # fmt: skip
        return ours, twin.filled(theirs, ours), twin


SHAPES = {
    "ViT-S/16": Shape("ViTForImageClassification", "ViTConfig", 384, 6, 16, 1000),
    "CLIP-B/16": Shape("CLIPVisionModel", "CLIPVisionConfig", 768, 12, 16),
    "DINOv2-S/14": Shape("Dinov2Model", "Dinov2Config", 384, 6, 14),
}


def measure(name: str, batch: int, macs: float, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """One row for each method: what both twins keep; their difference is the median of those of every round."""
    torch.manual_seed(0)
    ours, theirs, twin = SHAPES[name].models()
    images = torch.randn(batch, 3, 224, 224)
    dense = dict(zip(LIBRARIES, (theirs, ours), strict=True))
    models = {(library, "dense"): model for library, model in dense.items()}
    for method in METHODS:
        for library, model in dense.items():
            models[library, method] = vitrim.reduce(model, method, macs=macs).eval()
    with torch.inference_mode():
        for method in ("dense", *METHODS):
            check_same(twin.output(models["transformers", method](images)), models["timm", method](images), method)
        times = times_in_turn({" ".join(key): model for key, model in models.items()}, images, rounds, seconds)
    return [row(name, method, models, times) for method in METHODS]


def check_same(found: Tensor, wanted: Tensor, method: str) -> None:
    off = float((found - wanted).abs().max() / wanted.abs().max())
    if off > TOLERANCE:
        raise SystemExit(f"{method}: the twins differ by {off:.2g} of the largest value, and cannot be compared")


def row(name: str, method: str, models: dict[tuple[str, str], Any], times: list[dict[str, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {"model": name, "method": method}
    by_library = {}
    for library in LIBRARIES:
        share = vitrim.profile(models[library, method]).share
        kept = share * np.array([each[f"{library} dense"] / each[f"{library} {method}"] for each in times])
        by_library[library] = kept
        low, middle, high = map(float, np.quantile(kept, (0.1, 0.5, 0.9)))
        ms = {
            what: 1000 * float(np.median([each[f"{library} {what}"] for each in times])) for what in ("dense", method)
        }
        found[library] = {"share": share, "kept": middle, "kept_p10_p90": [low, high], "ms": ms}
    found["difference"] = float(np.median(by_library["transformers"] - by_library["timm"]))
    return found


def table(rows: list[dict[str, Any]]) -> str:
    titles = ["model, method", "of dense", "kept, timm", "kept, transformers", "10 % to 90 %", "difference"]
    lines = [
        [
            f"{row['model']}, {row['method']}",
            f"{row['transformers']['share']:.1%}",
            *(f"{row[library]['kept']:.3f}" for library in LIBRARIES),
            f"{row['transformers']['kept_p10_p90'][0]:.3f} to {row['transformers']['kept_p10_p90'][1]:.3f}",
            f"{row['difference']:+.3f}",
        ]
        for row in rows
    ]
    return markdown(titles, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=0.2, help="of one model in one round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for shape in given.shapes:
        rows += measure(shape, given.batch_size, given.macs, given.rounds, given.seconds)
        print(table(rows[-len(METHODS) :]), flush=True)
    where = environment("cpu")
    print(f"\n{table(rows)}\n\n{where['processor']}, {where['threads']} threads, torch {where['torch']}")
    if given.json is not None:
        given.json.write_text(json.dumps({**where, "batch_size": given.batch_size, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
