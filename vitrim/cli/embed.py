"""`vitrim embed`: the features of every image, in a folder of files."""

from __future__ import annotations

from typing import Any

from ..inference import Embedder
from ..inference.outputs import FeatureFolder
from .shared.inference import Inference


def run(config: Any) -> None:
    """Embed what the arguments name."""
    output = FeatureFolder(config.out.out, config.out.overwrite, config.out.format)
    inference = Inference(config)
    embedder = Embedder(inference.model, dense=config.out.dense, **inference.settings)
    shape = list(embedder.nothing()["embedding"].shape[1:])
    inference.run(embedder, output, {"format": config.out.format, "dense": config.out.dense, "shape": shape})
