"""Evidence: each piece is what its formula says, is float32 under any autocast, and no map is formed unasked."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from settings import BackboneRow, backbones, capture, dense, images, methods, nothing, pairs, reduced
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import vitrim

WITH_CLS = backbones(lambda b: b.cls and b.family == "plain")


def _evidence(row: BackboneRow, x: Tensor, block: int = 2):
    """Tokens before block 2, the evidence of a probe, and that of the attention itself."""
    body = nothing(row).body
    tokens = body.embed(x)
    for i in range(block):
        tokens = body.mlp(i, body.attend(i, tokens)[0])
    return tokens, body.probe(block, tokens), body.attend(block, tokens)[1]


@torch.no_grad()
@pytest.mark.parametrize("row", WITH_CLS)
def test_before_and_after_the_attention_evidence_is_the_same(row):
    _, before, after = _evidence(row, images(row))
    assert before.q is None and after.q is not None
    for piece in ("queries", "keys", "class_attention", "token_attention", "attention_map"):
        torch.testing.assert_close(getattr(before, piece)(), getattr(after, piece)(), rtol=1e-5, atol=1e-6)


def _standard(scores: Tensor) -> Tensor:
    return (scores - scores.mean(dim=1, keepdim=True)) / scores.std(dim=1, keepdim=True)


@torch.no_grad()
@pytest.mark.parametrize("row", WITH_CLS)
def test_scores_are_read_off_the_map(row):
    tokens, before, after = _evidence(row, images(row))
    maps, p, class_tokens = after.attention_map(), tokens.prefix, list(after.class_tokens)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones_like(maps[..., 0]))
    torch.testing.assert_close(after.class_attention(), maps[:, :, class_tokens, p:].mean(dim=(1, 2)))
    torch.testing.assert_close(after.token_attention(), maps[..., p:].mean(dim=(1, 2)))
    logits = (after.q[:, :, class_tokens] @ after.k[:, :, p:].transpose(-2, -1)).mean(dim=(1, 2)) * after.q.shape[
        -1
    ] ** -0.5
    for ours in (before.class_logits(), after.class_logits()):  # up to a constant and a positive factor of the image
        torch.testing.assert_close(_standard(ours), _standard(logits), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("row", backbones(lambda b: b.cls))
def test_evidence_of_merged_tokens_weighs_them_as_attention_does(row):
    tokens, _, _ = _evidence(row, images(row))
    body, p = nothing(row).body, tokens.prefix
    sizes = torch.randint(1, 9, (2, tokens.n), generator=torch.Generator().manual_seed(0)).float()
    tokens = replace(tokens, key_size=sizes)
    before, after = body.probe(2, tokens), body.attend(2, tokens)[1]
    for piece in ("class_attention", "attention_map"):
        torch.testing.assert_close(getattr(before, piece)(), getattr(after, piece)(), rtol=1e-5, atol=1e-6)
    logits = (after.q @ after.k.transpose(-2, -1)).mean(dim=1) * after.q.shape[-1] ** -0.5
    logits = logits + torch.cat([sizes.new_ones(2, p), sizes], dim=1).log()[:, None]
    torch.testing.assert_close(before.mean_map("logits"), logits.softmax(dim=-1), rtol=1e-4, atol=1e-5)
    wanted = logits[:, list(after.class_tokens), p:].mean(dim=1)
    for ours in (before.class_logits(), after.class_logits()):  # up to a constant of the image
        centred = [scores - scores.mean(dim=1, keepdim=True) for scores in (ours, wanted)]
        torch.testing.assert_close(*centred, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_float32_under_autocast(dtype):
    row = WITH_CLS[0].values[0]
    with torch.autocast("cpu", dtype=dtype):
        _, before, after = _evidence(row, images(row))
        assert after.q.dtype == after.k.dtype == dtype
        scores = {name: getattr(after, name)() for name in ("class_attention", "token_attention")}
        scores["class_logits"] = before.class_logits()
    assert all(s.dtype == torch.float32 for s in scores.values())
    logits = after.q.float()[:, :, :1] * after.q.shape[-1] ** -0.5 @ after.k.float().transpose(-2, -1)
    expected = logits.softmax(dim=-1)[..., 1:].mean(dim=(1, 2))
    torch.testing.assert_close(scores["class_attention"], expected)
    coarse = scores["class_attention"].to(dtype).float()
    assert not torch.equal(scores["class_attention"], coarse), "more digits than the autocast type has"


@torch.no_grad()
def test_whole_models_in_half_precision_score_in_float32():
    row = WITH_CLS[0].values[0]
    model = vitrim.reduce(dense(row).bfloat16(), "evit", keep=0.5)
    seen = capture(model)
    model(images(row).bfloat16())
    assert all(reduction.scores.dtype == torch.float32 for *_, reduction in seen)


# -- the map


class MapWatch(TorchDispatchMode):
    """Counts activations [..., n, n] that really take that memory, n being the tokens of some block."""

    def __init__(self, model: vitrim.ReducedViT, sizes: set[int]):
        super().__init__()
        self.own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.sizes, self.found = sizes, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            self.found += isinstance(t, Tensor) and self._is_map(t)
        return out

    def _is_map(self, t: Tensor) -> bool:
        if t.dim() < 2 or t.shape[-1] != t.shape[-2] or t.shape[-1] not in self.sizes:
            return False
        held = t.untyped_storage()
        return held.data_ptr() not in self.own and held.nbytes() >= t.shape[-1] ** 2 * t.element_size()


def _maps_formed(row: BackboneRow, method) -> int:
    """On images large enough that hardly a number of tokens is also a number of channels; those are not watched."""
    wide = replace(row, build=partial(row.build, img_size=112), image=(112, 112))
    model = reduced(wide, method)
    blocks = vitrim.profile(model, wide.image).blocks
    counts = {n for block in blocks for n in (block.attention_tokens, block.mlp_tokens)}
    sizes = {n + p for n in counts for p in (0, model.num_prefix_tokens)}
    with MapWatch(model, sizes - {d for p in model.parameters() for d in p.shape}) as watch:
        model(images(wide))
    return watch.found


COMPARING = ("pitome", "bat", "dpcknn")  # these compare tokens with each other: no attention map, but as large


@torch.no_grad()
@pytest.mark.parametrize(
    ("row", "method"),
    pairs("star", lambda b, m: not m.full_map and not set(m.names) & set(COMPARING) and b.takes("img_size")),
)
def test_no_attention_map_is_formed(row, method):
    assert _maps_formed(row, method) == 0


@torch.no_grad()
@pytest.mark.parametrize("method", methods(lambda m: m.full_map))
def test_the_watch_sees_the_map_where_one_is_asked_for(method):
    assert _maps_formed(WITH_CLS[0].values[0], method) > 0
