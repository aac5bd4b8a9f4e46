"""Accuracy, agreement with the dense model, and throughput of one or more models."""

from .accuracy import evaluate, evaluate_many
from .judges import EvaluationResult, knn_hits, wilson_interval, without_classifier
from .timing import Throughput, environment, throughput_in_turn

__all__ = [
    "EvaluationResult",
    "Throughput",
    "environment",
    "evaluate",
    "evaluate_many",
    "knn_hits",
    "throughput_in_turn",
    "wilson_interval",
    "without_classifier",
]
