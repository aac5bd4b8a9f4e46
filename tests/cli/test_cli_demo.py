"""`vitrim demo`: the page on its own digits, and on a model and images of the user's own."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from colours import NAMES, model

import vitrim
from vitrim import cli
from vitrim.cli.shared import demo_page, demo_plans, measure
from vitrim.cli.shared.model import Subject
from vitrim.demo.conclusion import ENOUGH, Outcome, conclude, too_few
from vitrim.demo.page import KNN, TOP1, TableRow, write_page
from vitrim.evaluate import wilson_interval

QUICK = ["--rounds", "1", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture(autouse=True)
def one_cost(monkeypatch, in_own_folder):
    monkeypatch.setattr(demo_plans, "COSTS", (0.5,))


def refused(capsys, *arguments: str) -> str:
    assert cli.main(["demo", *arguments]) == 2 and not list(Path().iterdir())
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("vitrim: error: ") and err.count("\n") == 1
    return err


class Run(NamedTuple):
    figures: dict[str, Any]
    out: str
    page: str
    file: Path


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Run:
    """The command on its own digits."""
    file, out = tmp_path_factory.mktemp("digits") / "page.html", io.StringIO()
    given = ["demo", "--images", "16", *QUICK, "--json", str(file.with_name("d.json")), "--out", str(file)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setattr(demo_plans, "COSTS", (0.5,))
        patch.setattr(measure, "throughput_in_turn", partial(measure.throughput_in_turn, seconds=0.001))
        assert cli.main(given) == 0
    return Run(json.loads(file.with_name("d.json").read_text()), out.getvalue(), file.read_text(), file)


def test_the_page_on_digits(digits):
    figures, out, page, file = digits
    assert [row["method"] for row in figures["rows"]] == ["dense", *demo_plans.SHOWN_METHODS]
    assert all(row["share"] <= 0.5 for row in figures["rows"][1:]) and figures["images"] == 16
    sentence, caution = figures["conclusion"]
    assert sentence in out and sentence in page and sentence.startswith("16 pictures leave ± ")
    assert caution in out and caution in page and "IdleViT loses most" in caution
    assert "~: timed in one round" in out and "~: timed in one round" in page and "tofe keep=0.599 (trained)" in out
    assert f"the page is {file.resolve()}" in out and "speed-up" in out
    rows = page.split("<article")[1:]
    assert len(rows) == demo_page.SHOWN and "image/svg+xml" in page and "EViT keep=" in page
    shown = re.findall("<figcaption><b>(.*?)</b>", rows[0])
    assert shown == ["dense", "EViT", "BAT", "IdleViT", "ToFe", "ToMe", "Random", "Grid"]
    assert "were trained for each cost" in page and "ToFe keep=0.599 (trained)" in page


def test_the_plot_has_the_names_of_the_table(digits):
    plot = base64.b64decode(re.search('data:image/svg.xml;base64,([^"]+)', digits.page)[1]).decode()
    words = re.findall(">([^<>]+)</text>", plot)
    assert words[-8:] == ["dense", "EViT", "BAT", "IdleViT", "ToFe (trained)", "ToMe", "Random", "Grid"]


def test_captions_agree_with_the_table(digits):
    last = {row["method"]: row["tokens"][-1] for row in digits.figures["rows"]}
    for row in digits.page.split("<article")[1:]:
        captions = dict(re.findall("<figcaption><b>(.*?)</b>.*?<small>(.*?)</small>", row, re.DOTALL))
        assert re.search(r"\+ \d fused", captions["EViT"]) and captions.pop("dense") == "256 patches"
        for name, said in captions.items():
            assert sum(map(int, re.findall(r"(\d+) (?:kept|fused|merged)", said))) == last[name.lower()]


def test_the_page_on_a_model_and_images_of_ones_own(capsys, colours):
    given = [word if word != "32" else "128" for word in model(colours)]  # of 4 patches there is little to leave out
    data = ["--data", str(colours / "data"), "--limit", "20", "--workers", "0"]
    assert cli.main(["demo", *given, *data, *QUICK, "--json", "d.json"]) == 0
    figures, out, page = json.loads(Path("d.json").read_text()), capsys.readouterr().out, Path("demo.html").read_text()
    methods = [row["method"] for row in figures["rows"]]
    assert methods == ["dense", "idlevit", "tome"] and figures["images"] == 20
    assert "EViT at 50 % is left out: evit cannot meet macs=0.5" in page
    assert "ToFe is left out: on this model it has learned parts" in out and "ToFe is left out" in page
    rows = page.split("<article")[1:]
    assert len(rows) == demo_page.SHOWN and "data:image/jpeg" in rows[0]
    labels = [re.search(r"<p>label <b>(.*?)</b>", row)[1] for row in rows]
    assert set(labels) <= set(NAMES) and len(set(labels)) > 3, "pictures of one class alone"


def test_a_saved_folder_is_a_row_of_its_own(capsys, colours):
    given = ["--checkpoint", str(colours / "saved"), "--data", str(colours / "data"), "--workers", "0", *QUICK]
    assert cli.main(["demo", *given]) == 0
    assert "TopK keep=0.9" in Path("demo.html").read_text() and "topk keep=0.9" in capsys.readouterr().out


def test_a_model_without_a_class_token_runs_what_it_can():
    small = timm.create_model("vit_tiny_patch16_224", img_size=64, class_token=False, global_pool="avg", depth=4)
    plans, left_out = demo_plans.own_plans(Subject("mean", small.eval()), seed=0)
    assert {"evit", "bat", "tome"} <= {plan.name for plan in plans}
    assert any(reason.startswith("IdleViT is left out") for reason in left_out)


def test_costs_out_of_reach_are_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(demo_plans, "COSTS", (0.8, 0.01))
    small = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4).eval()
    plans, left_out = demo_plans.own_plans(Subject("small", small), seed=0)
    assert {plan.budget for plan in plans} == {0.8}
    monkeypatch.setattr(demo_plans, "COSTS", (0.01,))
    with pytest.raises(ValueError, match=r"^small runs none of the methods without training: EViT at 1 % is left out"):
        demo_plans.own_plans(Subject("small", small), seed=0)
    assert any(reason.startswith("EViT at 1 % is left out: evit cannot meet macs=0.01") for reason in left_out)


def test_pixels_come_back_as_they_were():
    images = torch.randint(0, 256, (2, 3, 8, 8)).float()
    config = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    mean, std = (torch.tensor(config[key]).view(-1, 1, 1) for key in ("mean", "std"))
    shown = demo_page.as_pixels((images / 255 - mean) / std, config)
    assert (torch.as_tensor(shown[1]).permute(2, 0, 1) == images[1]).all()
    assert demo_page.as_pixels(torch.zeros(1, 1, 8, 8), {"mean": (0.5,), "std": (1.0,)})[0].shape == (8, 8)


def outcome(method, right, pictures, budget=0.4, share=0.39, floor=False):
    low, high = (100 * bound for bound in wilson_interval(right, pictures))
    return Outcome(method, share, 100 * right / pictures, (low, high), budget, floor)


def test_few_pictures_conclude_nothing():
    rows = outcome("dense", 24, 30), outcome("ToMe", 17, 30), outcome("Random", 12, 30, floor=True)
    assert too_few(rows, 30) == (
        "30 pictures leave ± 17 points on an accuracy, too much to conclude anything: take 400 or more (--limit 400; "
        "of the digits, --images 400)."
    )


def test_as_many_pictures_as_are_asked_for_are_enough():
    for right in range(0, ENOUGH + 1, 20):
        assert not too_few([outcome("ToMe", right, ENOUGH)], ENOUGH)


def concluded(dense, *outcomes):
    return conclude(outcomes, outcome("dense", dense, 500, None, 1.0))


def test_all_sentences_name_a_row_by_its_budget():
    rows = outcome("ToMe", 410, 500), outcome("Random", 200, 500, floor=True), outcome("ToMe", 440, 500, 0.7, 0.69)
    best, floor, like_dense = concluded(450, *rows)
    assert best.startswith("At 40 % of the dense cost ToMe keeps most accuracy (82.0 %, dense 90.0 %)")
    assert floor == "Random, which does not look at the picture, keeps 40.0 % there; ToMe is clearly better."
    assert like_dense.endswith("is ToMe at 70 % of the dense cost (88.0 %, dense 90.0 %).")
    saved = outcome("EViT", 445, 500, None, 0.394)
    assert concluded(450, saved)[-1].endswith("EViT at 39 % of the dense cost (89.0 %, dense 90.0 %).")


def test_a_row_whose_interval_only_touches_the_dense_one_is_not_like_it():
    *_, last = concluded(400, outcome("ToMe", 370, 500))  # 74 % with 70.0 to 77.7, dense 80 % with 76.3 to 83.3
    assert last == "No row's accuracy, within its 95 % interval, reaches the dense model's."


def test_a_large_loss_of_untrained_idlevit_is_explained():
    small = timm.create_model("vit_tiny_patch16_224", depth=4)
    idle, other = (demo_plans.plan_of(vitrim.reduce(small, name, macs=0.7), 0.7) for name in ("idlevit", "evit"))
    assert "Without training, as here, it usually loses most" in demo_page._note(idle, -40.0)
    saved = dataclasses.replace(idle, budget=None)
    assert not any((demo_page._note(idle, -2.0), demo_page._note(saved, -40.0), demo_page._note(other, -40.0)))


def test_notes_of_rows_stand_on_the_page_once():
    rows = [TableRow("dense", 1, 100, 4, 90.0, 1.0), *[TableRow("a", 1, 50, 2, 40.0, 1.0, note="Why a is low.")] * 2]
    page = write_page("n.html", table_rows=rows, picture=None, examples=[], notes=["First."]).read_text()
    assert page.count("<li>Why a is low.</li>") == page.count("<li>First.</li>") == 1


def test_what_is_not_shown_is_not_called_disproved():
    _, floor, _ = concluded(400, outcome("ToMe", 300, 500), outcome("Random", 290, 500, floor=True))
    assert floor.endswith("no method is clearly better: these pictures do not show that looking helps.")


def test_titles_and_words():
    plan = demo_plans.plan_of(vitrim.reduce(timm.create_model("vit_tiny_patch16_224", depth=4), "idlevit", keep=0.5))
    assert demo_page.title_of(plan.model.methods) == "IdleViT"
    assert TOP1.keys() == KNN.keys()


HERE = str(Path(__file__).parents[2] / "docs" / "images")
HALF = {
    "no data": (["--model", "test_vit"], "needs --data: a folder"),
    "no model": (["--data", HERE], f"--data {HERE}: give --model NAME too"),
    "limit of digits": (["--limit", "5"], "--limit is for images of your own: give --model and --data too"),
    "size of digits": (["--image-size", "32"], "--image-size is for images of your own"),
    "images of photographs": (["--model", "test_vit", "--data", HERE, "--images", "5"], "use --limit"),
}


@pytest.mark.parametrize("arguments, said", HALF.values(), ids=HALF.keys())
def test_half_a_model_of_ones_own_is_refused(capsys, arguments, said):
    assert said in refused(capsys, *arguments)
