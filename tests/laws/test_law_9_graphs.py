"""Law 9, graphs: what is traced or compiled from a batch of one size serves batches of every other; where images keep
numbers of tokens of their own, no graph can, and it is refused by name."""

from __future__ import annotations

import io

import onnxruntime
import pytest
import torch
from settings import BACKBONES, METHODS, families, images, pairs, reduced
from timm.utils.onnx import onnx_export

ROWS = {row.name: row for row in BACKBONES}
RAGGED = [pytest.param(m, id=m.id) for m in METHODS if not m.static]


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No test sees what another compiled."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _same(run, model: torch.nn.Module, x: torch.Tensor, sizes: tuple[int, ...]) -> None:
    for k in sizes:
        torch.testing.assert_close(run(x[:k]), model(x[:k]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("cover", lambda b, m: m.static, shallow=True))
def test_a_trace_of_one_image_serves_three(backbone, method):
    x, model = images(backbone, batch=3), reduced(backbone, method)
    _same(torch.jit.trace(model, x[:1], check_trace=False), model, x, (3, 1))


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), families())
def test_a_trace_of_three_images_serves_one(backbone, method):
    x, model = images(backbone, batch=3), reduced(backbone, method)
    _same(torch.jit.trace(model, x, check_trace=False), model, x, (1, 2))


@pytest.mark.parametrize(("backbone", "method"), families())
def test_a_trace_with_gradients_passes_torchs_own_check(backbone, method):
    x, model = images(backbone, batch=3), reduced(backbone, method)
    run = torch.jit.trace(model, x[:2])
    run(x).sum().backward()
    ours = [p.grad for p in model.parameters()]
    model.zero_grad()
    model(x).sum().backward()
    torch.testing.assert_close(ours, [p.grad for p in model.parameters()], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("backbone", "method"),
    # the slowest of all; the export of the smallest example, which law 6 tests for every family, asks the same
    [p for p in families() if p.id == "plain"],
)
def test_compiled_for_one_image_then_for_three(backbone, method):
    x, model = images(backbone, batch=4), reduced(backbone, method)
    _same(torch.compile(model, backend="eager", fullgraph=True), model, x, (1, 3, 4, 1))


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star", lambda b, m: m.id in ("bat", "grid"), shallow=True))
def test_compiled_for_any_number_of_images(backbone, method):
    x, model = images(backbone, batch=4), reduced(backbone, method)
    torch._dynamo.mark_dynamic(x, 0)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)
    with torch.compiler.set_stance("fail_on_recompile"):
        _same(compiled, model, x, (2, 3))


@pytest.mark.parametrize(("backbone", "method"), families())
def test_timms_onnx_export_with_its_defaults(backbone, method, tmp_path):
    x, model, path = images(backbone, batch=3), reduced(backbone, method), str(tmp_path / "model.onnx")
    onnx_export(model, path, x[:1], check_forward=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        for k in (3, 2):
            (logits,) = session.run(None, {"input0": x[:k].numpy()})
            torch.testing.assert_close(torch.from_numpy(logits), model(x[:k]), rtol=1e-4, atol=1e-4)


TOOLS = {
    "torch.jit.trace": lambda model, x: torch.jit.trace(model, x, check_trace=False),
    "torch.export": lambda model, x: torch.export.export(model, (x,)),
    "torch.onnx": lambda model, x: torch.onnx.export(model, (x,), io.BytesIO(), dynamo=True, verbose=False),
    "torch.onnx, older": lambda model, x: torch.onnx.export(model, (x,), io.BytesIO(), dynamo=False),
}


@torch.no_grad()
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("method", RAGGED)
def test_what_differs_from_image_to_image_is_in_no_graph(method, tool):
    x, model = images(ROWS["deit"]), reduced(ROWS["deit"], method)
    with pytest.raises(Exception) as raised:
        TOOLS[tool](model, x)
    error = raised.value
    while not isinstance(error, ValueError):  # the ONNX exporter raises its own from ours
        error = error.__cause__
    assert method.name in str(error) and "its own number of tokens" in str(error)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star", lambda b, m: m.id == "ats", shallow=True))
def test_torch_compile_runs_around_what_differs(backbone, method):
    x, model = images(backbone, batch=3), reduced(backbone, method, at=0)  # each break of the graph takes seconds
    _same(torch.compile(model, backend="eager"), model, x, (3,))
