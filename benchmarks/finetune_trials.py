"""The trials of finetune.toml and the files of their results, for the runner (finetune.py) and the tables."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TRIALS = HERE / "finetune.toml"
RESULTS = HERE / "results" / "finetune"
CLASSES = ("all", "first", "last")


@dataclass(frozen=True)
class Trial:
    """One run.

    macs:    share of the dense MACs
    recipe:  a recipe of vitrim's, in its short form
    options: of the method
    changes: fields of the recipe, as for `vitrim.training.override`
    learn, judge: on which classes, in order of their folders' names: "all", the "first" five or the "last" five
    """

    name: str
    method: str
    macs: float = 0.5
    recipe: str = "distill"
    options: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    learn: str = "all"
    judge: str = "all"

    def __post_init__(self):
        for key in ("learn", "judge"):
            if getattr(self, key) not in CLASSES:
                raise ValueError(f"{key} = {getattr(self, key)!r} in {self.name!r}: give one of {', '.join(CLASSES)}")

    @property
    def file(self) -> str:
        """The name of its result's file without the ending, which is also its name on the command line."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower())


@dataclass(frozen=True)
class TrialSettings:
    """What a trial runs with.

    minutes: of training, by the seconds of a step in step_time_bf16.json, at most one epoch
    steps:   so many instead, for every method
    per_class: validation photographs of each class
    """

    model: str
    weights: str
    data: str
    minutes: float
    batch: int
    per_class: int
    precision: str
    seed: int
    steps: int | None = None


@dataclass(frozen=True)
class Group:
    """Trials that make one table."""

    name: str
    about: str
    settings: TrialSettings
    trials: tuple[Trial, ...]


def read_groups(path: Path = TRIALS) -> dict[str, Group]:
    """All groups of a TOML of trials. Raises ValueError, in one line, for what it cannot mean."""
    try:
        content = tomllib.loads(path.read_text())
        return {name: _group(name, group, content["settings"]) for name, group in content["group"].items()}
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}") from error


def _group(name: str, content: dict[str, Any], settings: dict[str, Any]) -> Group:
    trials = tuple(_made(Trial, row, f"a trial of {name}") for row in content["trial"])
    files = [trial.file for trial in trials]
    if twice := {file for file in files if files.count(file) > 1}:
        raise ValueError(f"group {name} has two trials of the name {', '.join(sorted(twice))}: give each its own")
    settings = _made(TrialSettings, settings | content.get("settings", {}), f"the settings of {name}")
    return Group(name, content["about"], settings, trials)


def _made(cls: type, row: dict[str, Any], what: str) -> Any:
    """An object of `cls`; ValueError for keys that it does not know."""
    known = [f.name for f in fields(cls)]
    if unknown := [key for key in row if key not in known]:
        raise ValueError(f"{what} has {', '.join(unknown)}: allowed are {', '.join(known)}")
    try:
        return cls(**row)
    except TypeError as error:
        raise ValueError(f"{what}: {error}") from error


def chosen(group: Group, names: Sequence[str] = ()) -> list[Trial]:
    """The trials of these names (without any: all). Raises ValueError for a name that the group does not have."""
    known = {trial.file: trial for trial in group.trials}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{group.name} has no trial {', '.join(unknown)}: choose from {', '.join(known)}")
    return [known[name] for name in names] if names else list(group.trials)


def result_file(results: Path, group: str, trial: Trial) -> Path:
    """Where the result of a trial lies."""
    return results / group / f"{trial.file}.json"


def read_results(group: Group, results: Path = RESULTS, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The results that are there, in the order of the TOML."""
    files = [result_file(results, group.name, trial) for trial in chosen(group, names)]
    return [json.loads(file.read_text()) for file in files if file.exists()]
