"""Where photographs come from: folders, tar files, and all else that `timm.data.create_dataset` reads."""

from __future__ import annotations

import importlib.util
import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar

from PIL import Image
from timm.data import create_dataset, get_img_extensions

from ..common.errors import OptionError
from ..common.places import STREAMS, check_there, is_named
from ..common.text import first_line, reason, shortened
from .folders import BESIDE, ClassFolders, class_folders, in_order

_NEEDS = {"hfds": "datasets", "hfids": "datasets", "tfds": "tensorflow_datasets", "wds": "webdataset"}


class Files:
    """Image files with a label each. `names` are the class names, or None where labels come from elsewhere; `left_out`
    counts what else lies there, by kind, and `empty` names the folders without a photograph."""

    def __init__(
        self,
        root: Path,
        samples: list[tuple[str, int]],
        names: list[str] | None,
        left_out: dict[str, int] | None = None,
        empty: Sequence[str] = (),
    ):
        self.root, self.samples, self.names = root, samples, names
        self.left_out, self.empty = left_out or {}, empty

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        return Path(self.samples[index][0]).relative_to(self.root).as_posix()

    def read(self, index: int) -> tuple[str, int]:
        return self.samples[index]

    def labels(self) -> list[int]:
        return [label for _, label in self.samples]

    def with_empty(self) -> Files:
        """The same photographs, the folders without one counted as classes, too."""
        present = self.names or []
        names = in_order({*present, *self.empty})
        label = [names.index(name) for name in present]
        return Files(self.root, [(file, label[own]) for file, own in self.samples], names, self.left_out)


class ReaderImages:
    """A random-access timm reader (tar files, Hugging Face datasets). What has no class there (in a tar file:
    photographs outside of folders) is left out; labelled=False: all are taken, and no class is asked for."""

    empty: ClassVar[tuple[str, ...]] = ()

    def __init__(self, reader: Any, left_out: dict[str, int] | None = None, labelled: bool = True):
        self.reader, self._process = reader, os.getpid()
        mapping: Any = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None) or {}
        names = sorted(mapping, key=mapping.get) if labelled else []
        if not labelled and hasattr(reader, "label_key"):  # Hugging Face data sets may have no field of that name
            reader.label_key = reader.image_key
        self.left_out = dict(left_out or {})
        self._places: list[int] | None = None
        self._labels: list[int] = []
        if "" in names:
            self._leave_out(names.index(""))
        self.names = [name for name in names if name] or None

    def _leave_out(self, nameless: int) -> None:
        targets = self._targets()
        self._places = [place for place, label in enumerate(targets) if label != nameless]
        self._labels = [targets[place] - (targets[place] > nameless) for place in self._places]
        self.left_out[BESIDE] = len(targets) - len(self._places)

    def __len__(self) -> int:
        return len(self.reader) if self._places is None else len(self._places)

    def __getstate__(self) -> dict:
        self._close()
        return self.__dict__.copy()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        """Close open tar files: two processes that share one would move each other's position."""
        states = getattr(self.reader, "tar_state", None) or {}
        for state in states.values() if isinstance(states, dict) else [states]:
            for reader in (state, *state.children.values()):
                if reader.tf is not None:
                    reader.tf.close()
                reader.reset()
        self._process = os.getpid()

    def name(self, index: int) -> str:
        name = self.reader.filename(index if self._places is None else self._places[index])
        return f"image {index}" if name is None else str(name)  # of images that lie in tables some have none

    def read(self, index: int) -> tuple[IO[bytes], int]:
        if self._process != os.getpid():
            self._close()
        if self._places is None:
            return self.reader[index]
        return self.reader[self._places[index]][0], self._labels[index]

    def labels(self) -> list[int]:
        return self._targets() if self._places is None else self._labels

    def _targets(self) -> list[int]:
        targets = self.reader.targets if hasattr(self.reader, "targets") else self.reader.iter_targets()
        return [int(target) for target in targets]


class TorchImages:
    """A torchvision data set of (image, label) pairs, such as `torch/cifar10`."""

    left_out: ClassVar[dict[str, int]] = {}
    empty: ClassVar[tuple[str, ...]] = ()

    def __init__(self, dataset: Any):
        # torchvision's ImageNet has wnids, too, and as `classes` a tuple of English names for each.
        names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", ())
        self.dataset, self.names = dataset, list(names) or None

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return f"image {index}"

    def read(self, index: int) -> tuple[Image.Image, int]:
        return self.dataset[index]

    def labels(self) -> list[int] | None:
        """None where the data set does not list them."""
        targets = getattr(self.dataset, "targets", None)
        return None if targets is None else [int(target) for target in targets]


class Stream:
    """A timm data set that is read from start to end (webdataset shards, TFDS, Hugging Face streams)."""

    empty: ClassVar[tuple[str, ...]] = ()

    def __init__(self, dataset: Any, where: str):
        self.dataset, self.where = dataset, where
        mapping: Any = getattr(dataset.reader, "class_to_idx", None) or {}
        self.names = sorted(mapping, key=mapping.get) or None


def find_source(
    path: str | Path, root: str | Path | None, split: str | None, limit: int | None, labelled: bool = True
) -> Files | ReaderImages | TorchImages | Stream:
    """Open what `path` names. Raises ValueError, in one line, for what is no data set or holds no image.

    `limit` only tells streams of unknown length how many images are wanted. labelled=False: labels are not read, and
    need not be there.
    """
    check_there(path)
    local = Path(path).expanduser()
    if is_named(path):
        return _named(str(path), str(path).partition("/")[0].lower(), root, split, limit, labelled)
    if local.is_dir():
        return _files(class_folders(local, split))
    if local.suffix == ".tar" and local.is_file():
        return _tar(local, labelled)
    raise ValueError(f"{local} is a file and no data set: give a folder with one folder per class, or a .tar file")


def _files(found: ClassFolders) -> Files:
    return Files(found.root, found.samples, found.names, found.left_out, found.empty)


def _tar(path: Path, labelled: bool) -> ReaderImages | TorchImages | Stream:
    try:
        with tarfile.open(path) as archive:
            webdataset = any(member.name.endswith(".cls") for member in islice(archive, 4))
            others = {} if webdataset else _other_members(archive)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a tar file: {reason(error)}") from error
    if webdataset:
        return _named(f"wds/{path}", "wds", None, None, None)
    try:
        source = ReaderImages(create_dataset("", root=str(path), search_split=False).reader, others, labelled)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a tar file: {reason(error)}") from error
    except ValueError as error:  # timm unpacks an empty list where a tar holds no image
        raise ValueError(f"{path} holds no photographs ({', '.join(get_img_extensions())})") from error
    if not len(source):
        raise ValueError(f"{path} has photographs but no class folders: pack one folder per class")
    return source


def _other_members(archive: tarfile.TarFile) -> dict[str, int]:
    """What timm's reader passes over without a word, counted by ending."""
    read = {*get_img_extensions(), ".tar"}
    endings = (os.path.splitext(member.name)[1].lower() for member in archive if member.isfile())
    return dict(Counter(shortened(ending, 20) or "without an ending" for ending in endings if ending not in read))


def _named(
    name: str, prefix: str, root: str | Path | None, split: str | None, limit: int | None, labelled: bool = True
) -> ReaderImages | TorchImages | Stream:
    package = _NEEDS.get(prefix)
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(f"{name} needs the package {package}: pip install {package.replace('_', '-')}")
    if prefix == "torch" and root is None:
        raise OptionError(
            f"{name} needs the folder where it is stored: give it as ",
            {"root": ...},
            ", or give a folder with one folder per class instead",
        )
    where = name
    if prefix == "wds" and root is None:
        name, root, split = _shards(name, split)
    options: dict[str, Any] = {"num_samples": limit} if prefix == "hfids" else {}
    if prefix in ("hfids", "wds"):
        options["input_img_mode"] = ""  # or timm would make sixteen bits a pixel white; `decode` makes the mode
    where_to = None if root is None else str(root)
    split = split or "validation"
    try:
        dataset = create_dataset(name, root=where_to, split=split, search_split=False, **options)
    except (Exception, SystemExit) as error:
        said = first_line(error).replace("`num_samples`", "a limit")
        raise ValueError(f"timm cannot open {where} with split {split!r}: {said}") from error
    if prefix in STREAMS:
        return Stream(dataset, where)
    return TorchImages(dataset) if prefix == "torch" else ReaderImages(dataset.reader, labelled=labelled)


def _shards(name: str, split: str | None) -> tuple[str, str, str | None]:
    """`wds/DIR/val-{0000..0003}.tar` is the shards of DIR; `wds/DIR` leaves them to `split` and DIR's info.json."""
    place = name.partition("/")[2]
    if ".tar" in os.path.basename(place):
        return "wds/", os.path.dirname(place) or ".", os.path.basename(place)
    return "wds/", place, split
