"""`vitrim compare` of an earlier run, of runs without timing, and what a comparison says to use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from vitrim import cli
from vitrim.cli.shared.conclusions import conclusions
from vitrim.cli.shared.rows import Row, rows_of

RUNS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
ALL = RUNS / "compare_all.json"


def show(capsys, *words) -> str:
    assert cli.main(["compare", "--show", *map(str, words)]) == 0
    return capsys.readouterr().out


def refusal(capsys, *words) -> str:
    assert cli.main(["compare", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_an_earlier_run_is_shown_and_drawn_again(capsys, tmp_path):
    out = show(capsys, ALL, "--out", tmp_path / "a.svg", "--best-under", "0.7", "--target-change", "2")
    assert "deit_tiny_patch16_224, 1,000 images at 224 x 224 (crop 1), labels by wnid" in out and f"from {ALL}" in out
    assert "tome r=10" in out and "67.8 %" in out and "x 1.39" in out and "92.1" in out
    assert "best at no more than 70 % of the dense cost: bat keep=0.75 (70.0 %, +0.3 points" in out
    assert "95 % intervals do not tell it from evit keep=0.75" in out and "dpcknn keep=0.7653 agrees most" in out
    assert "cheapest that loses at most 2 points: tome r=10" in out
    assert all(f">{name}<" in (tmp_path / "a.svg").read_text() for name in ("evit", "dense", "idlevit"))


def test_what_a_run_writes_is_shown_as_it_was(capsys, colours, in_own_folder):
    model = ["--checkpoint", str(colours / "saved"), "--data", str(colours / "data"), "--workers", "0"]
    more = ["--method", "topk", "--keep", "0.9", "0.6", "--rounds", "2", "--threads", "1", "--json", "a.json"]
    assert cli.main(["compare", *model, *more]) == 0
    first = _table(capsys.readouterr().out)
    assert len(first) == 3 and _table(show(capsys, "a.json")) == first


def _table(out: str) -> list[str]:
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("----")) + 1
    return lines[start : lines.index("", start)]


def test_show_beside_what_measures_is_refused(capsys, tmp_path):
    assert "leave out --data; or repeat it by --config a.json" in refusal(capsys, "--show", "a.json", "--data", "x")
    assert "there is no file nowhere.json" in refusal(capsys, "--show", "nowhere.json")
    for name, text in {"a": "[]", "b": "{", "c": json.dumps({"rows": [{}], "skipped": []}), "d": "{}"}.items():
        (tmp_path / name).write_text(text)
        assert "is no JSON that vitrim compare wrote" in refusal(capsys, "--show", tmp_path / name)
    run = json.loads(ALL.read_text())
    (tmp_path / "e").write_text(json.dumps({**run, "rows": run["rows"][1:]}))  # no dense row
    assert "is no JSON that vitrim compare wrote" in refusal(capsys, "--show", tmp_path / "e")
    assert "--best-under 60 is no share of the dense cost" in refusal(capsys, "--show", ALL, "--best-under", "60")


@pytest.mark.parametrize("command", ["compare", "evaluate"])
def test_nothing_is_timed_in_no_rounds(capsys, colours, in_own_folder, command):
    model = ["--checkpoint", str(colours / "saved"), "--data", str(colours / "data"), "--workers", "0"]
    assert cli.main([command, *model, "--rounds", "0", "--json", "a.json"]) == 0
    out, run = capsys.readouterr().out, json.loads(Path("a.json").read_text())
    assert "top-1" in out and not any(word in out for word in ("speed-up", "images/s", "nan", "promise", "~"))
    row = run["rows"][1] if command == "compare" else run
    assert row["speed_up"] is None and row["top1"] is not None
    if command == "compare":
        assert "speed-up" not in show(capsys, "a.json")


def said(rows: list[Row], **asked) -> list[str]:
    more = SimpleNamespace(**{"best_under": None, "target_change": None, **asked})
    return conclusions(rows, SimpleNamespace(more=more, method=SimpleNamespace(macs=())))


def rows() -> list[Row]:
    """Measured: dense, evit at 0.75, random at 0.755, both near 70 % of the cost."""
    found = {row.label: row for row in rows_of(json.loads(ALL.read_text()))}
    return [found["dense"], found["evit keep=0.75"], found["random keep=0.755"]]


def test_of_equal_accuracies_the_higher_agreement_counts_and_not_a_thousandth_of_the_cost():
    dense, evit, random = rows()
    random = replace(random, result=replace(random.result, top1=evit.result.top1))
    assert random.cost.share < evit.cost.share and (random.result.agreement or 0) < (evit.result.agreement or 0)
    assert "70 % of the dense cost: evit keep=0.75" in said([dense, random, evit], best_under=(0.7,))[0]
    assert "at most 1 points: evit keep=0.75" in said([dense, random, evit], target_change=1.0)[0]


def test_of_few_images_only_what_is_plain_is_said():
    """150 images: what their intervals tell apart is said, and nothing else."""
    dense, evit, random = rows()
    dense = replace(dense, result=replace(dense.result, images=150))
    low = replace(random, label="grid keep=0.7", result=replace(random.result, top1_interval=(10.0, 24.0)))
    best = replace(evit, result=replace(evit.result, top1_interval=(63.0, 77.0)))
    assert said([dense, best, low], best_under=(0.7,))[0].startswith(
        "best at no more than 70 % of the dense cost: evit"
    )
    near = replace(random, result=replace(random.result, top1_interval=(58.0, 72.0)))
    (sentence,) = said([dense, best, near, low], best_under=(0.7,))
    assert sentence == (
        "no best at no more than 70 % of the dense cost: 150 images leave ± 7 points on a row, too few (take 400 or "
        "more) to choose between evit keep=0.75 and random keep=0.755; grid keep=0.7 is clearly below it"
    )
    (sentence,) = said([dense, best, near], target_change=1.0)
    assert sentence.endswith("too few (take 400 or more) to choose by the change in accuracy")


def test_a_doubtful_speed_is_no_part_of_a_conclusion():
    dense, evit, _ = rows()
    sure = replace(evit, speed=evit.speed._replace(low=1.40, high=1.50))
    busy = replace(evit, speed=evit.speed._replace(low=0.5, high=3.8))
    assert "1.46 times as fast" in said([dense, sure], best_under=(0.7,))[0]
    assert "times as fast" not in said([dense, busy], best_under=(0.7,))[0]
