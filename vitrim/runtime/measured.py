"""Figures that `vitrim evaluate` and `vitrim compare` have measured, matched with the model that they are said of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import nn

from ..common.tensor_files import digest
from ..common.text import few, shortened
from ..core.values import as_number
from .describing import name_of, options_of
from .loading import read_json
from .model import ReducedViT
from .pretrained import dense_part
from .words import options_in_words

COMMANDS = ("evaluate", "compare")
WEIGHTS, LEARNED = "weights", "learned"  # in figures: digests of the dense weights, and of what methods have learned
_WAY = "save it, and measure it by `vitrim evaluate --checkpoint FOLDER --data DIR --json FILE`"


@dataclass(frozen=True)
class Measured:
    """The figures of one model beside its dense one.

    run:     what they share: data, machine, command
    dense, reduced: each its own
    """

    run: Mapping[str, Any]
    dense: Mapping[str, Any]
    reduced: Mapping[str, Any]


def weights_figures(backbone: nn.Module) -> dict[str, str]:
    """Names the weights of a dense model, for figures that are measured with them."""
    return {WEIGHTS: digest(dense_part(backbone.state_dict()))}


def learned_figures(methods: Any) -> dict[str, str]:
    """The same of what methods have learned; empty where they learn nothing."""
    state = methods.state_dict() if isinstance(methods, nn.Module) else {}
    return {LEARNED: digest(state)} if state else {}


def match(given: Mapping[str, Any] | str | Path, model: ReducedViT) -> Measured:
    """The figures of this model in the JSON of a run, or in what such a file holds.

    Raises ValueError for what is no such JSON, and where it is of other weights, other methods or another cost.
    """
    found = _report(given)
    rows = [found] if found["command"] == "evaluate" else list(found["rows"])
    dense = found["dense"] if found["command"] == "evaluate" else rows.pop(0)
    own = {"method": name_of(model.methods), "options": json.loads(json.dumps(options_of(model.methods)))}
    if found.get(WEIGHTS) != weights_figures(model.backbone)[WEIGHTS]:
        raise ValueError(f"the figures are of other weights than this model's: {_WAY}")
    mine = [row for row in rows if _is_of(row, own) and row.get(LEARNED) == learned_figures(model.methods).get(LEARNED)]
    if not mine:
        told = [f"{row.get('method')}({row.get('gmacs', 0):.3f} GMACs)" for row in rows]
        words = " + ".join(f"{method.name}({options_in_words(method)})" for method in model.methods)
        raise ValueError(f"the figures are of {few(told)} and none of this model, {shortened(words, 80)}: {_WAY}")
    return Measured(found, dense, mine[0])


def _is_of(row: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    return all(row.get(key) == value for key, value in own.items())


def _report(given: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """The JSON as an object, whole. Raises ValueError for any other."""
    name = "measured" if isinstance(given, Mapping) else str(given)
    try:
        found = dict(given) if isinstance(given, Mapping) else read_json(Path(given).expanduser())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{name} holds no figures: {reason}; give the file of vitrim evaluate --json") from error
    if not (isinstance(found, dict) and found.get("command") in COMMANDS and _has_rows(found)):
        raise ValueError(
            f"{shortened(name)} holds no figures of a model beside its dense one: give the file of vitrim evaluate "
            "--json, or of vitrim compare --json"
        )
    return found


def _has_rows(found: Mapping[str, Any]) -> bool:
    rows = found.get("rows") if found["command"] == "compare" else [found.get("dense"), found]
    return isinstance(rows, list) and len(rows) > 1 and all(map(_is_row, rows))


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and all(as_number(row.get(key)) is not None for key in ("gmacs", "speed_up"))


def in_public(value: Any) -> str:
    """A path or name as strangers may read it: of an absolute path the last two parts, without a home folder.

    Example:
        >>> from vitrim.runtime.measured import in_public
        >>> in_public("/home/ada/imagenette/val"), in_public("val"), in_public("hf:/data/vit"), in_public("hf:a/b")
        ('imagenette/val', 'val', 'hf:data/vit', 'hf:a/b')
    """
    scheme, _, place = str(value).rpartition(":") if str(value).startswith("hf:") else ("", "", str(value))
    windows = PureWindowsPath(place)
    path = windows if windows.drive else PurePosixPath(place)
    if not path.is_absolute() and place[:1] != "~":
        return str(value)
    parts = list(path.parts[1:])
    if parts and parts[0] in ("home", "Users"):
        parts = parts[2:]
    return ":".join(filter(None, [scheme, "/".join(parts[-2:]) or path.name]))
