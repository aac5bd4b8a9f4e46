"""What methods of the demo have learned: ToFe's selectors and approximators, for each cost that the demo shows."""

from __future__ import annotations

from importlib.resources import files

from safetensors.torch import load
from torch import nn

from ..runtime.build import attach
from ..runtime.model import ReducedViT

TRAINED_COSTS = (0.5, 0.4, 0.7)  # in the order of training: the others go on from the first
TRAINED = "tofe"


def part_key(cost: float, name: str) -> str:
    """What a tensor of the trained parts is called in the package's file.

    Example:
        >>> part_key(0.5, "kept_shares")
        '0.5/kept_shares'
    """
    return f"{cost:g}/{name}"


def with_trained_parts(model: nn.Module, cost: float) -> ReducedViT:
    """The demo's model with ToFe as `benchmarks/train_demo_parts.py` has trained it for a share of the dense cost.

    Raises ValueError for a cost that it was not trained for.

    Example:
        >>> from vitrim.demo import load_model
        >>> round(vitrim.profile(with_trained_parts(load_model(), 0.5)).share, 1)
        0.5
    """
    if cost not in TRAINED_COSTS:
        known = ", ".join(f"{known:g}" for known in TRAINED_COSTS)
        raise ValueError(f"{TRAINED} has no trained parts for the cost {cost:g}: there are some for {known}")
    reduced, prefix = attach(model, TRAINED, macs=cost), part_key(cost, "")
    stored = load(files("vitrim.demo").joinpath(f"{TRAINED}_parts.safetensors").read_bytes())
    parts = {name.removeprefix(prefix): tensor.float() for name, tensor in stored.items() if name.startswith(prefix)}
    reduced.methods[0].load_state_dict(parts)
    return reduced.eval()
