"""`vitrim finetune`: a run from the command line, and what is refused; on random weights and images made here."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vitrim
from vitrim.cli import main
from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import evaluate_many

TINY = ["--model", "vit_tiny_patch16_224", "--image-size", "32", "--num-classes", "3", "--scratch"]
QUICK = ["--short", "--batch-size", "4", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Six images of three classes."""
    root = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(0)
    for i in range(6):
        (root / "abc"[i % 3]).mkdir(exist_ok=True)
        file = root / "abc"[i % 3] / f"{i}.png"
        Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    return root


@pytest.fixture(scope="module")
def trained(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    where = ["--data", str(photographs), "--val", str(photographs), "--out", str(out), "--json", str(out / "f.json")]
    assert main(["finetune", *TINY, *QUICK, *where, "--recipe", "evit_scratch", "--keep", "0.5"]) == 0
    return out


def test_a_run_writes_what_its_json_says(trained):
    figures = json.loads((trained / "f.json").read_text())
    assert (figures["method"], figures["options"]["keep"], figures["recipe"]) == ("evit", 0.5, "evit_scratch")
    assert figures["gmacs"] < figures["dense_gmacs"]
    assert figures["steps"] == 1
    assert 0 <= figures["top1"] <= 100
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "model.safetensors", "steps.csv", "epochs.csv", "checkpoints"} <= names
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {"last.pt", "best.pt"}


def test_a_run_is_not_written_over(trained, photographs, capsys):
    where = ["--data", str(photographs), "--out", str(trained), "--recipe", "evit_scratch", "--keep", "0.5"]
    assert main(["finetune", *TINY, *QUICK, *where]) == 2
    assert "holds a run already: go on with --resume" in capsys.readouterr().err
    assert main(["finetune", *TINY, *QUICK, *where, "--resume"]) == 0


def test_a_saved_model_is_not_written_over(trained, photographs, tmp_path, capsys, monkeypatch):
    """Not the one that it starts from either; and an empty --out is not the folder that one happens to be in."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    data = ["--data", str(photographs), *QUICK, "--recipe", "distill"]
    monkeypatch.chdir(tmp_path)
    full, empty = "holds a saved model already: give another --out", "--out is empty: give a value"
    for where, said in (
        (["--out", "."], full),
        (["--out", str(tmp_path)], full),
        (["--out", ""], empty),
        (["--out="], empty),
    ):
        assert main(["finetune", "--checkpoint", str(tmp_path), *data, *where]) == 2
        assert said in capsys.readouterr().err
    assert (tmp_path / "config.json").read_bytes() == (trained / "config.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_its_result_is_evaluated_and_trained_on(trained, photographs, tmp_path, capsys):
    data = ["--data", str(photographs), "--device", "cpu", "--rounds", "1"]
    assert main(["evaluate", "--checkpoint", str(trained), *data, "--workers", "0"]) == 0
    weights = ["--checkpoint", str(trained / "model.safetensors"), "--image-size", "48", "--num-classes", "3"]
    where = ["--data", str(photographs), "--out", str(tmp_path), "--json", "-"]
    capsys.readouterr()
    assert main(["finetune", "--model", "vit_tiny_patch16_224", *weights, *QUICK, *where]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["recipe"] == "distill"
    assert "pos_embed resampled" in said.err


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """Weights of another dense model of the same kind."""
    torch.manual_seed(3)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    file = tmp_path_factory.mktemp("before") / "dense.safetensors"
    save_file(model.state_dict(), file)
    return file, model.eval()


def evaluated(folder, photographs, capsys, *more):
    """What `vitrim evaluate` prints of a folder, and its JSON."""
    data = ["--data", str(photographs), "--device", "cpu", "--rounds", "1", "--workers", "0"]
    figures = folder / "evaluated.json"
    assert main(["evaluate", "--checkpoint", str(folder), *data, "--json", str(figures), *map(str, more)]) == 0
    return capsys.readouterr().out, json.loads(figures.read_text())


def test_dense_before_and_after_fine_tuning_are_told_apart(trained, photographs, before, capsys):
    file, model = before
    said, figures = evaluated(trained, photographs, capsys, "--baseline", file)
    assert "dense (fine-tuned backbone)" in said.splitlines()[2]
    assert "agreement with dense (fine-tuned backbone), %" in said
    (line,) = (line for line in said.splitlines() if line.startswith("dense (before fine-tuning)"))
    loader = open_loader(open_dataset(photographs, model), 8, 0)
    result = vitrim.load(trained)
    found = evaluate_many({"dense": model, "after": result}, loader)
    assert figures["baseline"]["top1"] == found["dense"].top1
    assert figures["baseline"]["agreement"] == found["after"].agreement
    assert figures["baseline"]["change"] == figures["top1"] - found["dense"].top1
    assert f"top-1 {found['dense'].top1:.1f} %" in line and f"agreement {found['after'].agreement:.1f} %" in line
    own = evaluate_many({"dense": result.backbone, "after": result}, loader)
    assert (figures["dense"]["top1"], figures["agreement"]) == (own["dense"].top1, own["after"].agreement)
    assert figures["dense"]["method"] == "dense" and figures["dense_label"] == "dense (fine-tuned backbone)"


def test_a_folder_that_was_saved_without_training_is_not_called_fine_tuned(photographs, before, tmp_path, capsys):
    _, model = before
    vitrim.reduce(model, "evit", keep=0.5).save(tmp_path / "saved")
    said, figures = evaluated(tmp_path / "saved", photographs, capsys)
    assert "dense (saved backbone)" in said and "fine-tun" not in said
    assert "baseline" not in figures


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        ("nowhere", "--baseline nowhere: there is no such file or folder, and timm has no model of that name"),
        ("five", "--baseline .* tells 5 classes apart and the model 3"),
        ("other", "other.safetensors"),
    ],
)
def test_baselines_that_do_not_fit_are_refused(trained, photographs, tmp_path, capsys, baseline, said):
    if baseline == "five":
        model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5)
        baseline = tmp_path / "five"
        vitrim.reduce(model, "evit").save(baseline)
    elif baseline == "other":
        baseline = tmp_path / "other.safetensors"
        save_file({"weights": torch.zeros(2)}, baseline)
    data = ["--data", str(photographs), "--device", "cpu", "--workers", "0"]
    assert main(["evaluate", "--checkpoint", str(trained), *data, "--baseline", str(baseline)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(said, error)


def test_a_run_names_the_dense_model_that_it_was_judged_beside(photographs, before, tmp_path, capsys):
    file, _ = before
    model = ["--model", "vit_tiny_patch16_224", "--image-size", "32", "--num-classes", "3", "--checkpoint", str(file)]
    where = ["--data", str(photographs), "--val", str(photographs), "--out", str(tmp_path), "--json", "-"]
    assert main(["finetune", *model, *QUICK, *where, "--keep", "0.5"]) == 0
    said = capsys.readouterr()
    figures = json.loads(said.out)
    (line,) = (line for line in said.err.splitlines() if " of distill; " in line)
    before, after = line.split("; dense (before fine-tuning): ")
    assert f"top1 {figures['top1']:.2f}" in before
    assert after == f"top1 {figures['dense_top1']:.2f}"


def test_a_folder_that_may_not_be_written_to_is_told_at_once(photographs, tmp_path, capsys, monkeypatch):
    """Not after the training. Root may write anywhere, so permissions would prove nothing."""
    monkeypatch.setattr("vitrim.cli.finetune.os.access", lambda path, mode: False)
    where = ["--data", str(photographs), "--out", str(tmp_path / "out"), "--recipe", "evit_scratch"]
    assert main(["finetune", *TINY, *QUICK, *where]) == 2
    assert f"--out {tmp_path / 'out'} may not be written to" in capsys.readouterr().err


def test_a_run_of_one_step_has_no_warning_of_timms(photographs, tmp_path, capsys):
    where = ["--data", str(photographs), "--out", str(tmp_path / "out"), "--recipe", "evit_scratch", "--keep", "0.5"]
    assert main(["finetune", *TINY, *QUICK, "--batch-size", "32", *where, "--json", "-"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["steps"] == 1 and "Cosine" not in said.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data", "nowhere", "--recipe", "evit_scratch"], "nowhere"),
        ([], "learns from the dense model, and from scratch there is none"),
        (
            ["--recipe", "evit_scratch", "--checkpoint", str(Path(__file__).parent)],
            "--scratch starts from random weights",
        ),
        (["--recipe", "tofe", "--method", "evit"], "which only tofe can compute"),
        (["--recipe", "evit_scratch", "--macs", "0.01"], "out of reach"),
        (["--recipe", "evit_scratch", "--resume"], "nothing to resume"),
        (["--recipe", "evit_scratch", "--micro-batch", "0"], "--micro-batch 0: give a number from 1"),
        (["--recipe", "evit_scratch", "--out", "/dev/null/run"], "--out /dev/null/run cannot be made"),
        (["--recipe", "evit_scratch", "--num-classes", "4"], "create the model with --num-classes 3"),
    ],
)
def test_refusals_are_one_line(photographs, tmp_path, capsys, more, said):
    data = [] if "--data" in more else ["--data", str(photographs)]
    assert main(["finetune", *TINY, *QUICK, *data, "--out", str(tmp_path), *more]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("vitrim: error: ")
    assert error.count("\n") == 0
    assert said in error
