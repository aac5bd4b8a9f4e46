"""Where photographs come from: folders, tar files, and all else that `timm.data.create_dataset` reads."""

import importlib.util
import os
import tarfile
from itertools import islice
from pathlib import Path
from typing import IO, Any

from PIL import Image
from timm.data import create_dataset
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from ..common.text import few, first_line
from .classes import in_order

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "eval", "evaluation"}
_STREAMS = {"hfids", "tfds", "wds"}
_NEEDS = {"hfds": "datasets", "hfids": "datasets", "tfds": "tensorflow_datasets", "wds": "webdataset"}
_PREFIXES = _STREAMS | {"hfds", "torch"}


class Files:
    """Image files with a label each. `names` are the class names, or None where labels come from elsewhere."""

    def __init__(self, root: Path, samples: list[tuple[str, int]], names: list[str] | None):
        self.root, self.samples, self.names = root, samples, names

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        return Path(self.samples[index][0]).relative_to(self.root).as_posix()

    def read(self, index: int) -> tuple[str, int]:
        return self.samples[index]

    def labels(self) -> list[int]:
        return [label for _, label in self.samples]


class ReaderImages:
    """A random-access timm reader (tar files, Hugging Face datasets)."""

    def __init__(self, reader: Any):
        self.reader, self._process = reader, os.getpid()
        mapping = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None) or {}
        self.names = sorted(mapping, key=mapping.get) or None

    def __len__(self) -> int:
        return len(self.reader)

    def __getstate__(self) -> dict:
        self._close()
        return self.__dict__.copy()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        """Close open tar files: two processes that share one would move each other's position."""
        states = getattr(self.reader, "tar_state", None) or {}
        for state in states.values() if isinstance(states, dict) else [states]:
            for one in (state, *state.children.values()):
                if one.tf is not None:
                    one.tf.close()
                one.reset()
        self._process = os.getpid()

    def name(self, index: int) -> str:
        return str(self.reader.filename(index))

    def read(self, index: int) -> tuple[IO[bytes], int]:
        if self._process != os.getpid():
            self._close()
        return self.reader[index]

    def labels(self) -> list[int]:
        targets = self.reader.targets if hasattr(self.reader, "targets") else self.reader.iter_targets()
        return [int(target) for target in targets]


class TorchImages:
    """A torchvision data set of (image, label) pairs, such as `torch/cifar10`."""

    def __init__(self, dataset: Any):
        self.dataset, self.names = dataset, list(getattr(dataset, "classes", ())) or None

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return f"image {index}"

    def read(self, index: int) -> tuple[Image.Image, int]:
        return self.dataset[index]

    def labels(self) -> list[int]:
        if not hasattr(self.dataset, "targets"):
            raise ValueError(f"{type(self.dataset).__name__} does not list its labels: limit_per_class needs them")
        return [int(target) for target in self.dataset.targets]


class Stream:
    """A timm data set that is read from start to end (webdataset shards, TFDS, Hugging Face streams)."""

    def __init__(self, dataset: Any, where: str):
        self.dataset, self.where = dataset, where
        mapping = getattr(dataset.reader, "class_to_idx", None) or {}
        self.names = sorted(mapping, key=mapping.get) or None


def find_source(
    path: str | Path, root: str | Path | None, split: str | None, limit: int | None
) -> Files | ReaderImages | TorchImages | Stream:
    """Open what `path` names. Raises ValueError, in one line, for what is no data set or holds no image.

    `limit` only tells streams of unknown length how many images are wanted.
    """
    prefix = str(path).partition("/")[0].lower()
    local = Path(path).expanduser()
    if prefix in _PREFIXES and not local.exists():
        return _named(str(path), prefix, root, split, limit)
    if local.is_dir():
        return class_folders(local, split)
    if local.suffix == ".tar" and local.is_file():
        return _tar(local)
    if local.exists():
        raise ValueError(f"{local} is a file and no data set: give a folder with one folder per class, or a .tar file")
    raise ValueError(
        f"there is no {local}: give a folder with one folder per class, a .tar file, "
        "or a name with hfds/, hfids/, tfds/, wds/ or torch/ in front"
    )


def _is_image(path: str) -> bool:
    name = os.path.basename(path)
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")


def _folders(root: Path) -> list[str]:
    return in_order({entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")})


def split_folder(root: Path, split: str | None) -> Path:
    """`root/split` where a split is asked for; refuses a root that holds nothing but splits."""
    folders = _folders(root)
    if split is not None and split not in folders:
        raise ValueError(f"{root} has no folder {split!r} for that split; it has {few(folders) or 'no folders'}")
    if split is None and folders and _SPLITS.issuperset(name.lower() for name in folders):
        raise ValueError(f"{root} holds the splits {few(folders)}: choose one, for example {root / folders[-1]}")
    return root / split if split else root


def class_folders(root: Path, split: str | None) -> Files:
    """One folder per class, photographs anywhere below it; classes in natural order, files by sorted name."""
    root = split_folder(root, split)
    names = _folders(root)
    index = {name: position for position, name in enumerate(names)}
    samples = make_dataset(root, index, is_valid_file=_is_image, allow_empty=True) if names else []
    if not samples:
        raise ValueError(_why_empty(root, names))
    samples.sort(key=lambda sample: sample[1])  # stable: files stay in make_dataset's sorted order within a class
    return Files(root, samples, names)


def _why_empty(root: Path, names: list[str]) -> str:
    files = sorted(entry.name for entry in os.scandir(root) if entry.is_file())
    if any(_is_image(name) for name in files):
        return f"{root} has photographs but no class folders: give a label file with lines `file label`"
    if any(name.endswith(".tar") for name in files):
        return f"{root} holds tar files: give one of them, or wds/{root} with a split such as 'val-{{0000..0003}}.tar'"
    kinds = f"files that end in {', '.join(IMG_EXTENSIONS)}"
    return f"{root} holds no photographs ({kinds}), {f'nor do its {len(names)} folders' if names else 'and no folders'}"


def flat_files(root: str | Path, split: str | None) -> tuple[Path, list[str]]:
    """All photographs below a folder, as sorted relative paths. Raises ValueError where there are none."""
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"a label file goes with a folder of photographs; {root} is none")
    root = split_folder(root, split)
    files = (Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    found = sorted(file.relative_to(root).as_posix() for file in files if _is_image(str(file)))
    if not found:
        raise ValueError(_why_empty(root, _folders(root)))
    return root, found


def _tar(path: Path) -> ReaderImages | Stream:
    try:
        with tarfile.open(path) as archive:
            webdataset = any(member.name.endswith(".cls") for member in islice(archive, 4))
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a tar file: {first_line(error)}") from error
    if webdataset:
        return _named(f"wds/{path}", "wds", None, None, None)
    try:
        return ReaderImages(create_dataset("", root=str(path), search_split=False).reader)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a tar file: {first_line(error)}") from error
    except ValueError as error:  # timm unpacks an empty list where a tar holds no image
        raise ValueError(f"{path} holds no photographs (.png, .jpg, .jpeg)") from error


def _named(
    name: str, prefix: str, root: str | Path | None, split: str | None, limit: int | None
) -> ReaderImages | TorchImages | Stream:
    package = _NEEDS.get(prefix)
    if package and importlib.util.find_spec(package) is None:
        raise ValueError(f"{name} needs the package {package}: pip install {package.replace('_', '-')}")
    where = name
    if prefix == "wds" and root is None:
        name, root, split = _shards(name, split)
    options = {"num_samples": limit} if prefix == "hfids" else {}
    root, split = root and str(root), split or "validation"
    try:
        dataset = create_dataset(name, root=root, split=split, search_split=False, **options)
    except (Exception, SystemExit) as error:
        reason = first_line(error).replace("`num_samples`", "a limit")
        raise ValueError(f"timm cannot open {where} with split {split!r}: {reason}") from error
    if prefix in _STREAMS:
        return Stream(dataset, where)
    return TorchImages(dataset) if prefix == "torch" else ReaderImages(dataset.reader)


def _shards(name: str, split: str | None) -> tuple[str, str, str | None]:
    """`wds/DIR/val-{0000..0003}.tar` is the shards of DIR; `wds/DIR` leaves them to `split` and DIR's info.json."""
    place = name.partition("/")[2]
    if ".tar" in os.path.basename(place):
        return "wds/", os.path.dirname(place) or ".", os.path.basename(place)
    return "wds/", place, split
