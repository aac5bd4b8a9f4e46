"""Accuracy, agreement with the dense model, and throughput of one or more models.

Example: a model and its reduced form, over a folder of photographs of two classes.
    >>> from vitrim.data import open_dataset, open_loader
    >>> loader = open_loader(open_dataset("photos", model), batch_size=4, workers=0)
    >>> models = {"dense": model, "fast": vitrim.reduce(model, "evit", keep=0.9)}
    >>> results = evaluate_many(models, loader)
    >>> {name: (result.images, result.skipped) for name, result in results.items()}
    {'dense': (8, ()), 'fast': (8, ())}
    >>> results["fast"].agreement  # percent of images for which both predict the same class
    100.0
"""

from .accuracy import evaluate, evaluate_many
from .intervals import wilson_interval
from .judges import EvaluationResult, without_classifier
from .neighbours import knn_hits, recall_hits
from .timing import Throughput, environment, throughput_in_turn
from .zero_shot import ZeroShot, read_texts

__all__ = [
    "EvaluationResult",
    "Throughput",
    "ZeroShot",
    "environment",
    "evaluate",
    "evaluate_many",
    "knn_hits",
    "read_texts",
    "recall_hits",
    "throughput_in_turn",
    "wilson_interval",
    "without_classifier",
]
