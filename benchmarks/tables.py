"""Fill the tables of README.md and docs/ from benchmarks/results; no figure there is typed by hand.

    python benchmarks/tables.py            # rewrite the sections between <!-- table: NAME --> and <!-- end -->
    python benchmarks/tables.py --check    # exit 1 if a section is not what the results say

How the results were made is written above each table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

from finetune_tables import budgets, finetuned, opened
from finetune_trials import read_groups, read_results
from table_text import interval, markdown
from untrained_tables import dense_features, untrained

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHARED = Path(os.environ.get("VITRIM_SHARED", ROOT.parent / "shared"))
BATCH_1 = ("evit_idlevit", "tome", "aotinductor_evit_idlevit", "aotinductor_tome")
SECTION = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def results(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def label(row: dict) -> str:
    if row["method"] == "dense":
        return "dense"
    return " ".join(
        [row["method"], *(f"{key} {row['options'][key]}" for key in ("keep", "r") if key in row["options"])]
    )


def measured_on(found: dict) -> str:
    versions = f"torch {found['torch']}, timm {found['timm']}"
    return (
        f"{found['processor']}, {found['threads']} threads, {found['dtype']}, batch {found['batch_size']}; {versions}"
    )


def compare_table(found: dict) -> str:
    titles = ["", "GMACs", "of dense", "top-1", "95 %", "change", "agreement", "speed-up"]
    rows = []
    for row in found["rows"]:
        figures = [label(row), f"{row['gmacs']:.2f}", f"{row['share']:.0%}", f"{row['top1']:.1f}"]
        figures += [interval(row["top1_interval"]), f"{row['change']:+.1f}" if "change" in row else ""]
        figures += [f"{row['agreement']:.1f}" if "change" in row else "", f"{row['speed_up']:.2f}"]
        rows.append(figures)
    images = f"{found['images']:,} photographs, crop {found['crop_pct']:g}; {measured_on(found)}."
    return markdown(titles, rows) + f"\n\n{images}"


def readme() -> str:
    return compare_table(results("compare_evit"))


def all_methods() -> str:
    return compare_table(results("compare_all"))


def choose() -> str:
    """Every method at 0.7 and 0.5 of the dense MACs without training, and at 0.5 after a short fine-tuning."""
    found, newer = results("compare_all"), results("compare_newer")
    measured = [*found["rows"][1:], *newer["rows"][1:]]
    untrained = {(row["method"], row.get("budget")): row for row in measured}
    runs = opened(read_results(read_groups()["methods"]), "methods")
    trained = {run["trial"]["name"]: run["figures"] for run in runs}
    titles = ["", "0.7: top-1", "agreement", "speed-up", "0.5: top-1", "agreement", "speed-up"]
    titles += ["0.5, fine-tuned: top-1", "agreement"]
    rows = []
    for name in dict.fromkeys([row["method"] for row in measured] + sorted(trained)):
        cells = [name]
        for row in (untrained.get((name, 0.7)), untrained.get((name, 0.5))):
            cells += [f"{row['change']:+.1f}", f"{row['agreement']:.1f}", speed_up(row)] if row else [""] * 3
        rows.append([*cells, *(after(trained[name]) if name in trained else ["", ""])])
    images = f"{found['images']:,} photographs, crop {found['crop_pct']:g}; {measured_on(found)}."
    others = ", ".join(dict.fromkeys(row["method"] for row in newer["rows"][1:]))
    return markdown(titles, rows) + f"\n\n{images} In a run of their own, {others}: torch {newer['torch']}."


def speed_up(row: dict) -> str:
    """Marked by `~` as `vitrim compare` marks it: the rounds differ by more than a quarter."""
    low, high = (row.get(f"speed_up_p{share}", row["speed_up"]) for share in (10, 90))
    return f"{'~ ' if high - low > row['speed_up'] / 4 else ''}{row['speed_up']:.2f}"


def after(figures: dict) -> list[str]:
    """Top-1 beside the dense model's and agreement, after fine-tuning."""
    return [f"{figures['after']['top1'] - figures['dense']['top1']:+.1f}", f"{figures['after']['agreement']:.1f}"]


def speed(name: str) -> str:
    found = results(name)
    titles = ["model", "batch", "GMACs", "promised", "measured", "kept"]
    rows = []
    for r in found["rows"]:
        if r["model"] == "dense":
            continue
        figures = [f"{r['promise']:.2f}", f"{r['speed_up']:.2f}", f"{r['kept']:.2f}"]
        rows.append([r["model"], str(r["batch_size"]), f"{r['gmacs']:.3f}", *figures])
    where = f"{found['model']}, {found['processor']}, {found['threads']} threads, torch {found['torch']}."
    return markdown(titles, rows) + f"\n\n{where}"


def benchmarked(*names: str) -> str:
    """Rows of `vitrim benchmark`: how much of what the MACs promise each runtime keeps."""
    rows, found = [], results(names[0])
    for name in names:
        every = results(name)["rows"]
        rows += [_kept(row, next(other for other in every if _beside(other, row))) for row in every if not _dense(row)]
    titles = [
        "model",
        "method",
        "runtime",
        "dense ms",
        "ms (p10 to p95)",
        "promised",
        "measured",
        "kept",
    ]
    case = f"batch {found['rows'][0]['batch_size']}, {found['processor']}, {found['threads']} threads"
    return markdown(titles, rows) + f"\n\nIn float32, {case}, torch {found['torch']}, timm {found['timm']}."


def precisions(name: str) -> str:
    """Rows of `vitrim benchmark` in several precisions and batch sizes."""
    found = results(name)
    rows = []
    for row in found["rows"]:
        if not _dense(row):
            _, method, _, *figures = _kept(row, next(other for other in found["rows"] if _beside(other, row)))
            rows.append([str(row["batch_size"]), row["precision"], method, *figures])
    titles = ["batch", "precision", "method", "dense ms", "ms (p10 to p95)", "promised", "measured", "kept"]
    where = f"{found['model']}, eager, {found['processor']}, {found['threads']} threads, torch {found['torch']}"
    return markdown(titles, rows) + f"\n\n{where}."


def twins(name: str) -> str:
    """What models of transformers keep of the promise, beside their twins in timm."""
    found = results(name)
    titles = ["model", "method", "kept, timm (10 % to 90 %)", "kept, transformers (10 % to 90 %)"]
    sides = [[_kept_of(row["timm"]), _kept_of(row["transformers"])] for row in found["rows"]]
    rows = [[row["model"], row["method"], *side] for row, side in zip(found["rows"], sides, strict=True)]
    return markdown(titles, rows) + f"\n\n{found['processor']}, {found['threads']} threads, torch {found['torch']}."


def _kept_of(side: dict) -> str:
    low, high = side["kept_p10_p90"]
    return f"{side['kept']:.2f} ({low:.2f} to {high:.2f})"


def _kept(row: dict, dense: dict) -> list[str]:
    times = f"{row['ms']:.1f} ({row['ms_p10']:.1f} to {row['ms_p95']:.1f})"
    figures = [f"{dense['ms']:.1f}", times, f"{row['promised']:.2f}", f"{row['speed_up']:.2f}", f"{row['kept']:.2f}"]
    return [row["model"], label(row), row["runtime"], *figures]


def _dense(row: dict) -> bool:
    return row["method"] == "dense"


def _beside(dense: dict, row: dict) -> bool:
    same = ("model", "batch_size", "runtime", "precision")
    return _dense(dense) and all(dense[key] == row[key] for key in same)


def memory() -> str:
    """Peak memory over the dense model's."""
    found = results("memory")
    columns = list(dict.fromkeys((row["model"], row["image_size"], row["macs"]) for row in found["rows"]))
    figures = {(row["method"], row["model"], row["image_size"], row["macs"]): row for row in found["rows"]}
    rows = []
    for name in dict.fromkeys(row["method"] for row in found["rows"]):
        cells = [figures[name, *column].get("over_dense") for column in columns]
        rows.append([name, *("" if cell is None else f"{cell:.2f}" for cell in cells)])
    titles = ["", *(f"{model}, {size} px, {macs:g}" for model, size, macs in columns)]
    return markdown(titles, rows) + f"\n\nBatch {found['batch_size']}, four blocks, torch {found['torch']}."


def step_time() -> str:
    """One step of distill beside a dense step and a dense forward, in both precisions."""
    full, half = results("step_time"), results("step_time_bf16")
    rows = []
    for name, row in full["rows"].items():
        other = half["rows"][name]
        figures = [f"{row['ratio']:.2f}", f"{row['seconds']:.2f}", f"{other['ratio']:.2f}", f"{other['seconds']:.2f}"]
        rows.append([name, *figures])
    titles = ["", "float32: ratio", "seconds", "bf16: ratio", "seconds"]
    where = f"Batch {full['batch_size']}, {full['processor']}, {full['threads']} threads, torch {full['torch']}."
    return f"{markdown(titles, rows)}\n\n{where}"


def int8_accuracy() -> str:
    """What int8 costs: each file beside the model that it was made from."""
    found, rows = results("int8"), []
    for row in found["accuracy"]:
        figures = [f"{row['bytes'] / 1e6:.1f}", *[""] * 5]
        if "int8" in row["file"]:
            figures[1:5] = [f"{row[key]:.1f}" for key in ("top1_before", "top1_after", "dense_before", "dense_after")]
        figures[5] = f"{row['agreement']:.1f}"
        rows.append([f"{row['model']}, {row['file']}", *figures])
    titles = ["DeiT-Ti", "MB", "top-1 before", "after", "agreement with dense before", "after"]
    images = f"{10 * found['per_class']:,} photographs, crop 1, static calibrated on {found['calibration']} others"
    return markdown([*titles, "agreement with float32"], rows) + f"\n\n{images}; {_int8_versions(found)}."


def int8_speed() -> str:
    """Each file's time at batch 1 beside dense float32 eager's in the same run."""
    found, rows = results("int8"), []
    for row in found["speed"]:
        spread = f"{row['speed_up_p10']:.2f} to {row['speed_up_p90']:.2f}"
        rows.append([f"{row['model']}, {row['file']}", f"{row['ms']:.1f}", f"{row['speed_up']:.2f}", spread])
    where = f"Batch 1, {found['processor']}, {found['threads']} threads, {found['rounds']} rounds in turn"
    titles = ["DeiT-S", "ms", "times as fast as dense, eager, float32", "p10 to p90"]
    return markdown(titles, rows) + f"\n\n{where}; {_int8_versions(found)}."


def _int8_versions(found: dict) -> str:
    return ", ".join(f"{name} {found[name]}" for name in ("torch", "onnxruntime", "openvino", "nncf"))


def published() -> str:
    """Published GMACs beside ours: as the papers count, and what vitrim computes. A row that is further away than what
    rounding explains says by how much."""
    sys.path.insert(0, str(ROOT / "tests"))
    from references.published import TEXT, as_the_papers_count, key_of, model_of, published_rows  # what the test walks

    import vitrim

    source = SHARED / "spec" / "published.csv"
    if not source.exists():
        raise FileNotFoundError(2, "not there", str(source))
    titles = ["paper, table", "method", "backbone", "size", "keep", "published", "as the paper counts", "off by"]
    titles.append("vitrim computes")
    rows = []
    for row in published_rows(SHARED):
        model, figure = model_of(row), float(row["gmacs"])
        printed = row["gmacs"] + (f" (text: {TEXT[key_of(row)]})" if key_of(row) in TEXT else "")
        keep = row["keep"] + (f", {row['note']}" if "places" in row["note"] else "")
        line = [f"{row['paper']} {row['table']}", row["method"], row["backbone"], row["image_size"], keep, printed]
        counted = as_the_papers_count(model)
        near = abs(counted - figure) <= max(0.05, 0.011 * figure)
        rows.append([*line, f"{counted:.2f}", "" if near else f"{counted / figure - 1:+.1%}"])
        rows[-1].append(f"{vitrim.profile(model).gmacs:.2f}")
    beside = sum(bool(row[-2]) for row in rows)
    return markdown(titles, rows) + f"\n\n{len(rows)} rows, {len(rows) - beside} of them within 0.05 or 1.1 %."


def draw_picture(name: str) -> None:
    """docs/images/NAME.svg again from the figures of `vitrim compare`, as the command draws it."""
    from vitrim.cli.shared.picture import draw

    found, rows = results(name), []
    for row in found["rows"]:
        judged = SimpleNamespace(**{"knn": None, "top1": None, **row}, images=found["images"])
        plan = SimpleNamespace(name=row["method"])
        rows.append(SimpleNamespace(plan=plan, cost=SimpleNamespace(gmacs=row["gmacs"]), result=judged))
    draw(ROOT / "docs" / "images" / f"{name}.svg", found["model"], rows)


TABLES = {
    "readme": readme,
    "all_methods": all_methods,
    "choose": choose,
    "published": published,
    **{name: (lambda name=name: speed(name)) for name in ("speed_evit", "speed_all", "speed_ragged")},
    "finetune_methods": lambda: finetuned("methods"),
    "finetune_classes": lambda: finetuned("classes"),
    "finetune_tries": lambda: finetuned("tries"),
    "finetune_claims": lambda: finetuned("claims", first=("idlevit", "tofe", "bat")),
    "finetune_budgets": lambda: budgets("budgets"),
    "finetune_spring": lambda: budgets("spring"),
    "batch_1": lambda: benchmarked(*(f"batch_1_{part}" for part in BATCH_1)),
    "batch_16": lambda: benchmarked("batch_16"),
    "batch_16_base": lambda: benchmarked("batch_16_base_half", "batch_16_base_70"),
    "bfloat16": lambda: precisions("bfloat16"),
    "pretrained_twins": lambda: twins("pretrained_twins"),
    "memory": memory,
    "step_time": step_time,
    "int8_accuracy": int8_accuracy,
    "int8_speed": int8_speed,
    "untrained": lambda: untrained(results("untrained")),
    "dense_features": lambda: dense_features(results("dense_features")),
}


def section(match: re.Match) -> str:
    try:
        return f"{match[1]}{TABLES[match[2]]()}\n{match[3]}"
    except FileNotFoundError as error:
        print(f"{match[2]} stays as it is: {Path(error.filename).name} is not there", file=sys.stderr)
        return match[0]


def filled(text: str) -> str:
    return SECTION.sub(section, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--pictures", action="store_true", help="also draw docs/images/ again")
    args, stale = parser.parse_args(), []
    for name in ("compare_evit", "compare_all") if args.pictures else ():
        draw_picture(name)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text()
        new = filled(text)
        if new != text:
            stale.append(str(page.relative_to(ROOT)))
            if not args.check:
                page.write_text(new)
    print("\n".join(stale) or "all tables are what the results say")
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
