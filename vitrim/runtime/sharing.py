"""Sharing: a reduced model into a folder or repository with its model card, and back."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..common.files import check_no_file, write_whole
from ..common.kinds_given import check_path
from ..methods import Method
from . import hub, saving
from .card import CARD, make_card, read_card
from .loading import load
from .measured import match
from .model import ReducedViT, unwrap
from .pretrained_files import load_pretrained

FETCHING = ("revision", "token", "cache_dir", "force_download", "local_files_only")  # arguments about the hub

Figures = Mapping[str, Any] | str | Path


def save_pretrained(
    model: nn.Module,
    save_directory: str | Path,
    *,
    measured: Figures | None = None,
    license: str | None = None,
    base_model: str | None = None,
) -> Path:
    """Save a reduced model, as `vitrim.save` does, with a model card, `README.md`; returns the folder.

    measured:   the figures for the card: the file that `vitrim evaluate --json` or `vitrim compare --json` has written,
                or what it holds. They must be of this model: of these weights, this method and its options. Without
                them the card says that nothing has been measured
    license:    of the weights, for the card, such as "apache-2.0"
    base_model: the repository that they come from. Both are filled in where the figures tell them

    What else stands in a card that is there stays.

    Raises ValueError as `vitrim.save` does, and for figures of another model; nothing is written then.

    Example:
        >>> fast = vitrim.reduce(model, "evit", keep=0.5)
        >>> folder = fast.save_pretrained("shared", license="apache-2.0")
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    check_path("save_directory", save_directory, "give a folder")
    check_no_file(save_directory)
    return _save(model, Path(save_directory), measured, license=license, base_model=base_model)


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    measured: Figures | None = None,
    license: str | None = None,
    base_model: str | None = None,
    commit_message: str = "Upload reduced model",
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> Any:
    """Save a reduced model with its card, as `save_pretrained` does, and upload that folder to the Hugging Face hub as
    one commit; returns huggingface_hub's `CommitInfo`.

    repo_id: USER/NAME; made where it is not there
    private: of a repository that is made; None: public, unless the organisation's default is private
    token, revision, create_pr: as for `huggingface_hub.upload_folder`

    Raises ValueError for what cannot be saved, before anything is sent, and where the hub refuses.
    """
    hub.check_repo(repo_id)
    with tempfile.TemporaryDirectory(prefix="vitrim-") as beside:
        folder = _save(model, Path(beside) / "model", measured, repo_id, license=license, base_model=base_model)
        return hub.upload(folder, repo_id, commit_message, private, token, revision, create_pr)


def from_pretrained(
    pretrained_model_name_or_path: str | Path,
    *,
    methods: str | type[Method] | Iterable[type[Method] | str] = (),
    revision: str | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Any:
    """The reduced model of a folder, or of a repository of the Hugging Face hub, in eval mode on the CPU.

    pretrained_model_name_or_path: a folder; or USER/NAME of a repository, whose config, safetensors and card are
                                   fetched into the hub's cache, and nothing else of it
    methods: classes that are not vitrim's own and may run, as for `load`
    revision: a branch, a tag or a commit. The other arguments are those of `huggingface_hub.snapshot_download`

    Nothing that a stranger's folder says is run, fetched, or read outside of it.

    Raises ValueError, in one line, where there is no such folder or repository, and as `load` does.

    Example:
        >>> folder = vitrim.reduce(model, "evit", keep=0.5).save_pretrained("shared")
        >>> list(vitrim.from_pretrained("shared").methods)
        [EViT(keep=0.5)]
    """
    fetching = {"revision": revision, "token": token, "cache_dir": cache_dir}
    fetching |= {"force_download": force_download, "local_files_only": local_files_only}
    return load(hub.folder_of(pretrained_model_name_or_path, **fetching), methods)


def load_shared(place: str | Path, cls: Any, **kwargs: Any) -> nn.Module:
    """`load_pretrained` of a folder or a repository. kwargs: those of transformers' `from_pretrained`; those that say
    how to fetch go to the hub."""
    fetching = {key: kwargs.pop(key) for key in FETCHING if key in kwargs}
    return load_pretrained(hub.folder_of(place, **fetching), cls, **kwargs)


def card_of(
    model: nn.Module, folder: Path, measured: Figures | None, repo: str | None = None, **given: str | None
) -> str:
    """The card of a model, to be put into a folder. repo: where it will be found. Raises ValueError as
    `save_pretrained` does."""
    reduced: Any = unwrap(model)
    if not isinstance(reduced, ReducedViT):
        raise ValueError(f"{type(model).__name__} is no reduced model: save what vitrim.reduce has made of it")
    found = None if measured is None else match(measured, reduced)
    known = {key: value for key, value in given.items() if value is not None}
    return make_card(reduced, found, repo, known, read_card(folder))


def put_card(folder: Path, text: str) -> Path:
    """Write the card. Raises ValueError where the file system refuses."""
    return write_whole(folder / CARD, lambda path: Path(path).write_text(text, encoding="utf-8"))


def write_card(folder: Path, model: ReducedViT, measured: Figures) -> Path:
    """Put figures into the card of a folder that holds this model. Raises ValueError as `save_pretrained` does."""
    return put_card(folder, card_of(model, folder, measured))


def _save(model: nn.Module, folder: Path, measured: Figures | None, repo: str | None = None, **given: Any) -> Path:
    text = card_of(model, folder, measured, repo, **given)
    saving.save(model, folder)
    put_card(folder, text)
    return folder
