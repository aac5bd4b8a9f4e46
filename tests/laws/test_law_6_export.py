"""Law 6, exports: torch.export and ONNX Runtime give the same logits, also of more or fewer images than the example."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import onnxruntime
import pytest
import torch
from settings import UNLIKE, families, images, reduced, together
from torch.fx.experimental import _config as shapes

BATCH = ({0: torch.export.Dim("batch")},)
# torch before 2.14 takes the 1 of an example of one image for a constant in some graphs (2.11 in ToMe's, for one): two
# images are the smallest example there, as README says.
EXAMPLE = 1 if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14) else 2


def _run_onnx(path, x: torch.Tensor) -> torch.Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # its threads wait by spinning
    options.log_severity_level = 3  # it reports every constant that it leaves unfolded as a warning
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(logits)


def _export_one(model: torch.nn.Module, x: torch.Tensor) -> torch.export.ExportedProgram:
    """The program of the smallest example, for any number of images. torch.export takes a size of 1 for a constant, if
    it is not told otherwise in this way, as the ONNX exporter tells it; whatever still depends on it is an error."""
    if EXAMPLE > 1:
        return torch.export.export(model, (x[:EXAMPLE],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    with shapes.patch(backed_size_oblivious=True):
        return torch.export.export(model, (x[:EXAMPLE],), dynamic_shapes=BATCH)


# Every operation that a method or family brings; test_law_9_graphs traces every row, quicker.
@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), together("evit", *UNLIKE))
def test_an_export_of_the_smallest_example_serves_three(backbone, method, tmp_path):
    x, model = images(backbone, batch=3), reduced(backbone, method)
    program = _export_one(model, x)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-5)
    # Without the optimiser, which takes as long as everything else; the test below has it.
    torch.onnx.export(program, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False, optimize=False)
    torch.testing.assert_close(_run_onnx(tmp_path / "model.onnx", x), model(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), families())
def test_an_export_of_three_images_serves_one_and_two(backbone, method):
    x, model = images(backbone, batch=3), reduced(backbone, method)
    run = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    for k in (1, 2, 3):
        torch.testing.assert_close(run(x[:k]), model(x[:k]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), [p for p in families() if p.id == "plain"])
def test_the_onnx_exporters_own_defaults(backbone, method, tmp_path):
    backbone = replace(backbone, build=partial(backbone.build, depth=1))  # its optimiser goes by the number of nodes
    x, model = images(backbone, batch=3), reduced(backbone, method, at=0)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (x[:EXAMPLE],), path, dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False)
    torch.testing.assert_close(_run_onnx(path, x), model(x), rtol=1e-4, atol=1e-4)
