"""What `print` says of reduced models and of profiles."""

from __future__ import annotations

import timm
from torch import nn

import vitrim
from vitrim.common.on_meta import on_meta
from vitrim.runtime.build import attach


def meta(name: str = "deit_small_patch16_224") -> nn.Module:
    with on_meta():
        return timm.create_model(name)


def test_a_stack_has_a_line_for_each_method():
    fast = vitrim.reduce(meta(), [vitrim.EViT(keep=0.7, at=(2,), fuse=False), vitrim.ToMe(r=8, at=range(3, 12))])
    assert repr(fast).splitlines() == [
        "ReducedViT of deit_small_patch16_224, 196 patch tokens",
        "  evit(keep=0.7, fuse=False) in block 2: 138 left",
        "  tome(r=8) in blocks 3 to 11: 130 to 66 left",
        "  2.828 of 4.599 GMACs (61.5 %)",
        "  summary() shows every block",
    ]


def test_what_a_method_chose_and_who_guides_it_is_said():
    assert "tofe(keep=[0.49, 0.25, 0.14]) in blocks 3, 6, 9: 96, 49, 27 left" in repr(attach(meta(), "tofe"))
    model = meta()
    guided = vitrim.reduce(model, "evit", keep=0.5, score=vitrim.LastClassAttention(model))
    assert "evit(keep=0.5, score=LastClassAttention) in blocks" in repr(guided)


def test_a_model_taken_apart_still_has_a_repr():
    fast = vitrim.reduce(timm.create_model("test_vit"), "evit", keep=0.7)
    fast.backbone = nn.Identity()
    assert repr(fast).startswith("ReducedViT(\n  (backbone): Identity()")


def test_a_profile_is_a_table_and_its_repr_a_line():
    cost = vitrim.profile(vitrim.reduce(meta(), "evit", keep=0.7))
    assert repr(cost) == "Profile(gmacs=3.030, dense_gmacs=4.599, share=0.659, tokens left: 139 99 71 of 196)"
    assert "\n3          196 > 139    311.30          0.15   82.3 %" in str(cost) and str(cost).endswith(cost.total)
    dense = str(vitrim.profile(meta()))
    assert "share" not in dense and dense.endswith("4.599 GMACs, 196 patch tokens, 22.05 M parameters")
    assert str(cost).isascii()
