"""Fill the tables of README.md and docs/ from benchmarks/results/*.json; no figure there is typed by hand.

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

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHARED = Path(os.environ.get("VITRIM_SHARED", ROOT.parent / "shared"))
SECTION = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def results(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def markdown(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval(bounds) -> str:
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}"


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


def judged(trial: dict) -> list[str]:
    """Accuracy before and after, with its interval, and agreement with the dense model before and after."""
    before, after = trial["before"], trial["after"]
    figures = [f"{before['top1']:.1f}", f"{after['top1']:.1f}", interval(after["interval"])]
    return [*figures, f"{before['agreement']:.1f}", f"{after['agreement']:.1f}"]


JUDGED = ["top-1 before", "after", "95 %", "agreement before", "after"]


def finetuned(name: str, *, first: tuple[str, ...] = ()) -> str:
    """The trials of one group; `first`: trials of `methods` to put above those of the same method."""
    found = results(name)
    trials = [t for t in results("finetune_methods")["trials"] if t["trial"] in first] + found["trials"]
    trials.sort(key=lambda trial: [*first, ""].index(trial["trial"].split(",")[0]) if first else 0)
    rows = [
        [t["trial"], str(t["steps"]), f"{t['share_after']:.2f}", *judged(t), f"{t['dense']['top1']:.1f}"]
        for t in trials
    ]
    table = markdown(["", "steps", "share of dense MACs", *JUDGED, "dense"], rows)
    return f"{table}\n\n{trained_on(found)}"


def trained_on(found: dict) -> str:
    """How the trials were made: one sentence, or one for those made alike. Older files have one setting for all."""
    made: dict[str, list[str]] = {}
    for trial in found["trials"]:
        made.setdefault(made_with(trial.get("settings") or found["settings"], trial), []).append(trial["trial"])
    return "  \n".join(how if len(made) == 1 else f"{'; '.join(names)}: {how}" for how, names in made.items())


def made_with(made: dict, trial: dict) -> str:
    images = trial["after"]["images"]
    how = f"{made['steps']} steps" if made["steps"] else f"{made['minutes']:g} minutes of training, at most one epoch"
    what = f"{how}, batch {made['batch']}, precision {made['precision']}; judged on {images:,} photographs"
    return f"{what} ({made['processor']}, {made['threads']} threads, torch {made['torch']}, timm {made['timm']})."


def budgets(name: str) -> str:
    """What ToFe's inference costs beside its target."""
    found, rows = results(name), []
    for t in found["trials"]:
        target = float(t["trial"].split(", ")[1])
        away = f"{t['share_mean'] / target - 1:+.1%}"
        figures = [f"{target:.2f}", f"{t['share_mean']:.3f}", away, f"{t['share_after']:.3f}"]
        rows.append([*figures, f"{t['after']['top1']:.1f}", f"{t['after']['agreement']:.1f}", str(t["steps"])])
    titles = [
        "target",
        "mean of instance-adaptive inference",
        "off by",
        "batch-adaptive",
        "top-1",
        "agreement",
        "steps",
    ]
    return f"{markdown(titles, rows)}\n\n{trained_on(found)}"


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
    "published": published,
    **{name: (lambda name=name: speed(name)) for name in ("speed_evit", "speed_all", "speed_ragged")},
    "finetune_methods": lambda: finetuned("finetune_methods"),
    "finetune_classes": lambda: finetuned("finetune_classes"),
    "finetune_tries": lambda: finetuned("finetune_tries"),
    "finetune_claims": lambda: finetuned("finetune_claims", first=("idlevit", "tofe", "bat")),
    "finetune_budgets": lambda: budgets("finetune_budgets"),
    "finetune_spring": lambda: budgets("finetune_spring"),
    "step_time": step_time,
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
