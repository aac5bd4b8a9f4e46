"""The demo's model: a small timm `VisionTransformer` with weights in the package, so that no download is needed."""

from importlib.resources import files

from safetensors.torch import load
from torch import nn

from ..backbones import TIMM
from .digits import CANVAS_SIZE, CLASSES, MEAN, STD

NAME = "digits_vit"
PATCH_SIZE = 4
ARCHITECTURE = {
    "img_size": CANVAS_SIZE,
    "patch_size": PATCH_SIZE,
    "in_chans": 1,
    "num_classes": CLASSES,
    "embed_dim": 64,
    "depth": 8,
    "num_heads": 4,
    "mlp_ratio": 4.0,
    "class_token": True,
    "global_pool": "token",
}
# The keys that timm's data pipeline and `vitrim` read from a pretrained model.
PRETRAINED_CFG = {
    "architecture": NAME,
    "num_classes": CLASSES,
    "input_size": (1, CANVAS_SIZE, CANVAS_SIZE),
    "fixed_input_size": True,
    "mean": (MEAN,),
    "std": (STD,),
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "crop_mode": "center",
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}


def build_model() -> nn.Module:
    """The demo's architecture with timm's random initial weights: images [B, 1, 64, 64] to logits [B, 10]."""
    return TIMM.create_unlisted(PRETRAINED_CFG, **ARCHITECTURE)


def load_model() -> nn.Module:
    """The trained demo model in float32 and evaluation mode. `benchmarks/train_demo.py` makes its weights again.

    Raises:
        RuntimeError: the packaged weights do not fit the architecture.
    """
    stored = files("vitrim.demo").joinpath(f"{NAME}.safetensors").read_bytes()
    model = build_model()
    model.load_state_dict({name: tensor.float() for name, tensor in load(stored).items()})
    return model.eval()
