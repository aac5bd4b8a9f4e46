"""What can be told of files before PyTorch is imported: that they are there, and of what they hold their first look."""

from __future__ import annotations

from pathlib import Path

from ...common.absent import absent
from ...common.class_map import read_class_map

FILES = {
    "checkpoint": "checkpoint",
    "label_file": "label file",
    "class_map": "class map",
    "class_names": "file of class names",
    "plan": "plan",
    "guide_checkpoint": "checkpoint",
}
FOLDERS = "folders"  # the value of --class-names that is no file
WANTED = {
    "checkpoint": "a file of weights, or a folder that save() wrote",
    "guide_checkpoint": "a file of weights",
    "label_file": "a file of lines `file label`",
    "class_map": "a file of lines `name,index`",
    "class_names": "a file of names, one a line",
    "plan": "a file that vitrim tune has written",
}
WEIGHTS = ("checkpoint", "guide_checkpoint")
_NOT_READ = "is not a checkpoint or is damaged: give a state dict saved by torch.save or safetensors"


def check_file(name: str, path: str | Path) -> None:
    """Raise ValueError for a file that is not there, weights that are surely none, and a class map that is none.

    name: of the option, as an argument

    Example:
        >>> check_file("class_map", "nowhere.csv")
        Traceback (most recent call last):
        ValueError: there is no class map nowhere.csv: give --class-map a file of lines `name,index`
    """
    there = Path(path).expanduser()
    if not there.exists() and (name, path) != ("class_names", FOLDERS):
        raise ValueError(absent(FILES[name], path, f"give --{name.replace('_', '-')} {WANTED.get(name, 'a file')}"))
    if name in WEIGHTS and there.is_file() and _is_text(there):
        raise ValueError(f"{path} {_NOT_READ}")
    if name == "class_map":
        read_class_map(path)


def _is_text(path: Path) -> bool:
    """Whether a file begins as no file of weights does: these are zips, pickles, tars or begin with the size of a
    header, all of which have a zero or a byte beyond ASCII at once, or the letters PK."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:  # told where it is read
        return False
    return start.isascii() and b"\0" not in start and not start.startswith(b"PK")
