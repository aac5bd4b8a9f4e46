"""Law 6, sharding: FSDP2 over two processes, of blocks, attention, parts and the whole, gives the logits and gradients
of one process without it."""

from __future__ import annotations

import os

import fresh
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from settings import BACKBONES, dense, images
from torch import nn

import vitrim
from vitrim.runtime.build import attach

fsdp = pytest.importorskip("torch.distributed.fsdp")
if not dist.is_available() or not hasattr(fsdp, "fully_shard"):
    pytest.skip("this torch has no fully_shard", allow_module_level=True)

CASES = (  # backbone, what is sharded beside the whole, method, options
    ("deit", "blocks before reduce", "evit", {"keep": 0.6, "at": (1, 2)}),
    ("deit", "attention", "idlevit", {}),
    ("deit", "mlp", "tofe", {}),
    ("eva02", "blocks", "tome", {"r": 3}),
    ("swin", "blocks", "idlevit", {"score": "predictor"}),
)


def _shard(model: nn.Module, what: str) -> None:
    for one in [one for one in model.modules() if type(one).__name__.endswith("Block")]:
        fsdp.fully_shard({"blocks": one, "attention": one.attn, "mlp": one.mlp}[what])


def _worst(name: str, what: str, method: str, options: dict) -> float:
    """The largest difference of logits and gradients."""
    row = next(b for b in BACKBONES if b.name == name)
    model, x = dense(row), images(row)
    alone = attach(dense(row), method, **options)
    if "before" in what:
        _shard(model, "blocks")
    fast = attach(model, method, **options)
    fast.methods.load_state_dict(alone.methods.state_dict())
    if "before" not in what:
        _shard(fast.backbone, what)
    fsdp.fully_shard(fast)
    logits, wanted = fast(x), alone(x)
    logits.square().sum().backward()
    wanted.square().sum().backward()
    pairs = zip(fast.parameters(), alone.parameters(), strict=True)
    gradients = [(a.grad.full_tensor() - b.grad).abs().max() for a, b in pairs if b.grad is not None]
    return max(float((logits - wanted).abs().max()), *map(float, gradients))


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save({" ".join(case[:3]): _worst(*case) for case in CASES}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_shards_are_one_without(tmp_path):
    fresh.ready()
    mp.start_processes(_rank, args=(str(tmp_path),), nprocs=2, start_method="forkserver")
    for rank in range(2):
        worst = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert len(worst) == len(CASES)
        assert not {case: difference for case, difference in worst.items() if not difference < 1e-4}


def test_the_old_kind_of_sharding_around_a_block_is_refused():
    class FullyShardedDataParallel(nn.Module):  # as FSDP1 wraps; it needs a process group to be made
        def __init__(self, module: nn.Module):
            super().__init__()
            self.module = module

        def forward(self, *args):
            return self.module(*args)

    model = dense(BACKBONES[0])
    model.blocks[1] = FullyShardedDataParallel(model.blocks[1])
    with pytest.raises(ValueError, match="block 1 is a FullyShardedDataParallel around timm's: wrap the reduced model"):
        vitrim.reduce(model, "evit")
