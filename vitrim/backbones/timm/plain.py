"""The plain family: every timm `VisionTransformer` built from `Block` and `Attention`.

ViT, DeiT, distilled DeiT, DeiT-III, CLIP, DINOv2 with and without registers, SigLIP.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from timm.layers import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from ...core.attention import attention
from ...core.evidence import Evidence
from ...core.packing import Layout
from ...core.recording import image_size, no_image
from ...core.tokens import Tokens
from ..admission import Around, Kinds, around_blocks, kinds
from ..base import Backbone
from ..counting import conv_macs, latent_pool_macs
from ..layers import kind
from .checks import check_block, check_pool, check_size, embedded_grid
from .pooling import weighted_pool, without_masked
from .projections import Projections

STEPS = ("forward", "forward_features", "forward_head", "pool")  # of a timm ViT, for which the loop stands
MODELS, SEQUENTIAL = kinds(VisionTransformer, VisionTransformerDistilled, steps=STEPS), kinds(nn.Sequential)
BLOCKS, ATTENTIONS = kinds(Block), kinds(Attention)


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
        "average pooling without [CLS]": "vit_little_patch16_reg4_gap_256",
    }

    @classmethod
    def check(cls, model):
        for i, block in enumerate(model.blocks):
            check_block(i, block, Block)
        if model.global_pool == "prr":
            raise ValueError("global_pool='prr' is not supported: choose a model with token, avg, max or map pooling")
        if kind(model.patch_drop) is not nn.Identity:
            raise ValueError("patch_drop_rate > 0 is not supported: build the model with patch_drop_rate=0")
        check_pool(model)

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
    def class_tokens(self):
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
        return self._projections(i).foldable

    def check_ragged(self):
        if not self.model.global_pool:
            raise ValueError("a model without pooling returns its tokens, and images would return different numbers")

    def grid(self, image_size=None):
        return embedded_grid(self.model.patch_embed, image_size)

    def all_blocks(self):
        return self.model.blocks

    def around(self):
        return self._around((self.model, MODELS), (self.model.blocks, SEQUENTIAL), blocks=BLOCKS, attentions=ATTENTIONS)

    def _around(self, *holders: tuple[nn.Module, Kinds], blocks: Kinds, attentions: Kinds) -> Around:
        return [*holders, *around_blocks(self.model.blocks, blocks, attentions)]

    # -- running it

    def _embed(self, images):
        model = self.model
        check_size(model.patch_embed, images)
        grid = self.grid(image_size(images))
        x = model.patch_embed(images)
        if no_image(x.shape[0]):
            x = x.new_zeros(0, math.prod(grid) + self.prefix, self.width)
        else:
            x = model.norm_pre(model.patch_drop(model._pos_embed(x)))
        return Tokens(x, prefix=self.prefix, grid=grid)

    def begin(self, tokens):
        return tokens.with_x(self.before(self.model.blocks, tokens.x)) if self.hooked else tokens

    def enter(self, i, tokens):
        return tokens.with_x(self.before(self.model.blocks[i], tokens.x)) if self.hooked else tokens

    def leave(self, i, tokens):
        return tokens.with_x(self.after(self.model.blocks[i], tokens.x)) if self.hooked else tokens

    def finish(self, tokens):
        return tokens.with_x(self.after(self.model.blocks, tokens.x)) if self.hooked else tokens

    def probe(self, i, tokens):
        block = self.model.blocks[i]
        bias = tokens.key_bias
        return Evidence(
            lambda: self._norm1(block, tokens.x), self._projections(i), self.prefix, self.class_tokens, key_bias=bias
        )

    def _norm1(self, block: Any, x: Tensor) -> Tensor:
        """What goes into the attention of a block."""
        return self.before(block.attn, block.norm1(x))

    def attend(self, i, tokens, h=None):
        block = self.model.blocks[i]
        h = self._norm1(block, tokens.x) if h is None else h
        out, evidence = self._attention(block.attn, h, tokens)
        return tokens.with_x(self.add(tokens.x, block.drop_path1(block.ls1(out)))), evidence

    def _attention(self, attn: Attention, h: Tensor, tokens: Tokens) -> tuple[Tensor, Evidence]:
        b, n, _ = h.shape
        gate = None if attn.gate is None else attn.gate(h).sigmoid()
        q, k, v = attn.qkv(h).reshape(b, n, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = attn.q_norm(q), attn.k_norm(k)
        x = self._attended(attn, q, k, v, tokens)
        x = attn.norm(x)
        x = x if gate is None else x * gate
        evidence = self._evidence(h, Projections(attn), tokens, q, k, v)
        return self.after(attn, attn.proj_drop(attn.proj(x))), evidence

    def _attended(self, attn: Any, q: Tensor, k: Tensor, v: Tensor, tokens: Tokens) -> Tensor:
        return attention(
            q,
            k,
            v,
            key_bias=tokens.key_bias,
            key_mask=tokens.key_mask,
            layout=tokens.layout,
            dropout=attn.attn_drop.p if attn.training else 0.0,
            written_out=None if attn.fused_attn else attn.attn_drop,
        )

    def _evidence(self, h: Tensor, layer: Any, tokens: Tokens, q: Tensor, k: Tensor, v: Tensor) -> Evidence:
        bias, layout = tokens.key_bias, tokens.layout
        return Evidence(h, layer, self.prefix, self.class_tokens, q=q, k=k, v=v, key_bias=bias, layout=layout)

    def attend_prefix(self, i, tokens, h=None):
        block = self.model.blocks[i]
        h = self._norm1(block, tokens.x) if h is None else h
        out = block.drop_path1(block.ls1(self._prefix_attention(block.attn, self._projections(i), h, tokens)))
        return self._prefix_alone(tokens, out)

    def _prefix_attention(self, attn: Any, layer: Any, h: Tensor, tokens: Tokens) -> Tensor:
        front = h[:, : self.prefix]
        gate = None if attn.gate is None else attn.gate(front).sigmoid()
        v = layer.values(h)
        q, k = layer.queries(front, prefix_only=True).type_as(v), layer.keys(h).type_as(v)
        x = attn.norm(self._attended(attn, q, k, v, tokens))
        return self.after(attn, attn.proj_drop(attn.proj(x if gate is None else x * gate)))

    def _prefix_alone(self, tokens: Tokens, out: Tensor) -> Tokens:
        return Tokens(tokens.x[:, : self.prefix] + out, prefix=self.prefix, grid=tokens.grid)

    def check_prediction_only(self):
        if not (isinstance(self.model, VisionTransformerDistilled) or self.model.global_pool == "token"):
            pool = self.model.global_pool
            raise ValueError(
                f"prediction_only needs a head that reads class tokens alone, and this model's pooling is {pool!r}"
            )
        if not self._projections(self.depth - 1).readable:
            raise ValueError("prediction_only needs the last block's qkv as timm made it, without anything put on it")

    def mlp(self, i, tokens):
        block = self.model.blocks[i]
        x = tokens.x
        return tokens.with_x(self.add(x, block.drop_path2(block.ls2(block.mlp(block.norm2(x))))))

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
        x = model.head_drop(model.fc_norm(weighted_pool(model, tokens, self.pools_prefix)))
        return x if pre_logits else model.head(x)

    def _head_of_kept(self, tokens: Tokens, pre_logits: bool) -> Tensor:
        x = tokens.x
        if self.model.global_pool == "max" and tokens.mask is not None:
            x = without_masked(tokens)
        return self.model.forward_head(x, pre_logits=pre_logits)

    def _head_of_ragged(self, tokens: Tokens, layout: Layout, pre_logits: bool) -> Tensor:
        """Every image pools its own tokens; the classifier sees them all at once."""
        model = self.model
        if isinstance(model, VisionTransformerDistilled) or model.global_pool == "token":
            return model.forward_head(layout.prefix_rows(tokens.x), pre_logits=pre_logits)
        x = model.head_drop(model.fc_norm(layout.pooled(model.pool, tokens.x)))
        return x if pre_logits else model.head(x)

    # -- what it costs

    def embed_macs(self, grid):
        return conv_macs(self.model.patch_embed, grid, self.model.in_chans)

    def query_macs(self, i):
        attn = self.model.blocks[i].attn
        whole = self.linear_macs(attn.qkv, self.width)
        return whole // 3 if self._projections(i).readable else whole

    def _projections(self, i: int) -> Any:
        return Projections(self.model.blocks[i].attn)

    def attention_macs(self, i, tokens):
        attn, width = self.model.blocks[i].attn, self.width
        linear = self.linear_macs(attn.qkv, width) + self.linear_macs(attn.gate, width)
        return tokens * (linear + self.linear_macs(attn.proj, attn.attn_dim)) + 2 * tokens * tokens * attn.attn_dim

    def prediction_macs(self, i, attended):
        attn, width, tokens = self.model.blocks[i].attn, self.width, attended + self.prefix
        inner, query = math.prod(self.heads(i)), self.query_macs(i)
        front = query + self.linear_macs(attn.gate, width) + self.linear_macs(attn.proj, inner)
        front += 2 * tokens * inner
        return tokens * (self._qkv_macs(i) - query) + self.prefix * front + self.mlp_macs(i, self.prefix)

    def _qkv_macs(self, i: int) -> int:
        """Projections of one token to query, key and value."""
        return self.linear_macs(self.model.blocks[i].attn.qkv, self.width)

    def mlp_macs(self, i, tokens):
        return tokens * self.linear_macs(self.model.blocks[i].mlp, self.width)

    def head_macs(self, tokens):
        model, width = self.model, self.width
        classifier = self.linear_macs(model.head, width) + self.linear_macs(getattr(model, "head_dist", None), width)
        if model.attn_pool is None:
            return classifier if model.global_pool else classifier * tokens
        pooled = tokens if self.pools_prefix else tokens - self.prefix
        return classifier + latent_pool_macs(model.attn_pool, pooled, width)
