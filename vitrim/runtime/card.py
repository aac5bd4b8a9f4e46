"""The model card of a shared model: `README.md`, as the hub shows it, with the figures that were measured and no other.

What vitrim writes stands between two marks. All else in the file, and every key of its metadata that is there already,
is its owner's and stays.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import yaml_dump

from ..backbones import library_of
from ..common.errors import OptionError
from ..common.text import counted
from .build import is_of_transformers
from .measured import Measured, in_public
from .model import ReducedViT
from .own_folder import check_links
from .profile import profile
from .words import options_in_words

CARD, UNKNOWN = "README.md", "USER/NAME"
START, END = "<!-- vitrim: written by vitrim, up to the next such mark -->", "<!-- vitrim: end -->"
LARGEST_CARD = 1 << 22  # bytes
# Of a row: key, name, digits, key of its 95 % interval.
_FIGURES = (
    ("top1", "top-1, %", 1, "top1_interval"),
    ("top5", "top-5, %", 1, "top5_interval"),
    ("knn", "nearest-neighbour accuracy, %", 1, "knn_interval"),
    ("recall_at_1", "recall@1, %", 1, ""),
    ("recall_at_5", "recall@5, %", 1, ""),
    ("recall_at_10", "recall@10, %", 1, ""),
    ("agreement", "agreement with dense, %", 1, "agreement_interval"),
    ("cosine", "cosine with dense", 4, "cosine_interval"),
    ("gmacs", "GMACs for one image", 3, ""),
    ("images_per_s", "images/s", 1, ""),
)
_METRICS = {"top1": ("accuracy", "Top-1 accuracy"), "top5": ("accuracy", "Top-5 accuracy")}
# What is given for the metadata: how the hub writes it, and in words.
_NAME = r"[A-Za-z0-9][\w.-]*"
_GIVEN = {
    "license": (_NAME, "one of its short names, such as apache-2.0, mit or other"),
    "base_model": (rf"{_NAME}(/{_NAME})?", "a repository as USER/NAME"),
}
_UNTYPED = ("json", "config", "overwrite", "card")  # of a command line: about files of whoever measured


def make_card(
    model: ReducedViT,
    measured: Measured | None,
    repo: str | None = None,
    given: Mapping[str, Any] | None = None,
    there: str = "",
) -> str:
    """The text of a model card.

    repo:  the repository of the hub where the model will be found; None: not known
    given: metadata from the caller: its license, the repository of the base model
    there: the card so far

    Raises ValueError for a card so far whose metadata cannot be read, and for a license or a base model that the hub
    would not take.
    """
    for key, value in (given or {}).items():
        _check_given(key, value)
    before, body = _parts(there)
    made = _data(model, measured).to_dict()
    tags = list(dict.fromkeys([*_several(before.get("tags")), *made["tags"]]))
    results = {"model-index": made.get("model-index")}  # of other weights, where there are none of these
    merged = {**made, **before, **(given or {}), "tags": tags, **results}
    text = yaml_dump({key: value for key, value in merged.items() if value is not None}, sort_keys=False)
    return f"---\n{text}---\n\n{_within(body, _section(model, measured, repo))}"


def _check_given(key: str, value: Any) -> None:
    """Raise ValueError for what is no license, or no repository, as the hub writes them."""
    pattern, way = _GIVEN[key]
    if not isinstance(value, str) or len(value) > 96 or not re.fullmatch(pattern, value):
        raise OptionError({key: value}, f" is none that the hub knows: give {way}")


def _several(tags: Any) -> list[str]:
    return [tags] if isinstance(tags, str) else list(tags or [])


def read_card(folder: Path) -> str:
    """The card of a folder; empty where there is none. Raises ValueError for one that cannot be read,
    and for a link out of the folder."""
    path = folder / CARD
    check_links(folder, [CARD])  # what it leads to would be read into the card, and written over
    try:
        if not path.exists():
            return ""
        if not path.is_file() or path.stat().st_size > LARGEST_CARD:
            raise ValueError(f"{path} is no model card: move it away")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _parts(there: str) -> tuple[dict[str, Any], str]:
    """Metadata and body of a card."""
    if not there.startswith("---"):
        return {}, there
    try:
        card = ModelCard(there, ignore_metadata_errors=True)
    except Exception as error:  # PyYAML's, which is huggingface_hub's to import
        raise ValueError(f"the metadata of {CARD} cannot be read: mend what stands between its lines `---`") from error
    return card.data.to_dict(), card.text


def _within(body: str, section: str) -> str:
    """The body with vitrim's part replaced, or behind it where it has none yet."""
    marked = re.compile(re.escape(START) + r".*?" + re.escape(END), re.DOTALL)
    whole = f"{START}\n{section}\n{END}"
    if marked.search(body):
        return marked.sub(lambda _: whole, body, count=1).lstrip("\n")
    return f"{body.strip()}\n\n{whole}\n".lstrip("\n")


# -- metadata


def _data(model: ReducedViT, measured: Measured | None) -> ModelCardData:
    library = library_of(model.backbone)
    tags = ["vitrim", library.name, "token-reduction", *(method.name for method in model.methods)]
    results = [] if measured is None else list(_results(measured))
    run = {} if measured is None else measured.run
    known: dict[str, Any] = library.published(str(run["model"])) if run.get("checkpoint", "") is None else {}
    named: dict[str, Any] = {"model_name": _title(model), "eval_results": results} if results else {}
    tags = list(dict.fromkeys(tags))
    return ModelCardData(library_name="vitrim", pipeline_tag=_task(model), tags=tags, **named, **known)


def _task(model: ReducedViT) -> str:
    return (
        "image-feature-extraction"
        if library_of(model.backbone).gives_features(model.backbone)
        else ("image-classification")
    )


def _results(measured: Measured) -> Iterator[EvalResult]:
    data, run = _data_set(measured), measured.run
    for key, (kind, name) in _METRICS.items():
        if (value := measured.reduced.get(key)) is not None:
            yield EvalResult(
                task_type="image-classification",
                dataset_type=re.sub(r"\W+", "-", data).lower(),
                dataset_name=data,
                dataset_args={"images": run.get("images"), "chosen": run.get("chosen")},
                metric_type=kind,
                metric_name=name,
                metric_value=round(value, 2),
            )


# -- text


def _section(model: ReducedViT, measured: Measured | None, repo: str | None) -> str:
    return "\n\n".join([f"# {_title(model)}", _about(model), _use(model, repo), "## Measured", *_measured(measured)])


def _title(model: ReducedViT) -> str:
    name = library_of(model.backbone).architecture(model.backbone) or type(model.backbone).__name__
    return f"{in_public(name)} with {' and '.join(type(method).__name__ for method in model.methods) or 'no method'}"


def _about(model: ReducedViT) -> str:
    cost, library = profile(model), library_of(model.backbone)
    methods = ", then ".join(f"`{method.name}({options_in_words(method)})`" for method in model.methods) or "no method"
    height, width = library.image_size(model.backbone) or (0, 0)
    return (
        f"A Vision Transformer of {library.name} that computes fewer tokens, by "
        f"vitrim: {methods}. It takes {cost.gmacs:.3f} of the dense model's "
        f"{cost.dense_gmacs:.3f} GMACs for an image of {height} x {width} pixels ({cost.share:.0%}), as vitrim counts "
        "them, and has the dense model's inputs and outputs."
    )


def _use(model: ReducedViT, repo: str | None) -> str:
    """How a reader loads the model; where it is not known from where, what stands for that."""
    extra = "[transformers]" if is_of_transformers(model) else ""
    where = "" if repo else f"`{UNKNOWN}` stands for the repository, or the folder, that holds these files. "
    return (
        f"{where}vitrim is installed from a checkout of its repository, as its README says, by "
        f'`pip install -e ".{extra}"`.\n\n'
        f'```python\nimport vitrim\n\nmodel = vitrim.from_pretrained("{repo or UNKNOWN}")  # in eval mode\n```'
    )


def _measured(measured: Measured | None) -> Iterator[str]:
    if measured is None:
        yield "Nothing has been measured for this card: neither accuracy nor speed is known."
        return
    run = measured.run
    yield "\n".join(_table(measured))
    yield (
        "*dense*: the same weights without the method. In brackets: 95 % intervals, and of the speed-up the tenth and "
        "ninetieth percentile of the timing rounds."
    )
    left = f"; {counted(len(run['skipped']), 'image')} could not be read" if run.get("skipped") else ""
    labels = f"; labels {run['labels']}" if run.get("labels") else ""
    yield (
        f"Data: {run.get('images', 0):,} images of {_data_set(measured)}, chosen: {run.get('chosen', 'all')}, at "
        f"{_size(run)} pixels, crop {run.get('crop_pct')}{labels}{left}."
    )
    threads = f", {counted(run['threads'], 'thread')}" if run.get("device") == "cpu" and run.get("threads") else ""
    yield (
        f"Machine: {run.get('processor')} ({run.get('device')}{threads}), {run.get('dtype')}, batches of "
        f"{run.get('batch_size')}; torch {run.get('torch')}, {_versions(run)}vitrim {run.get('vitrim')}. Speed is of "
        "the model alone, dense and reduced in turn on the same batch; it differs from machine to machine."
    )
    yield f"The command:\n\n```\n{_command(run)}\n```"


def _table(measured: Measured) -> Iterator[str]:
    yield "|  | dense | this model |"
    yield "|---|---:|---:|"
    for key, name, digits, interval in _FIGURES:
        cells = [_figure(row, key, digits, interval) for row in (measured.dense, measured.reduced)]
        if any(cells):
            yield f"| {name} | {cells[0]} | {cells[1]} |"
    fast = measured.reduced
    low, high = (fast.get(f"speed_up_p{share}") for share in (10, 90))
    spread = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    yield f"| speed-up over dense | 1.00 | {fast['speed_up']:.2f}{spread} |"


def _figure(row: Mapping[str, Any], key: str, digits: int, interval: str) -> str:
    if row.get(key) is None:
        return ""
    bounds = row.get(interval) if interval else None
    within = f" ({bounds[0]:.{digits}f} to {bounds[1]:.{digits}f})" if bounds else ""
    return f"{row[key]:.{digits}f}{within}"


def _data_set(measured: Measured) -> str:
    return in_public(measured.run.get("data") or "data that has no name")


def _size(run: Mapping[str, Any]) -> str:
    return " x ".join(map(str, run.get("image_size") or ["?"]))


def _versions(run: Mapping[str, Any]) -> str:
    return "".join(f"{name} {run[name]}, " for name in ("timm", "transformers") if run.get(name))


def _command(run: Mapping[str, Any]) -> str:
    """What was typed, with paths as strangers may read them."""
    words = ["vitrim", str(run["command"])]
    for option, value in (run.get("given") or {}).items():
        if option in _UNTYPED or value is False:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        words += [f"--{option.replace('_', '-')}", *(shlex.quote(in_public(each)) for each in values)]
    return " ".join(words)
