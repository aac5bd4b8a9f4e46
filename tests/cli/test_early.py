"""What is told of a command line before PyTorch is imported, and what is likely meant by a wrong word."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch

import vitrim
from vitrim import cli
from vitrim.cli.shared import early_devices, model_names
from vitrim.cli.shared.flags import in_flags
from vitrim.cli.shared.rows import Row, disturbed
from vitrim.common import extras, walking
from vitrim.common.absent import near_path
from vitrim.common.text import nearest
from vitrim.evaluate import Throughput
from vitrim.evaluate.timing import as_device

ON = ["--model", "deit_tiny_patch16_224", "--data", "."]
OUT = ["--out", "a.csv"]
WRONG = {
    "there is no file or folder nowhere": ["evaluate", *ON, "--data", "nowhere"],
    "there is no checkpoint nowhere": ["compare", *ON, "--checkpoint", "nowhere"],
    "there is no class map nowhere": ["evaluate", *ON, "--class-map", "nowhere"],
    "there is no label file nowhere": ["evaluate", *ON, "--label-file", "nowhere"],
    "--batch-size 0: give a whole number from 1": ["demo", "--batch-size", "0"],
    "must end in .png or .svg": ["compare", *ON, "--out", "a.pdf"],
    "must end in .html or .htm": ["demo", "--out", "a.pdf"],
    "must end in .onnx or .xml or .pt2": ["export", "--model", "x", "--out", "a.pdf"],
    "profile: evaluate, compare, predict, embed, finetune, demo, export, benchmark and check take it": [
        "profile",
        "--data",
        ".",
    ],
    "must end in .png or .svg or .pdf": ["benchmark", *ON[:2], "--out", "a.html"],
    "belongs to one model, and --model names 2": ["benchmark", "--model", "a", "b", "--checkpoint", "."],
    "--model is given twice": ["benchmark", "--model", "a", "--model", "b"],
    "and onnx does not run it: leave one of the two out": ["benchmark", *ON[:2], "--detail", "--runtime", "onnx"],
    "--data judges what --instead shows": ["benchmark", *ON],
    "--limit is about the images of --data": ["benchmark", *ON[:2], "--instead", "--limit", "3"],
    "there is no checkpoint x.pth": ["benchmark", *ON, "--instead", "--smaller-checkpoint", "x.pth"],
    "there is no file nowhere.json": ["benchmark", *ON[:2], "--vs", "nowhere.json"],
    "several are separated by spaces: --keep 0.7 0.5": ["compare", *ON, "--keep", "0.7,0.5"],
    "give a number, such as 0.7": ["compare", *ON, "--keep", "0,7"],
    "give a number, a share such as 0.6": ["compare", *ON, "--macs", "60%"],
    "separate methods by spaces, evit tome": ["compare", *ON, "--method", "evit,tome"],
    "did you mean tome?": ["methods", "ToMe"],
    "--method evit tome: give one here": ["predict", ".", "--method", "evit", "--method", "tome", *OUT],
    "--macs 0.6 0.7: give one here": ["profile", *ON[:2], "--macs", "0.6", "0.7"],
    "--macs 7 is no share of the dense cost": ["check", *ON[1:2], "--macs", "7"],
    "--macs 0 is no share of the dense cost": ["visualize", ".", *ON[:2], "--macs", "0"],
    "--keep 7 is not in (0, 1]": ["compare", *ON, "--keep", "0.7", "7"],
    "--macs solves for --r: give one of the two": ["evaluate", *ON, "--method", "tome", "--r", "3", "--macs", "0.7"],
    "say with --guide which model it belongs to": ["profile", *ON[:2], "--guide-checkpoint", "."],
    "there is no file of class names nowhere": ["predict", ".", *OUT, "--class-names", "nowhere"],
    "there is no plan nowhere": ["evaluate", *ON, "--plan", "nowhere"],
    ". holds no image (.bmp, .gif": ["embed", ".", *ON[:2], "--out", "f"],
    "*.xyz matches no image (.bmp, .gif": ["tune", "*.xyz", *ON[:2], "--out", "p.json"],
    "no file matches *.xyz": ["visualize", "*.xyz", *ON[:2]],
    "/dev/null is a device or a pipe, neither file nor folder: give a folder of any depth, a photograph, a .tar": [
        "predict",
        "/dev/null",
        *OUT,
    ],
    "there is no file or folder absent: give a folder of any depth, a photograph, a .tar": ["predict", "absent", *OUT],
    "DATA is given in two ways, a and b": ["predict", "a", "--data", "b", *OUT],
    "DATA is given in two ways, b and a": ["diagnose", "b", "--data", "a"],
    "IMAGES is given in two ways, a and b": ["visualize", "a", "--overwrite", "--images", "b"],
    "timm has no model 'nonsense': timm.list_models()": ["profile", "--model", "nonsense"],
    "did you mean deit_tiny_patch16_224": ["profile", "--model", "deit_tiny_patch16_22"],
    "timm has no model 'nobody'": ["profile", *ON[:2], "--guide", "nobody"],
    "--limit 0: give a whole number from 1": ["evaluate", *ON, "--limit", "0"],
    "--workers -1: give a whole number from 0": ["embed", ".", "--out", "f", "--workers", "-1"],
    "--crop-pct 7: give a share in (0, 1]": ["diagnose", ".", "--crop-pct", "7"],
    "--device nonsense: give cpu, cuda, cuda:1 or mps": ["benchmark", *ON[:2], "--device", "nonsense"],
    "--host 8.8.8.8 is no address of this machine": ["playground", "--host", "8.8.8.8"],
    "'evit' is no command: vitrim methods evit shows": ["evit", "--help"],
    "'evit_scratch' is no command: vitrim recipes evit_scratch shows": ["help", "evit_scratch"],
    "did you mean vitrim methods evit? vitrim --help": ["evti"],
    "method 'evti' is not known: did you mean evit?": ["help", "compare", "evti"],
    "give --r, or for all methods --macs": ["profile", *ON[:2], "--method", "tome", "--keep", "0.7"],
    "there is no file nowhere.py: give my_file.py:Class": ["methods", "nowhere.py:Mine"],
    "there is no file of options nowhere.toml": ["profile", "--config", "nowhere.toml"],
    "did you mean hf:facebook/deit-tiny?": ["check", "facebook/deit-tiny"],
    "there is no folder ./nowhere: give one with config.json": ["profile", "--model", "hf:./nowhere"],
}
OWN = """
import vitrim
class Outlier(vitrim.Method):
    name = "outlier"
    def __init__(self, keep=0.5):
        super().__init__(keep)
class Helper:
    pass
"""
FILES = {
    "weights.safetensors": b"\2\0\0\0\0\0\0\0{}",
    "notes.pth": b"no weights",
    "cut.toml": b"keep =",
    "map.csv": b"cat,0\ndog;1\n",
    "own.py": OWN.encode(),
    "photos/cat/1.png": b"",
}
MODEL = ["--model", "deit_tiny_patch16_224", "--data", "photos"]
WRONG_FILES = {
    "there is no file or folder phtoos: did you mean photos?": ["evaluate", *MODEL[:2], "--data", "phtoos"],
    "there is no file or folder photos/cta: did you mean photos/cat?": ["predict", "photos/cta", *OUT],
    "there is no checkpoint weights.pth: did you mean weights.safetensors?": [
        "evaluate",
        *MODEL,
        "--checkpoint",
        "weights.pth",
    ],
    "notes.pth is not a checkpoint or is damaged": ["evaluate", *MODEL, "--checkpoint", "notes.pth"],
    "there is no class map mpa.csv: did you mean map.csv?": ["evaluate", *MODEL, "--class-map", "mpa.csv"],
    "the class map map.csv: 'dog;1' is no name with an index": ["evaluate", *MODEL, "--class-map", "map.csv"],
    "--config cut.toml is no valid TOML: Invalid value": ["profile", *MODEL[:2], "--config", "cut.toml"],
    "own.py has no class Outler that is a vitrim.Method: did you mean own.py:Outlier?": ["methods", "own.py:Outler"],
    "own.py names no class: give own.py:Outlier": ["profile", *MODEL[:2], "--method", "own.py"],
    "--config own.py is no valid TOML": ["profile", *MODEL[:2], "--config", "own.py"],
    "photos/ctt/a.json cannot be written: there is no folder photos/ctt: did you mean photos/cat?": [
        "evaluate",
        *MODEL,
        "--json",
        "photos/ctt/a.json",
    ],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with files that no command can use, one mistyped letter away."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("said", WRONG_FILES)
def test_what_is_wrong_with_a_file_is_told_with_what_lies_beside_it(folder, capsys, said):
    assert cli.main(WRONG_FILES[said]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and len(err) <= 300


@pytest.mark.parametrize("said", WRONG)
def test_mistakes_are_told_in_one_line(capsys, tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(WRONG[said]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["mps", "cuda", "cuda:1"])
def test_a_device_that_no_machine_of_the_kind_has_is_told_at_once(device, capsys, monkeypatch):
    monkeypatch.setattr(early_devices.sys, "platform", "linux")
    monkeypatch.setattr(early_devices, "glob", lambda pattern: [])
    monkeypatch.setattr(early_devices, "_loads", lambda library: False)
    monkeypatch.setattr(early_devices, "_built_for", lambda name: name == "cuda")
    monkeypatch.setattr(cli, "import_module", None)
    assert cli.main(["evaluate", *ON[:2], "--data", str(Path(__file__).parent), "--device", device]) == 2
    err = capsys.readouterr().err
    assert "holds no image" in err or f"--device {device}: there is none here" in err


@pytest.mark.parametrize("there", ["glob", "_loads", "rocm", "nothing known"])
def test_a_device_that_may_be_there_is_left_to_torch(there, monkeypatch):
    monkeypatch.setattr(early_devices.sys, "platform", "linux")
    monkeypatch.setattr(early_devices, "glob", lambda pattern: ["/dev/nvidia0"] * (there == "glob"))
    monkeypatch.setattr(early_devices, "_loads", lambda library: there == "_loads")
    built = {"rocm": ("hip",), "nothing known": ("cuda", "hip")}.get(there, ("cuda",))
    monkeypatch.setattr(early_devices, "_built_for", lambda name: name in built)
    if there == "nothing known":
        monkeypatch.setattr(early_devices.sys, "platform", "freebsd")
    early_devices.check_device("cuda")


def test_what_torch_is_built_for_is_read_off_its_file():
    assert early_devices._built_for("cuda") == (torch.version.cuda is not None)
    assert early_devices._built_for("hip") == (torch.version.hip is not None)
    if not (torch.cuda.is_available() or torch.version.hip):
        with pytest.raises(ValueError, match="--device cuda: there is none here") as early:
            early_devices.check_device("cuda")
        with pytest.raises(ValueError) as late:
            as_device("cuda")
        assert str(early.value) == in_flags(late.value)


@pytest.mark.parametrize("words", [["compare", "--help", "evit"], ["help", "compare", "evit"]])
def test_help_with_a_method_has_its_options(capsys, words):
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "Options of evit:" in out and "--[no-]fuse" in out
    assert cli.main(["compare", "--method", "evit", "--help"]) == 0
    assert capsys.readouterr().out == out


def test_help_behind_what_a_command_takes_is_its_own(capsys):
    for words in (["predict", "--help", "photos"], ["predict", "photos", "--help"], ["help", "predict"]):
        assert cli.main(words) == 0
        out = capsys.readouterr().out
        assert out.startswith("usage: vitrim predict DATA ...") and "Options of" not in out


def test_near_files_are_looked_for_in_a_moment_and_never_in_vain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(20_000):
        Path(f"ILSVRC2012_val_{number:08d}.JPEG").touch()
    before = time.process_time()
    assert near_path("ILSVRC2012_val_00019999x.JPEG").startswith("ILSVRC2012_val_")
    assert time.process_time() - before < 0.5
    for odd in ("", ".", "/", "\0", "a" * 5000, "~nobody/x", "\udcff", "x/y/z"):
        assert isinstance(near_path(odd), str)


@pytest.mark.parametrize("wrong", [WRONG, WRONG_FILES], ids=["words", "files"])
def test_none_of_these_imports_torch(folder, wrong):
    script = (
        "import sys, types, json; package = types.ModuleType('vitrim'); package.__path__ = [sys.argv.pop(1)]\n"
        "sys.modules['vitrim'] = package\nfrom vitrim.cli import main\n"
        "codes = [main(words) for words in json.loads(sys.argv.pop(1))]\n"
        "sys.exit(set(codes) != {2} or 'torch' in sys.modules)"
    )
    words, where = json.dumps(list(wrong.values())), str(Path(vitrim.__file__).parent)
    place = folder if wrong is WRONG_FILES else folder / "bare"
    place.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-c", script, where, words], capture_output=True, cwd=place, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


def test_nearest_names():
    names = ["davit_small", "deit_small_patch16_224", "deit_small_distilled_patch16_224", "evit_finetune", "idlevit"]
    assert nearest("deit_small", names, 2) == names[1:3]
    assert nearest("DEIT_SMALL_PATCH16_224", names) == ["deit_small_patch16_224"]
    assert nearest("evit", names) == ["evit_finetune"] and nearest("xyz", names) == []


def test_a_busy_machine_is_told():
    def row(label: str, low: float, high: float) -> Row:
        return Row(label, None if label == "dense" else label, None, None, Throughput(1.0, 1.2, low, high))

    assert disturbed([row("dense", 1, 1), row("evit", 1.15, 1.25)]) == ""
    assert "from 0.65 to 1.66 over the rounds for tome" in disturbed([row("dense", 1, 1), row("tome", 0.65, 1.66)])
    assert "timed in one round" in disturbed([row("dense", 1, 1), row("tome", 1.2, 1.2)])


def test_a_cluster_may_have_gpus_that_this_machine_has_not(capsys):
    assert cli.main(["embed", ".", "--model", "nonsense_vit", "--out", "f", "--engine", "ray", "--device", "cuda"]) == 2
    assert "--device cuda" not in capsys.readouterr().err


def test_a_busy_port_is_told_at_once(capsys):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        assert cli.main(["playground", "--port", str(busy.getsockname()[1])]) == 2
    assert "is busy: give another one" in capsys.readouterr().err


ASKED = {"command": "predict", "model": "deit_tiny_patch16_224", "method": "evit", "split": None, "data": "/a"}
OTHERS = {
    "other command": (["embed", ".", *OUT], {}),
    "other model": (["predict", ".", *OUT, "--model", "vit_tiny_patch16_224"], {}),
    "other method": (["predict", ".", *OUT, "--method", "tome"], {}),
    "other precision": (["predict", ".", *OUT, "--precision", "bfloat16"], {"precision": "float32"}),
    "other split": (["predict", ".", *OUT, "--split", "val"], {}),
    "other data": (["predict", ".", *OUT], {}),
    "other dense": (["embed", ".", *OUT, "--dense"], {"command": "embed", "dense": False}),
}


@pytest.mark.parametrize("said", OTHERS)
def test_an_unfinished_run_that_was_asked_something_else_is_told_at_once(said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "import_module", None)
    words, more = OTHERS[said]
    (tmp_path / "a.csv.parts").mkdir()
    asked = tmp_path / "a.csv.parts" / "asked.json"
    asked.write_text(json.dumps({**ASKED, **more}))
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert f"a.csv.parts holds an unfinished run with {said}" in err and err.count("\n") == 1
    assert json.loads(asked.read_text()) == {**ASKED, **more}


def test_an_extra_that_is_missing_is_told_at_once(capsys, tmp_path, monkeypatch):
    """With all that needs one: by what is installed, and nothing is imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").touch()
    needs = {
        "vitrim visualize needs matplotlib": ["visualize", "a.jpg", *ON[:2]],
        "writing Parquet needs pyarrow": ["predict", "a.jpg", *ON[:2], "--out", "a.parquet"],
        "--engine ray needs ray": ["embed", "a.jpg", *ON[:2], "--out", "f", "--engine", "ray"],
        "vitrim tune --picture needs matplotlib": ["tune", ".", "--out", "p.json", "--picture", "p.png"],
        "vitrim playground needs gradio": ["playground", "--port", "0"],
        "export to OpenVINO needs openvino": ["export", *ON[:2], "--out", "a.xml"],
        "export to ONNX needs onnx": ["export", *ON[:2], "--out", "a.onnx"],
    }
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    monkeypatch.setattr(cli, "import_module", None)
    for said, words in needs.items():
        assert cli.main(words) == 2
        assert said in capsys.readouterr().err


def test_names_of_models_are_read_off_timms_files():
    """None that timm has is refused: each stands there as a word."""
    words = set(re.findall(r"\w+", model_names._text()))
    own = [name for name in timm.list_models() if timm.models.model_entrypoint(name).__module__.startswith("timm.")]
    assert len(own) > 1000 and {name.partition(".")[0] for name in own} <= words


def test_endings_are_torchvisions():
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert tuple(sorted({*IMG_EXTENSIONS, ".gif"})) == walking.ENDINGS
