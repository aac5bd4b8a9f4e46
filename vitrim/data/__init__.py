"""Photographs: found, labelled, decoded and prepared as the model's own configuration says."""

from .loading import data_config, open_dataset, open_loader
from .photographs import Batch, Photographs, StreamedPhotographs, Unreadable, collate

__all__ = [
    "Batch",
    "Photographs",
    "StreamedPhotographs",
    "Unreadable",
    "collate",
    "data_config",
    "open_dataset",
    "open_loader",
]
