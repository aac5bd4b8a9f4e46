"""The examples in the docstrings print what they say: every public class and function has one, and none is dead."""

from __future__ import annotations

import copy
import doctest
import importlib
import inspect
import pkgutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import vitrim
from vitrim.backbones import FAMILIES
from vitrim.methods import METHODS

ROOT = Path(vitrim.__file__).parent
ROOMS = ("backbones", "data", "evaluate", "inference", "methods", "training", "tune", "view")
PUBLIC = ("vitrim", *(f"vitrim.{room}" for room in ROOMS))  # modules whose `__all__` is public
OPEN = ("vitrim.core.reductions", "vitrim.core.schedule", "vitrim.view.diagnostics")  # all of them is public

# Shown by the example of a module: the name's own docstring has no room, or one example shows several names.
SHOWN_BY = {
    **{"vitrim.Tokens": "vitrim.core"},
    **{"vitrim.data.open_dataset": "vitrim.data", "vitrim.evaluate.evaluate_many": "vitrim.evaluate"},
    **{f"vitrim.training.{name}": "vitrim.training" for name in ("Augmentation", "FinetuneResult", "Weights")},
    **{f"vitrim.training.{name}": "vitrim.training" for name in ("finetune", "override", "short")},
}
WITHOUT = {
    "vitrim.METHODS": "a dict, which `vitrim methods` lists",
    "vitrim.methods.METHODS": "likewise",
    "vitrim.__version__": "a text",
    **{
        f"vitrim.backbones.{name}": "a list, or what is in it"
        for name in ("FAMILIES", "LIBRARIES", "TIMM", "TRANSFORMERS")
    },
    **{f"vitrim.backbones.{family.__name__}": "as its base, `Backbone`" for family in FAMILIES},
    "vitrim.data.StreamedPhotographs": "it takes a data set of somebody else's, such as a webdataset",
    "vitrim.training.RECIPES": "a dict; the example of `get_recipe` lists it",
    "vitrim.training.RunStopped": "an error: it takes a disk that is full, or not there",
}


def every_module() -> list[Any]:
    """All modules of vitrim, imported."""
    found = pkgutil.walk_packages([str(ROOT)], "vitrim.")
    return [vitrim, *(importlib.import_module(info.name) for info in found if info.name != "vitrim.__main__")]


def every_example() -> dict[str, doctest.DocTest]:
    """The docstrings of vitrim that have examples, by the name of what they describe."""
    finder = doctest.DocTestFinder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of properties that are looked at
        tests = [test for module in every_module() for test in finder.find(module)]
    return {test.name: test for test in tests if test.examples}


def public_names() -> list[str]:
    """Names that users may rely on, each with the module that they ask for it."""
    names = [f"{module}.{name}" for module in PUBLIC for name in importlib.import_module(module).__all__]
    for module in OPEN:
        members = vars(importlib.import_module(module)).items()
        own = [name for name, value in members if getattr(value, "__module__", None) == module]
        names += [f"{module}.{name}" for name in own if not name.startswith("_")]
    return sorted(names)


def home(name: str) -> str:
    """Where a public name is defined: `vitrim.EViT` is `vitrim.methods.evit.EViT`."""
    module, _, attribute = name.rpartition(".")
    value = inspect.unwrap(getattr(importlib.import_module(module), attribute))
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else name


EXAMPLES = every_example()


@pytest.fixture
def surroundings(tmp_path, monkeypatch) -> dict[str, Any]:
    """What every example finds: a small model, images for it, and a folder of photographs, `photos`, where it runs."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(4):
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    before = dict(METHODS)
    yield {
        **{"torch": torch, "timm": timm, "vitrim": vitrim, "np": np, "Path": Path},
        "model": timm.create_model("deit_tiny_patch16_224", img_size=128, depth=4, num_classes=2).eval(),
        "images": torch.randn(2, 3, 128, 128),
    }
    METHODS.clear()
    METHODS.update(before)  # an example registers a method


@pytest.mark.filterwarnings("ignore::vitrim.UntrainedWarning")
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_prints_what_it_says(name, surroundings):
    said: list[str] = []
    example = copy.copy(EXAMPLES[name])
    example.globs = {**example.globs, **surroundings}  # a copy: doctest clears them
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    assert not runner.run(example, out=said.append).failed, "".join(said)


@pytest.mark.parametrize("name", public_names())
def test_every_public_name_has_an_example(name):
    """Its own, or one of a module that uses it."""
    shown_by = SHOWN_BY.get(name)
    assert (home(name) in EXAMPLES) != (shown_by is not None or name in WITHOUT), "give its docstring an example"
    assert shown_by is None or name.rpartition(".")[2] in EXAMPLES[shown_by].docstring


def test_no_example_is_dead():
    """doctest finds every `>>>` of the files; what it finds is run above."""
    lines = [line.lstrip() for path in ROOT.rglob("*.py") for line in path.read_text().splitlines()]
    written = sum(line.startswith(">>> ") for line in lines)
    assert written == sum(len(test.examples) for test in EXAMPLES.values())
