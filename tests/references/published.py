"""published.csv row by row: the model of each row that vitrim builds, and its GMACs as the papers count them.

The test of the same name and the table in docs/results/published.md walk these rows.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from copies import copier

import vitrim
from vitrim.common.on_meta import on_meta
from vitrim.runtime.build import attach

BACKBONES = {
    "deit_t": "deit_tiny_patch16_224",
    "deit_s": "deit_small_patch16_224",
    "deit_b": "deit_base_patch16_224",
    "lvvit_s": "lvvit_s",
    "lvvit_m": "lvvit_m",
}
METHODS = {
    "dense": None,
    "evit": ("evit", {}),
    "evit (no fusion)": ("evit", {"fuse": False}),
    "evit score=tokens": ("evit", {"score": "tokens"}),
    "evit (no fusion) score=tokens": ("evit", {"score": "tokens", "fuse": False}),
    "evit score=random": ("evit", {"score": "random"}),
    "evit score=-cls": ("evit", {"score": "-cls"}),
    "topk (no fusion, no training)": ("topk", {}),
    "idlevit": ("idlevit", {}),
    "bat": ("bat", {}),
    "bat merge=none": ("bat", {"merge": "none"}),
    "bat merge=pack": ("bat", {"merge": "pack"}),
    "bat merge=cluster": ("bat", {"merge": "cluster"}),
    "bat merge=cluster+match": ("bat", {"merge": "cluster+match"}),
    "evit+bat": ("bat", {"merge": "cluster", "normalise": False}),
    "bat merger=average pooling": ("bat", {"merger": "average"}),
    "bat merger=max pooling": ("bat", {"merger": "max"}),
    "bat merger=spatial pooling": ("bat", {"merger": "spatial"}),
    "bat merger=convolution": ("bat", {"merger": "convolution"}),
    "bat merger=mlp": ("bat", {"merger": "mlp"}),
    "bat merger=k-means 1 iteration": ("bat", {"merger": "kmeans", "iterations": 1}),
    "bat merger=k-means 3 iterations": ("bat", {"merger": "kmeans", "iterations": 3}),
    "bat merger=density peaks": ("bat", {"merger": "density"}),
    "dynamicvit": ("dynamicvit", {}),
    "evo-vit": ("evovit", {"stages": 3}),
    "ats": ("ats", {}),
    "evit score=dino": ("evit", {"at": 0}),  # what chooses the tokens does not change what they cost
    "tofe": ("tofe", {}),
    "tofe selector=dynamicvit": ("tofe", {"selector": "dynamicvit"}),
    "tofe approximator=bottleneck": ("tofe", {}),
    "tofe approximator=identity": ("tofe", {"approximator": "identity"}),
    "tofe approximator=depthwise conv": ("tofe", {"approximator": "conv"}),
    "tofe approximator=transformer block": ("tofe", {"approximator": "block"}),
}
KEEP_OF = {("bat", "1", "bat", "deit_t"): "0.7"}  # keep rates that a row leaves open and its GMACs settle
# Published without saying what vitrim computes: ATS's plan is that of an image that keeps all that it may, the table's
# figures are of images that keep fewer. Table 14's tokens leave before block 0, ours between its attention and its MLP.
APART = {"ats": 0.31, "evit score=dino": 0.07}
# (paper, table, method, backbone, keep, note): what the text of the paper gives where the table prints something else
# (the notes at the end of spec/methods.md).
TEXT = {
    ("evit", "2", "evit (no fusion)", "deit_s", "0.8", ""): 3.44,
    ("evit", "8", "evit", "deit_b", "0.5", ""): 8.82,  # the table's figures are those without fusion: 8.72
    ("evit", "13", "evit", "deit_s", "0.765", "places 2 6 10"): 3.05,  # likewise: 3.02
    ("idlevit", "1", "idlevit", "deit_s", "0.8", ""): 3.44,
    ("idlevit", "1", "idlevit", "deit_s", "0.7", ""): 3.01,
    ("idlevit", "1", "idlevit", "deit_s", "0.6", ""): 2.63,
    ("idlevit", "1", "idlevit", "deit_s", "0.5", ""): 2.33,
    ("idlevit", "1", "idlevit", "lvvit_s", "0.8", ""): 5.25,
    ("idlevit", "1", "idlevit", "lvvit_s", "0.7", ""): 4.77,
    ("idlevit", "1", "idlevit", "lvvit_s", "0.6", ""): 4.35,
    ("idlevit", "1", "idlevit", "lvvit_s", "0.5", ""): 4.02,
    ("idlevit", "2+S2", "dynamicvit", "deit_s", "0.8", ""): 3.46,
    ("idlevit", "2+S2", "dynamicvit", "deit_s", "0.6", ""): 2.57,
}


def key_of(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("paper", "table", "method", "backbone", "keep", "note"))


def published_rows(shared: Path) -> list[dict[str, str]]:
    """The rows of published.csv that print GMACs and that vitrim can build; none where the file is not there."""
    path = shared / "spec" / "published.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["keep"] = row["keep"] or KEEP_OF.get((row["paper"], row["table"], row["method"], row["backbone"]), "")
    return [r for r in rows if r["gmacs"] and r["keep"] and r["method"] in METHODS and r["backbone"] in BACKBONES]


@functools.cache
def _dense(name: str, image_size: int) -> Callable[[], torch.nn.Module]:
    with on_meta():
        return copier(timm.create_model(name, img_size=image_size))


def model_of(row: dict[str, str]) -> torch.nn.Module:
    """The row's model, on the meta device."""
    with on_meta():
        model = _dense(BACKBONES[row["backbone"]], int(row["image_size"]))()
        if METHODS[row["method"]] is None:
            return model
        name, options = METHODS[row["method"]]
        keep = tuple(map(float, row["keep"].split()))
        at = [int(word) - 1 for word in row["note"].split() if word.isdigit()] if "places" in row["note"] else None
        place = {} if at is None or row["backbone"].startswith("lvvit") else {"at": at}
        return attach(model, name, keep=keep if len(keep) > 1 else keep[0], **place, **options)


def as_the_papers_count(model: torch.nn.Module) -> float:
    """GMACs as the papers count them.

    EViT's scores are in the attention map, which the papers' code forms anyway; IdleViT projects all keys; BAT's tables
    leave out what its clustering and matching compute. `vitrim.profile` counts what vitrim computes.
    """
    profile = vitrim.profile(model)
    if not isinstance(model, vitrim.ReducedViT):
        return profile.gmacs
    (method,), body, macs = model.methods, model.body, profile.macs
    for place in method.places:
        block = profile.blocks[place.block]
        if block.method_macs and getattr(method, "score", None) == "tokens":
            macs -= body.width * (block.attention_tokens + body.prefix) ** 2
        if block.method_macs and method.name == "idlevit":
            idle = profile.patches - block.attention_tokens
            macs += idle * body.width**2 + profile.patches * body.width - block.method_macs
        if method.name == "bat":
            macs -= block.method_macs
    return macs / 1e9
