"""What can be told of a command line before PyTorch is imported, which takes seconds: numbers, and files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...common.extras import require_found
from ...common.files import check_new, check_report
from ...common.places import EXPORTED, LABELLED, UNLABELLED, check_holds_images, check_there
from .early_devices import check_device
from .early_extras import each_extra
from .early_files import FILES, check_file
from .early_methods import check_methods
from .model_names import check_model_name
from .spec import Command

COUNTS = ("threads", "batch_size", "actors", "limit", "limit_per_class", "val_limit")  # from 1
FROM_ZERO = ("workers", "rounds")
TAKE_FILES = ("evaluate",)  # their --model may be an exported file
IMAGES = ("data", "bank", "val", "calibration")
MODELS = ("model", "guide")
DEVICES = ("cpu", "cuda", "mps", "xpu", "xla", "hpu", "hip", "mtia", "meta")


DEVICES_OF = {
    "": "cpu, cuda, cuda:1 or mps",
    "finetune": "cpu or cuda; several GPUs by accelerate launch or torchrun",
}


def check_early(command: Command, config: Any) -> None:
    """Raise ValueError for what could never work: before anything slow is imported."""
    groups = [getattr(config, group) for group in command.groups]
    check_methods(command, config)
    for group in groups:
        _check_numbers(group)
        for name in FILES:
            for path in _given(group, name):
                check_file(name, path)
        _check_outputs(command, group)
    _check_apart(groups)
    each_extra(require_found, config)
    command.check(config)
    places = [place for group in groups for name in IMAGES for place in _given(group, name)]
    for place in places:
        check_there(place, UNLABELLED if command.takes else LABELLED)
    for place in places:
        check_holds_images(place)
    _check_names(command, config, groups)


def _given(group: Any, name: str) -> Sequence[Any]:
    """The values of an option, none where it is not given or not of this group."""
    given = getattr(group, name, None)
    return given if isinstance(given, tuple) else () if given is None else (given,)


def _check_numbers(group: Any) -> None:
    for name, least in (*((name, 1) for name in COUNTS), *((name, 0) for name in FROM_ZERO)):
        for value in _given(group, name):
            if value < least:
                raise ValueError(f"--{name.replace('_', '-')} {value}: give a whole number from {least}")
    for share in _given(group, "crop_pct"):
        if not 0 < share <= 1:
            raise ValueError(f"--crop-pct {share:g}: give a share in (0, 1], such as 0.9")


def _check_names(command: Command, config: Any, groups: Sequence[Any]) -> None:
    """Names of models, unless a file of the user's may name others to timm, and of devices."""
    names = [name for group in groups for option in MODELS for name in _given(group, option)]
    for name in names if not config.imports else ():
        check_model_name(name, exported=command.name in TAKE_FILES)
    for device in (device for group in groups for device in _given(group, "device")):
        if not re.fullmatch(rf"({'|'.join(DEVICES)})(:\d+)?", device):
            raise ValueError(f"--device {device}: give {DEVICES_OF.get(command.name, DEVICES_OF[''])}")
        elsewhere = any(getattr(group, "engine", None) == "ray" for group in groups)  # on the cluster's machines
        if not elsewhere and not any(name.lower().endswith(EXPORTED) for name in names):  # which take none
            check_device(device)


def _check_outputs(command: Command, group: Any) -> None:
    if command.endings and getattr(group, "out", None) is not None:
        check_new(group.out, group.overwrite, command.endings)
    if getattr(group, "json", None) is not None:
        check_report(group.json)


def _check_apart(groups: Sequence[Any]) -> None:
    """Raise ValueError where a report would replace what the command has just written."""
    outs = [Path(group.out) for group in groups if getattr(group, "out", None) is not None]
    reports = [Path(group.json) for group in groups if getattr(group, "json", None) is not None]
    for out in outs:
        if any(out.expanduser().resolve() == report.expanduser().resolve() for report in reports):
            raise ValueError(f"--out and --json both name {out}: give each a file of its own")
