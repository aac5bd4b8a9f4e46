"""`vitrim.testing.check_model` and `vitrim check`: a good model passes, and what deviates is named by its check."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vitrim
from vitrim import Keep, cli
from vitrim.backbones import PlainBackbone
from vitrim.methods import METHODS
from vitrim.testing import check_model, model_laws, small_model

LAWS = [law.__name__ for law in model_laws.LAWS]


class Largest(vitrim.Method):
    """Keep the patch tokens of the largest norm."""

    name, title = "largest", "keep the tokens of the largest norm"

    def __init__(self, keep=0.5, at=None):
        super().__init__(keep, at)

    def norms(self, tokens):
        return tokens.patches.norm(dim=-1)

    def count(self, place, n):
        return max(1, int(place.keep * n))

    def forward(self, tokens, evidence, place):
        return Keep(self.norms(tokens).topk(self.count(place, tokens.n), dim=1).indices)


class Miscounted(Largest):
    """It says that it multiplies, and does not."""

    name = "miscounted"

    def macs(self, place, n, body):
        return 1


class OfTheBatch(Largest):
    """It ranks by the mean over the batch."""

    name = "of_the_batch"

    def norms(self, tokens):
        return super().norms(tokens).mean(dim=0).expand(tokens.batch, -1)


class Writes(Largest):
    """It writes into a weight of the model."""

    name = "writes"

    def forward(self, tokens, evidence, place):
        evidence.layer.attn.qkv.bias.add_(1e-3)
        return super().forward(tokens, evidence, place)


@pytest.fixture(autouse=True)
def forgotten():
    known = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(known)


@pytest.fixture
def model():
    return small_model()


def broken(report) -> dict[str, str]:
    return {finding.law: finding.reason for finding in report.broken}


def test_a_good_model_passes_with_every_method(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = check_model(model, export=None)
    assert not report.broken and not report.refused and len(report.methods) == len(METHODS)
    states = {method.method.partition(" ")[0]: {f.law: f.state for f in method.findings} for method in report.methods}
    skipped = {(name, law) for name, laws in states.items() for law, state in laws.items() if state != "holds"}
    assert skipped == {("ats", "identity"), ("ats", "macs")} and list(states["evit"]) == LAWS[:-1]
    assert all(0.5 < method.share <= 0.7 for method in report.methods)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert str(report).splitlines()[0].startswith("evit keep=0.6") and "88 checks passed, none failed" in str(report)


def test_a_model_that_does_not_take_a_method_is_no_failure():
    siglip = timm.create_model("vit_base_patch16_siglip_224", depth=4, embed_dim=48, num_heads=3, img_size=64).eval()
    report = check_model(siglip, export=None)
    assert not report.broken and set(report.refused) == {"ats", "evovit"}
    (evit,) = (method for method in report.methods if method.method.startswith("evit"))
    assert "score='tokens'" in evit.method and 'use score="tokens"' in str(evit.remarks[0])


def test_a_budget_out_of_reach_is_said(model):
    (found,) = check_model(model, ["evit"], macs=0.01, export=None).methods
    assert "evit cannot meet macs=0.01" in str(found.remarks[0]) and found.method == "evit keep=0.7"


@pytest.mark.parametrize(
    ("cls", "law", "words"),
    [
        (Miscounted, "macs", r"vitrim\.profile counts [\d,]+ MACs for an image, and torch"),
        (OfTheBatch, "batch", r"image \d gets another result alone than in the batch, by"),
        (Writes, "weights", "the dense model's weights have changed"),
    ],
)
def test_what_a_method_breaks_is_named(model, cls, law, words):
    vitrim.register_method(cls)
    found = broken(check_model(model, [cls.name], export=None))
    assert law in found
    assert re.search(words, found[law])


def test_another_arithmetic_is_no_identity(model, monkeypatch):
    right = PlainBackbone.mlp
    monkeypatch.setattr(PlainBackbone, "mlp", lambda self, i, t: (y := right(self, i, t)).with_x(y.x * 1.0001))
    found = broken(check_model(model, ["evit", "tome"], export=None))
    assert set(found) == {"identity"}
    assert found["identity"].startswith("logits, features, hidden_states.0 and 11 more of the model with nothing")


def test_outputs_that_are_no_numbers(model, monkeypatch):
    right = PlainBackbone.head
    monkeypatch.setattr(PlainBackbone, "head", lambda self, t: right(self, t) / (t.n == 25))
    assert broken(check_model(model, ["evit"], export=None))["outputs"] == "logits holds NaN or infinity"


def test_another_model_on_disk(model, monkeypatch):
    right = model_laws.load

    def load(folder):
        again = right(folder)
        again.backbone.head.bias.data += 1e-6
        return again

    monkeypatch.setattr(model_laws, "load", load)
    assert broken(check_model(model, ["evit"], export=None))["saved"].startswith("logits of the loaded model differ")


def test_an_onnx_file_is_compared_and_without_the_extra_it_is_skipped(model, monkeypatch):
    written = []
    monkeypatch.setattr(model_laws, "export", lambda fast, path, images: written.append((path.name, len(images))))
    report = check_model(model, ["ats", "evit", "tome"])
    assert [method.findings[-1].law for method in report.methods] == ["saved", "onnx", "saved"]
    assert written == [("model.onnx", 2)] and not report.broken
    check_model(model, ["evit", "tome"], export="all")
    assert len(written) == 3

    def disagrees(fast, path, images):
        raise ValueError("the exported file disagrees with the model")

    monkeypatch.setattr(model_laws, "export", disagrees)
    reason = broken(check_model(model, ["evit"]))["onnx"]
    assert reason.startswith("ValueError: the exported file disagrees with the model (tests/test_check_model.py:")
    monkeypatch.setitem(sys.modules, "onnx", None)
    report = check_model(model, ["evit"])
    assert (report.findings[-1].law, report.findings[-1].state) == ("onnx", "not asked") and not report.broken
    assert report.findings[-1].reason.startswith("not installed: export to ONNX needs onnx: pip install")
    assert report.conclusion == "6 checks passed, none failed, 1 skipped; 1 method"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"macs": 1.5}, "macs=1.5 is no share of the dense cost"),
        ({"methods": ["evti"]}, "method 'evti' is not known: did you mean evit"),
        ({"images": torch.zeros(1, 3, 40, 40)}, r"images are \[1, 3, 40, 40\]: give .* with two images or more"),
        ({"export": "some"}, "export='some' is not \"first\""),
    ],
)
def test_mistakes_are_refused(model, given, words):
    with pytest.raises(ValueError, match=words):
        check_model(model, **given)


def test_models_that_are_not_checked(model):
    with pytest.raises(ValueError, match="reduced already: give the dense one"):
        check_model(vitrim.reduce(model, "evit"))
    with pytest.raises(ValueError, match="in train mode"):
        check_model(model.train())
    with pytest.raises(ValueError, match="is not supported"):
        check_model(timm.create_model("resnet10t").eval())


# -- the command

SMALL = ["test_vit", "--image-size", "64", "--num-classes", "3", "--checkpoint", "small.safetensors"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Weights, a saved model, and six pictures."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    dense = timm.create_model("test_vit", img_size=64, num_classes=3).eval()
    save_file(dense.state_dict(), "small.safetensors")
    vitrim.reduce(dense, "evit", keep=0.6).save("saved")
    noise = np.random.default_rng(0)
    for name in "ab":
        Path("data", name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(noise.integers(0, 256, (70, 70, 3), dtype=np.uint8)).save(f"data/{name}/{number}.png")
    return tmp_path


def rows(out: str) -> dict[str, list[str]]:
    """The cells behind each method's label."""
    table = out.partition("---\n")[2].partition("\n\n")[0].splitlines()
    return {line.split()[0]: line.split()[-6:] for line in table}


def test_the_command_passes(folder, capsys):
    line = ["check", *SMALL, "--export", "none", "--json", "a.json"]
    assert cli.main(line) == 0
    out, figures = capsys.readouterr().out, json.loads(Path("a.json").read_text())
    assert set(rows(out)) == set(METHODS) and rows(out)["tome"] == ["ok"] * 6
    assert rows(out)["ats"] == ["-", "ok", "-", "ok", "ok", "ok"]
    assert out.startswith("test_vit on cpu, 2 images of 64 x 64")
    assert out.endswith("test_vit: 88 checks passed, none failed, 2 skipped; 15 methods\n")
    assert "skipped: macs of ats: each image keeps a number of tokens of its own" in out
    assert (figures["passed"], figures["failed"], figures["skipped"], figures["images"]) == (88, 0, 2, 2)
    assert figures["methods"][0]["checks"]["identity"] == {"state": "holds", "reason": ""}
    assert cli.main(["check", "--config", "a.json", "--method", "tome"]) == 0  # the model is in it
    assert "test_vit: 6 checks passed" in capsys.readouterr().out


def test_a_deviation_is_exit_code_1_and_named(folder, capsys, monkeypatch):
    right = PlainBackbone.mlp
    monkeypatch.setattr(PlainBackbone, "mlp", lambda self, i, t: (y := right(self, i, t)).with_x(y.x * 1.0001))
    assert cli.main(["check", *SMALL, "--export", "none", "--method", "evit", "tome", "--json", "a.json"]) == 1
    out, err = capsys.readouterr()
    assert rows(out) == {name: ["FAILS", *["ok"] * 5] for name in ("evit", "tome")} and err == ""
    assert "FAILS: identity of evit, tome: logits, features, hidden_states.0 and" in " ".join(out.split())
    assert out.endswith("test_vit: 10 checks passed, 2 failed, none skipped; 2 methods\n")
    assert json.loads(Path("a.json").read_text())["failed"] == 2


def test_a_saved_folder_is_checked_with_its_own_method_on_images_of_ones_own(folder, capsys):
    assert cli.main(["check", "saved", "--data", "data", "--limit", "4", "--export", "none"]) == 0
    out = capsys.readouterr().out
    assert "4 images of 64 x 64" in out and "evit keep=0.6" in out and "6 checks passed" in out
    assert cli.main(["check", "saved", "--macs", "0.8", "--method", "evit", "--export", "none"]) == 0
    assert "evit keep=0.66 " in capsys.readouterr().out


def test_options_of_methods(folder, capsys):
    line = ["check", *SMALL, "--method", "evit", "--keep", "0.5", "0.9", "--no-fuse", "--export", "none"]
    assert cli.main(line) == 0
    out = capsys.readouterr().out
    assert "evit keep=0.5, fuse=False" in out and "evit keep=0.9, fuse=False" in out and "12 checks passed" in out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([*SMALL, "--method", "evit"], "each method runs at no more than 70 % of the dense cost: --macs sets another"),
        ([*SMALL, "--method", "evit", "--macs", "0.9"], "each method runs at no more than 90 % of the dense cost"),
        ([*SMALL, "--method", "evit", "--keep", "0.5"], "each method runs with the options that were given"),
        (["saved"], "the method runs as it was saved: --macs sets a share of the dense cost instead"),
        (["saved", "--macs", "0.8"], "each method runs at no more than 80 % of the dense cost"),
    ],
)
def test_it_says_at_which_cost_and_what_its_columns_are(folder, capsys, line, words):
    assert cli.main(["check", *line, "--export", "none"]) == 0
    head, table, columns, _ = capsys.readouterr().out.split("\n\n")
    assert head.splitlines()[1].startswith(words)
    titles = ["of dense", *LAWS]
    assert [told[:10].rstrip() for told in columns.splitlines()] == titles
    assert table.splitlines()[0].split() == ["method", *" ".join(titles).split()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([*SMALL, "--keep", "0.5"], "--keep: say with --method whose option that is"),
        ([*SMALL, "--limit", "4"], "--limit 4 is for images of --data"),
        ([*SMALL, "--macs", "2"], "--macs 2 is no share of the dense cost"),
        ([*SMALL, "--model", "test_vit2"], "'test_vit' and --model test_vit2: give one of the two"),
        ([*SMALL, "more"], "'more' belongs to no option"),
        ([], "no model: give"),
        (["resnet18", "--checkpoint", "small.safetensors"], "is not supported"),
    ],
)
def test_mistakes_are_exit_code_2(folder, capsys, line, words):
    assert cli.main(["check", *line]) == 2
    out, err = capsys.readouterr()
    assert words in err and err.startswith("vitrim: error: ") and err.count("\n") == 1 and out == ""
