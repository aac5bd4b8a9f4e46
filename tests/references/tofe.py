"""ToFe's Algorithm 1, written slowly: one image at a time, one token at a time, plain loops.

Only timm's own blocks, embedding and head are called; selectors and approximators are written out from the paper and
read nothing of the method but its parameters.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def slow_tofe(fast, image: Tensor) -> tuple[Tensor, list[list[int]]]:
    """Logits [1, classes] of one image [1, 3, h, w], and the patches kept at each place."""
    model, method = fast.backbone, fast.methods[0]
    x = model.norm_pre(model._pos_embed(model.patch_embed(image)))[0]
    p, n = model.num_prefix_tokens, x.shape[0] - model.num_prefix_tokens
    places = [place.block for place in method.places]
    prefix, patches = x[:p], {j: x[p + j] for j in range(n)}
    inside, outside, decisions = list(range(n)), {}, []
    for number, block in enumerate(model.blocks):
        if number in places:
            stage = places.index(number)
            if method.reuse:  # lines 5 and 6: recover, rearrange
                patches |= outside
                inside = list(range(n))
            kept = decide(method, stage, {j: patches[j] for j in inside}, n)
            if kept != inside and method.reuse and stage < len(places) - 1:
                frozen = [j for j in inside if j not in kept]
                outside = approximate(
                    method, stage, patches, frozen, tuple(model.patch_embed.dynamic_feat_size(size(image)))
                )
            else:
                outside = {}
            inside = kept
            decisions.append(kept)
        rows = block(torch.stack([*prefix, *[patches[j] for j in inside]])[None])[0]
        prefix = rows[:p]
        patches |= {j: rows[p + i] for i, j in enumerate(inside)}
    left = torch.stack([*prefix, *[patches[j] for j in inside]])[None]
    return model.forward_head(model.norm(left)), decisions


def size(image: Tensor) -> tuple[int, int]:
    """(height, width) in pixels."""
    return tuple(image.shape[-2:])


# -- selectors (Eq. 8), lines 7 to 13


def decide(method, stage: int, patches: dict[int, Tensor], n: int) -> list[int]:
    """The patches kept, in their order."""
    count = max(1, math.floor(method.places[stage].keep * n + 0.5 + 1e-9))
    selector = method.selectors[stage]
    if count >= (n if method.adaptive == "instance" else len(patches)):
        return list(patches)
    score = mlp_scores if method.selector == "mlp" else predictor_scores
    z = {j: logits.softmax(dim=0).tolist() for j, logits in score(selector, patches).items()}
    best = sorted(patches, key=lambda j: -z[j][0])
    if method.adaptive == "batch":
        return sorted(best[:count])
    return sorted([j for j in patches if z[j][0] >= z[j][1]] or best[:1])


def linears(module: nn.Module) -> list[nn.Linear]:
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


def norm(module: nn.Module, x: Tensor) -> Tensor:
    """The module's first LayerNorm, written out."""
    layer = next(m for m in module.modules() if isinstance(m, nn.LayerNorm))
    return normed(layer, x)


def normed(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + layer.eps).sqrt() * layer.weight + layer.bias


def mlp_scores(selector: nn.Module, patches: dict[int, Tensor]) -> dict[int, Tensor]:
    """LayerNorm and three layers, token by token."""
    first, second, third = linears(selector)
    out = {}
    for j, x in patches.items():
        h = F.gelu(first.weight @ norm(selector, x) + first.bias)
        h = F.gelu(second.weight @ h + second.bias)
        out[j] = third.weight @ h + third.bias
    return out


def predictor_scores(selector: nn.Module, patches: dict[int, Tensor]) -> dict[int, Tensor]:
    """DynamicViT's: half of a token's own channels, half of the mean over all that are present."""
    first, second, third, fourth = linears(selector)
    own = {j: F.gelu(first.weight @ norm(selector, x) + first.bias) for j, x in patches.items()}
    half = len(next(iter(own.values()))) // 2
    mean = sum(h[half:] for h in own.values()) / len(own)
    out = {}
    for j, h in own.items():
        h = F.gelu(second.weight @ torch.cat([h[:half], mean]) + second.bias)
        h = F.gelu(third.weight @ h + third.bias)
        out[j] = fourth.weight @ h + fourth.bias
    return out


# -- approximators (Eq. 6)


def approximate(method, stage: int, patches: dict[int, Tensor], frozen: list[int], grid) -> dict[int, Tensor]:
    """x + Approx(x) of the frozen patches."""
    if method.approximator == "identity":
        return {j: patches[j] for j in frozen}
    module = method.approximators[stage]
    if method.approximator == "bottleneck":
        return {j: patches[j] + bottleneck(module, patches[j]) for j in frozen}
    if method.approximator == "conv":
        return {j: patches[j] + convolve(module.conv, patches, j, grid) for j in frozen}
    return transform(module, [patches[j] for j in frozen], frozen)


def bottleneck(module: nn.Module, x: Tensor) -> Tensor:
    first, second = linears(module)
    return second.weight @ F.gelu(first.weight @ norm(module, x) + first.bias) + second.bias


def convolve(conv: nn.Conv2d, patches: dict[int, Tensor], j: int, grid: tuple[int, int]) -> Tensor:
    """A depth-wise 3 x 3 convolution at patch j, zeros beyond the border."""
    height, width = grid
    row, column = divmod(j, width)
    out = conv.bias.clone()
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            if 0 <= row + a < height and 0 <= column + b < width:
                out = out + conv.weight[:, 0, a + 1, b + 1] * patches[(row + a) * width + column + b]
    return out


def transform(module: nn.Module, rows: list[Tensor], names: list[int]) -> dict[int, Tensor]:
    """A pre-norm transformer block over the frozen tokens, head by head and token by token."""
    c, out = rows[0].shape[0], {}
    d = c // module.heads
    qkv = [module.qkv.weight @ normed(module.norm1, x) + module.qkv.bias for x in rows]
    for i, x in enumerate(rows):
        heads = []
        for h in range(module.heads):
            part = slice(h * d, (h + 1) * d)
            logits = torch.stack([qkv[i][:c][part] @ other[c : 2 * c][part] / math.sqrt(d) for other in qkv])
            heads.append(sum(a * other[2 * c :][part] for a, other in zip(logits.softmax(dim=0), qkv, strict=True)))
        x = x + module.proj.weight @ torch.cat(heads) + module.proj.bias
        first, second = linears(module.mlp)
        out[names[i]] = x + second.weight @ F.gelu(first.weight @ normed(module.norm2, x) + first.bias) + second.bias
    return out
