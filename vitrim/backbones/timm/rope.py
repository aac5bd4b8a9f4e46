"""The RoPE family: timm's `Eva`. EVA, EVA-02, DINOv3, Perception Encoder, ROPE-ViT, and what else timm builds on it.

Queries and keys of the patch tokens are rotated by where they stand on the image. A token that stays keeps its rows; a
merged or fused token takes the rows of its representative (`Reduction.representatives`): the most attentive member of
a fused token, the leading member of a merged one. Prefix tokens are never rotated.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from timm.layers import AttentionRope, GluMlp, Mlp, SwiGLU, apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor
from torch.nn.functional import linear

from ...core.evidence import Evidence
from ...core.recording import divided, image_size
from ...core.tokens import Tokens
from ..admission import kinds
from ..layers import is_bare_linear, part_kind
from .checks import check_pool, check_scale, check_size
from .plain import STEPS, PlainBackbone
from .projections import has_no_head_norms

MODELS, BLOCKS = kinds(Eva, steps=STEPS), kinds(EvaBlock, EvaBlockPostNorm)
ATTENTIONS = kinds(EvaAttention, AttentionRope)


class RotaryProjections:
    """Queries, keys and values of one `EvaAttention` or `AttentionRope`, from its input h [b, p+n, c].

    rows:   what rotates all tokens but the first `prefix`, to be broadcast against [b, heads, n, d]; None: nothing
    """

    def __init__(self, attn: EvaAttention | AttentionRope, rows: Tensor | None = None, prefix: int = 0):
        self.attn: Any = attn
        self.rows, self.prefix = rows, prefix
        self.groups = getattr(attn, "num_kv_groups", 1)  # query heads that share a head of keys and values

    def project(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [b, heads, p+n, d]; as timm computes them, bit for bit."""
        attn, b, n = self.attn, h.shape[0], h.shape[1]
        if attn.qkv is not None:
            q, k, v = self._fused(h).reshape(b, n, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (self._heads(part(h)) for part in (attn.q_proj, attn.k_proj, attn.v_proj))
        q, k = self._rotated(attn.q_norm(q)).type_as(v), self._rotated(attn.k_norm(k)).type_as(v)
        return q, self._shared(k), self._shared(v)

    def _fused(self, h: Tensor) -> Tensor:
        attn = self.attn
        if getattr(attn, "q_bias", None) is None:
            return attn.qkv(h)
        bias = torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
        return attn.qkv(h) + bias if attn.qkv_bias_separate else linear(h, attn.qkv.weight, bias)

    def _heads(self, x: Tensor) -> Float[Tensor, "b heads n d"]:
        d = self.attn.head_dim
        return divided(x, 2, (x.shape[2] // d, d)).transpose(1, 2)

    def _rotated(self, x: Float[Tensor, "b heads pn d"]) -> Tensor:
        """Patch tokens rotated, prefix tokens as they are."""
        if self.rows is None:
            return x
        p, half = self.prefix, self.attn.rotate_half
        return torch.cat([x[:, :, :p], apply_rot_embed_cat(x[:, :, p:], self.rows, half=half)], dim=2)

    def _shared(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.groups, dim=1) if self.groups > 1 else x

    @property
    def readable(self) -> bool:
        """Whether a part of the weights projects as the layers do; else they are called."""
        attn = self.attn
        layers = (attn.q_proj, attn.k_proj, attn.v_proj) if attn.qkv is None else (attn.qkv,)
        return all(map(is_bare_linear, layers))

    def _part(self, j: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the projection to queries (0), keys (1) or values (2), where they may be read."""
        attn, rows = self.attn, self._rows(j)
        if attn.qkv is None:
            layer = (attn.q_proj, attn.k_proj, attn.v_proj)[j]
            return layer.weight, layer.bias
        if getattr(attn, "q_bias", None) is not None:
            return attn.qkv.weight[rows], (attn.q_bias, attn.k_bias, attn.v_bias)[j]
        return attn.qkv.weight[rows], None if attn.qkv.bias is None else attn.qkv.bias[rows]

    def _rows(self, j: int) -> slice:
        size = self.attn.num_heads * self.attn.head_dim
        return slice(j * size, (j + 1) * size)

    def _projected(self, h: Tensor, j: int) -> Float[Tensor, "b heads n d"]:
        """Queries (0), keys (1) or values (2) alone."""
        attn = self.attn
        if attn.qkv is None:
            return self._heads((attn.q_proj, attn.k_proj, attn.v_proj)[j](h))
        return self._heads(linear(h, *self._part(j)) if self.readable else self._fused(h)[..., self._rows(j)])

    def queries(self, h: Tensor, prefix_only: bool = False) -> Tensor:
        q = self.attn.q_norm(self._projected(h, 0))
        return q if prefix_only else self._rotated(q)

    def keys(self, h: Tensor) -> Tensor:
        return self._shared(self._rotated(self.attn.k_norm(self._projected(h, 1))))

    def values(self, h: Tensor) -> Tensor:
        return self._shared(self._projected(h, 2))

    @property
    def foldable(self) -> bool:
        """Whether q . k is one bilinear form of the inputs, with weights that may be read: no rotation, no norm per
        head, nothing on the layers."""
        return self.rows is None and has_no_head_norms(self.attn) and self.readable

    def folded(self, h: Tensor) -> Tensor | None:
        """u = W_K^T (W_Q h + b_Q) [b, c], averaged over the class tokens h [b, v, c], on the scale of the mean
        attention logit over heads; None where not foldable."""
        if not self.foldable:
            return None
        weight, bias = self._part(0)
        q = linear(h, weight.float(), None if bias is None else bias.float()).mean(dim=1)
        keys = self._part(1)[0].float().unflatten(0, (-1, self.attn.head_dim)).repeat_interleave(self.groups, dim=0)
        return q @ keys.flatten(0, 1) * (self.attn.scale / self.attn.num_heads)


class RopeBackbone(PlainBackbone):
    """timm's `Eva`, exactly this type, with pre-norm or post-norm blocks."""

    family = "rope"
    models = (Eva,)
    kinds: ClassVar[dict[str, str]] = {
        "EVA-02": "eva02_tiny_patch14_224",
        "DINOv3": "vit_small_patch16_dinov3",
        "Perception Encoder": "vit_pe_core_tiny_patch16_384",
        "ROPE-ViT (axial)": "vit_small_patch16_rope_224",
        "ROPE-ViT (mixed)": "vit_small_patch16_rope_mixed_224",
    }

    @classmethod
    def check(cls, model):
        for i, block in enumerate(model.blocks):
            _check_block(i, block)
        if model.patch_drop is not None:
            raise ValueError("patch_drop_rate > 0 is not supported: build the model with patch_drop_rate=0")
        check_pool(model)

    @property
    def class_tokens(self):
        return () if self.model.cls_token is None else (0,)

    @property
    def pools_prefix(self):
        return self.model.attn_pool is not None

    def foldable(self, i):
        return self.model.rope is None and self._projections(i).foldable

    def around(self):
        return self._around((self.model, MODELS), blocks=BLOCKS, attentions=ATTENTIONS)

    def _embed(self, images):
        model = self.model
        check_size(model.patch_embed, images)
        x, rope = model._pos_embed(model.patch_embed(images))
        grid = self.grid(image_size(images))
        return Tokens(model.norm_pre(x), prefix=self.prefix, grid=grid, rope=rope, placed=rope is not None)

    def begin(self, tokens):
        return tokens  # `Eva` calls its blocks one by one

    def finish(self, tokens):
        return tokens

    def probe(self, i, tokens):
        block = self.model.blocks[i]
        bias = tokens.key_bias
        return Evidence(
            lambda: self._norm1(block, tokens.x), self._layer(i, tokens), self.prefix, self.class_tokens, key_bias=bias
        )

    def _layer(self, i: int, tokens: Tokens) -> RotaryProjections:
        prefix = self.prefix if tokens.layout is None else 0  # ragged rows come with the prefix tokens' own
        return RotaryProjections(self.model.blocks[i].attn, tokens.rope_rows(i), prefix)

    def _norm1(self, block: Any, x: Tensor) -> Tensor:
        return self.before(block.attn, x if isinstance(block, EvaBlockPostNorm) else block.norm1(x))

    def attend(self, i, tokens, h=None):
        block = self.model.blocks[i]
        h = self._norm1(block, tokens.x) if h is None else h
        out, evidence = self._rotary_attention(self._layer(i, tokens), h, tokens)
        out = block.norm1(out) if isinstance(block, EvaBlockPostNorm) else _scaled(out, block.gamma_1)
        return tokens.with_x(self.add(tokens.x, block.drop_path1(out))), evidence

    def _rotary_attention(self, layer: RotaryProjections, h: Tensor, tokens: Tokens) -> tuple[Tensor, Evidence]:
        attn = layer.attn
        gate = None if attn.gate is None else attn.gate(h).sigmoid()
        q, k, v = layer.project(h)
        x = self._attended(attn, q, k, v, tokens)
        x = attn.norm(x)
        x = x if gate is None else x * gate
        return self.after(attn, attn.proj_drop(attn.proj(x))), self._evidence(h, layer, tokens, q, k, v)

    def attend_prefix(self, i, tokens, h=None):
        block = self.model.blocks[i]
        h = self._norm1(block, tokens.x) if h is None else h
        out = self._prefix_attention(block.attn, self._layer(i, tokens), h, tokens)
        out = block.norm1(out) if isinstance(block, EvaBlockPostNorm) else _scaled(out, block.gamma_1)
        return self._prefix_alone(tokens, block.drop_path1(out))

    def mlp(self, i, tokens):
        block, x = self.model.blocks[i], tokens.x
        if isinstance(block, EvaBlockPostNorm):
            return tokens.with_x(self.add(x, block.drop_path2(block.norm2(block.mlp(x)))))
        return tokens.with_x(self.add(x, block.drop_path2(_scaled(block.mlp(block.norm2(x)), block.gamma_2))))

    # -- what it costs

    def query_macs(self, i):
        attn = self.model.blocks[i].attn
        return super().query_macs(i) if attn.qkv is not None else self.linear_macs(attn.q_proj, self.width)

    def key_macs(self, i, patches):
        attn = self.model.blocks[i].attn
        key = self.query_macs(i) if attn.qkv is not None else self.linear_macs(attn.k_proj, self.width)
        return (patches + self.prefix) * key

    def _projections(self, i):
        return RotaryProjections(self.model.blocks[i].attn)

    def attention_macs(self, i, tokens):
        attn, inner = self.model.blocks[i].attn, math.prod(self.heads(i))
        gate = self.linear_macs(attn.gate, self.width)
        linear = self._qkv_macs(i) + gate + self.linear_macs(attn.proj, inner)
        return tokens * linear + 2 * tokens * tokens * inner

    def _qkv_macs(self, i):
        attn = self.model.blocks[i].attn
        return sum(self.linear_macs(part, self.width) for part in (attn.qkv, attn.q_proj, attn.k_proj, attn.v_proj))


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x


def _check_block(i: int, block: Any) -> None:
    for part, allowed in (
        (block, (EvaBlock, EvaBlockPostNorm)),
        (getattr(block, "attn", None), (EvaAttention, AttentionRope)),
        (getattr(block, "mlp", None), (Mlp, GluMlp, SwiGLU)),
    ):
        if part_kind(part) not in allowed:
            names = ", ".join(cls.__name__ for cls in allowed)
            raise ValueError(f"block {i} has a {type(part).__name__} where only timm's {names} are supported")
    check_scale(i, block.attn, block.attn.head_dim)
