"""LV-ViT (Jiang et al., "All Tokens Matter: Token Labeling for Training Better Vision Transformers", NeurIPS 2021).

timm does not have it. The model here is ours, from the papers' description, with the parameter names of the published
checkpoints; it is registered with timm (`timm.create_model("lvvit_s")` after `import vitrim`). It stands on timm's
`VisionTransformer`, so it answers to all of timm's interface.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from timm.layers import PatchEmbed, nchw_to
from timm.models import checkpoint_seq
from timm.models.vision_transformer import (
    Block,
    VisionTransformer,
    checkpoint_filter_fn,  # noqa: F401  timm's way of converting checkpoints is looked for beside the model
)
from torch import Tensor, nn

from ...core.recording import image_size, laid_out
from ...core.tokens import Tokens
from ..admission import kinds
from ..base import Backbone
from ..counting import conv_weights, counted_stem, pixels_of
from ..layers import kind
from ..timm.checks import check_block, check_size
from ..timm.plain import ATTENTIONS, SEQUENTIAL, PlainBackbone
from .token_labels import TokenLogits, random_box


class Divide(nn.Module):
    """x / value, in the place of LayerScale: LV-ViT divides every residual branch by `skip_lam`."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x / self.value

    def extra_repr(self) -> str:
        return f"{self.value:g}"


class LVViTBlock(Block):
    """timm's pre-norm block whose residual branches are divided by `skip_lam`."""

    def __init__(self, *args, skip_lam: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.ls1, self.ls2 = (nn.Identity() if skip_lam == 1 else Divide(skip_lam) for _ in range(2))


class ConvStem(PatchEmbed):
    """Patch embedding by four convolutions: 7x7 stride 2, 3x3, 3x3 (BatchNorm and ReLU after each), then a projection
    of (patch/2) x (patch/2) with that stride. Images [b, 3, height, width] to [b, n, c]."""

    def __init__(self, *args, stem_channels: int = 64, in_chans: int = 3, embed_dim: int = 384, bias=True, **kwargs):
        super().__init__(*args, in_chans=in_chans, embed_dim=embed_dim, bias=bias, **kwargs)
        half = tuple(side // 2 for side in self.patch_size)
        conv = partial(nn.Conv2d, out_channels=stem_channels, bias=False)
        self.conv1, self.bn1 = conv(in_chans, kernel_size=7, stride=2, padding=3), nn.BatchNorm2d(stem_channels)
        self.conv2, self.bn2 = conv(stem_channels, kernel_size=3, padding=1), nn.BatchNorm2d(stem_channels)
        self.conv3, self.bn3 = conv(stem_channels, kernel_size=3, padding=1), nn.BatchNorm2d(stem_channels)
        self.proj = nn.Conv2d(stem_channels, embed_dim, kernel_size=half, stride=half, bias=bias)
        self.relu = nn.ReLU()

    def set_input_size(self, img_size=None, patch_size=None):
        if patch_size is not None:
            raise ValueError("the patch size of LV-ViT's convolutional stem cannot be changed: set img_size alone")
        super().set_input_size(img_size=img_size)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Tensor:  # ty: ignore[lost-keyword-for-regular-parameter]
        check_size(self, images)
        if self.dynamic_img_pad:
            height, width = image_size(images)
            images = F.pad(images, (0, -width % self.patch_size[1], 0, -height % self.patch_size[0]))
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.proj(self.relu(self.bn3(self.conv3(x))))
        return x.flatten(2).transpose(1, 2) if self.flatten else nchw_to(x, self.output_fmt)

    def macs(self, grid: tuple[int, int]) -> int:
        """Multiply-accumulates for an image of that many patches; the convolutions run over all of its pixels."""
        height, width = pixels_of(self, grid)
        stem = sum(conv_weights(conv) for conv in (self.conv1, self.conv2, self.conv3))
        return -(-height // 2) * -(-width // 2) * stem + grid[0] * grid[1] * conv_weights(self.proj)


class LVViT(VisionTransformer):
    """LV-ViT. Prediction: head([CLS]) + 0.5 * the largest over the patch tokens of aux_head(token).

    skip_lam:      every residual branch is divided by it
    stem_channels: width of the convolutional stem
    token_labels:  in training mode return `TokenLogits`; False: the prediction, in training mode too
    mix_token:     with `token_labels`, mix the patches of every training image with those of its partner in the batch
    dynamic_img_size: resample the positions to the image at hand; else `set_input_size` changes the size
    The other arguments are timm's. Raises ValueError for a pooling other than "token" and an odd patch size.

    Example:
        >>> timm.create_model("lvvit_t", img_size=64, depth=2).eval()(torch.randn(1, 3, 64, 64)).shape
        torch.Size([1, 1000])
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        embed_dim: int = 384,
        depth: int = 16,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        skip_lam: float = 2.0,
        num_classes: int = 1000,
        stem_channels: int = 64,
        *,
        token_labels: bool = True,
        mix_token: bool = True,
        global_pool: str = "token",
        **options,
    ):
        _check_patch_size(patch_size)
        _check_pool(global_pool)
        parts: dict[str, Any] = {
            "global_pool": global_pool,
            "embed_layer": partial(ConvStem, stem_channels=stem_channels),
            "block_fn": partial(LVViTBlock, skip_lam=skip_lam),
        }
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            num_classes=num_classes,
            qkv_bias=False,
            norm_layer=nn.LayerNorm,  # eps 1e-5; timm's own has 1e-6
            **parts,
            **options,
        )
        self.aux_head = nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()
        self.token_labels, self.mix_token = token_labels, mix_token
        self._init_aux_head()

    def _init_aux_head(self) -> None:
        if isinstance(self.aux_head, nn.Linear):
            nn.init.trunc_normal_(self.aux_head.weight, std=0.02)
            nn.init.zeros_(self.aux_head.bias)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        _check_pool(global_pool or "token")
        super().reset_classifier(num_classes)
        like: Any = self.pos_embed
        self.aux_head = nn.Linear(self.embed_dim, num_classes) if num_classes > 0 else nn.Identity()
        self._init_aux_head()
        self.aux_head.to(device=like.device, dtype=like.dtype).train(self.training)

    @property
    def labels_tokens(self) -> bool:
        """Whether the model returns `TokenLogits` now."""
        return self.training and self.token_labels and self.num_classes > 0

    def embed(self, images: Tensor) -> tuple[Float[Tensor, "b n c"], Bool[Tensor, " n0"] | None]:
        """Tokens with positions, and which patches were mixed in from the partner."""
        x, mixed = self.patch_embed(images), None
        if self.labels_tokens and self.mix_token:
            grid = self.patch_embed.dynamic_feat_size(image_size(images))
            mixed = random_box(grid, x.device)
            x = torch.where(mixed.view(1, *x.shape[1:-1], 1), x.flip(0), x)
        return self.norm_pre(self.patch_drop(self._pos_embed(x))), mixed

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False):
        """Logits [b, k], or `TokenLogits`."""
        if not self.labels_tokens:
            return super().forward(x, attn_mask=attn_mask, is_causal=is_causal)
        x, mixed = self.embed(x)
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        return self.token_logits(self.norm(x), mixed)

    def token_logits(self, x: Tensor, mixed=None, owners: Int[Tensor, "b n0"] | None = None, mask=None) -> TokenLogits:
        """Both heads on features after the final norm."""
        x = self.head_drop(x)
        return TokenLogits(self.head(x[:, 0]), self.aux_head(laid_out(x[:, 1:])), mixed, owners, mask)

    def forward_head(self, x: Float[Tensor, "b n c"], pre_logits: bool = False, mask: Tensor | None = None) -> Tensor:
        """The prediction from features after the final norm; tokens whose `mask` [b, n - 1] is 0 have no say, and
        without a patch token the class token speaks alone."""
        if pre_logits or self.num_classes == 0:
            return self.head_drop(x[:, 0])
        return self.token_logits(x, mask=mask).prediction()


def _check_patch_size(patch_size: int | tuple[int, int]) -> None:
    sides = (patch_size,) if isinstance(patch_size, int) else tuple(patch_size)
    if any(side % 2 for side in sides):
        raise ValueError(f"patch_size={patch_size} is odd: LV-ViT's stem halves it")


def _check_pool(global_pool: str) -> None:
    if global_pool != "token":
        raise ValueError(f'global_pool={global_pool!r}: LV-ViT reads its class token and its aux head, leave "token"')


class LVViTBackbone(PlainBackbone):
    """`LVViT`, exactly: the plain family with a convolutional stem, divided branches and the auxiliary head."""

    family = "lvvit"
    models = (LVViT,)
    kinds: ClassVar[dict[str, str]] = {"LV-ViT": "lvvit_t"}

    @classmethod
    def check(cls, model):
        for i, block in enumerate(model.blocks):
            check_block(i, block, LVViTBlock)
        if kind(model.patch_drop) is not nn.Identity:
            raise ValueError("patch_drop_rate > 0 is not supported: build the model with patch_drop_rate=0")

    def around(self):
        return self._around((self.model, MODELS), (self.model.blocks, SEQUENTIAL), blocks=BLOCKS, attentions=ATTENTIONS)

    def _embed(self, images):
        x, mixed = self.model.embed(images)
        return Tokens(x, prefix=self.prefix, grid=self.grid(image_size(images)), mixed=mixed)

    def head(self, tokens, pre_logits=False):
        model = self.model
        if tokens.layout is not None:
            if model.labels_tokens:
                raise ValueError("token labels need one number of tokens for all images: set model.token_labels=False")
            return tokens.layout.pooled(partial(model.forward_head, pre_logits=pre_logits), tokens.x)
        if model.labels_tokens and not pre_logits:
            owners = tokens.owners() if tokens.steps else None
            return model.token_logits(tokens.x, tokens.mixed, owners, tokens.mask)
        return model.forward_head(tokens.x, pre_logits=pre_logits, mask=tokens.mask)

    def check_prediction_only(self):
        Backbone.check_prediction_only(self)  # the auxiliary head reads the patch tokens

    def embed_macs(self, grid):
        stem = self.model.patch_embed
        plain = all(kind(conv) is nn.Conv2d for conv in (stem.conv1, stem.conv2, stem.conv3, stem.proj))
        return stem.macs(grid) if plain else counted_stem(stem, grid, self.model.in_chans) or stem.macs(grid)

    def head_macs(self, tokens):
        model, width = self.model, self.width
        return self.linear_macs(model.head, width) + (tokens - self.prefix) * self.linear_macs(model.aux_head, width)


MODELS, BLOCKS = kinds(LVViT, steps=("forward", "forward_features")), kinds(LVViTBlock)
