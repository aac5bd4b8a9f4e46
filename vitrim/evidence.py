"""Evidence: what one attention layer knows of its tokens, each piece computed when asked for and never before.

It holds references only: the normed input h, the layer's projections, and q and k once attention has formed them. The
N x N map is made by `attention_map` alone. All scores are float32, whatever the autocast.

Shapes: b images, p prefix tokens, n patch tokens, h heads, d channels of a head, c channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Evidence:
    """One layer's evidence.

    h:        [b, p+n, c] the normed input of the attention layer
    layer:    the layer's projections (`queries(h)`, `keys(h)`, `folded(h)`)
    prefix:   p
    voters:   prefix tokens whose attention counts: [CLS], and the distillation token beside it; registers never vote
    q, k:     [b, h, p+n, d] if the attention has formed them already
    key_bias: [b, p+n] what is added to the logits of a key
    """

    h: Tensor
    layer: object
    prefix: int
    voters: tuple[int, ...]
    q: Tensor | None = None
    k: Tensor | None = None
    key_bias: Tensor | None = None

    def queries(self) -> Float[Tensor, "b h pn d"]:
        """Queries of all tokens, after norm and rotation where the layer has them."""
        return self.layer.queries(self.h) if self.q is None else self.q

    def keys(self) -> Float[Tensor, "b h pn d"]:
        """Keys of all tokens, after norm and rotation where the layer has them."""
        return self.layer.keys(self.h) if self.k is None else self.k

    def class_attention(self) -> Float[Tensor, "b n"]:
        """Mean over heads (and voters) of softmax(q_cls K^T / sqrt(d)), patch entries only (EViT Eq. 2).

        The entries are not renormalised after the prefix entries are left out. N*C multiply-adds.
        """
        rows = self._softmax_rows(list(self.voters))
        return rows[..., self.prefix :].mean(dim=(1, 2))

    def token_attention(self) -> Float[Tensor, "b n"]:
        """Mean over heads and over all rows of the attention map, patch entries only (EViT Eq. 4). Forms the map."""
        return self.attention_map()[..., self.prefix :].mean(dim=(1, 2))

    def attention_map(self) -> Float[Tensor, "b h pn pn"]:
        """The full softmaxed map, with gradient."""
        return self._softmax_rows(None)

    def _softmax_rows(self, rows: list[int] | None) -> Float[Tensor, "b h r pn"]:
        q, k = self.queries(), self.keys()
        q = q if rows is None else q[:, :, rows]
        with torch.autocast(q.device.type, enabled=False):
            logits = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-2, -1)
        if self.key_bias is not None:
            logits = logits + self.key_bias[:, None, None].float()
        return logits.softmax(dim=-1)
