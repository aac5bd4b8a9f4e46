"""Law 7, models: every family that no backbone lists is refused by name, with the reason."""

from __future__ import annotations

import pytest
import timm
import torch
from settings import REFUSED_NAMES, backbones, dense
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer
from torch import nn

import vitrim
from vitrim.common.on_meta import on_meta

TINY = dict(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3)


def _refused(model: nn.Module, *words: str) -> str:
    with pytest.raises(ValueError) as caught:
        vitrim.reduce(model, "random", at=1)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    with pytest.raises(ValueError):
        vitrim.profile(model)
    return message


@pytest.mark.parametrize("name", REFUSED_NAMES)
def test_timm_names_with_other_blocks(name):
    with on_meta():
        model = timm.create_model(name, depth=2)
    _refused(model, "block 0", type(model.blocks[0]).__name__ if "dlittle" not in name and "_dwee" not in name else "")


def test_post_norm_and_parallel_blocks():
    _refused(VisionTransformer(**TINY, block_fn=ResPostBlock, init_values=1e-5), "ResPostBlock", "pre-norm Block")
    _refused(VisionTransformer(**TINY, block_fn=ParallelScalingBlock), "ParallelScalingBlock", "pre-norm Block")


def test_differential_attention():
    _refused(VisionTransformer(**TINY, attn_layer="diff"), "attention of block 0 is DiffAttention", "Attention")


def test_one_odd_block_among_many():
    model = VisionTransformer(**TINY)
    model.blocks[1].mlp = nn.Sequential(nn.Linear(16, 16))
    _refused(model, "mlp of block 1 is Sequential", "Mlp, GluMlp and SwiGLU")


class Homemade(VisionTransformer):
    """A subclass whose forward does something else."""

    def forward(self, x):
        return super().forward(x.flip(-1))


def test_subclasses_may_compute_something_else():
    message = _refused(Homemade(**TINY), "Homemade is not supported", "not subclasses")
    assert "VisionTransformer" in message and "VisionTransformerDistilled" in message


@pytest.mark.parametrize(
    "name",
    [
        "vit_relpos_small_patch16_224",
        "hiera_tiny_224",
        "resnet18",
        "convnext_atto",
        "cait_xxs24_224",
        "beit_base_patch16_224",
        "naflexvit_base_patch16_gap",
        "samvit_base_patch16",
        "mobilevit_xxs",
        "crossvit_9_240",
    ],
)
def test_other_families(name):
    with on_meta():
        model = timm.create_model(name)
    _refused(model, f"{type(model).__name__} is not supported", "vitrim runs timm's")


def test_what_is_no_timm_model():
    _refused(nn.Sequential(nn.Linear(3, 3)), "Sequential is not supported")
    _refused(nn.Linear(3, 3), "Linear is not supported")


def test_patch_dropout_and_prr_pooling():
    _refused(
        VisionTransformer(**TINY, patch_drop_rate=0.5), "patch_drop_rate > 0 is not supported", "patch_drop_rate=0"
    )
    _refused(VisionTransformer(**TINY, global_pool="prr"), "'prr' is not supported", "token, avg, max or map")


def test_models_that_are_no_modules():
    for wrong in (None, "deit_tiny_patch16_224", 3):
        with pytest.raises(ValueError, match=r"is no model: give one|a model is wanted, and '.*' is its name"):
            vitrim.reduce(wrong, "evit")


def test_every_row_of_the_table_is_supported():
    """The control: nothing that the laws walk over is refused."""
    for row in backbones():
        assert vitrim.profile(dense(row.values[0])).macs > 0


class Wrapped(torch.nn.Module):
    """Passes calls on, and nothing else."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize(
    ("part", "said"), [("blocks", "blocks is a Wrapped"), ("patch_embed", "patch_embed is a Wrapped")]
)
@pytest.mark.parametrize("name", ["deit", "lvvit", "dinov3", "swin"])
def test_wrappers_of_parts_that_are_looked_into(name, part, said):
    model = dense(next(b.values[0] for b in backbones() if b.values[0].name == name))
    if not hasattr(model, part):
        return
    setattr(model, part, Wrapped(getattr(model, part)))
    with pytest.raises(ValueError, match=said):
        vitrim.reduce(model, "evit")
