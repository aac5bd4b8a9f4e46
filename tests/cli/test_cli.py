"""The command line, run in this process: what it prints and writes, and how it refuses."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vitrim
from vitrim import cli
from vitrim.backbones.transformers.dialects import ENTRIES
from vitrim.cli.commands.finetune import RECIPES as RECIPE_NAMES
from vitrim.cli.commands.finetune import ChangeOptions
from vitrim.cli.shared import picture as _picture
from vitrim.cli.shared import plans as _plans
from vitrim.cli.shared import table as _table
from vitrim.cli.shared.help import overview
from vitrim.cli.shared.parse import HelpAsked, parse
from vitrim.cli.shared.signatures import own_signatures
from vitrim.common import files as _files
from vitrim.methods import METHODS
from vitrim.training import RECIPES, Augmentation, Recipe, Weights
from vitrim.view.styles import styles_of

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 3
SMALL = ["--model", "test_vit", "--image-size", "64", "--num-classes", str(CLASSES)]
QUICK = ["--rounds", "1", "--workers", "0", "--threads", "1", "--batch-size", "8", "--device", "cpu"]
# The JSON keys that every command keeps, and those that runs on images add.
KEYS = {"model", "method", "options", "gmacs", "dense_gmacs", "tokens", "params"}
RUN_KEYS = {"images", "device", "dtype", "batch_size", "torch", "timm", "vitrim", "processor", "threads", "seed"}
ROW_KEYS = {"method", "options", "gmacs", "share", "tokens", "top1", "top1_interval", "images_per_s", "speed_up"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64, num_classes=CLASSES)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Three classes of four noise pictures each, and one file that is none."""
    root, noise = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name in "abc":
        (root / name).mkdir()
        for number in range(4):
            pixels = noise.integers(0, 256, (70, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    (root / "b" / "broken.jpg").write_bytes(b"not a picture")
    return root


@pytest.fixture
def small(checkpoint) -> list[str]:
    return [*SMALL, "--checkpoint", str(checkpoint)]


@pytest.fixture
def images(small, photographs) -> list[str]:
    return [*small, "--data", str(photographs), *QUICK]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Whatever a command writes by default lands in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


def strict(text: str) -> dict[str, Any]:
    """JSON as the standard has it: Python alone would take NaN and Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def refused(capsys, *arguments: str) -> str:
    """The one line with which the command line refuses; nothing else is printed or written."""
    before = set(Path().iterdir())
    assert cli.main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("vitrim: error: ") and err.count("\n") == 1
    assert set(Path().iterdir()) == before
    return err


# -- the front door


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_front_door_lists_every_command(capsys, arguments):
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS) and out.startswith("usage: vitrim")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"vitrim {vitrim.__version__}\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(capsys, command):
    assert cli.main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert f"usage: vitrim {command}" in out and err == ""
    assert ("--json" in out) == (command not in ("completion", "playground"))


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_help_fits_a_screen(columns):
    """The commands' own help, and with any method named: no line wider than the terminal, 60 lines at 80 columns."""
    helps = {"vitrim": overview(cli.GROUPS, columns)}
    assert columns < 80 or all(f"  {c.summary}" in helps["vitrim"] for c in cli.COMMANDS.values()), "a line each"
    for name, command in cli.COMMANDS.items():
        named = [[]] + ([["--method", method] for method in METHODS] if command.dial else [])
        for words in named:
            with pytest.raises(HelpAsked) as asked:
                parse(command, [*words, "--help"], columns)
            helps[" ".join([name, *words])] = str(asked.value)
    for title, text in helps.items():
        lines = text.splitlines()
        words = [line for line in lines if columns >= 80 or not line.startswith("  vitrim ")]  # examples stay whole
        assert max(map(len, words)) <= columns, title
        assert columns < 80 or len(lines) <= 60, title


def test_commands_are_modules_with_run():
    assert all(callable(import_module(f"vitrim.cli.{name}").run) for name in cli.COMMANDS)


def test_module_runs_and_the_front_door_imports_no_torch():
    """`python -m vitrim --help`, and the command line by itself, without what `import vitrim` brings."""
    assert subprocess.run([sys.executable, "-m", "vitrim", "--help"], capture_output=True, timeout=120).returncode == 0
    script = (
        "import sys, types; package = types.ModuleType('vitrim'); package.__path__ = [sys.argv.pop(1)]\n"
        "sys.modules['vitrim'] = package\n"
        "from vitrim.cli import main; code = main(['--help']) or main(['--version']) or main(['help', 'compare'])\n"
        "wrong = [['evalute'], ['compare', '--kep', '1'], ['profile', '--method', 'evti'], ['methods', 'evti'],\n"
        "         ['evaluate'],"
        "         ['finetune', '--data', 'x', '--out', 'y', '--recipe', 'evt'], ['profile', '--keep', 'half']]\n"
        "code = code or [main(words) for words in wrong] != [2] * len(wrong)\n"
        "sys.exit(code or ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(ROOT / "vitrim")], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_closed_pipe_ends_cleanly():
    script = (
        "import sys, types; package = types.ModuleType('vitrim'); package.__path__ = [sys.argv.pop(1)]\n"
        "sys.modules['vitrim'] = package\n"
        "from vitrim.cli import main; sys.stdin.read(); sys.exit(main(['--help']))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", script, str(ROOT / "vitrim")], **pipes)
    process.stdout.close()  # the reader goes before anything is written
    process.stdin.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(timeout=60) == cli.READER_GONE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line(capfd, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(["--version"]) == 2
    assert "standard output cannot be written: no space left" in capfd.readouterr().err


def test_interruption_is_one_line(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("vitrim.cli.profile"), "run", interrupt)
    assert cli.main(["profile"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "\nvitrim: interrupted\n"


def test_our_own_mistakes_are_not_hidden(monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(import_module("vitrim.cli.profile"), "run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["profile"])


# -- profile


def test_profile_is_the_librarys(capsys):
    assert cli.main(["profile", "--model", "deit_small_patch16_224", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    figures = strict(out)
    reduced = vitrim.reduce(timm.create_model("deit_small_patch16_224"), "evit", keep=0.7)
    assert figures["gmacs"] == vitrim.profile(reduced).gmacs and figures.keys() >= KEYS
    assert figures["options"] == {"keep": 0.7, "at": [3, 6, 9], "fuse": True, "score": "cls", "seed": 0}
    assert "139 99 71 of 196" in err and "3.030 GMACs instead of 4.599" in err


def test_profile_takes_a_rate_for_each_place_and_method_options(capsys):
    options = ["--keep", "0.9", "0.8", "0.5", "--at", "2", "4", "5", "--no-fuse"]
    assert cli.main(["profile", *SMALL, *options, "--json", "-"]) == 0
    figures = strict(capsys.readouterr().out)
    assert figures["options"]["keep"] == [0.9, 0.8, 0.5] and figures["options"]["at"] == [2, 4, 5]
    assert figures["options"]["fuse"] is False and figures["tokens"] == [16, 16, 15, 15, 12, 6]


def test_profile_of_a_budget_and_of_two_sides(capsys):
    image = ["--model", "test_vit", "--image-size", "64", "96"]
    assert cli.main(["profile", *image, "--macs", "0.8", "--json", "-"]) == 0
    figures = strict(capsys.readouterr().out)
    assert figures["budget"] == 0.8 and 0.5 < figures["share"] <= 0.8 and figures["patches"] == 24


def test_profile_needs_no_weights(capsys, monkeypatch):
    monkeypatch.setattr(timm.models, "load_pretrained", lambda *_, **__: pytest.fail("weights were asked for"))
    assert cli.main(["profile", "--model", "vit_giant_patch14_dinov2", "--keep", "0.5"]) == 0
    assert "M parameters" in capsys.readouterr().out


# -- evaluate


def test_evaluate_keep_everything_is_the_dense_model(capsys, images):
    assert cli.main(["evaluate", *images, "--keep", "1", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    figures = strict(out)
    assert KEYS | RUN_KEYS | {"top1", "agreement", "images_per_s", "dense"} <= figures.keys()
    assert figures["images"] == 12 and figures["agreement"] == 100 and figures["change"] == 0
    assert figures["top1"] == figures["dense"]["top1"] and figures["gmacs"] == figures["dense_gmacs"]
    assert [entry["name"] for entry in figures["skipped"]] == ["b/broken.jpg"]
    assert "promise kept" in err and "b/broken.jpg" in err


def test_evaluate_agrees_with_the_library(capsys, images, checkpoint, photographs, tmp_path):
    assert cli.main(["evaluate", *images, "--keep", "0.4", "--method", "topk", "--json", "figures.json"]) == 0
    figures = strict((tmp_path / "figures.json").read_text())
    from vitrim.backbones.timm.checkpoints import load_checkpoint
    from vitrim.data import open_dataset, open_loader
    from vitrim.evaluate import evaluate

    model = timm.create_model("test_vit", img_size=64, num_classes=CLASSES)
    load_checkpoint(model, checkpoint)
    reduced = vitrim.reduce(model, "topk", keep=0.4)
    loader = open_loader(open_dataset(photographs, model), 8, 0)
    result = evaluate(reduced, loader, dense=model)
    assert (figures["top1"], figures["agreement"]) == (result.top1, result.agreement)
    assert figures["method"] == "topk" and figures["batch_size"] == 8 and figures["threads"] == 1
    assert figures["promise_kept"] == pytest.approx(figures["speed_up"] * figures["share"])
    assert "top-1" in capsys.readouterr().out


def test_features_are_judged_by_neighbours(capsys, photographs, tmp_path):
    model = timm.create_model("test_vit", img_size=64, num_classes=0)
    save_file(model.state_dict(), tmp_path / "tower.safetensors")
    tower = ["--model", "test_vit", "--image-size", "64", "--num-classes", "0", "--checkpoint", "tower.safetensors"]
    assert (
        cli.main(
            [
                "compare",
                *tower,
                "--data",
                str(photographs),
                *QUICK,
                "--keep",
                "1",
                "--json",
                "c.json",
                "--out",
                "compare.png",
            ]
        )
        == 0
    )
    dense, reduced = strict((tmp_path / "c.json").read_text())["rows"]
    assert reduced["cosine"] == pytest.approx(1, abs=1e-5) and reduced["knn"] == dense["knn"] and "top1" not in dense
    out = capsys.readouterr().out
    assert "kNN" in out and "cosine" in out and (tmp_path / "compare.png").stat().st_size > 1000


def test_a_trained_tofe_may_still_let_each_image_keep_its_own_tokens(capsys, tmp_path):
    model = timm.create_model("test_vit", img_size=64, num_classes=CLASSES)
    fast = vitrim.runtime.build.attach(model, "tofe", keep=0.6, at=(1, 2))
    fast.methods[0].update_counts(torch.tensor([[9.0, 5.0]]), 16, momentum=1.0)
    fast.save(tmp_path / "saved")
    saved = ["profile", "--checkpoint", str(tmp_path / "saved"), "--json", "-"]
    cli.main(saved)
    before = strict(capsys.readouterr().out)
    assert cli.main([*saved, "--adaptive", "instance"]) == 0
    after = strict(capsys.readouterr().out)
    assert (before["options"]["adaptive"], after["options"]["adaptive"]) == ("batch", "instance")
    assert after["tokens"] == before["tokens"] == [16, 9, 5, *[5] * (len(before["tokens"]) - 3)]
    assert cli.main([*saved, "--method", "tofe", "--adaptive", "instance"]) == 0, "its own method may be named"
    assert strict(capsys.readouterr().out)["tokens"] == after["tokens"]
    assert cli.main([*saved, "--adaptive", "instance", "--keep", "0.5"]) == 2
    assert "give none but --adaptive" in capsys.readouterr().err


def test_saved_folder_runs_as_it_was_saved(capsys, images, checkpoint, photographs):
    from vitrim.backbones.timm.checkpoints import load_checkpoint

    model = timm.create_model("test_vit", img_size=64, num_classes=CLASSES)
    load_checkpoint(model, checkpoint)
    vitrim.reduce(model, "topk", keep=0.5).save("saved")
    run = ["--checkpoint", "saved", "--data", str(photographs), *QUICK, "--json", "-"]
    assert cli.main(["evaluate", *run]) == 0
    saved = strict(capsys.readouterr().out)
    assert (saved["method"], saved["options"]["keep"], saved["model"]) == ("topk", 0.5, "test_vit")
    assert cli.main(["evaluate", *images, "--method", "topk", "--keep", "0.5", "--json", "-"]) == 0
    typed = strict(capsys.readouterr().out)
    assert all(saved[key] == typed[key] for key in ("top1", "agreement", "gmacs", "options"))
    assert cli.main(["profile", "--checkpoint", "saved", "--keep", "0.8", "--json", "-"]) == 0
    assert strict(capsys.readouterr().out)["options"]["keep"] == 0.8


# -- compare


def test_compare_has_a_row_for_every_setting(capsys, images, tmp_path):
    methods = ["--method", "evit", "tome", "random", "--keep", "0.9", "0.5", "--r", "2", "--macs", "0.8", "--no-fuse"]
    assert cli.main(["compare", *images, *methods, "--json", "c.json", "--out", "c.svg"]) == 0
    figures = strict((tmp_path / "c.json").read_text())
    rows = figures["rows"]
    assert [row["method"] for row in rows] == ["dense", *["evit"] * 3, *["tome"] * 2, *["random"] * 3]
    assert [row["options"].get("keep") for row in rows[1:3]] == [0.9, 0.5] and rows[4]["options"]["r"] == 2
    assert rows[3]["budget"] == 0.8 and rows[3]["share"] <= 0.8 and rows[1]["options"]["fuse"] is False
    assert all(row.keys() >= ROW_KEYS for row in rows) and figures.keys() >= RUN_KEYS
    assert all({"change", "agreement", "promise_kept"} <= row.keys() for row in rows[1:])
    out = capsys.readouterr().out
    assert all(word in out for word in ("speed-up", "tokens left", "evit keep=0.9", "tome r=2", "random keep=0.5"))
    picture = (tmp_path / "c.svg").read_text()
    assert all(word in picture for word in ("<svg", "GMACs", "dense", "evit", "tome", "random", "95 %"))


def test_compare_defaults_to_three_rates_and_draws_where_it_is_told(capsys, images, tmp_path, monkeypatch):
    drawn: list[list] = []
    draw = _picture.draw
    monkeypatch.setattr(
        "vitrim.cli.compare.draw", lambda path, title, rows: drawn.append(rows) or draw(path, title, rows)
    )
    assert cli.main(["compare", *images, "--limit-per-class", "1", "--json", "-", "--out", "compare.png"]) == 0
    out, err = capsys.readouterr()
    figures = strict(out)
    assert [row["options"].get("keep") for row in figures["rows"]] == [None, *_plans.DEFAULT_RATES]
    assert figures["images"] == 3 and "compare.png" in err
    with Image.open(tmp_path / "compare.png") as picture:
        assert picture.format == "PNG" and picture.width > 800
    assert _picture.svg("title", drawn[0]) == _picture.svg("title", drawn[0])  # the same figures, the same file


def test_seed_reaches_the_methods_that_draw(capsys):
    assert cli.main(["profile", *SMALL, "--method", "random", "--seed", "3", "--json", "-"]) == 0
    assert strict(capsys.readouterr().out)["options"]["seed"] == 3


# -- methods


def test_methods_come_from_the_code(capsys):
    assert cli.main(["methods", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    figures = strict(out)
    assert [entry["method"] for entry in figures["methods"]] == list(METHODS)
    kinds = {entry["kind"]: entry["methods"] for entry in figures["models"]}
    siglip = next(methods for kind, methods in kinds.items() if "SigLIP" in kind)
    assert siglip["evit"] == {"runs": True, "needs": {"score": "tokens"}}
    assert kinds["ViT, DeiT"]["evit"] == kinds["ViT (transformers)"]["evit"] == {"runs": True, "needs": {}}
    assert kinds["I-JEPA (transformers)"] == kinds["average pooling without [CLS]"]
    assert {entry.dialect for entry in ENTRIES.values()} == {
        ENTRIES[entry["model"]].dialect for entry in figures["models"] if entry["family"] == "transformers"
    }
    assert all(name in err and cls.title in err for name, cls in METHODS.items())


def test_methods_without_transformers_says_what_shows_its_models(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert cli.main(["methods"]) == 0
    out = capsys.readouterr().out
    assert 'Models of transformers: pip install "vitrim[transformers]" shows them here.' in out
    assert "ViTModel" not in out and "deit_tiny_patch16_224" in out


# -- options come from the methods


INVENTED = '''
from typing import Any
from collections.abc import Sequence
from vitrim import EViT


class Invented(EViT):
    """A method that nobody has heard of.

    Args:
        keep: as for EViT
        groups: how many groups, one number or
            one for each place (Table 3)
        mode: "a" or "b"
        halve: whether to halve them
    """

    name, title = "invented", "do what nobody has heard of"

    def __init__(self, keep: Any = 0.6, groups: int | Sequence[int] | None = None, mode: str = "a", halve: bool = True):
        super().__init__(keep)
        self.groups, self.mode, self.halve = groups, mode, halve
'''


def test_a_method_that_takes_its_options_from_elsewhere(capsys, tmp_path):
    """Its file alone does not tell them: the class is imported, and has all that a file would have told."""
    file = tmp_path / "heir.py"
    file.write_text('from vitrim import EViT\n\n\nclass Heir(EViT):\n    name, title = "heir", "keep as EViT does"\n')
    named = ["profile", "--model", "deit_tiny_patch16_224", "--method", f"{file}:Heir"]
    assert cli.main([*named, "--help"]) == 0 and "--[no-]fuse" in capsys.readouterr().out
    assert cli.main([*named, "--keep", "0.5", "--no-fuse"]) == 0
    assert "heir keep=0.5" in capsys.readouterr().out
    del METHODS["heir"]


def test_methods_tries_a_method_of_ones_own_on_every_kind_of_model(capsys, tmp_path):
    """It reads class attention, and its constructor says nothing of that."""
    file = tmp_path / "reader.py"
    file.write_text(
        "import vitrim\n\n\nclass Reader(vitrim.Method):\n    name, title = 'reader', 'keep what [CLS] looks at'\n\n"
        "    def __init__(self, keep=0.7, at=None):\n        super().__init__(keep, at)\n\n"
        "    def forward(self, tokens, evidence, place):\n        scores = evidence.class_attention()\n"
        "        return vitrim.Keep(scores.topk(self.count(place, tokens.n), dim=1).indices)\n\n"
        "    def count(self, place, n):\n        return max(1, int(place.keep * n))\n"
    )
    assert cli.main(["methods", "--method", f"{file}:Reader"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    del METHODS["reader"]
    assert "reader: no, the model has no [CLS] token, so there is no class attention" in said


def test_a_report_replaces_no_other_file(capsys, tmp_path):
    profile = ["profile", "--model", "deit_tiny_patch16_224", "--json"]
    for name, text in (("mine.py", "print()"), ("list.json", "[1]"), ("other.json", '{"a": 1}')):
        (tmp_path / name).write_text(text)
        assert cli.main([*profile, str(tmp_path / name)]) == 2
        assert "is no report of vitrim's: give another file" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == text
    report = tmp_path / "report.json"
    report.touch()
    for command in (profile[:-1], ["recipes"], ["recipes", "tofe"], ["methods", "evit"]):
        assert cli.main([*command, "--json", str(report)]) == 0, "an empty file, and every report of ours"


def test_a_new_method_brings_its_options(tmp_path):
    (tmp_path / "invented.py").write_text(INVENTED)
    method = ["--method", f"{tmp_path / 'invented.py'}:Invented"]
    typed = [*method, "--groups", "4", "3", "--mode", "b", "--no-halve", "--keep", "0.5"]
    config = parse(cli.COMMANDS["profile"], typed)
    assert config.method.method == ("invented",) and config.imports == (method[1],)
    assert config.method.options == {"groups": (4, 3), "mode": "b", "halve": False, "keep": (0.5,)}
    assert parse(cli.COMMANDS["profile"], []).method.options == {}
    with pytest.raises(HelpAsked) as asked:
        parse(cli.COMMANDS["profile"], [*method, "--help"])
    text = " ".join(str(asked.value).split())
    assert "how many groups, one number or one for each place --mode" in text and "(default: 0.6)" in text


def test_options_read_from_files_are_those_of_the_classes():
    for name, cls in METHODS.items():
        signature, parameters = own_signatures()[name], inspect.signature(cls).parameters
        assert [option.name for option in signature.options] == list(parameters)
        assert all(option.default == parameters[option.name].default for option in signature.options)
        assert all(option.help or option.name == "seed" for option in signature.options), name
        assert (signature.title, signature.dial, signature.guided) == (cls.title, cls.dial, cls.guided)
    assert list(own_signatures()) == list(METHODS)


def test_the_recipes_options_are_the_recipes_fields():
    wanted = {f.name for cls in (Recipe, Weights, Augmentation) for f in dataclasses.fields(cls)}
    assert {f.name for f in dataclasses.fields(ChangeOptions)} == wanted - {
        "name",
        "method",
        "weights",
        "augmentation",
        "labels",
    }
    assert set(RECIPE_NAMES) == set(RECIPES)


# -- bad input


PROFILE = ["profile", *SMALL]
BAD = {
    "command": (["evalute"], "did you mean evaluate?"),
    "front option": (["--verison"], "option '--verison' is not known"),
    "option": ([*PROFILE, "--kep", "0.5"], "did you mean --keep?"),
    "stray word": ([*PROFILE, "0.5"], "'0.5' belongs to no option"),
    "no value": ([*PROFILE, "--keep", "--no-fuse"], "--keep: give at least one value"),
    "no number": ([*PROFILE, "--keep", "half"], "--keep half: give a number"),
    "no whole number": ([*PROFILE, "--seed", "x"], "--seed x: give a whole number"),
    "no model": (["profile"], "give --model NAME"),
    "model": (["profile", "--model", "deit_smal_patch16_224"], "did you mean deit_small_patch16_224"),
    "tag": (["profile", "--model", "vit_tiny_patch16_224.nobody"], "Invalid pretrained tag (nobody)"),
    "unsupported model": (["profile", "--model", "resnet18"], "resnet18 (timm.models.resnet.ResNet) is not supported"),
    "unsupported block": (["profile", "--model", "vit_base_patch16_rpn_224"], "ResPostBlock"),
    "image size": ([*PROFILE, "--image-size", "0"], "one side in pixels"),
    "image sizes": ([*PROFILE, "--image-size", "1", "2", "3"], "one side in pixels"),
    "classes": (["profile", "--model", "test_vit", "--num-classes", "-1"], "--num-classes -1"),
    "method": ([*PROFILE, "--method", "evti"], "did you mean evit?"),
    "two methods": ([*PROFILE, "--method", "evit", "topk"], "vitrim compare takes several"),
    "two budgets": ([*PROFILE, "--macs", "0.8", "0.7"], "vitrim compare takes several"),
    "keep 0": ([*PROFILE, "--keep", "0"], "--keep 0 is not in (0, 1]"),
    "keep above 1": ([*PROFILE, "--keep", "1.1"], "--keep 1.1 is not in (0, 1]"),
    "keep nan": ([*PROFILE, "--keep", "nan"], "--keep nan: give a finite number"),
    "rates and places": ([*PROFILE, "--keep", "0.9", "0.8"], "2 keep rates for 3 places"),
    "place": ([*PROFILE, "--at", "3", "6"], "6 is not a block of this model"),
    "place twice": ([*PROFILE, "--at", "3", "3"], "each named once"),
    "score": ([*PROFILE, "--score", "best"], "--score best: choose one of"),
    "option of another": (
        [*PROFILE, "--method", "grid", "--score", "cls"],
        "--score is no option of grid: it is one of evit",
    ),
    "budget above 1": ([*PROFILE, "--macs", "1.5"], "--macs 1.5 is no share"),
    "budget out of reach": ([*PROFILE, "--macs", "0.01"], "out of reach"),
    "budget and rate": ([*PROFILE, "--macs", "0.8", "--keep", "0.7"], "give one of the two"),
    "no [CLS]": (["profile", "--model", "vit_base_patch16_siglip_224"], "use --score tokens"),
    "JSON folder": ([*PROFILE, "--json", "nowhere/x.json"], "there is no folder nowhere"),
    "JSON is a folder": ([*PROFILE, "--json", "."], "is a folder"),
    "no data": (["evaluate", *SMALL], "vitrim evaluate needs --data"),
    "choice": (["evaluate", *SMALL, "--data", "x", "--precision", "int8"], "--precision int8: choose one of float32"),
    "page": (["demo", "--out", "page.pdf"], "must end in .html"),
    "no pictures": (["demo", "--images", "0"], "--images 0: give"),
}


@pytest.mark.parametrize("arguments, said", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(capsys, arguments, said):
    assert said in refused(capsys, *arguments)


BAD_RUNS = {
    "missing folder": (["--data", "nowhere"], "there is no file or folder nowhere"),
    "crop": (["--crop-pct", "2"], "--crop-pct 2: give"),
    "limit": (["--limit", "0"], "--limit 0: give"),
    "split": (["--split", "val"], "has no folder 'val'"),
    "label file": (["--label-file", "nowhere.txt"], "nowhere.txt"),
    "workers": (["--workers", "-1"], "--workers -1: give"),
    "batch size": (["--batch-size", "0"], "--batch-size 0"),
    "threads": (["--threads", "0"], "--threads 0"),
    "rounds": (["--rounds", "-1"], "--rounds -1"),
    "device": (["--device", "abacus"], "--device abacus: give cpu"),
    "float16 on a CPU": (["--precision", "float16"], "--precision float16 is for GPUs"),
    "missing checkpoint": (["--checkpoint", "nowhere.pth"], "there is no checkpoint nowhere.pth"),
    "classes of the checkpoint": (["--num-classes", "5"], "the checkpoint has 3 classes"),
    "classes of the folder": (["--num-classes", "0", "--checkpoint", "."], "leave out --image-size"),
}


@pytest.mark.parametrize("arguments, said", BAD_RUNS.values(), ids=BAD_RUNS.keys())
def test_bad_runs_are_one_line(capsys, images, arguments, said):
    assert said in refused(capsys, "evaluate", *images, *arguments)


def test_bad_comparisons_are_one_line(capsys, images):
    assert "must end in .png or .svg" in refused(capsys, "compare", *images, "--out", "c.gif")
    assert "there is no folder" in refused(capsys, "compare", *images, "--out", "nowhere/c.png")
    options = ["--method", "random", "grid", "--score", "cls"]
    assert "--score is no option of random or grid" in refused(capsys, "compare", *images, *options)


def test_bad_folders_are_one_line(capsys, small, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "two" / "a").mkdir(parents=True)
    (tmp_path / "two" / "b").mkdir()
    for name in "ab":
        (tmp_path / "two" / name / "x.png").write_bytes(b"no picture")
    run = ["evaluate", *small, *QUICK, "--data"]
    assert "holds no image" in refused(capsys, *run, "empty")
    assert "has 2 classes (a, b) and the model 3" in refused(capsys, *run, "two")
    (tmp_path / "two" / "c").mkdir()  # an empty folder, which the number of classes asks for
    assert cli.main([*run, "two"]) == 2
    assert "none of the 2 images can be read" in capsys.readouterr().err


def test_bad_checkpoints_are_one_line(capsys, photographs, checkpoint, tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "folder").mkdir()
    run = ["evaluate", "--data", str(photographs), *QUICK, "--checkpoint"]
    assert "is not a checkpoint or is damaged" in refused(capsys, *run, "text.pth", *SMALL)
    misfit = ["--model", "vit_tiny_patch16_224", "--image-size", "64"]
    assert "missing" in refused(capsys, *run, str(checkpoint), *misfit)
    assert "folder without config.json" in refused(capsys, *run, "folder")
    (tmp_path / "folder" / "config.json").write_text('{"backbone": "test_vit"}')
    assert "model.safetensors" in refused(capsys, *run, "folder")
    vitrim.reduce(timm.create_model("test_vit", img_size=64), "topk").save("saved")
    assert "holds a test_vit" in refused(capsys, *run, "saved", "--model", "deit_tiny_patch16_224")


def test_no_bfloat16_is_one_line(capsys, images, monkeypatch):
    monkeypatch.setattr("vitrim.evaluate.timing._has_bfloat16", lambda device: False)
    assert "has no such arithmetic: use --precision float32" in refused(
        capsys, "evaluate", *images, "--precision", "bfloat16"
    )


def test_weights_that_cannot_be_had_name_the_way_out(capsys, photographs, monkeypatch):
    build = timm.create_model

    def offline(name, pretrained=False, **arguments):
        if pretrained:
            raise ConnectionError("no route to host\nand more")
        return build(name, **arguments)

    monkeypatch.setattr(timm, "create_model", offline)
    assert cli.main(["evaluate", "--model", "test_vit", "--data", str(photographs)]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be read or downloaded (no route to host)" in err and "--checkpoint FILE" in err
    assert "no pretrained weights for vit_base_patch16_gap_224" in refused(
        capsys, "evaluate", "--model", "vit_base_patch16_gap_224", "--data", str(photographs)
    )


# -- files and words


def test_files_are_whole_or_not_there(tmp_path):
    target = tmp_path / "figures.json"
    target.write_text("old")

    def fail(beside: str) -> None:
        Path(beside).write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="No space left on device"):
        _files.write_whole(target, fail)
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["figures.json"]


def test_pipes_are_written_to_and_links_stay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    _files.check_output(tmp_path / "pipe")
    _files.write_whole(tmp_path / "pipe", lambda path: Path(path).write_text("through"))
    assert os.read(reader, 100) == b"through" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    _files.write_whole(tmp_path / "link", lambda path: Path(path).write_text("new"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"


def test_a_table_for_a_closed_pipe_raises_for_main(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError):
        _table.Printer(None).line("text")


def test_json_is_strict(tmp_path, capsys):
    _files.write_json("-", {"a": float("nan"), "b": [float("inf"), 1.5], 3: Path("x"), "c": (1, None)})
    assert strict(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "3": "x", "c": [1, None]}


def test_a_folder_without_permission_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere, so permissions prove nothing
    with pytest.raises(ValueError, match="no permission"):
        _files.check_output(tmp_path / "x.json")


def test_tokens_left_in_words():
    assert _table.tokens_left(196, [196, 139, 139, 99, 71]) == "139 99 71"
    assert _table.tokens_left(196, [196] * 12) == "196"
    assert _table.tokens_left(16, [8, 8, 4]) == "8 4"
    assert _table.tokens_left(196, list(range(190, 100, -10))) == "190 to 110"


def test_every_line_of_the_picture_looks_different():
    names = [*METHODS, *(f"own-{number}" for number in range(4))]
    styles = {tuple(style.values()) for style in styles_of(names, list(METHODS)).values()}
    assert len(styles) == len(names)
    for few in (
        ["tome", "evit"],
        ["dpcknn", "evit", "bat"],
        ["own-0", "tome", "topk", "evit"],
    ):  # six colours, all apart
        assert len({style["color"] for style in styles_of(few, list(METHODS)).values()}) == len(few)
    assert styles_of(["tome"], list(METHODS))["tome"] == styles_of(["bat", "tome"], list(METHODS))["tome"]


def test_warnings_are_lines(capsys):
    cli._show_warning(UserWarning("random\n  parts"), UserWarning, "file.py", 3)
    assert capsys.readouterr().err == "vitrim: warning: random parts\n"
