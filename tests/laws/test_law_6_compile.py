"""Law 6, compilers: one full graph for torch.compile, the same logits from it."""

from __future__ import annotations

import pytest
import torch
from settings import METHODS, backbones, dense, families, images, pairs, reduced, unlike

import vitrim


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No test sees what another compiled."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# Every method once, by its first row; `unlike` brings the families. test_law_9_graphs traces every row, quicker.
FIRST = {method.name: method.id for method in reversed(METHODS)}
ONCE = pairs("star", lambda b, m: m.static and b.name == "deit" and m.id == FIRST[m.name], shallow=True)


@torch.no_grad()
@pytest.mark.parametrize(
    ("backbone", "method"), [*unlike(), *(p for p in ONCE if p.id not in {q.id for q in unlike()})]
)
def test_compiles_to_one_graph(backbone, method):
    x, model = images(backbone), reduced(backbone, method)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)  # copies lie otherwise in a graph


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), [p for p in families() if p.id != "swin"])  # it takes twice the others
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
