"""Label files: the labels of a flat folder's photographs, as text, and which classes of the model they are."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from timm.data import infer_imagenet_subset

from ..common.absent import absent
from ..common.text import counted, few, first_line, reason
from .classes import Classes, LabelNames
from .folders import in_order
from .imagenet_names import WNID
from .matching import match_classes

_IMAGENET_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})")


def read_labels(label_file: str | Path, files: list[str]) -> tuple[list[str], bool, int]:
    """One label (text) for each of `files`, whether these were bare labels in file order, and how many labels there are
    for files that are not.

    Lines `name label` (spaces, tab or comma; Kaggle's LOC_val_solution.csv among them) match by relative path, by file
    name, then by file name without its ending; lines for absent files are passed over. A file of bare labels, one a
    line, counts the images in sorted order, or by their number where all are called ILSVRC2012_val_00000001 and on.
    Raises ValueError for a file that cannot be read, images without a label, and counts that differ.
    """
    rows = _rows(Path(label_file).expanduser())
    if all(len(row) == 1 for row in rows):
        return _labels_in_order([row[0] for row in rows], files, label_file), True, 0
    table = _table(rows, label_file)
    keys = [_key(table, file) for file in files]
    missing = [file for file, key in zip(files, keys, strict=True) if key is None]
    if missing:
        raise ValueError(
            f"{label_file} has no label for {len(missing)} of {counted(len(files), 'image')}: {few(missing)}; "
            "lines read `file label` or `file,label`"
        )
    return [table[key] for key in keys if key is not None], False, len(table.keys() - set(keys))


def _rows(path: Path) -> list[list[str]]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise ValueError(absent("label file", path, "give one with lines `file label`")) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the label file {path}: {reason(error)}") from error
    if not lines:
        raise ValueError(f"the label file {path} is empty")
    if any("," in line for line in lines):
        try:
            return [[cell.strip() for cell in row] for row in csv.reader(lines)]
        except csv.Error as error:
            raise ValueError(f"the label file {path} is not a table: {first_line(error)}") from error
    return [line.rsplit("\t" if "\t" in line else None, 1) for line in lines]


def _table(rows: list[list[str]], label_file: str | Path) -> dict[str, str]:
    table: dict[str, str] = {}
    for row in rows:
        if len(row) < 2 or not row[1]:
            raise ValueError(f"{label_file}: the line {','.join(row)!r} has no label; lines read `file label`")
        # Kaggle's second column is a wnid followed by its boxes: "n03995372 85 1 499 272".
        label = row[1].split()[0] if WNID.match(row[1]) else row[1]
        if table.setdefault(row[0], label) != label:
            raise ValueError(f"{label_file} gives {row[0]} two labels: {table[row[0]]} and {label}")
    return table


def _key(table: dict[str, str], file: str) -> str | None:
    """The name under which the table has the file."""
    path = Path(file)
    return next((name for name in (path.as_posix(), path.name, path.stem) if name in table), None)


def _labels_in_order(labels: list[str], files: list[str], label_file: str | Path) -> list[str]:
    numbers = [_IMAGENET_VALIDATION.fullmatch(Path(file).stem) for file in files]
    known = [int(number[1]) for number in numbers if number]
    if len(labels) == 50_000 and len(known) == len(files):
        return [labels[number - 1] for number in known]
    if len(labels) != len(files):
        raise ValueError(
            f"{label_file} has {counted(len(labels), 'label')}, one a line, for {counted(len(files), 'image')}: "
            "give one line for each image in sorted order, or lines that read `file label`"
        )
    return labels


def classes_of_labels(
    labels: list[str],
    ordered: bool,
    num_classes: int,
    label_names: LabelNames,
    label_file: str | Path,
    class_map: Mapping[str, int] | None = None,
) -> tuple[list[int], Classes]:
    """Turn text labels into numbers: wnids and names as folder names would be, integers as 0-based class indices.
    With a class map all labels are names, integers too.

    `ordered` marks bare labels in file order. The ImageNet devkit's ILSVRC2012_validation_ground_truth.txt is one of
    these, and its ids (1 to 1000) follow the devkit's own order, not that of the models: they are mapped through the
    devkit's meta.mat where that lies beside the file, and refused otherwise.
    """
    if class_map is not None or not all(re.fullmatch(r"[+-]?\d+", label) for label in labels):
        names = in_order(set(labels))
        position = {name: index for index, name in enumerate(names)}
        classes = match_classes(names, num_classes, label_names, str(label_file), class_map)
        return [position[label] for label in labels], classes
    numbers = [int(label) for label in labels]
    if ordered and num_classes and infer_imagenet_subset({"num_classes": num_classes}) and 0 not in numbers:
        wnids = _devkit_wnids(numbers, Path(label_file))
        return classes_of_labels(wnids, ordered, num_classes, label_names, label_file)
    _check_range(numbers, num_classes, label_file)
    return numbers, Classes((), (), "integer labels, taken as class indices from 0")


def _check_range(numbers: list[int], num_classes: int, label_file: str | Path) -> None:
    if num_classes and not 0 <= min(numbers) <= max(numbers) < num_classes:
        raise ValueError(
            f"{label_file} has integer labels from {min(numbers)} to {max(numbers)}; class indices of the model go "
            f"from 0 to {num_classes - 1}: count from 0, in the model's class order, or write wnids"
        )


def _devkit_wnids(ids: list[int], label_file: Path) -> list[str]:
    meta = label_file.parent / "meta.mat"
    if not meta.is_file():
        raise ValueError(
            f"{label_file} has one integer from {min(ids)} to {max(ids)} a line and no 0, as the ImageNet devkit's "
            "ILSVRC2012 ids, whose order is not the models': put the devkit's meta.mat beside it, "
            "or give lines `file wnid` (LOC_val_solution.csv)"
        )
    wnid = _read_meta(meta)
    unknown = sorted(set(ids) - wnid.keys())
    if unknown:
        raise ValueError(f"{label_file} has ids that {meta} does not know: {few(unknown)}")
    return [wnid[number] for number in ids]


def _read_meta(meta: Path) -> dict[int, str]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ValueError(f"reading {meta} needs scipy: pip install scipy") from error
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except Exception as error:  # scipy raises its own errors besides Python's
        raise ValueError(f"{meta} is not the ImageNet devkit's meta.mat: {reason(error)}") from error
