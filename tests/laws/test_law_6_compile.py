"""Law 6, compilers: one full graph for torch.compile, the same logits from it."""

from __future__ import annotations

import pytest
import torch
from settings import METHODS, UNLIKE, backbones, dense, families, images, reduced, together

import vitrim


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No test sees what another compiled."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# Every method once, by its first row, and those that take a batch apart in other ways. test_law_9_graphs traces every
# row, quicker.
FIRST = {method.name: method.id for method in reversed(METHODS) if method.static}


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), together(*FIRST.values(), *UNLIKE))
def test_compiles_to_one_graph(backbone, method):
    x, model = images(backbone), reduced(backbone, method)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)  # copies lie otherwise in a graph


# The whole of inductor for one family: its C++ takes a second for each kernel. The others go through what it makes of
# a graph before that; swin takes twice as long.
BACKENDS = [
    pytest.param(*p.values, "inductor" if p.id == "plain" else "aot_eager_decomp_partition", id=p.id)
    for p in families()
    if p.id != "swin"
]


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method", "backend"), BACKENDS)
def test_inductor_gives_the_same_logits(backbone, method, backend):
    x, model = images(backbone), reduced(backbone, method)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


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
