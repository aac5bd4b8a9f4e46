"""Photographs: found, labelled, decoded and prepared as the model's own configuration says.

Example: a folder with a folder for each class, `photos/cat` and `photos/dog`.
    >>> dataset = open_dataset("photos", model)
    >>> len(dataset), dataset.classes.mapping, dataset.classes.rule
    (8, {'cat': 0, 'dog': 1}, 'by name, in natural order')
    >>> batch = next(iter(open_loader(dataset, batch_size=4, workers=0)))
    >>> batch.images.shape, batch.labels.tolist(), batch.skipped
    (torch.Size([4, 3, 128, 128]), [0, 0, 0, 0], ())
"""

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
