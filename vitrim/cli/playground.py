"""`vitrim playground`: a page where a person drops a photograph, moves a budget, and sees what methods do with it."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from typing import Any

import torch

from ..common.ports import PORT
from ..common.progress import progress
from ..evaluate.timing import as_device
from ..playground.offers import Offer, offer
from ..playground.server import place, serve_at
from .commands.playground import DEFAULT_MODEL
from .shared.measure import best_device
from .shared.model import Subject, open_model
from .shared.options import ModelOptions


def run(config: Any) -> None:
    """Serve the page that the arguments ask for, until Ctrl-C."""
    asks = config.server
    device = as_device(asks.device or best_device())
    if asks.threads is not None:
        torch.set_num_threads(asks.threads)
    with place(asks.host, asks.port) as here:
        serve_at(here, _offers(config, device), partial(_ready, asks.port))
    print("the playground is closed")


def _offers(config: Any, device: torch.device) -> dict[str, Offer]:
    """What visitors may pick, by name; of two models of one name the second is `NAME 2`."""
    offers: dict[str, Offer] = {}
    times: Counter[str] = Counter()
    with progress("preparing the models"):
        for options in _each_model(config.model):
            subject = open_model(options)
            times[subject.name] += 1
            name = subject.name if times[subject.name] == 1 else f"{subject.name} {times[subject.name]}"
            offers[name] = _offer(subject, device, config.server.seed)
    return offers


def _offer(subject: Subject, device: torch.device, seed: int) -> Offer:
    try:
        saved = None if subject.saved is None else subject.saved.to(device)
        return offer(subject.dense.to(device), saved, seed)
    except ValueError as error:
        raise ValueError(f"{subject.name}: {error}") from error


def _each_model(given: Any) -> Iterator[ModelOptions]:
    """The options of each model alone."""
    common: dict[str, Any] = {field.name: getattr(given, field.name) for field in dataclasses.fields(ModelOptions)}
    names = given.model or (() if given.checkpoint else (DEFAULT_MODEL,))
    for name, checkpoint in zip_longest(names, given.checkpoint):
        alone: dict[str, Any] = {**common, "model": name, "checkpoint": checkpoint}
        yield ModelOptions(**alone)


def _ready(port: int | None, address: str) -> None:
    moved = port is None and not address.endswith(f":{PORT}/")
    print(f"{f'port {PORT} is busy: ' if moved else ''}the playground is at {address} (Ctrl-C ends it)", flush=True)
    if not _is_own(address):
        print("whoever can reach this machine at that port can use it", flush=True)


def _is_own(address: str) -> bool:
    """Whether an address is for this machine alone."""
    return ipaddress.ip_address(address.removeprefix("http://").rpartition(":")[0].strip("[]")).is_loopback
