"""Law 6, compilers: one full graph for torch.compile, the same logits from it."""

from __future__ import annotations

import pytest
import torch
from settings import backbones, dense, families, images, pairs, reduced

import vitrim


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No test sees what another compiled."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _differs(backbone, method) -> bool:
    """Of the stacks, which have no short models and take longest, two."""
    return method.static and (not method.more or method.id in ("stack-three", "stack-prune-freeze"))


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("cover", _differs, shallow=True))
def test_compiles_to_one_graph(backbone, method):
    x, model = images(backbone), reduced(backbone, method)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)  # copies lie otherwise in a graph


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), families())
def test_inductor_gives_the_same_logits(backbone, method):
    x, model = images(backbone), reduced(backbone, method)
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x), rtol=1e-4, atol=1e-5)


def test_training_compiles_to_one_graph():
    backbone, method = next(p.values for p in families() if p.values[0].family == "plain")  # nothing is drawn there
    x = images(backbone)
    gradients = []
    for compiled in (False, True):
        model = reduced(backbone, method).train()
        (torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model)(x).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for ours, eager in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_compiled_models_are_unwrapped():
    backbone = backbones(lambda b: b.cls)[0].values[0]
    x, model = images(backbone), dense(backbone)
    compiled = torch.compile(model, backend="eager")
    fast = vitrim.reduce(compiled, "evit", keep=0.5)
    assert fast.backbone is model
    assert torch.equal(fast(x), vitrim.reduce(model, "evit", keep=0.5)(x))
    again = torch.compile(fast, backend="eager")
    assert vitrim.profile(again) == vitrim.profile(fast)
    with pytest.raises(ValueError, match="reduced already"):
        vitrim.reduce(again, "evit")
