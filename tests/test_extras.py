"""The core needs none of the extras, and who lacks one is told so in one line."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vitrim
from vitrim import cli
from vitrim.common.extras import EXTRAS, require

PACKAGE = Path(vitrim.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALLED_AS = {"PIL": "pillow", "sklearn": "scikit-learn", "docstring_parser": "docstring-parser"}
OPTIONAL = {module: package for packages in EXTRAS.values() for module, package in packages.items()}
# Imported where the user's own data ask for it, with a message of its own (tests/data/test_folders.py).
ASKED_FOR = {"scipy"}

# What the core does, after the modules named first are taken away as if they had never been installed.
CORE = """
import sys
missing, arguments = sys.argv[1].split(","), sys.argv[2:]
for name in list(sys.modules):
    if name.split(".")[0] in missing:
        del sys.modules[name]
sys.modules.update(dict.fromkeys(missing))
import timm, torch, vitrim
from vitrim.cli import COMMANDS, main
from vitrim.evaluate import evaluate
for name in vitrim._ROOMS:
    getattr(vitrim, name)
model = timm.create_model("test_vit").eval()
fast = vitrim.reduce(model, "topk", keep=0.5)
assert vitrim.profile(fast).share < 1
vitrim.save(fast, arguments[0])
again = vitrim.load(arguments[0])
images = torch.randn(2, 3, 160, 160)
assert evaluate(again, [(images, torch.tensor([0, 1]))]).images == 2
for command in COMMANDS:
    assert main([command, "--help"]) == 0
assert main(["profile", "--model", "test_vit", "--method", "evit"]) == 0
"""
TRAIN = ["finetune", "--model", "test_vit", "--data", ".", "--out", "OUT"]
EXPORT = ["export", "--model", "test_vit", "--out", "a.onnx"]
OPENVINO = ["export", "--model", "test_vit", "--out", "a.xml"]
PREDICT = ["predict", ".", "--model", "test_vit", "--out", "c.parquet"]
EMBED = ["embed", ".", "--model", "test_vit", "--out", "c", "--engine", "ray"]
COMPARE = ["compare", "--model", "test_vit", "--data", ".", "--out", "c.png"]
LOOK = ["visualize", ".", "--model", "test_vit"]
DIAGNOSE = ["diagnose", ".", "--model", "test_vit", "--out", "d.html"]
MESSAGES = {
    ("train", "accelerate", *TRAIN): 'vitrim finetune needs accelerate: pip install "vitrim[train]"',
    ("plot", "matplotlib", *COMPARE): 'vitrim compare --out needs matplotlib: pip install "vitrim[plot]"',
    **{
        ("plot", package, *LOOK): f'vitrim visualize needs {package}: pip install "vitrim[plot]"'
        for package in ("matplotlib", "jinja2")
    },
    ("plot", "jinja2", *DIAGNOSE): 'vitrim diagnose --out needs jinja2: pip install "vitrim[plot]"',
    **{
        ("export", package, *EXPORT): f'export to ONNX needs {package}: pip install "vitrim[export]"'
        for package in ("onnx", "onnxscript", "onnxruntime")
    },
    **{
        ("openvino", package, *OPENVINO): f'export to OpenVINO needs {package}: pip install "vitrim[openvino]"'
        for package in ("openvino", "nncf")
    },
    ("ray", "ray", *EMBED): '--engine ray needs ray: pip install "vitrim[ray]"',
    ("data", "pyarrow", *PREDICT): 'writing Parquet needs pyarrow: pip install "vitrim[data]"',
    ("transformers", "transformers", "profile", "--model", "hf:x", "--keep", "0.5"): (
        'a model of transformers needs transformers: pip install "vitrim[transformers]"'
    ),
    **{
        ("playground", package, "playground"): f'vitrim playground needs {package}: pip install "vitrim[playground]"'
        for package in ("gradio", "fastapi", "uvicorn", "jinja2")
    },
    ("demo", "jinja2", "demo"): 'vitrim demo needs jinja2: pip install "vitrim[demo]"',
    ("demo", "sklearn", "demo"): 'vitrim demo needs scikit-learn: pip install "vitrim[demo]"',
    ("demo", "matplotlib", "demo"): 'vitrim demo needs matplotlib: pip install "vitrim[demo]"',
}


def imports_of(tree):
    """Top names of what a piece of code imports, imports of vitrim's own left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node, node.module.split(".")[0]


def for_type_checkers(tree):
    """Imports that are never run."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {node for block in blocks for node, _ in imports_of(block)}


# -- what is installed


def test_the_extras_are_those_of_pyproject():
    extras, core = PROJECT["optional-dependencies"], bounds(PROJECT["dependencies"])
    for name, packages in EXTRAS.items():
        assert set(bounds(with_extras(extras, extras[name]))) == set(packages.values())
        assert not set(packages.values()) & set(core)
    for name, without in (("all", {"ray"}), ("test", set())):  # Ray is large, and for clusters
        assert set(OPTIONAL.values()) - without <= set(bounds(with_extras(extras, extras[name])))


def bounds(requirements):
    return [re.match(r"[\w-]+", line)[0] for line in requirements]


def with_extras(extras, requirements):
    """Requirements with `vitrim[...]` replaced by what it stands for, as pip and uv do."""
    found = []
    for line in requirements:
        names = re.fullmatch(r"vitrim\[(.*)\]", line)
        parts = (
            [part for name in names[1].split(",") for part in with_extras(extras, extras[name])] if names else [line]
        )
        found += parts
    return found


def test_what_vitrim_imports_is_in_the_core_or_in_an_extra():
    found = {name for path in FILES for _, name in imports_of(ast.parse(path.read_text()))}
    found = {INSTALLED_AS.get(name, name) for name in found - {*sys.stdlib_module_names, "vitrim"} - ASKED_FOR}
    core = set(bounds(PROJECT["dependencies"]))
    assert found - core <= set(OPTIONAL.values())
    assert set(OPTIONAL.values()) - found <= {"onnx", "onnxscript"}  # with which torch exports
    assert core - found <= {"huggingface_hub"}  # with which timm fetches weights


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_an_extra_when_it_is_imported(path):
    tree = ast.parse(path.read_text())
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    late = {node for function in functions for node, _ in imports_of(function)} | for_type_checkers(tree)
    assert [name for node, name in imports_of(tree) if name in OPTIONAL and node not in late] == []


# -- without the extras


def test_the_core_works_without_any_extra(tmp_path):
    command, path = [sys.executable, "-c", CORE, ",".join(OPTIONAL), str(tmp_path / "saved")], {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **path})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", MESSAGES, ids=lambda case: f"{case[2]} without {case[1]}")
def test_a_command_without_its_extra_says_so_in_one_line(case, tmp_path, monkeypatch, capsys):
    extra, module, *arguments = case
    assert module in EXTRAS[extra]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(arguments) == 2
    assert capsys.readouterr() == ("", f"vitrim: error: {MESSAGES[case]}\n")
    assert list(tmp_path.iterdir()) == []


def test_every_package_of_every_extra_is_tried():
    assert {case[:2] for case in MESSAGES} == {(extra, module) for extra in EXTRAS for module in EXTRAS[extra]}


def no_picture():
    from vitrim.cli.shared.picture import svg

    svg("title", [])


def no_training():
    vitrim.training.finetune(None, "evit", "nowhere", None, None)


def no_page():
    vitrim.demo.write_page("page.html", table_rows=[], picture="<svg/>", examples=[])


def no_digits():
    vitrim.demo.DigitCanvases("test", 1, 0)


@pytest.mark.parametrize(
    ("call", "module", "message"),
    [
        (no_training, "accelerate", r'^finetune needs accelerate: pip install "vitrim\[train\]"$'),
        (no_picture, "matplotlib", r'^a picture needs matplotlib: pip install "vitrim\[plot\]"$'),
        (no_page, "jinja2", r'^write_page needs jinja2: pip install "vitrim\[demo\]"$'),
        (no_digits, "sklearn", r'^source_digits needs scikit-learn: pip install "vitrim\[demo\]"$'),
    ],
)
def test_a_function_without_its_extra_says_so(call, module, message, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=message):
        call()


def test_all_that_is_missing_is_named_and_what_is_there_passes(monkeypatch):
    for extra in EXTRAS:
        require(extra, "this test")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r'^x needs jinja2, scikit-learn: pip install "vitrim\[demo\]"$'):
        require("demo", "x")


def test_a_package_that_breaks_is_no_missing_one(tmp_path, monkeypatch):
    (tmp_path / "jinja2.py").write_text("import there_is_no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "jinja2", raising=False)
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        require("demo", "x")


# -- what the docs say


def test_every_install_line_names_an_extra_that_there_is():
    extras, lines = PROJECT["optional-dependencies"], []
    for path in [ROOT / "README.md", ROOT / "Makefile", *sorted((ROOT / "docs").rglob("*.md"))]:
        lines += re.findall(r"(?:vitrim|\.)\[([\w,]+)\]", path.read_text())
    assert lines and {name for line in lines for name in line.split(",")} <= set(extras)
