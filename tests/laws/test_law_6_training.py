"""Law 6, training tools: gradient checkpointing, pickle, deepcopy, autocast, two ranks of DistributedDataParallel."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import fresh
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from settings import backbones, images, methods, pairs, reduced

import vitrim

FIRST = next(b.values[0] for b in backbones(lambda b: b.cls))
EVIT = next(m.values[0] for m in methods())


def _gradients(model: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor | None]:
    torch.manual_seed(1)
    model(x).square().sum().backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(("backbone", "method"), pairs("star"))
def test_checkpointing_gives_the_same_gradients(backbone, method, mode):
    x, plain, checkpointed = images(backbone), reduced(backbone, method), reduced(backbone, method)
    checkpointed.set_grad_checkpointing(True)
    for model in (plain, checkpointed):
        model.train(mode == "train")
    pairs_of_gradients = list(zip(_gradients(plain, x), _gradients(checkpointed, x), strict=True))
    assert any(ours is not None and ours.abs().max() > 0 for ours, _ in pairs_of_gradients)
    for ours, again in pairs_of_gradients:
        assert (ours is None) == (again is None)
        assert ours is None or torch.equal(ours, again)


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star"))
def test_pickle_and_deepcopy_give_the_same_model(backbone, method):
    x, model = images(backbone), reduced(backbone, method)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(again(x), model(x))
        assert all(a.data_ptr() != b.data_ptr() for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_reduce_shares_weights_unless_told_otherwise():
    dense = reduced(FIRST, EVIT).backbone
    shared, own = (vitrim.reduce(dense, "evit", copy=copied) for copied in (False, True))
    assert shared.backbone is dense
    assert all(a is b for a, b in zip(shared.parameters(), dense.parameters(), strict=True))
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(own.parameters(), dense.parameters(), strict=True))


def test_a_method_given_twice_stays_as_it_was():
    method = vitrim.EViT(keep=0.5)
    dense = reduced(FIRST, EVIT).backbone
    fast = vitrim.reduce(dense, method)
    assert method.places == () and fast.methods[0] is not method


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star"))
def test_autocast_runs_to_finite_logits(backbone, method):
    x, model = images(backbone), reduced(backbone, method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
    assert logits.shape == model(x).shape and logits.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star"))
def test_whole_model_in_bfloat16(backbone, method):
    x, model = images(backbone), reduced(backbone, method)
    logits = model.bfloat16()(x.bfloat16())
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()


def _rank(rank: int, folder: str) -> None:
    """One of two processes: its half of the batch through DDP; rank 0 writes the averaged gradients."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    gradients = {}
    for row in DDP_METHODS:
        wrapped = torch.nn.parallel.DistributedDataParallel(reduced(FIRST, row).train())
        half = images(FIRST, batch=4)[2 * rank : 2 * rank + 2]
        wrapped(half).square().sum().backward()
        gradients[row.id] = {name: p.grad for name, p in wrapped.module.named_parameters()}
        assert vitrim.profile(wrapped) == vitrim.profile(wrapped.module)
    assert vitrim.reduce(torch.nn.parallel.DistributedDataParallel(wrapped.module.backbone), "random", keep=0.5)
    if rank == 0:
        torch.save(gradients, Path(folder) / "gradients.pt")
    dist.destroy_process_group()


DDP_METHODS = [m.values[0] for m in methods(lambda m: not m.says("trains_masked"))]


def test_two_ranks_give_the_gradients_of_one_process(tmp_path):
    fresh.ready()
    mp.start_processes(_rank, args=(str(tmp_path),), nprocs=2, start_method="forkserver")
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for row in DDP_METHODS:
        model = reduced(FIRST, row).train()
        (model(images(FIRST, batch=4)).square().sum() / 2).backward()  # DDP averages over the two ranks
        for name, p in model.named_parameters():
            torch.testing.assert_close(gradients[row.id][name], p.grad, rtol=1e-4, atol=1e-5)
