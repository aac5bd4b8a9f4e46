"""The plain family: every timm `VisionTransformer` built from `Block` and `Attention`.

ViT, DeiT, distilled DeiT, DeiT-III, CLIP, DINOv2 with and without registers, SigLIP.
"""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import torch
from timm.layers import Attention, AttentionPoolLatent, GluMlp, Mlp, PatchEmbed, SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from ...core.attention import attention
from ...core.evidence import Evidence
from ...core.packing import Layout
from ...core.recording import image_size, no_image
from ...core.tokens import Tokens
from ..base import Backbone, add_residual
from .projections import Projections


class PlainBackbone(Backbone):
    """timm's `VisionTransformer` and `VisionTransformerDistilled`, exactly these types."""

    family = "plain"
    models = (VisionTransformer, VisionTransformerDistilled)
    kinds: ClassVar[dict[str, str]] = {
        "ViT, DeiT": "deit_tiny_patch16_224",
        "distilled DeiT": "deit_tiny_distilled_patch16_224",
        "DeiT-III": "deit3_small_patch16_224",
        "CLIP": "vit_base_patch32_clip_224",
        "DINOv2": "vit_small_patch14_dinov2",
        "DINOv2 with registers": "vit_small_patch14_reg4_dinov2",
        "SigLIP (no [CLS], map pooling)": "vit_base_patch16_siglip_224",
        "average pooling, no [CLS]": "vit_little_patch16_reg4_gap_256",
    }

    @classmethod
    def check(cls, model):
        for i, block in enumerate(model.blocks):
            _check_block(i, block)
        if model.global_pool == "prr":
            raise ValueError("global_pool='prr' is not supported: choose a model with token, avg, max or map pooling")
        if not isinstance(model.patch_drop, nn.Identity):
            raise ValueError("patch_drop_rate > 0 is not supported: build the model with patch_drop_rate=0")

    # -- what the model is

    @property
    def depth(self):
        return len(self.model.blocks)

    @property
    def width(self):
        return self.model.embed_dim

    @property
    def prefix(self):
        return self.model.num_prefix_tokens

    @property
    def voters(self):
        if self.model.cls_token is None:
            return ()
        return (0, 1) if isinstance(self.model, VisionTransformerDistilled) else (0,)

    @property
    def pools_prefix(self) -> bool:
        """Whether pooling runs over the prefix tokens too."""
        return self.model.pool_include_prefix

    def heads(self, i):
        attn = self.model.blocks[i].attn
        return attn.num_heads, attn.head_dim

    def foldable(self, i):
        return Projections(self.model.blocks[i].attn).foldable

    def check_ragged(self):
        if not self.model.global_pool:
            raise ValueError("a model without pooling returns its tokens, and images would return different numbers")

    def grid(self, image_size=None):
        embed = self.model.patch_embed
        if image_size is None:
            return tuple(embed.grid_size)
        return tuple(embed.dynamic_feat_size(image_size))

    # -- running it

    def embed(self, images):
        model = self.model
        self._check_size(images)
        grid = self.grid(image_size(images))
        x = model.patch_embed(images)
        if no_image(x.shape[0]):
            x = x.new_zeros(0, math.prod(grid) + self.prefix, self.width)
        else:
            x = model.norm_pre(model._pos_embed(x))
        return Tokens(x, prefix=self.prefix, grid=grid)

    def _check_size(self, images: Tensor) -> None:
        embed, size = self.model.patch_embed, image_size(images)
        if getattr(embed, "strict_img_size", False) and size != tuple(embed.img_size):
            raise ValueError(
                f"images are {size[0]} x {size[1]}, this model takes {embed.img_size[0]} x {embed.img_size[1]}: resize "
                "them, call model.set_input_size(img_size=...) first, or build the model with dynamic_img_size=True"
            )
        pads = not isinstance(embed, PatchEmbed) or embed.dynamic_img_pad
        if not pads and any(side % patch for side, patch in zip(size, embed.patch_size, strict=True)):
            raise ValueError(
                f"images are {size[0]} x {size[1]}, and patches of {embed.patch_size[0]} x {embed.patch_size[1]} do "
                "not fill them: resize them to multiples, or build the model with dynamic_img_pad=True"
            )

    def probe(self, i, tokens):
        block = self.model.blocks[i]
        return Evidence(block.norm1(tokens.x), Projections(block.attn), self.prefix, self.voters)

    def attend(self, i, tokens, normed=None):
        block = self.model.blocks[i]
        h = block.norm1(tokens.x) if normed is None else normed
        out, evidence = self._attention(block.attn, h, tokens)
        return tokens.with_x(add_residual(tokens.x, block.drop_path1(block.ls1(out)))), evidence

    def _attention(self, attn: Attention, h: Tensor, tokens: Tokens) -> tuple[Tensor, Evidence]:
        b, n, _ = h.shape
        gate = None if attn.gate is None else attn.gate(h).sigmoid()
        q, k, v = attn.qkv(h).reshape(b, n, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = attn.q_norm(q), attn.k_norm(k)
        bias, mask = tokens.key_bias, tokens.key_mask
        dropout = attn.attn_drop.p if attn.training else 0.0
        x = attention(q, k, v, key_bias=bias, key_mask=mask, layout=tokens.layout, dropout=dropout)
        x = attn.norm(x)
        x = x if gate is None else x * gate
        evidence = Evidence(
            h, Projections(attn), self.prefix, self.voters, q=q, k=k, v=v, key_bias=bias, layout=tokens.layout
        )
        return attn.proj_drop(attn.proj(x)), evidence

    def mlp(self, i, tokens):
        block = self.model.blocks[i]
        x = tokens.x
        return tokens.with_x(add_residual(x, block.drop_path2(block.ls2(block.mlp(block.norm2(x))))))

    def norm(self, x):
        return self.model.norm(x)

    def head(self, tokens, pre_logits=False):
        model = self.model
        if tokens.layout is not None:
            return self._head_of_ragged(tokens, tokens.layout, pre_logits)
        plain = tokens.size is None and tokens.mask is None
        if plain and not (torch.compiler.is_exporting() and model.attn_pool is not None):
            return model.forward_head(tokens.x, pre_logits=pre_logits)
        if isinstance(model, VisionTransformerDistilled) or model.global_pool in ("token", "max", ""):
            return self._head_of_kept(tokens, pre_logits)
        x = model.head_drop(model.fc_norm(self._weighted_pool(tokens)))
        return x if pre_logits else model.head(x)

    def _head_of_kept(self, tokens: Tokens, pre_logits: bool) -> Tensor:
        x = tokens.x
        if self.model.global_pool == "max" and tokens.mask is not None:
            x = _without_masked(tokens)
        return self.model.forward_head(x, pre_logits=pre_logits)

    def _head_of_ragged(self, tokens: Tokens, layout: Layout, pre_logits: bool) -> Tensor:
        """Every image pools its own tokens; the classifier sees them all at once."""
        model = self.model
        if isinstance(model, VisionTransformerDistilled) or model.global_pool == "token":
            return model.forward_head(layout.prefix_rows(tokens.x), pre_logits=pre_logits)
        x = model.head_drop(model.fc_norm(layout.pooled(model.pool, tokens.x)))
        return x if pre_logits else model.head(x)

    def _weighted_pool(self, tokens: Tokens) -> Tensor:
        """Pooling where tokens weigh unequally: merged ones by size, masked ones not at all."""
        model, x, weight = self.model, tokens.x, tokens.weight
        if not self.pools_prefix:
            x, weight = x[:, self.prefix :], weight[:, self.prefix :]
        if model.attn_pool is not None:
            plain = tokens.size is None and tokens.mask is None
            mask = None if plain else weight.clamp(min=1e-6).log()[:, None, None].to(x.dtype)
            return _latent_pool(model.attn_pool, x, mask)
        weight = weight.unsqueeze(-1).to(x.dtype)
        mean = (weight * x).sum(dim=1) / weight.sum(dim=1)
        if model.global_pool == "avg":
            return mean
        kept = _without_masked(tokens)[:, 0 if self.pools_prefix else self.prefix :]
        return 0.5 * (kept.amax(dim=1) + mean)

    # -- what it costs

    def embed_macs(self, grid):
        embed = self.model.patch_embed
        if type(embed) is PatchEmbed:
            return grid[0] * grid[1] * embed.proj.weight.numel()
        return _counted_macs(embed, grid)

    def attention_macs(self, i, tokens):
        attn = self.model.blocks[i].attn
        gate = 0 if attn.gate is None else attn.gate.weight.numel()
        linear = attn.qkv.weight.numel() + attn.proj.weight.numel() + gate
        return tokens * linear + 2 * tokens * tokens * attn.attn_dim

    def mlp_macs(self, i, tokens):
        return tokens * linear_weights(self.model.blocks[i].mlp)

    def head_macs(self, tokens):
        model = self.model
        classifier = linear_weights(model.head) + linear_weights(getattr(model, "head_dist", None))
        if model.attn_pool is None:
            return classifier if model.global_pool else classifier * tokens
        pooled = tokens if self.pools_prefix else tokens - self.prefix
        return classifier + _latent_pool_macs(model.attn_pool, pooled)


def linear_weights(module: nn.Module | None) -> int:
    """Multiply-accumulates of all linear layers of a module for one token."""
    modules = () if module is None else module.modules()
    return sum(m.weight.numel() for m in modules if isinstance(m, nn.Linear))


def _latent_pool(pool: AttentionPoolLatent, x: Tensor, mask: Tensor | None) -> Tensor:
    """SigLIP's attention pooling. timm gives every image the latents as a view, and an exported graph would be for as
    many images as its example had: there the images get copies."""
    if not torch.compiler.is_exporting():
        return pool(x, attn_mask=mask)
    latent = pool.latent.expand(x.shape[0], -1, -1).clone(memory_format=torch.contiguous_format)
    return functional_call(pool, {"latent": latent}, (x, mask))


def _latent_pool_macs(pool: AttentionPoolLatent, tokens: int) -> int:
    """SigLIP's attention pooling: keys and values of all tokens, everything else for the latents alone."""
    per_latent = sum(linear_weights(m) for m in (pool.q, pool.proj, pool.mlp))
    attn = 2 * pool.latent_len * tokens * pool.num_heads * pool.head_dim
    return tokens * pool.kv.weight.numel() + pool.latent_len * per_latent + attn


def _counted_macs(embed: nn.Module, grid: tuple[int, int]) -> int:
    """Stems other than one convolution (hybrids): counted by torch on the meta device, nothing runs."""
    stem = copy.deepcopy(embed).to("meta").eval()
    height, width = (g * r for g, r in zip(grid, embed.feat_ratio(as_scalar=False), strict=True))
    channels = next(p for p in stem.parameters() if p.dim() == 4).shape[1]
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        stem(torch.empty(1, channels, height, width, device="meta"))
    return counter.get_total_flops() // 2


def _without_masked(tokens: Tokens) -> Tensor:
    """Features with the masked tokens at -infinity, for maxima."""
    gone = tokens.weight == 0
    return tokens.x.masked_fill(gone.unsqueeze(-1), float("-inf"))


def _check_block(i: int, block: nn.Module) -> None:
    if type(block) is not Block:
        raise ValueError(
            f"block {i} is a {type(block).__name__}, only timm's pre-norm Block is supported "
            "(post-norm and parallel blocks have no place between attention and MLP where tokens could be reduced)"
        )
    if type(block.attn) is not Attention:
        raise ValueError(f"attention of block {i} is {type(block.attn).__name__}, only timm's Attention is supported")
    if type(block.mlp) not in (Mlp, GluMlp, SwiGLU):
        raise ValueError(f"mlp of block {i} is {type(block.mlp).__name__}, only Mlp, GluMlp and SwiGLU are supported")
