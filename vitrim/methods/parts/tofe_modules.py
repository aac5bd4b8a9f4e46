"""ToFe's learned parts: selectors, which score every patch token, and approximators, which stand in for the blocks that
frozen tokens skip.

Shapes: b images, n patch tokens, f frozen ones, c channels. A ragged batch has b = 1, all images' tokens in a row.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...backbones.layers import is_bare_linear
from ...core.attention import attention
from ...core.masking import Mask
from ...core.packing import Layout, Pack
from ...core.precision import without_autocast
from ...core.recording import divided, laid_out
from ...core.reductions import Reduction
from ...core.tokens import Tokens
from .predictor import Predictor


class MlpSelector(nn.Module):
    """LayerNorm, then a 3-layer MLP C -> C/2 -> C/4 -> 2 with GELU, and a log-softmax (ToFe Eq. 8).

    The paper gives no widths; these agree with its Table III. The last layer is float32 under any autocast, so that
    scores close to each other stay apart.
    """

    def __init__(self, channels: int):
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.hidden = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, half), nn.GELU(), nn.Linear(half, quarter), nn.GELU()
        )
        self.decide = nn.Linear(quarter, 2)

    def forward(self, tokens: Tokens) -> Float[Tensor, "b n 2"]:
        """Log-probabilities (keep, freeze) of every patch token."""
        x = self.hidden(tokens.patches)
        with without_autocast(x.device):
            if is_bare_linear(self.decide):
                z = F.linear(x.float(), self.decide.weight.float(), self.decide.bias.float())
            else:
                z = self.decide(x).float()
        return z.log_softmax(dim=-1)

    @staticmethod
    def macs(channels: int, tokens: int) -> int:
        """Multiply-accumulates over `tokens` tokens."""
        half, quarter = channels // 2, channels // 4
        return tokens * (channels * half + half * quarter + quarter * 2)


class PredictorSelector(Predictor):
    """DynamicViT's predictor in the selector's place (ToFe Table III); its mean runs over the patch tokens present."""

    def forward(self, tokens: Tokens) -> Float[Tensor, "b n 2"]:  # ty: ignore[incompatible-method-override]
        """Log-probabilities (keep, freeze) of every patch token."""
        if tokens.layout is not None:
            return tokens.layout.patches.each(super().forward, tokens.patches)
        return super().forward(tokens.patches, tokens.mask)


def keep_scores(z: Float[Tensor, "b n 2"], tokens: Tokens) -> Float[Tensor, "b n"]:
    """log(keep / freeze): ranks as z does, and does not run into 1; -inf behind the last token of a ragged image."""
    scores = z[..., 0] - z[..., 1]
    if tokens.layout is None:
        return scores
    return tokens.layout.patches.pad(scores.unsqueeze(-1), float("-inf")).squeeze(-1)


@torch.no_grad()
def start_at(selector: MlpSelector | PredictorSelector, share: float) -> None:
    """Set the bias of an untrained selector so that about `share` of the tokens are drawn to be kept."""
    share = min(max(share, 0.01), 0.99)
    shift(selector, math.log(share / (1 - share)))


@torch.no_grad()
def shift(selector: MlpSelector | PredictorSelector, by: float) -> None:
    """Raise log(keep / freeze) of every token alike. Raises ValueError where the last layer's bias cannot be moved."""
    last: Any = selector.decide[-1] if isinstance(selector.decide, nn.Sequential) else selector.decide
    if not is_bare_linear(last):
        raise ValueError(f"the selector's last layer is a {type(last).__name__} or has hooks: its bias cannot be moved")
    last.bias += last.bias.new_tensor([by / 2, -by / 2])


def decide(scores: Float[Tensor, "b n"], mask: Float[Tensor, "b n"] | None) -> Bool[Tensor, "b n"]:
    """Keep where keeping is at least as likely as freezing; where an image would keep nothing, its best token."""
    if mask is not None:
        scores = scores.masked_fill(mask == 0, float("-inf"))
    return (scores >= 0) | (scores == scores.amax(dim=1, keepdim=True)) & (scores.amax(dim=1, keepdim=True) < 0)


class Mlp(nn.Module):
    """Two layers with GELU between them, C -> hidden -> C; named `fc1` and `fc2`, as in saved weights."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "b f c"]) -> Float[Tensor, "b f c"]:
        """The layers one after the other."""
        return self.fc2(self.act(self.fc1(x)))


class Bottleneck(nn.Module):
    """A 2-layer MLP with hidden width C/2 behind a LayerNorm: what the skipped blocks would have added."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, channels // 2)
        nn.init.zeros_(self.mlp.fc2.weight)  # untrained it adds nothing
        nn.init.zeros_(self.mlp.fc2.bias)

    def forward(self, tokens: Tokens, reduction: Reduction) -> Float[Tensor, "b f c"]:
        """What is to be added to the frozen tokens, `reduction.take_rest(tokens.x)`."""
        return self.mlp(self.norm(reduction.take_rest(tokens.x, tokens.prefix)))

    @staticmethod
    def macs(channels: int, tokens: int, frozen: int) -> int:
        """Multiply-accumulates with `frozen` of `tokens` tokens frozen."""
        return frozen * 2 * channels * (channels // 2)


class DepthwiseConv(nn.Module):
    """A depth-wise 3 x 3 convolution over the token grid, read at the frozen tokens (ToFe Table IV)."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.conv: Any = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, tokens: Tokens, reduction: Reduction) -> Float[Tensor, "b f c"]:
        """What is to be added to the frozen tokens; ValueError where some patches of the grid are gone."""
        height, width = tokens.grid
        if tokens.n != height * width:
            raise ValueError(f'approximator="conv" needs all {height * width} patches, and {tokens.n} are left')
        grid = divided(tokens.patches.transpose(1, 2), 2, (height, width))
        update = self.conv(laid_out(grid)).flatten(2).transpose(1, 2)
        return reduction.take_rest(F.pad(update, (0, 0, tokens.prefix, 0)), tokens.prefix)

    @staticmethod
    def macs(channels: int, tokens: int, frozen: int) -> int:
        """Multiply-accumulates with `frozen` of `tokens` tokens frozen."""
        return tokens * channels * 9


class TransformerBlock(nn.Module):
    """A pre-norm transformer block over the frozen tokens, which attend to each other (ToFe Table IV)."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = Mlp(channels, 4 * channels)
        for last in (self.proj, self.mlp.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, tokens: Tokens, reduction: Reduction) -> Float[Tensor, "b f c"]:
        """What is to be added to the frozen tokens."""
        x = reduction.take_rest(tokens.x, tokens.prefix)
        layout = reduction.rest_layout if isinstance(reduction, Pack) else None
        here = 1 if tokens.mask is None else tokens.mask  # a token that is gone for good is not frozen
        frozen = here - reduction.mask if isinstance(reduction, Mask) else None
        attended = self._attend(self.norm1(x), layout, frozen)
        return attended + self.mlp(self.norm2(x + attended))

    def _attend(self, x: Tensor, layout: Layout | None, frozen: Tensor | None) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(attention(q, k, v, key_mask=frozen, layout=layout))

    @staticmethod
    def macs(channels: int, tokens: int, frozen: int) -> int:
        """Multiply-accumulates with `frozen` of `tokens` tokens frozen."""
        return frozen * 12 * channels * channels + 2 * frozen * frozen * channels


SELECTORS: dict[str, Any] = {"mlp": MlpSelector, "dynamicvit": PredictorSelector}
APPROXIMATORS: dict[str, Any] = {
    "bottleneck": Bottleneck,
    "identity": None,
    "conv": DepthwiseConv,
    "block": TransformerBlock,
}
