"""What each part of PruneMerge is worth, and parts that were tried and left out: one plan for all, on DeiT-Ti.

    python benchmarks/prunemerge_parts.py --checkpoint FILE --photos imagenette --macs 0.5 \\
        --json benchmarks/results/prunemerge_parts.json

The plan of `--front` for `--macs` keeps its lists, and one part is changed at a time. Judged on the validation folder
(--judged photographs of each class, the first by name; crop 1): agreement with the dense model, KL, top-1 lost. The
lists were searched with all parts in place, which favours these; --trials searches them anew for each row, on --images
photographs of the training folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor, nn
from tuning import DEVICE, NAME, Judged, load, photographs

import vitrim
from vitrim.evaluate import environment
from vitrim.methods import METHODS, register_method
from vitrim.methods.prunemerge import PruneMerge
from vitrim.runtime.plan_file import pick, read_plans
from vitrim.tune import tune

FRONT = Path(__file__).parent / "results" / "plan_front.json"
HEADS = {
    "max": lambda rows: rows.amax(dim=1),
    "root of the mean square": lambda rows: rows.square().mean(dim=1).sqrt(),
    "fourth power": lambda rows: rows.pow(4).mean(dim=1),
}


class Heads(PruneMerge):
    """Scores from the heads together in another way than their mean."""

    heads = "max"

    def forward(self, tokens, evidence, place):
        rows = (evidence.class_rows() * evidence.value_norms().unsqueeze(2)).mean(dim=2)
        mean: Any = self.scorer
        given: Any = Given(HEADS[self.heads](rows))
        self.scorer = given
        try:
            return super().forward(tokens, evidence, place)
        finally:
            self.scorer = mean


class Given:
    """A scorer that says what it was given."""

    def __init__(self, scores: Tensor):
        self.given = scores

    def scores(self, *_: Any) -> Tensor:
        return self.given


class Seen(PruneMerge):
    """Pairs found by something else than the features as they are."""

    seen = "centred"

    def _pairs(self, tokens, read, candidates, merged):
        return super()._pairs(tokens.with_x(self._other(tokens)), read, candidates, merged)

    def _other(self, tokens: Any) -> Tensor:
        x = tokens.x
        if self.seen == "centred":
            return x - x.mean(dim=1, keepdim=True)
        return nn.functional.layer_norm(x, x.shape[-1:])


def variant(base: type, name: str, options: Mapping[str, Any], **settings: Any) -> Any:
    """The method with other defaults, so that searches and plans can name it."""

    def init(self, keep=None, pruned=None, merged=None, at=None, proportional=True):
        PruneMerge.__init__(self, keep, pruned, merged, at, proportional=proportional, **options)

    return type(name, (base,), {"__init__": init, "name": name, **settings})


PARTS: dict[str, tuple[type, dict[str, Any], dict[str, Any]]] = {
    "all parts": (PruneMerge, {}, {}),
    "without rescale": (PruneMerge, {"rescale": False}, {}),
    "score cls": (PruneMerge, {"score": "cls"}, {}),
    "candidates 0": (PruneMerge, {"candidates": 0.0}, {}),
    "candidates 0.5": (PruneMerge, {"candidates": 0.5}, {}),
    "candidates 1": (PruneMerge, {"candidates": 1.0}, {}),
    **{f"heads by {way}": (Heads, {}, {"heads": way}) for way in HEADS},
    **{f"pairs by {way} features": (Seen, {}, {"seen": way}) for way in ("centred", "normed")},
}


def named(part: str) -> str:
    """Register the variant, if it is not; its name."""
    name = f"prunemerge-{ascii_lowercase[list(PARTS).index(part)]}"
    if name not in METHODS:
        base, options, settings = PARTS[part]
        register_method(variant(base, name, options, **settings))
    return name


def reduced(part: str, dense: Any, args: argparse.Namespace) -> nn.Module:
    """The dense model with that part changed, at the lists of the front, or at those that a search finds."""
    if args.trials:
        images, _ = photographs(args.photos / "train", dense, -(-args.images // 10))
        return vitrim.reduce(dense, tune(dense, images, [named(part)], [args.macs], trials=args.trials)[0].plan)
    (_, lists), *_ = pick(read_plans(args.front), args.macs).methods
    return vitrim.reduce(dense, named(part), prediction_only=True, **lists)


@torch.inference_mode()
def divergence(dense: Any, fast: nn.Module, images: Tensor) -> float:
    """Mean KL from the dense model's classes."""
    pairs = [(dense(batch).log_softmax(dim=1), fast(batch).log_softmax(dim=1)) for batch in images.split(256)]
    return float(torch.cat([(one.exp() * (one - other)).sum(dim=1) for one, other in pairs]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--front", type=Path, default=FRONT)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--judged", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=0)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--parts", nargs="+", default=list(PARTS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    dense = load(args)
    judged = Judged(dense, *photographs(args.photos / "val", dense, args.judged))
    rows = []
    for part in args.parts:
        fast = reduced(part, dense, args).eval()
        rows.append({"part": part, "kl": divergence(dense, fast, judged.images), **judged(fast)})
        print("{part:30} agreement {agreement:.1f}  KL {kl:.4f}  lost {lost:.1f}".format(**rows[-1]), flush=True)
    if args.json:
        asked = {key: getattr(args, key) for key in ("macs", "judged", "trials", "images")}
        about = {**environment(DEVICE), "model": NAME, **asked, "photographs": len(judged.images)}
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
