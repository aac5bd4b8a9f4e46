"""The Hugging Face hub: a repository's files of a model into a folder of the cache, and a folder into a repository."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .._version import __version__
from ..common.absent import absent
from ..common.kinds_given import check_path, told
from ..common.text import first_sentence

# All that is ever fetched: no code, and no weights but safetensors.
FILES = (
    "config.json",
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "generation_config.json",
    "README.md",
)
NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_repo(repo: Any) -> None:
    """Raise ValueError for what is no name of a repository.

    Example:
        >>> check_repo("you/fast")
        >>> check_repo("a folder/x")
        Traceback (most recent call last):
        ValueError: repo_id is 'a folder/x': give USER/NAME
    """
    if not isinstance(repo, str) or not re.fullmatch(rf"({NAME.pattern})|[\w.-]+", repo):
        raise ValueError(f"repo_id is {told(repo)}: give USER/NAME")


def folder_of(place: str | Path, **options: Any) -> Path:
    """The folder of that name, or what `fetch` makes of a repository of that name.

    Raises ValueError where there is neither.
    """
    check_path("pretrained_model_name_or_path", place, "give a folder, or a repository of the hub, USER/NAME")
    folder = Path(place).expanduser()
    if folder.exists() or isinstance(place, Path) or place.startswith(".") or not NAME.fullmatch(place):
        if not folder.exists():
            raise ValueError(absent("folder", place, "give one, or a repository of the hub, USER/NAME"))
        return folder
    return fetch(place, **options)


def fetch(repo: str, **options: Any) -> Path:
    """The folder in the hub's cache that holds a repository's model.

    options: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`, as for `snapshot_download`

    Raises ValueError for what the hub does not have, or does not give.
    """
    with _in_words(f"{repo} cannot be fetched from the hub"):
        return Path(
            snapshot_download(
                repo, allow_patterns=list(FILES), library_name="vitrim", library_version=__version__, **options
            )
        )


def upload(folder: Path, repo: str, message: str, private: bool | None, token: Any, revision: Any, pr: bool) -> Any:
    """Put a folder's files into a repository, which is made where it is not there, as one commit; returns what
    `upload_folder` does.

    Raises ValueError where the hub refuses.
    """
    api = HfApi(token=token, library_name="vitrim", library_version=__version__)
    with _in_words(f"{repo} cannot be written to"):
        name = api.create_repo(repo, private=private, exist_ok=True).repo_id
        if revision is not None and not pr:
            api.create_branch(name, branch=revision, exist_ok=True)
        return api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=message, revision=revision, create_pr=pr
        )


@contextmanager
def _in_words(what: str) -> Generator[None]:
    try:
        yield
    except Exception as error:  # every transport raises its own
        raise ValueError(f"{what}: {_why(error)}") from error


def _why(error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return "its owner gives it to those who ask on its page: do so, then `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no folder and no repository of that name, or it is private: check it, and `hf auth login`"
    if isinstance(error, HfHubHTTPError) and getattr(error.response, "status_code", 0) in (401, 403):
        return "the hub does not let you: `hf auth login` with a token that may write"
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)) or "Connect" in type(error).__name__:
        return "no connection to the hub, and it is not in the cache"
    return (
        first_sentence(error)
        if isinstance(error, HFValidationError)
        else (f"{type(error).__name__}: {first_sentence(error)}")
    )
