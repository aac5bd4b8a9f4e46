"""What the tests of ToFe share: small models with random parameters, decisions, counted MACs."""

from __future__ import annotations

from settings import BACKBONES, dense, images, level, randomise

import vitrim
from vitrim.runtime.build import attach

ROWS = {row.name: row for row in BACKBONES}
OPTIONS = {
    "default": dict(),
    "places": dict(keep=(0.7, 0.2), at=(0, 2)),
    "identity": dict(keep=0.6, approximator="identity"),
    "conv": dict(keep=0.6, approximator="conv"),
    "block": dict(keep=0.6, approximator="block"),
    "predictor": dict(keep=0.7, selector="dynamicvit"),
    "no-reuse": dict(keep=0.7, reuse=False),
    "no-reuse-predictor": dict(keep=0.7, reuse=False, selector="dynamicvit"),
}


def put_on(name: str, adaptive: str = "batch", **options) -> vitrim.ReducedViT:
    """ToFe with random parameters on the row's model, in eval mode; its selectors keep about half of the tokens."""
    fast = attach(dense(ROWS[name]), "tofe", adaptive=adaptive, **options)
    randomise(fast.methods[0], seed=1)
    return level(fast.eval(), images(ROWS[name], batch=8, seed=2)).requires_grad_(False)


def kept_of(trace, method) -> list[list[list[int]]]:
    """For every image the patches that each place kept."""
    kept = [trace[place.block].kept.tolist() for place in method.places]
    return [[sorted(j for j in stage[image] if j >= 0) for stage in kept] for image in range(len(kept[0]))]
