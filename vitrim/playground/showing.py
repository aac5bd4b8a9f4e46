"""What a visitor is shown of a picture, dense beside reduced: answers, cost, time. One visitor is served at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from threading import Lock

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..data.config import data_config
from ..data.pictures import bounded, prepared
from ..evaluate.timing import evaluation_mode, seconds_of_call
from ..runtime.model import ReducedViT, for_images
from ..runtime.profile import profile
from ..view.looking import Answer, DenseView, Seen, look_again
from .offers import Offer

MOST_PIXELS = 64_000_000  # of a picture: more than a phone takes by default, and 200 MB once it is decoded
ANSWERS = 3
TIMING, FEWEST, MOST = 0.2, 3, 15  # seconds to measure for, and rounds


@dataclass
class Visit:
    """One visitor's picture: prepared for each model, and what dense models have made of it so far. The picture itself
    is not kept."""

    images: dict[str, Float[Tensor, "c h w"]]
    views: dict[str, DenseView] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """Figures of the dense model and of the reduced one: the likeliest classes, GMACs, milliseconds for one picture."""

    seen: Seen
    answers: tuple[list[Answer], list[Answer]]
    gmacs: tuple[float, float]
    ms: tuple[float, float]
    rounds: int


class Showing:
    """The models that visitors may pick, by name.

    Nothing of a visitor is kept here: what there is of one is in its `Visit`.
    """

    def __init__(self, offers: Mapping[str, Offer]):
        self.offers = offers
        self._one_at_a_time = Lock()
        self._configs = {name: data_config(for_images(one.dense)) for name, one in offers.items()}

    def receive(self, file: str | Path) -> Visit:
        """A picture for the models. Raises ValueError for what cannot be read, or has too many pixels."""
        with self._one_at_a_time:
            picture = bounded(file, MOST_PIXELS)
            return Visit({name: prepared(picture, config) for name, config in self._configs.items()})

    def show(self, visit: Visit, model: str, method: str, share: float) -> Shown:
        """What the model and its reduced self make of the picture. Raises ValueError for what is not offered."""
        with self._one_at_a_time:
            one = self.offer(model)
            fast = one.reduced(method, share)
            if model not in visit.views:
                visit.views[model] = DenseView(one.dense, visit.images[model])
            return _shown(visit.views[model], fast, one.gmacs)

    def offer(self, model: str) -> Offer:
        """The model of that name. Raises ValueError where there is none."""
        if model not in self.offers:
            raise ValueError("There is no such model here. Pick one of the list.")
        return self.offers[model]


def _shown(view: DenseView, fast: ReducedViT, dense_gmacs: float) -> Shown:
    seen = look_again(fast, view)
    answers = view.top(view.output, ANSWERS), view.top(seen.output, ANSWERS)
    times = _times(view, fast)
    ms = 1000 * median(dense for dense, _ in times), 1000 * median(reduced for _, reduced in times)
    return Shown(seen, answers, (dense_gmacs, profile(fast, view.size).gmacs), ms, len(times))


def _times(view: DenseView, fast: ReducedViT) -> list[tuple[float, float]]:
    """Seconds of a forward, dense and reduced, called in turn; both have run before."""
    models: dict[str, nn.Module] = {"dense": view.dense, "reduced": fast}
    times: list[tuple[float, float]] = []
    until = time.perf_counter() + TIMING
    with torch.inference_mode(), evaluation_mode(models):
        while len(times) < FEWEST or (len(times) < MOST and time.perf_counter() < until):
            dense, reduced = (seconds_of_call(model, view.image) for model in models.values())
            times.append((dense, reduced))
    return times
