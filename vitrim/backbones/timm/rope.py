"""The RoPE family: timm's `Eva`. EVA, EVA-02, DINOv3, Perception Encoder, ROPE-ViT, and what else timm builds on it.

Queries and keys of the patch tokens are rotated by where they stand on the image. A token that stays keeps its rows; a
merged or fused token takes the rows of its representative (`Reduction.representatives`): the most attentive member of
a fused token, the leading member of a merged one. Prefix tokens are never rotated.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from timm.layers import AttentionRope, GluMlp, Mlp, SwiGLU, apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn
from torch.nn.functional import linear

from ...core.attention import attention
from ...core.evidence import Evidence
from ...core.recording import image_size
from ...core.tokens import Tokens
from ..base import add_residual
from .plain import PlainBackbone, linear_weights


class RotaryProjections:
    """Queries, keys and values of one `EvaAttention` or `AttentionRope`, from its input h [b, p+n, c].

    rows:   what rotates all tokens but the first `prefix`, to be broadcast against [b, heads, n, d]; None: nothing
    """

    def __init__(self, attn: EvaAttention | AttentionRope, rows: Tensor | None = None, prefix: int = 0):
        self.attn, self.rows, self.prefix = attn, rows, prefix
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
        return x.unflatten(2, (-1, self.attn.head_dim)).transpose(1, 2)

    def _rotated(self, x: Float[Tensor, "b heads pn d"]) -> Tensor:
        """Patch tokens rotated, prefix tokens as they are."""
        if self.rows is None:
            return x
        p, half = self.prefix, self.attn.rotate_half
        return torch.cat([x[:, :, :p], apply_rot_embed_cat(x[:, :, p:], self.rows, half=half)], dim=2)

    def _shared(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.groups, dim=1) if self.groups > 1 else x

    def part(self, j: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the projection to queries (0) or keys (1)."""
        attn = self.attn
        if attn.qkv is None:
            layer = (attn.q_proj, attn.k_proj)[j]
            return layer.weight, layer.bias
        size = attn.qkv.weight.shape[0] // 3
        rows = slice(j * size, (j + 1) * size)
        if getattr(attn, "q_bias", None) is not None:
            return attn.qkv.weight[rows], (attn.q_bias, attn.k_bias)[j]
        return attn.qkv.weight[rows], None if attn.qkv.bias is None else attn.qkv.bias[rows]

    def queries(self, h: Tensor, prefix_only: bool = False) -> Tensor:
        q = self.attn.q_norm(self._heads(linear(h, *self.part(0))))
        return q if prefix_only else self._rotated(q)

    def keys(self, h: Tensor) -> Tensor:
        return self._shared(self._rotated(self.attn.k_norm(self._heads(linear(h, *self.part(1))))))

    @property
    def foldable(self) -> bool:
        """Whether q . k is one bilinear form of the inputs: no rotation, no norm per head."""
        norms = (self.attn.q_norm, self.attn.k_norm)
        return self.rows is None and all(isinstance(norm, nn.Identity) for norm in norms)

    def folded(self, h: Tensor) -> Tensor | None:
        """u = W_K^T (W_Q h + b_Q) [b, c], meant over the voters h [b, v, c] and scaled to the mean over heads of the
        attention logits; None where not foldable."""
        if not self.foldable:
            return None
        weight, bias = self.part(0)
        q = linear(h, weight.float(), None if bias is None else bias.float()).mean(dim=1)
        keys = self.part(1)[0].float().unflatten(0, (-1, self.attn.head_dim)).repeat_interleave(self.groups, dim=0)
        return q @ keys.flatten(0, 1) * (self.attn.scale / self.attn.num_heads)


class RopeBackbone(PlainBackbone):
    """timm's `Eva`, exactly this type, with pre-norm or post-norm blocks."""

    family = "rope"
    models = (Eva,)
    kinds: ClassVar[dict[str, str]] = {
        "EVA-02": "eva02_tiny_patch14_224",
        "DINOv3": "vit_small_patch16_dinov3",
        "Perception Encoder": "vit_pe_core_tiny_patch16_384",
        "ROPE-ViT, axial": "vit_small_patch16_rope_224",
        "ROPE-ViT, mixed": "vit_small_patch16_rope_mixed_224",
    }

    @classmethod
    def check(cls, model):
        for i, block in enumerate(model.blocks):
            _check_block(i, block)
        if model.patch_drop is not None:
            raise ValueError("patch_drop_rate > 0 is not supported: build the model with patch_drop_rate=0")

    @property
    def voters(self):
        return () if self.model.cls_token is None else (0,)

    @property
    def pools_prefix(self):
        return self.model.attn_pool is not None

    def foldable(self, i):
        return self.model.rope is None and RotaryProjections(self.model.blocks[i].attn).foldable

    def embed(self, images):
        model = self.model
        self._check_size(images)
        x, rope = model._pos_embed(model.patch_embed(images))
        grid = self.grid(image_size(images))
        return Tokens(model.norm_pre(x), prefix=self.prefix, grid=grid, rope=rope, placed=rope is not None)

    def probe(self, i, tokens):
        block = self.model.blocks[i]
        return Evidence(_attention_input(block, tokens.x), self._layer(i, tokens), self.prefix, self.voters)

    def _layer(self, i: int, tokens: Tokens) -> RotaryProjections:
        prefix = self.prefix if tokens.layout is None else 0  # ragged rows come with the prefix tokens' own
        return RotaryProjections(self.model.blocks[i].attn, tokens.rope_rows(i), prefix)

    def attend(self, i, tokens, normed=None):
        block = self.model.blocks[i]
        h = _attention_input(block, tokens.x) if normed is None else normed
        out, evidence = self._rotary_attention(self._layer(i, tokens), h, tokens)
        out = block.norm1(out) if isinstance(block, EvaBlockPostNorm) else _scaled(out, block.gamma_1)
        return tokens.with_x(add_residual(tokens.x, block.drop_path1(out))), evidence

    def _rotary_attention(self, layer: RotaryProjections, h: Tensor, tokens: Tokens) -> tuple[Tensor, Evidence]:
        attn, bias = layer.attn, tokens.key_bias
        gate = None if attn.gate is None else attn.gate(h).sigmoid()
        q, k, v = layer.project(h)
        dropout = attn.attn_drop.p if attn.training else 0.0
        x = attention(q, k, v, key_bias=bias, key_mask=tokens.key_mask, layout=tokens.layout, dropout=dropout)
        x = attn.norm(x)
        x = x if gate is None else x * gate
        evidence = Evidence(h, layer, self.prefix, self.voters, q=q, k=k, v=v, key_bias=bias, layout=tokens.layout)
        return attn.proj_drop(attn.proj(x)), evidence

    def mlp(self, i, tokens):
        block, x = self.model.blocks[i], tokens.x
        if isinstance(block, EvaBlockPostNorm):
            return tokens.with_x(add_residual(x, block.drop_path2(block.norm2(block.mlp(x)))))
        return tokens.with_x(add_residual(x, block.drop_path2(_scaled(block.mlp(block.norm2(x)), block.gamma_2))))

    # -- what it costs

    def key_macs(self, i, patches):
        return (patches + self.prefix) * RotaryProjections(self.model.blocks[i].attn).part(1)[0].numel()

    def attention_macs(self, i, tokens):
        attn = self.model.blocks[i].attn
        heads, channels = self.heads(i)
        return tokens * linear_weights(attn) + 2 * tokens * tokens * heads * channels


def _attention_input(block: EvaBlock | EvaBlockPostNorm, x: Tensor) -> Tensor:
    return x if isinstance(block, EvaBlockPostNorm) else block.norm1(x)


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x


def _check_block(i: int, block: nn.Module) -> None:
    for part, allowed in (
        (block, (EvaBlock, EvaBlockPostNorm)),
        (getattr(block, "attn", None), (EvaAttention, AttentionRope)),
        (getattr(block, "mlp", None), (Mlp, GluMlp, SwiGLU)),
    ):
        if type(part) not in allowed:
            names = ", ".join(kind.__name__ for kind in allowed)
            raise ValueError(f"block {i} has a {type(part).__name__} where only timm's {names} are supported")
