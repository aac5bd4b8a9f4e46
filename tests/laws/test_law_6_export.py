"""Law 6, exports: torch.export and ONNX Runtime give the same logits."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from settings import families, images, pairs, reduced


def _run_onnx(path, x: torch.Tensor) -> torch.Tensor:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it reports every constant that it leaves unfolded as a warning
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(logits)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("cover", lambda b, m: m.static, shallow=True))
def test_exports_and_runs_in_onnx_runtime(backbone, method, tmp_path):
    x, other, model = images(backbone), images(backbone, seed=1), reduced(backbone, method)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(other), model(other), rtol=1e-5, atol=1e-5)
    # Without the optimiser, which takes as long as everything else; the test below has it.
    torch.onnx.export(program, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False, optimize=False)
    torch.testing.assert_close(_run_onnx(tmp_path / "model.onnx", other), model(other), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), families())
def test_the_onnx_exporters_own_defaults(backbone, method, tmp_path):
    x, model = images(backbone), reduced(backbone, method)
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    torch.testing.assert_close(_run_onnx(tmp_path / "model.onnx", x), model(x), rtol=1e-4, atol=1e-4)
