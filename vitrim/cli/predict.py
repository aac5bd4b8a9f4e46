"""`vitrim predict`: the likeliest classes of every image, in one table."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..common.text import counted
from ..evaluate import ZeroShot, read_texts, without_classifier
from ..evaluate.zero_shot import PROMPT
from ..inference import Predictor
from ..inference.outputs import PredictionFile
from ..inference.tables import table_for
from .shared.inference import Inference
from .shared.zero_shot import read_names


def run(config: Any) -> None:
    """Predict what the arguments name."""
    table_for(config.out.out, config.out.top)  # what it needs may not be installed
    inference = Inference(config)
    predictor = _predictor(inference, config.out)
    classes = len(predictor.names)
    top = min(config.out.top, classes)
    if "top" in config.given and top < config.out.top:
        there = counted(classes, "class", "classes")
        raise ValueError(f"--top {config.out.top}: there are {there}, give a number from 1 to {classes:,}")
    names = hashlib.sha256(json.dumps(predictor.names).encode()).hexdigest()
    output = PredictionFile(config.out.out, config.out.overwrite, top)
    inference.run(predictor, output, {"top": top, "labels": predictor.rule, "names": names})


def _predictor(inference: Inference, options: Any) -> Predictor:
    """The model as a classifier: its own, or of the names that are looked for."""
    given: Path | None = options.class_names
    if given is None or not without_classifier(inference.model):
        if options.prompt is not None:
            raise ValueError(f"--prompt {options.prompt!r} goes with CLIP or SigLIP, and --class-names: leave it out")
        return Predictor(inference.model, top=options.top, class_names=given, **inference.settings)
    names = read_names(given)
    texts = read_texts(inference.model, names, options.prompt or PROMPT)
    return Predictor(ZeroShot(inference.model, texts), top=options.top, class_names=names, **inference.settings)
