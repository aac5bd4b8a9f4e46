"""Which class of the model each class of a data set is, and how label files are read."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.utils.misc import natural_key

from ..common.text import few, first_line

_WNID = re.compile(r"n\d{8}")
_IMAGENET_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})")


@dataclass(frozen=True)
class Classes:
    """The classes of a data set and their places in the model.

    `names[i]` is the data's class i and `indices[i]` the model's index for it; both are empty where the data stores
    class indices itself. `rule` says in words how labels became class indices.
    """

    names: tuple[str, ...]
    indices: tuple[int, ...]
    rule: str

    def index(self, label: int) -> int:
        """The model's class index for the data's own label."""
        return self.indices[label] if self.indices else int(label)


def in_order(names: set[str]) -> list[str]:
    """Class names in timm's natural order (`2` before `10`, case ignored), which its training and validation use."""
    return sorted(names, key=lambda name: (natural_key(name), name))


def match_classes(names: list[str], num_classes: int, label_names: list[str] | dict | None, where: str) -> Classes:
    """Map the data's class names to the model's class indices.

    By the model's own `label_names` where they hold every name; by wnid where the names are ImageNet wnids and the
    model has the classes of an ImageNet (1,000, 11,821, 21,841, 21,843 ...; the lists are timm's); by timm's natural
    order where the counts agree. A model without a classifier (`num_classes == 0`) keeps the data's own numbering.
    Raises ValueError where none of these holds.
    """
    if num_classes == 0:
        return Classes(tuple(names), tuple(range(len(names))), "the data's own classes: the model has no classifier")
    known = _label_indices(label_names)
    if known and set(names) <= known.keys():
        return Classes(tuple(names), tuple(known[name] for name in names), "by the model's own label names")
    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset and all(_WNID.fullmatch(name) for name in names):
        return _match_wnids(names, subset, where)
    if len(names) == num_classes:
        return Classes(tuple(names), tuple(range(num_classes)), "by name, in natural order")
    there = len(names)
    raise ValueError(
        f"{where} has {there} classes ({few(names)}) and the model {num_classes}: name the classes by ImageNet "
        f"wnid (n01440764) for an ImageNet model, or take a model with {there} classes (--num-classes {there})"
    )


def _label_indices(label_names: list[str] | dict | None) -> dict[str, int]:
    pairs = label_names.items() if isinstance(label_names, dict) else enumerate(label_names or ())
    return {name: int(index) for index, name in pairs}


def _match_wnids(names: list[str], subset: str, where: str) -> Classes:
    position = {wnid: index for index, wnid in enumerate(ImageNetInfo(subset).label_names())}
    strangers = [name for name in names if name not in position]
    if strangers:
        raise ValueError(
            f"{where} has {len(strangers)} wnid(s) that are not among the {len(position)} classes of {subset}: "
            f"{few(strangers)}; remove them or take a model that knows them"
        )
    return Classes(tuple(names), tuple(position[name] for name in names), f"by wnid, to {subset}")


def read_labels(label_file: str | Path, files: list[str]) -> tuple[list[str], bool]:
    """One label (text) for each of `files`, and whether these were bare labels in file order.

    Lines `name label` (spaces, tab or comma; Kaggle's LOC_val_solution.csv among them) match by relative path, by file
    name, then by file name without its ending; lines for absent files are passed over. A file of bare labels, one a
    line, counts the images in sorted order, or by their number where all are called ILSVRC2012_val_00000001 and on.
    Raises ValueError for a file that cannot be read, images without a label, and counts that differ.
    """
    rows = _rows(Path(label_file))
    if all(len(row) == 1 for row in rows):
        return _labels_in_order([row[0] for row in rows], files, label_file), True
    table = _table(rows, label_file)
    labels = [_look_up(table, file) for file in files]
    missing = [file for file, label in zip(files, labels, strict=True) if label is None]
    if missing:
        raise ValueError(
            f"{label_file} has no label for {len(missing)} of {len(files)} images: {few(missing)}; "
            "lines read `file label` or `file,label`"
        )
    return labels, False


def _rows(path: Path) -> list[list[str]]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the label file {path}: {first_line(error)}") from error
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
        label = row[1].split()[0] if _WNID.match(row[1]) else row[1]
        if table.setdefault(row[0], label) != label:
            raise ValueError(f"{label_file} gives {row[0]} two labels: {table[row[0]]} and {label}")
    return table


def _look_up(table: dict[str, str], file: str) -> str | None:
    path = Path(file)
    return next((table[name] for name in (path.as_posix(), path.name, path.stem) if name in table), None)


def _labels_in_order(labels: list[str], files: list[str], label_file: str | Path) -> list[str]:
    numbers = [_IMAGENET_VALIDATION.fullmatch(Path(file).stem) for file in files]
    if len(labels) == 50_000 and all(numbers):
        return [labels[int(number[1]) - 1] for number in numbers]
    if len(labels) != len(files):
        raise ValueError(
            f"{label_file} has {len(labels)} lines of one label each, and there are {len(files)} images: "
            "give one line for each image in sorted order, or lines that read `file label`"
        )
    return labels


def classes_of_labels(
    labels: list[str], ordered: bool, num_classes: int, label_names: list[str] | dict | None, label_file: str | Path
) -> tuple[list[int], Classes]:
    """Turn text labels into numbers: wnids and names as folder names would be, integers as 0-based class indices.

    `ordered` marks bare labels in file order. The ImageNet devkit's ILSVRC2012_validation_ground_truth.txt is one of
    these, and its ids (1 to 1000) follow the devkit's own order, not that of the models: they are mapped through the
    devkit's meta.mat where that lies beside the file, and refused otherwise.
    """
    if not all(re.fullmatch(r"[+-]?\d+", label) for label in labels):
        names = in_order(set(labels))
        position = {name: index for index, name in enumerate(names)}
        return [position[label] for label in labels], match_classes(names, num_classes, label_names, str(label_file))
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
        raise ValueError(f"{meta} is not the ImageNet devkit's meta.mat: {first_line(error)}") from error
