"""An earlier run of `vitrim compare`, from its JSON: shown again without measuring anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...common.text import counted, reason
from ...runtime.loading import read_json
from .rows import Row, rows_of


def open_run(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """What a run's JSON says of all rows, and its rows, the dense model first. Raises ValueError for another file."""
    told = f"--show {path} is no JSON that vitrim compare wrote"
    try:
        run = read_json(path.expanduser())
        rows = rows_of(run)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{told}: {reason(error)}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(told) from error
    if len(rows) < 2 or rows[0].plan is not None:
        raise ValueError(told)
    return run, rows


def about_run(run: Mapping[str, Any], path: Path) -> str:
    """The line over the table: what was measured, on what."""
    height, width = run["image_size"]
    threads = f", {counted(run['threads'], 'thread')}" if run["device"] == "cpu" else ""
    return (
        f"{run['model']}, {counted(run['images'], 'image')} at {height} x {width} (crop {run['crop_pct']:g}), "
        f"{'no labels' if run.get('labels') == 'none' else 'labels ' + str(run.get('labels', ''))}; "
        f"{run['processor']}{threads}, {run['dtype']}, batches of {run['batch_size']}; from {path}"
    )


def remarks_on(rows: Sequence[Row]) -> list[str]:
    """What else a run must be told with."""
    skipped = rows[0].result.skipped
    return [f"{counted(len(skipped), 'image')} of the folder cannot be read (named in the file)"] if skipped else []
