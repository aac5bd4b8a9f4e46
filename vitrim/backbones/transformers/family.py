"""The transformers family: ViT, DeiT, I-JEPA, DINOv2 with and without registers, DINOv3, CLIP, SigLIP, SigLIP 2, and
the towers of vision-language models, as Hugging Face's transformers builds them. One adapter; the names of parts are in
`dialects.py`, what is before and behind the layers in `stems.py` and `heads.py`, the models around in `towers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ...core.attention import attention
from ...core.evidence import Evidence
from ...core.recording import image_size, no_image
from ...core.tokens import Tokens
from .checks import check_config, check_layers, check_parts, check_version
from .dialects import kinds
from .heads import MAP
from .projections import SeparateProjections
from .stems import patch_layer
from .structure import TransformersStructure


class TransformersBackbone(TransformersStructure):
    """transformers' vision models, run by half blocks."""

    family = "transformers"
    kinds: ClassVar[dict[str, str]] = kinds()

    @classmethod
    def check(cls, model):
        check_version()
        body = cls(check_parts(model))
        check_config(body.config, model.config, type(model).__name__)
        check_layers(body.dialect, list(body.all_blocks()))

    def foldable(self, i):
        return self.dialect.rotary is None and self._projections(i).foldable

    # -- running it

    def _embed(self, images):
        tower, dialect = self.tower, self.dialect
        self._check_size(images)
        x = tower.embeddings(*dialect.stem.inputs(self.config, images.to(self._dtype)))
        if no_image(images.shape[0]):
            x = x.new_zeros(0, math.prod(self.grid(image_size(images))) + self.prefix, self.width)
        x = x if dialect.before is None else getattr(tower, dialect.before)(x)
        return self.tokens_of(x, self.grid(image_size(images)), self._rotation(images))

    def tokens_of(self, x: Tensor, grid: tuple[int, int], rotation: tuple[Tensor, Tensor] | None) -> Tokens:
        """Tokens of what goes into the first layer; rotation: (cos, sin), each [n0, d]."""
        rope = None if rotation is None else torch.cat(rotation[::-1], dim=-1)
        return Tokens(x, prefix=self.prefix, grid=grid, rope=rope, placed=rope is not None)

    def _rotation(self, images: Tensor) -> tuple[Tensor, Tensor] | None:
        return None if self.dialect.rotary is None else getattr(self.tower, self.dialect.rotary)(images)

    @property
    def _dtype(self) -> torch.dtype:
        """Of the patch embedding, to which transformers converts images."""
        return next(patch_layer(self.tower.embeddings).parameters()).dtype

    def _check_size(self, images: Tensor) -> None:
        if self.dialect.has_any_size:
            return
        size, own = image_size(images), self.image_size
        if size == own:
            return
        raise ValueError(
            f"images are {size[0]} x {size[1]}, this model takes {own[0]} x {own[1]}: resize them, or call the reduced "
            "model with interpolate_pos_encoding=True"
        )

    def enter(self, i, tokens):
        return tokens.with_x(self.before(self.layers[i], tokens.x)) if self.hooked else tokens

    def leave(self, i, tokens):
        return tokens.with_x(self.after(self.layers[i], tokens.x)) if self.hooked else tokens

    def probe(self, i, tokens):
        layer, bias = self._projections(i, tokens), tokens.key_bias
        return Evidence(lambda: self._norm1(i, tokens.x), layer, self.prefix, self.class_tokens, key_bias=bias)

    def _projections(self, i: int, tokens: Tokens | None = None) -> SeparateProjections:
        if tokens is None:
            return SeparateProjections(self._attn(i))
        prefix = self.prefix if tokens.layout is None else 0  # ragged rows come with the prefix tokens' own
        return SeparateProjections(self._attn(i), tokens.rope_rows(i), prefix)

    def _norm1(self, i: int, x: Tensor) -> Tensor:
        return self.before(self._attn(i), self._part(i, self.template.norm1)(x))

    def attend(self, i, tokens, h=None):
        h = self._norm1(i, tokens.x) if h is None else h
        layer = self._projections(i, tokens)
        q, k, v = layer.project(h)
        bias, layout = tokens.key_bias, tokens.layout
        evidence = Evidence(
            h, layer, self.prefix, self.class_tokens, q=q, k=k, v=v, key_bias=bias, layout=layout
        )  # fmt: skip
        out = self._projected(i, self._attended(i, q, k, v, tokens))
        return tokens.with_x(self.add(tokens.x, self._branch(i, 0, out))), evidence

    def _attended(self, i: int, q: Tensor, k: Tensor, v: Tensor, tokens: Tokens) -> Tensor:
        share = self.config_dropout if self._attn(i).training else 0.0
        return attention(
            q, k, v, key_bias=tokens.key_bias, key_mask=tokens.key_mask, layout=tokens.layout, dropout=share
        )  # fmt: skip

    @property
    def config_dropout(self) -> float:
        """Share of the attention map that is dropped in training."""
        names = ("attention_probs_dropout_prob", "attention_dropout")
        return next(getattr(self.config, name) for name in names if hasattr(self.config, name))

    def _projected(self, i: int, x: Tensor) -> Tensor:
        attn, drop = self._attn(i), self.template.out_drop
        out = getattr(attn, self.template.out)(x)
        return self.after(attn, out if drop is None else getattr(attn, drop)(out), None)  # no attention map

    def _branch(self, i: int, half: int, out: Tensor) -> Tensor:
        """What attention (0) or MLP (1) gives, as it is added. Dropping and scaling may change places."""
        template = self.template
        if template.scales is not None:
            scale = self._part(i, template.scales[half])
            out = scale * out if isinstance(scale, Tensor) else scale(out)
        drop = template.drops[half]
        return out if drop is None else self._part(i, drop)(out)

    def mlp(self, i, tokens):
        out = self._part(i, "mlp")(self._part(i, self.template.norm2)(tokens.x))
        return tokens.with_x(self.add(tokens.x, self._branch(i, 1, out)))

    def attend_prefix(self, i, tokens, h=None):
        h = self._norm1(i, tokens.x) if h is None else h
        layer, front = self._projections(i, tokens), h[:, : self.prefix]
        q, k, v = layer.queries(front, prefix_only=True), layer.keys(h), layer.values(h)
        out = self._projected(i, self._attended(i, q, k, v, tokens))
        x = tokens.x[:, : self.prefix] + self._branch(i, 0, out)
        return Tokens(x, prefix=self.prefix, grid=tokens.grid)

    def norm(self, x):
        return x if self.reading is not None and self.reading.states else self.tower_norm(x)

    def tower_norm(self, x: Tensor) -> Tensor:
        """The tower's last norm of all tokens."""
        return x if self.dialect.norm is None else getattr(self.tower, self.dialect.norm)(x)

    def head(self, tokens, pre_logits=False):
        return self.entry.head(self.model, self.tower, tokens, pre_logits)

    def entry_pool(self, tokens: Tokens) -> Tensor:
        """Pooled features of the tower, of tokens after the last norm."""
        return self.entry.head.pool(self.tower, tokens)

    def tower_pool(self, tokens: Tokens) -> Tensor:
        """What the tower itself returns as pooled, of tokens before its last norm."""
        return self._tower_head.pool(self.tower, tokens.with_x(self.tower_norm(tokens.x)))

    def read(self, taken: Sequence[Tensor]) -> Tensor:
        assert self.reading is not None
        parts = [self.norm(x)[:, self.reading.skips :] for x in taken]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    # -- what it costs

    def embed_macs(self, grid):
        return self.dialect.stem.macs(self.tower.embeddings, grid)

    def unread_macs(self, grid):
        n = math.prod(grid)
        if self.reading is None:  # SigLIP's classifier averages patches, and its tower pools them by attention beside
            pools = self.entry.classifies and hasattr(self.tower, "head")
            return MAP.pool_macs(self.tower, n + self.prefix) if pools else 0
        behind = range(self.depth, len(self.layers))
        head = self._tower_head.macs(self.tower, self.tower, n + self.prefix)
        return head + sum(self.block_macs(i, n, n, grid) for i in behind)

    def query_macs(self, i):
        return self.linear_macs(self._attn(i).q_proj, self.width)

    def attention_macs(self, i, tokens):
        inner = math.prod(self.heads(i))
        out = self.linear_macs(getattr(self._attn(i), self.template.out), inner)
        return tokens * (self._qkv_macs(i) + out) + 2 * tokens * tokens * inner

    def _qkv_macs(self, i: int) -> int:
        attn = self._attn(i)
        return sum(self.linear_macs(part, self.width) for part in (attn.q_proj, attn.k_proj, attn.v_proj))

    def prediction_macs(self, i, attended):
        tokens, inner, query = attended + self.prefix, math.prod(self.heads(i)), self.query_macs(i)
        front = query + self.linear_macs(getattr(self._attn(i), self.template.out), inner) + 2 * tokens * inner
        return tokens * (self._qkv_macs(i) - query) + self.prefix * front + self.mlp_macs(i, self.prefix)

    def mlp_macs(self, i, tokens):
        return tokens * self.linear_macs(self._part(i, "mlp"), self.width)

    def head_macs(self, tokens):
        return 0 if self.reading is not None else self.entry.head.macs(self.model, self.tower, tokens)
