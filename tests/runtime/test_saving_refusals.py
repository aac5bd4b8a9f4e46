"""What load() could not make again is refused before anything is written, with the first difference; so is training."""

from __future__ import annotations

import os
from functools import partial

import pytest
import timm
import torch
from saving_setup import number_of, numbered, tiny
from timm.layers import LayerScale, Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.utils import parametrizations, prune

import vitrim
from vitrim.runtime.build import attach
from vitrim.training import Settings, finetune, get_recipe


class Doubled(Mlp):
    def forward(self, x):
        return 2 * super().forward(x)


class Mine(vitrim.EViT):
    """Named as EViT is, and chooses otherwise."""


class LoRA(nn.Module):
    """An adapter as adapter libraries put it in: a module around the layer."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base, self.a, self.b = base, nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)
        self.weight, self.bias = base.weight, base.bias
        self.in_features, self.out_features = base.in_features, base.out_features

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


def put(path: str, value):
    """A change: `value`, or what it makes of what is there, at that place of the model."""
    *owner, name = path.split(".")

    def change(model):
        there = model.get_submodule(".".join(owner))
        made = callable(value) and not isinstance(value, nn.Module)
        setattr(there, name, value(getattr(there, name)) if made else value)

    return change


def data_of(model):
    model.blocks[1].mlp.fc1.weight.data = model.blocks[0].mlp.fc1.weight.data


def quantised(model):
    torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, inplace=True)


def as_dtype(dtype, weight):
    return nn.Parameter(weight.detach().to(dtype), requires_grad=False)


CHANGES = {
    "head without bias": (lambda m: put("head", nn.Linear(48, 7, bias=False))(m), "backbone.head.bias is missing"),
    "head of two layers": (
        lambda m: put("head", nn.Sequential(nn.Linear(48, 7)))(m),
        "head is Sequential and would be L",
    ),
    "stem of one channel": (
        lambda m: put("patch_embed.proj", nn.Conv2d(1, 48, 8, 8))(m),
        r"patch_embed.proj.weight is \[48, 1, 8, 8\] and would be \[48, 3, 8, 8\]",
    ),
    "stem without bias": (
        lambda m: put("patch_embed.proj", nn.Conv2d(3, 48, 8, 8, bias=False))(m),
        "proj.bias is miss",
    ),
    "activation": (lambda m: put("blocks.2.mlp.act", nn.ReLU())(m), "blocks.2.mlp.act is ReLU and would be GELU"),
    "its argument": (
        lambda m: put("blocks.2.mlp.act", nn.GELU(approximate="tanh"))(m),
        "blocks.2.mlp.act: its approximate is 'tanh' and would be 'none'",
    ),
    "eps": (put("blocks.1.norm1.eps", 1e-3), "blocks.1.norm1: its eps is 0.001 and would be 1e-06"),
    "heads": (put("blocks.1.attn.num_heads", 6), "blocks.1.attn: its num_heads is 6 and would be 3"),
    "scale": (put("blocks.1.attn.scale", 0.5), "blocks.1.attn: its scale is 0.5"),
    "pooling": (put("global_pool", "avg"), "backbone"),
    "flag": (put("no_embed_class", True), "backbone: its no_embed_class is True and would be False"),
    "layer scale": (
        lambda m: put("blocks.0.ls1", LayerScale(48))(m),
        "blocks.0.ls1 is LayerScale and would be Identity",
    ),
    "subclass of a layer": (lambda m: setattr(m.blocks[0].mlp, "__class__", Doubled), "blocks.0.mlp is Doubled"),
    "adapter": (put("blocks.0.mlp.fc1", LoRA), "blocks.0.mlp.fc1 is LoRA and would be Linear; merge adapters"),
    "weight norm": (lambda m: parametrizations.weight_norm(m.blocks[0].mlp.fc1), "fc1 is ParametrizedLinear"),
    "spectral norm": (lambda m: nn.utils.spectral_norm(m.blocks[0].mlp.fc1), "fc1 has a forward hook"),
    "pruning": (lambda m: prune.l1_unstructured(m.blocks[0].mlp.fc1, "weight", 0.5), "fc1 has a forward hook"),
    "hook": (lambda m: m.blocks[2].register_forward_hook(lambda *given: None), "blocks.2 has a forward hook"),
    "hook before": (lambda m: m.register_forward_pre_hook(lambda *given: None), "backbone has a forward hook"),
    "forward": (
        lambda m: put("blocks.0.mlp.forward", lambda _: torch.relu)(m),
        "blocks.0.mlp: its forward is replaced",
    ),
    "forward_features": (lambda m: setattr(m, "forward_features", torch.relu), "its forward_features is replaced"),
    "positions": (lambda m: setattr(m, "_pos_embed", torch.relu), "its _pos_embed is replaced"),
    "shared layer": (lambda m: put("blocks.1.mlp", m.blocks[0].mlp)(m), "share their values"),
    "shared weight": (lambda m: put("blocks.1.mlp.fc1.weight", m.blocks[0].mlp.fc1.weight)(m), "share their values"),
    "shared memory": (data_of, "blocks.0.mlp.fc1.weight and backbone.blocks.1.mlp.fc1.weight share their values"),
    "parameter": (
        lambda m: m.register_parameter("more", nn.Parameter(torch.zeros(3))),
        "more is one parameter too many",
    ),
    "buffer": (lambda m: m.register_buffer("more", torch.zeros(3)), "more is one buffer too many"),
    "module": (lambda m: m.add_module("more", nn.Identity()), r"backbone.more \(Identity\) is one part too many"),
    "int8": (put("head.weight", partial(as_dtype, torch.int8)), "head.weight is torch.int8 and would be torch.float32"),
    "float8": (put("head.weight", partial(as_dtype, torch.float8_e4m3fn)), "head.weight is torch.float8_e4m3fn"),
    "complex": (put("head.weight", partial(as_dtype, torch.complex64)), "head.weight is torch.complex64"),
    "sparse": (
        put("head.weight", lambda w: nn.Parameter(w.detach().to_sparse())),
        "head.weight is Parameter of layout",
    ),
    "meta": (lambda m: m.to("meta"), "has no values: it is on the meta device"),
    "quantised": (quantised, r"qkv is torch\.ao\..*Linear and would be torch\.nn\.modules\.linear\.Linear"),
}


@pytest.fixture
def good(tmp_path):
    """A folder that holds something good."""
    numbered(3).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES.keys())
def test_models_that_are_other_than_their_config_says(change, said, good):
    model = vitrim.reduce(tiny(), "evit", keep=0.6)
    change(model.backbone)
    before = {name: (good / name).read_bytes() for name in os.listdir(good)}
    with pytest.raises(
        ValueError, match=f"^the model cannot be saved, since load\\(\\) would make another: .*{said}"
    ) as no:
        model.save(good)
    assert "\n" not in str(no.value) and len(str(no.value)) <= 320 and "state_dict() yourself" in str(no.value)
    assert before == {name: (good / name).read_bytes() for name in os.listdir(good)}
    assert number_of(vitrim.load(good)) == 3


@pytest.mark.filterwarnings("ignore")
def test_the_same_of_the_parts_of_methods_and_guides(tmp_path):
    model = attach(tiny(), "dynamicvit")
    model.methods[0].predictors[0].local[2] = nn.ReLU()
    with pytest.raises(ValueError, match=r"methods.0.predictors.0.local.2 is ReLU and would be GELU"):
        model.save(tmp_path / "a")
    model = attach(tiny(), "evit")
    model.methods[0].register_forward_hook(lambda *given: None)
    with pytest.raises(ValueError, match=r"methods.0 has a forward hook"):
        model.save(tmp_path / "a")
    model = attach(tiny(), "dynamicvit")
    model.methods[0].masked = True
    with pytest.raises(ValueError, match=r"dynamicvit: masked is set to True"):
        model.save(tmp_path / "a")
    asked = tiny()
    asked.blocks[0].mlp.act = nn.ReLU()
    model = vitrim.reduce(tiny(), vitrim.EViT(score=vitrim.LastClassAttention(asked)))
    with pytest.raises(ValueError, match=r"methods.0.guide.model.blocks.0.mlp.act is ReLU"):
        model.save(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_models_that_no_config_can_name(tmp_path):
    size = dict(img_size=40, patch_size=8, embed_dim=48, depth=4, num_heads=3)
    refused = {
        "was not made by timm": vitrim.reduce(VisionTransformer(**size), "evit"),
        r"built with act_layer=<class .*ReLU'>.*act_layer=\"relu\"": vitrim.reduce(tiny(act_layer=nn.ReLU), "evit"),
        "guided by a callable cannot be saved": vitrim.reduce(tiny(), vitrim.EViT(score=lambda images: images.mean())),
        "the name 'evit' of Mine is taken by vitrim's own": vitrim.reduce(tiny(), Mine()),
        "VisionTransformer is no reduced model: save what vitrim.reduce": tiny(),
        "Other is no reduced model": type("Other", (vitrim.ReducedViT,), {})(tiny(), [vitrim.EViT()]),
    }
    for said, model in refused.items():
        with pytest.raises(ValueError, match=said):
            vitrim.save(model, tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_training_is_refused_before_it_starts(tmp_path):
    dense = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2)
    dense.blocks[1].mlp.act = nn.ReLU()
    settings = Settings(tmp_path / "out", cpu=True, show=False)
    with pytest.raises(ValueError, match=r"cannot be saved.*blocks.1.mlp.act is ReLU"):
        finetune(dense, "evit", tmp_path / "nowhere", get_recipe("distill", small=True), settings)
    with pytest.raises(ValueError, match=r"the name 'evit' of Mine is taken by vitrim's own"):
        finetune(tiny(), Mine(), tmp_path / "nowhere", get_recipe("distill", small=True), settings)
    assert os.listdir(tmp_path) == []
