"""`vitrim demo`: the whole of `compare` on data and weights that come with the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..common.extras import require
from ..common.files import check_new, check_output, unused, write_json
from ..demo.digits import DigitCanvases
from ..demo.model import NAME, load_model
from ..demo.page import Example, TableRow, write_page
from ..runtime.build import reduce
from ..runtime.model import ReducedViT
from ..runtime.records import BlockTrace
from .shared.config_file import asked
from .shared.measure import Row, Setting, change_of, check_run, common_figures, measure
from .shared.model import Subject
from .shared.picture import svg
from .shared.plans import plan_of
from .shared.report import comparison, machine, not_finite
from .shared.table import Printer, tokens_left

DEFAULT_PAGE = Path("demo.html")
METHODS = ("evit", "topk", "random", "grid")
RATES = (0.9, 0.7, 0.5, 0.3)
SHOWN_RATE, SHOWN = 0.5, 8  # the example pictures: keep rate, how many
LEAD = (
    "A small Vision Transformer reads handwritten digits among distracting fragments. Each method drops patches at "
    "three places; EViT and TopK keep those that class attention looks at, random and grid do not look."
)


def run(config: Any) -> None:
    """Run the demo."""
    require("demo", "vitrim demo")
    out = config.more.out or unused(DEFAULT_PAGE)
    check_new(out, config.more.overwrite, (".html", ".htm"))
    check_output(config.output.json)
    setting = check_run(config.run)
    dataset = DigitCanvases("test", config.more.images, config.run.seed)
    subject = Subject(NAME, load_model())
    plans = [plan_of(reduce(subject.dense, method, keep=rate)) for method in METHODS for rate in RATES]
    printer = Printer(config.output.json, config.output.wide)
    printer.line(f"{NAME}, {len(dataset)} pictures of digits among fragments; {machine(setting)}")
    rows = measure(subject, plans, DataLoader(dataset, setting.batch_size), setting)
    printer.line()
    comparison(printer, rows)
    not_finite(printer, rows)
    page = _write_page(out, rows, dataset, setting)
    printer.line()
    printer.line(f"the page is {page.resolve()}")
    write_json(
        config.output.json,
        {**asked(config), **common_figures(NAME, rows, setting), "rows": [r.figures(rows[0]) for r in rows]},
    )


def _write_page(path: Path, rows: Sequence[Any], dataset: DigitCanvases, setting: Setting) -> Path:
    shown: Any = next(row for row in rows[1:] if row.plan.options["keep"] == SHOWN_RATE)
    return write_page(
        path,
        table_rows=[_page_row(row, rows[0]) for row in rows],
        picture=svg("digits among fragments", rows),
        examples=_examples(shown.plan.model, dataset, setting.device),
        title="vitrim demo: where a model looks, and what it can leave out",
        lead=f"{LEAD} The pictures below show {shown.label}.",
        stage_names=[f"after block {place.block}" for place in shown.plan.model.methods[0].places],
        footer=f"{rows[0].result.images} test pictures. {machine(setting)}. Blocks count from 0.",
    )


def _page_row(row: Any, dense: Row) -> TableRow:
    low, high = row.result.top1_interval
    extra: dict[str, Any] = {}
    if row is not dense:
        extra = {"change": change_of(row.result, dense.result), "agreement": row.result.agreement}
    return TableRow(
        name=row.label,
        gmacs=row.cost.gmacs,
        share=100 * row.cost.share,
        tokens=tokens_left(row.cost.patches, row.cost.tokens),
        top1=row.result.top1,
        images_per_s=row.speed.images_per_s,
        top1_margin=(high - low) / 2,
        speedup=row.speed.speed_up,
        **extra,
    )


@torch.inference_mode()
def _examples(model: ReducedViT, dataset: DigitCanvases, device: torch.device) -> list[Example]:
    chosen = range(min(SHOWN, len(dataset)))
    images = torch.stack([dataset[i][0] for i in chosen]).to(device)
    dense = model.backbone(images).argmax(dim=1)
    logits, trace = model(images, trace=True)
    stages = [trace[place.block] for place in model.methods[0].places]
    grid = model.body.grid()
    return [
        Example(
            image=dataset.canvases.images[i].numpy(),
            label=str(dataset[i][1]),
            dense=str(int(dense[i])),
            reduced=str(int(logits[i].argmax())),
            kept=[_kept(stage, i).reshape(grid) for stage in stages],
        )
        for i in chosen
    ]


def _kept(stage: BlockTrace, image: int) -> np.ndarray:
    """Which patches still have a token to themselves; a fused token stands for many and has none."""
    owners = stage.owners[image].cpu()
    counts = torch.bincount(owners[owners >= 0], minlength=stage.kept.shape[1])
    return ((owners >= 0) & (counts[owners.clamp(min=0)] == 1)).numpy()
