"""Run in a process of its own by test_shapes_checked.py: every annotated shape of vitrim is checked on call."""

from jaxtyping import install_import_hook

with install_import_hook("vitrim", "_typechecker.check"):
    import vitrim
    import vitrim.core.attention

import jaxtyping
import pytest
import torch
from settings import families, images, pairs, reduced


def run(backbone, method) -> None:
    """Every way through a model: eval, trace, features, intermediates, training with what the losses need."""
    model, x = reduced(backbone, method), images(backbone)
    with torch.no_grad():
        model(x)
        model(x, trace=True)
        model.forward_features(x, restore=True)
        model.forward_intermediates(x, norm=True)
        vitrim.profile(model, backbone.image)
    model.train()
    out = model(x, losses=True)
    out[0].sum().backward()


def control() -> None:
    """The hook is on: a wrong shape is refused."""
    q = torch.randn(1, 2, 3, 4)
    with pytest.raises(jaxtyping.TypeCheckError):
        vitrim.core.attention.attention(q, q, torch.randn(1, 2, 3))
    with pytest.raises(jaxtyping.TypeCheckError):
        vitrim.core.reductions.take_rows(q, torch.zeros(1, 2))


if __name__ == "__main__":
    torch.set_num_threads(1)
    control()
    for parameters in [*pairs("cover"), *families()]:
        print(parameters.id, flush=True)
        run(*parameters.values)
    print("all shapes hold")
