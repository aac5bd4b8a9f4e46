"""Evidence: what one attention layer knows of its tokens, each piece computed when asked for and never before.

It holds references only: the normalised input h, the layer's projections, and q and k once attention has formed them.
The N x N map is made by `attention_map` alone. All scores are float32, whatever the autocast.

Shapes: b images, p prefix tokens, n patch tokens, h heads, d channels of a head, c channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .precision import without_autocast
from .recording import laid_out, length, one_image


@dataclass(frozen=True)
class Evidence:
    """What one attention layer knows of its tokens: its input and projections, and the scores that methods decide by.

    Shapes: b images, p prefix tokens, n patch tokens, h heads, d channels of a head, c channels, T tokens of all
    images.

    source:   [b, p+n, c] the normalised input of the attention layer, or what computes it
    layer:    the layer's projections (`queries(h)`, `keys(h)`, `folded(h)`)
    prefix:   p
    class_tokens: prefix tokens whose attention counts: [CLS], the distillation token beside it; never registers
    q, k, v:  [b, h, p+n, d] if the attention has formed them already
    key_bias: [b, p+n] what is added to the logits of a key
    layout:   where the images lie in a ragged batch: then q, k, v are [1, h, T, d]

    Example: of block 1, whose 64 patch tokens each have one score in each of the 2 images.
        >>> body = vitrim.reduce(model, "evit").body
        >>> evidence = body.probe(1, body.enter(1, body.begin(body.embed(images))))
        >>> evidence.class_attention().shape, evidence.attention_map().shape
        (torch.Size([2, 64]), torch.Size([2, 3, 65, 65]))
    """

    source: Tensor | Callable[[], Tensor]
    layer: Any
    prefix: int
    class_tokens: tuple[int, ...]
    q: Any = None
    k: Any = None
    v: Any = None
    key_bias: Tensor | None = None
    layout: Any = None

    @property
    def h(self) -> Float[Tensor, "b pn c"]:
        """The normalised input of the attention layer, computed when first asked for."""
        source = self.source
        if not isinstance(source, Tensor):
            source = source()
            object.__setattr__(self, "source", source)
        return source

    @property
    def asked(self) -> bool:
        """Whether the normalised input is known by now."""
        return isinstance(self.source, Tensor)

    def queries(self) -> Float[Tensor, "b h pn d"]:
        """Queries of all tokens, after norm and rotation where the layer has them."""
        return self.layer.queries(self.h) if self.q is None else self.q

    def keys(self) -> Float[Tensor, "b h pn d"]:
        """Keys of all tokens, after norm and rotation where the layer has them."""
        return self.layer.keys(self.h) if self.k is None else self.k

    def class_attention(self) -> Float[Tensor, "b n"]:
        """Mean over heads (and class tokens) of softmax(q_cls K^T / sqrt(d)), patch entries only (EViT Eq. 2).

        The entries are not renormalised after the prefix entries are left out. N*C multiply-adds.
        """
        return self.class_rows().mean(dim=(1, 2))

    def class_rows(self) -> Float[Tensor, "b h v n"]:
        """softmax(q_cls K^T / sqrt(d)) of every head and class token, patch entries only. In a ragged batch, which
        attention must have run on, n is the largest number of an image; entries behind an image's last token are 0."""
        rows = self._class_slice()
        q = self._class_queries() if self.layout is None else self._padded(self.q)[:, :, rows]
        return self._softmax(q)[..., self.prefix :]

    def value_norms(self) -> Float[Tensor, "b h n"]:
        """Euclidean norm of the values of every head, patch tokens only; attention must have run."""
        norms = self.v.float().norm(dim=-1)
        if self.layout is not None:
            norms = self.layout.pad(norms.transpose(1, 2)).transpose(1, 2)
        return norms[..., self.prefix :]

    def token_attention(self) -> Float[Tensor, "b n"]:
        """Mean over heads and over all rows of the attention map, patch entries only (EViT Eq. 4). Forms the map."""
        return self.attention_map()[..., self.prefix :].mean(dim=(1, 2))

    def class_logits(self) -> Float[Tensor, "b n"]:
        """Mean over heads (and class tokens) of q_cls . k_j before softmax, up to a constant of the image (IdleViT).

        The mean over heads is one dot product over all channels, so the key projection folds into the query: with
        u = W_K^T q_cls the score of token j is h_j . u, N*C + C^2 multiply-adds instead of N*C^2 for all keys. Where
        keys are normalised per head or rotated by position it cannot be folded, and the keys are projected.
        """
        h = self.h
        with without_autocast(h.device):
            rows = h[:, self._class_slice()].clone(memory_format=torch.contiguous_format)
            folded = self.layer.folded(rows.float())
            if folded is not None:
                logits = torch.bmm(h[:, self.prefix :].float(), folded.unsqueeze(2)).squeeze(2)
            else:
                q, k = self._class_queries().float(), self.keys()[:, :, self.prefix :].float()
                logits = (q @ k.transpose(-2, -1)).mean(dim=(1, 2)) * q.shape[-1] ** -0.5
        return logits if self.key_bias is None else logits + self.key_bias[:, self.prefix :].float()

    def attention_map(self) -> Float[Tensor, "b h pn pn"]:
        """The full softmaxed map, with gradient."""
        return self._softmax(self.queries())

    def mean_map(self, of: str = "maps") -> Float[Tensor, "b pn pn"]:
        """One map for all heads, for IdleViT's cut loss: the mean of the heads' maps, or (of="logits", the authors'
        code) the softmax of the heads' mean logits."""
        if of == "maps":
            return self.attention_map().mean(dim=1)
        q, k = self.queries().float(), self.keys().float()
        logits = (q @ k.transpose(-2, -1)).mean(dim=1) * q.shape[-1] ** -0.5
        return (logits if self.key_bias is None else logits + self.key_bias[:, None].float()).softmax(dim=-1)

    def _class_slice(self) -> slice:
        """The class tokens, which stand side by side. Raises ValueError where the model has none."""
        if not self.class_tokens:
            raise ValueError(
                "the model has no [CLS] token, so there is no class attention: use evidence.token_attention()"
            )
        return slice(self.class_tokens[0], self.class_tokens[-1] + 1)

    def _class_queries(self) -> Float[Tensor, "b h v d"]:
        """Queries of the class tokens alone; before the attention has run no other query is projected."""
        rows = self._class_slice()
        if self.q is not None:
            return self.q[:, :, rows]
        return self.layer.queries(laid_out(self.h[:, rows]), prefix_only=True)

    def _padded(self, x: Float[Tensor, "1 h t d"]) -> Float[Tensor, "b h n d"]:
        """The rows of a ragged batch as a dense one, zeros behind an image's last token."""
        heads, channels = x.shape[1], x.shape[3]
        return self.layout.pad(x.transpose(1, 2).flatten(2)).unflatten(2, (heads, channels)).transpose(1, 2)

    def _softmax(self, q: Float[Tensor, "b h r d"]) -> Float[Tensor, "b h r pn"]:
        k = self.keys() if self.layout is None else self._padded(self.keys())
        with without_autocast(q.device):
            logits = _products(q.float() * q.shape[-1] ** -0.5, k.float())
        if self.key_bias is not None:
            logits = logits + self.key_bias[:, None, None].float()
        if self.layout is not None:
            absent = self.layout.numbers(logits.device) < 0
            logits = logits.masked_fill(absent[:, None, None], float("-inf"))
        return logits.softmax(dim=-1)


def _products(q: Float[Tensor, "b h r d"], k: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h r n"]:
    """q k^T. Keys are a view whose images and heads do not lie evenly, so a batched product over both would copy them
    all; for a few rows on CPU one product for each head is faster."""
    if one_image(q.shape[0]) or length(q, 2) > 4 or q.device.type != "cpu":
        return q @ k.transpose(-2, -1)
    heads = zip(q.unbind(1), k.unbind(1), strict=True)
    return torch.stack([torch.bmm(query, keys.transpose(1, 2)) for query, keys in heads], dim=1)
