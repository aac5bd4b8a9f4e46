"""Law 2: mask = gather. Masked training and gathered inference give the same logits for the same decision."""

from __future__ import annotations

import math

import pytest
import torch
from settings import backbones, dense, images, methods, pairs, reduced
from torch import Tensor

import vitrim
from vitrim.core.attention import attention, masked_attention
from vitrim.core.masking import Mask
from vitrim.core.reductions import Keep, take_rows
from vitrim.runtime.build import attach

B, H, N, D = 2, 3, 9, 8
CLOSE = dict(rtol=1e-5, atol=1e-6)


def _heads(seed: int = 0, dtype=torch.float32) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(B, H, N, D, generator=g, dtype=dtype) for _ in range(3)]


def _chosen(keep: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random indices [b, keep] and the mask [b, n] that says the same."""
    index = torch.rand(B, N, generator=torch.Generator().manual_seed(seed)).topk(keep).indices
    return index, torch.zeros(B, N).scatter(1, index, 1.0)


def test_masked_attention_of_kept_tokens_is_attention_among_them():
    (q, k, v), (index, mask) = _heads(), _chosen()
    among = [take_rows(t.transpose(1, 2), index).transpose(1, 2) for t in (q, k, v)]
    masked = attention(q, k, v, key_mask=mask)
    torch.testing.assert_close(take_rows(masked, index), attention(*among), **CLOSE)


def test_masked_attention_with_key_bias():
    (q, k, v), (index, mask) = _heads(), _chosen()
    bias = torch.rand(B, N).log()
    among = [take_rows(t.transpose(1, 2), index).transpose(1, 2) for t in (q, k, v)]
    masked = attention(q, k, v, key_mask=mask, key_bias=bias)
    torch.testing.assert_close(take_rows(masked, index), attention(*among, key_bias=take_rows(bias, index)), **CLOSE)


def test_dropped_token_with_a_huge_logit_does_not_drown_the_others():
    (q, k, v), (index, mask) = _heads(), _chosen()
    far = k + 1e3 * (1 - mask)[:, None, :, None]
    torch.testing.assert_close(
        take_rows(attention(q, far, v, key_mask=mask), index), take_rows(attention(q, k, v, key_mask=mask), index)
    )


def _by_the_letter(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """ToFe Eq. 17 and 18 term by term: exp(A_ij) G_ij / sum_k exp(A_ik) G_ik, G_ij = 1 if i = j, else M_j."""
    rows = []
    for i in range(N):
        terms = [
            torch.exp((q[:, :, i] * k[:, :, j]).sum(-1) / math.sqrt(D)) * (1.0 if i == j else mask[:, None, j])
            for j in range(N)
        ]
        rows.append(sum(t[..., None] * v[:, :, j] for j, t in enumerate(terms)) / sum(terms)[..., None])
    return torch.stack(rows, dim=2)


def test_masked_attention_value_and_gradients_are_the_equations():
    q, k, v = (t / 2 for t in _heads(dtype=torch.float64))
    mask = _chosen()[1].double() * 0.9 + 0.05  # soft, so that every entry has a gradient
    results = []
    for function in (masked_attention, _by_the_letter):
        given = [t.clone().requires_grad_() for t in (q, k, v, mask)]
        out = function(*given)
        out.square().sum().backward()
        results.append([out.detach(), *[t.grad for t in given]])
    for ours, letter in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), letter, rtol=1e-4, atol=1e-5)


def test_dropped_tokens_get_a_gradient_through_the_mask():
    (q, k, v), (_, mask) = _heads(), _chosen()
    mask.requires_grad_()
    attention(q, k, v, key_mask=mask).square().sum().backward()
    assert (mask.grad.abs() > 0).all()


def test_mask_restores_as_keep_does():
    index, mask = _chosen()
    x, update = torch.randn(B, 1 + N, D), torch.randn(B, 1 + N, D)
    keep = Keep(index).restore(Keep(index).shrink(x, 1) + Keep(index).shrink(update, 1), x, 1)
    torch.testing.assert_close(Mask(mask).restore(x + update, x, 1), keep)
    n = torch.arange(N).expand(B, N)
    assert torch.equal(Mask(mask).owners(N) >= 0, Keep(index).owners(N) >= 0)
    assert torch.equal(Mask(mask).representatives(), n)


class Chosen(vitrim.Method):
    """A decision made beforehand, as mask or as gather, before a block or in it, for good or for one block."""

    name = "chosen"
    trains_masked = True

    def __init__(self, order: Tensor, acts: str, idle: bool, keep=0.6, at=(1, 2)):
        super().__init__(keep, at)
        self.order, self.acts, self.idle = order, acts, idle

    def forward(self, tokens, evidence, place):
        n0 = self.order.shape[1]
        rank = self.order.roll(place.index, dims=1) if self.idle else self.order
        k = round(n0 * (place.keep if self.idle else place.keep ** (place.index + 1)))
        if self.masked:
            return Mask(torch.zeros(rank.shape).scatter(1, rank.topk(k).indices, 1.0))
        return Keep(rank.gather(1, tokens.origin()).topk(k).indices)

    def restore_before(self, place):
        return place.block + 1 if self.idle else None


@torch.no_grad()
@pytest.mark.parametrize(("acts", "idle"), [("before", False), ("between", False), ("before", True)])
@pytest.mark.parametrize("backbone", backbones(lambda b: not b.grid))
def test_core_gives_the_same_logits_masked_and_gathered(backbone, acts, idle):
    x, model = images(backbone), dense(backbone)
    n0 = vitrim.profile(model, backbone.image).patches
    order = torch.rand(2, n0)
    logits = []
    for masked in (True, False):
        reduced_model = attach(model, Chosen(order, acts, idle))
        reduced_model.methods[0].masked = masked
        logits.append(reduced_model(x))
    # Attention pooling masks with log(1e-6), not with minus infinity.
    torch.testing.assert_close(
        *logits, **(dict(rtol=1e-3, atol=1e-4) if getattr(model, "attn_pool", None) is not None else CLOSE)
    )
    assert (logits[0] - model(x)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs(where=lambda b, m: m.says("trains_masked")))
def test_methods_give_the_same_logits_masked_and_gathered(backbone, method):
    x, model = images(backbone), reduced(backbone, method)
    logits = []
    for masked in (True, False):
        for one in model.methods:
            if one.trains_masked:
                one.masked = masked
        logits.append(model(x))
    pooled = getattr(model.backbone, "attn_pool", None) is not None
    torch.testing.assert_close(*logits, **(dict(rtol=1e-3, atol=1e-4) if pooled else CLOSE))
    assert (logits[0] - dense(backbone)(x)).abs().max() > 1e-3


@pytest.mark.parametrize("method", methods(lambda m: not m.says("trains_masked")))
def test_methods_without_masked_form_say_so(method):
    row = next(b.values[0] for b in backbones(lambda b: b.cls))
    with pytest.raises(ValueError, match="has no masked form"):
        reduced(row, method).methods[0].masked = True
