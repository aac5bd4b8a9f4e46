"""The tables of finetune.py's results. Results that were not made alike are refused: their figures do not compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_trials import RESULTS, Group, read_groups, read_results
from table_text import interval, markdown

# What the results of one table must agree in. Not the threads and the versions, which change the time and not what is
# computed but for rounding: they stand below the table. Not the classes, which some tables compare: they are the trial.
MUST_AGREE = {
    "settings": ("model", "weights", "data", "minutes", "steps", "batch", "per_class", "precision", "seed"),
    "environment": ("processor", "cores", "device"),
}
RECORDED = {
    "the trial's method, options, recipe and changes": lambda result: result["trial"]["method"],
    "model": lambda result: result["settings"]["model"],
    "weights": lambda result: result["settings"]["weights"],
    "data": lambda result: result["settings"]["data"],
    "seed": lambda result: result["settings"]["seed"],
    "command": lambda result: result["command"],
    "commit": lambda result: result["commit"],
    "date": lambda result: result["date"],
}
JUDGED = ["top-1 before", "after", "95 %", "agreement before", "after"]


def check_alike(results: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError, naming the first difference, for results that do not belong into one table."""
    for result in results[1:]:
        for what, first, other in _compared(results[0], result):
            if first != other:
                raise ValueError(
                    f"{name_of(results[0])} and {name_of(result)} do not belong into one table: {what} "
                    f"{_in_words(first)} and {_in_words(other)}; run both with the same settings on the same machine"
                )


def _compared(first: dict[str, Any], other: dict[str, Any]):
    """What is compared, and its two values."""
    for part, keys in MUST_AGREE.items():
        for key in keys:
            yield key, first[part].get(key), other[part].get(key)
    yield "photographs judged", first["figures"]["after"]["images"], other["figures"]["after"]["images"]


def _in_words(value: Any) -> str:
    return "none or not recorded" if value is None else str(value)


def name_of(result: dict[str, Any]) -> str:
    """Group and trial, for messages."""
    return f"{result['group']}/{result['trial']['name']}"


def opened(results: Sequence[dict[str, Any]], group: str) -> Sequence[dict[str, Any]]:
    """The results, once they are known to be some and alike."""
    if not results:
        raise FileNotFoundError(2, "no result is there", str(RESULTS / group))
    check_alike(results)
    return results


def judged(figures: dict[str, Any]) -> list[str]:
    """Accuracy before and after, with its interval, and agreement with the dense model before and after."""
    before, after = figures["before"], figures["after"]
    accuracies = [f"{before['top1']:.1f}", f"{after['top1']:.1f}", interval(after["interval"])]
    return [*accuracies, f"{before['agreement']:.1f}", f"{after['agreement']:.1f}"]


def finetuned(name: str, *, first: tuple[str, ...] = (), folder: Path = RESULTS) -> str:
    """The trials of one group; `first`: trials of `methods` to put above those of the same method."""
    groups = read_groups()
    beside = read_results(groups["methods"], folder, first) if first else []
    results = opened([*beside, *read_results(groups[name], folder)], name)
    if first:
        results = sorted(results, key=lambda result: first.index(result["trial"]["name"].split(",")[0]))
    rows = [_row(result["trial"]["name"], result["figures"]) for result in results]
    table = markdown(["", "steps", "share of dense MACs", *JUDGED, "dense"], rows)
    return f"{table}\n\n{trained_on(results)}"


def _row(name: str, figures: dict[str, Any]) -> list[str]:
    dense = f"{figures['dense']['top1']:.1f}"
    return [name, str(figures["steps"]), f"{figures['share_after']:.2f}", *judged(figures), dense]


def budgets(name: str, folder: Path = RESULTS) -> str:
    """What ToFe's inference costs beside its target."""
    group: Group = read_groups()[name]
    results = opened(read_results(group, folder), name)
    titles = [
        "target",
        "mean of instance-adaptive inference",
        "off by",
        "batch-adaptive",
        "top-1",
        "agreement",
        "steps",
    ]
    return f"{markdown(titles, [_budget_row(result) for result in results])}\n\n{trained_on(results)}"


def _budget_row(result: dict[str, Any]) -> list[str]:
    figures, after = result["figures"], result["figures"]["after"]
    target = result["trial"]["macs"] or float(result["trial"]["name"].split(", ")[1])
    costs = [f"{figures['share_mean']:.3f}", f"{figures['share_mean'] / target - 1:+.1%}"]
    accuracies = [f"{after['top1']:.1f}", f"{after['agreement']:.1f}"]
    return [f"{target:.2f}", *costs, f"{figures['share_after']:.3f}", *accuracies, str(figures["steps"])]


def trained_on(results: Sequence[dict[str, Any]]) -> str:
    """How the trials were made: one line, or one for those made alike; then what was not recorded about them."""
    made: dict[str, list[str]] = {}
    for result in results:
        made.setdefault(made_with(result), []).append(result["trial"]["name"])
    return "  \n".join(how if len(made) == 1 else f"{'; '.join(names)}: {how}" for how, names in made.items())


def made_with(result: dict[str, Any]) -> str:
    """One trial's settings and machine."""
    settings, machine = result["settings"], result["environment"]
    minutes = f"{settings['minutes']:g} minutes of training, at most one epoch"
    how = f"{settings['steps']} steps" if settings["steps"] else minutes
    what = f"{how}, batch {settings['batch']}, precision {settings['precision']}"
    images = f"judged on {result['figures']['after']['images']:,} photographs"
    versions = f"torch {machine['torch']}, timm {machine['timm']}"
    return f"{what}; {images} ({machine['processor']}, {machine['threads']} threads, {versions}).{_unrecorded(result)}"


def _unrecorded(result: dict[str, Any]) -> str:
    """What the file does not say. Older results had one record for their whole group, of its last run."""
    missing = [what for what, value_of in RECORDED.items() if value_of(result) is None]
    once = f" Settings are those of {result['settings_of']}." if "settings_of" in result else ""
    return once + (f" Not recorded: {', '.join(missing)}." if missing else "")
