"""`vitrim demo`: the page on its own digits, and on a model and images of the user's own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from colours import NAMES, model

import vitrim
from vitrim import cli
from vitrim.cli.shared import demo_page, demo_plans
from vitrim.cli.shared.model import Subject
from vitrim.demo.page import KNN, TOP1

QUICK = ["--rounds", "1", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture(autouse=True)
def one_cost(monkeypatch, in_own_folder):
    monkeypatch.setattr(demo_plans, "COSTS", (0.5,))


def refused(capsys, *arguments: str) -> str:
    assert cli.main(["demo", *arguments]) == 2 and not list(Path().iterdir())
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("vitrim: error: ") and err.count("\n") == 1
    return err


def test_the_page_on_digits(capsys):
    given = ["demo", "--images", "16", *QUICK, "--json", "d.json", "--out", "page.html"]
    assert cli.main(given) == 0
    figures, out, page = json.loads(Path("d.json").read_text()), capsys.readouterr().out, Path("page.html").read_text()
    assert [row["method"] for row in figures["rows"]] == ["dense", *demo_plans.SHOWN_METHODS]
    assert all(row["share"] <= 0.5 for row in figures["rows"][1:]) and figures["images"] == 16
    assert figures["conclusion"] and all(sentence in out for sentence in figures["conclusion"])
    assert figures["conclusion"][0].startswith("At 50 % of the dense cost ")
    assert f"the page is {Path('page.html').resolve()}" in out and "speed-up" in out
    rows = page.split("<article")[1:]
    assert len(rows) == demo_page.SHOWN and "image/svg+xml" in page and "EViT keep=" in page
    shown = re.findall("<figcaption><b>(.*?)</b>", rows[0])
    assert shown == ["dense", "EViT", "BAT", "IdleViT", "ToFe", "ToMe", "Random", "Grid"]
    assert "were trained for each cost" in page and "ToFe keep=0.599 (trained)" in page


def test_captions_agree_with_the_table(capsys):
    assert cli.main(["demo", "--images", "8", *QUICK, "--json", "d.json", "--out", "page.html"]) == 0
    last = {row["method"]: row["tokens"][-1] for row in json.loads(Path("d.json").read_text())["rows"]}
    for row in Path("page.html").read_text().split("<article")[1:]:
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


def test_titles_and_words():
    plan = demo_plans.plan_of(vitrim.reduce(timm.create_model("vit_tiny_patch16_224", depth=4), "idlevit", keep=0.5))
    assert demo_page.title_of(plan) == "IdleViT"
    assert TOP1.keys() == KNN.keys()


HALF = {
    "no data": (["--model", "test_vit"], "needs --data: a folder"),
    "no model": (["--data", "."], "--data .: give --model NAME too"),
    "limit of digits": (["--limit", "5"], "--limit is for images of your own: give --model and --data too"),
    "size of digits": (["--image-size", "32"], "--image-size is for images of your own"),
    "images of photographs": (["--model", "test_vit", "--data", ".", "--images", "5"], "use --limit"),
}


@pytest.mark.parametrize("arguments, said", HALF.values(), ids=HALF.keys())
def test_half_a_model_of_ones_own_is_refused(capsys, arguments, said):
    assert said in refused(capsys, *arguments)
