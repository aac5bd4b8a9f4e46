"""Every block of code of README and docs runs, every command line parses, every link leads somewhere."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shlex
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
from docs_pages import LINK, PAGES, ROOT, anchors, blocks, command_lines, name_of, prose
from PIL import Image

import vitrim
from vitrim.cli import COMMANDS
from vitrim.cli.shared.parse import parse
from vitrim.methods import METHODS
from vitrim.runtime.plan_file import write_plans

SITE = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]
LANGUAGES = {"", "python", "diff", "text"}  # the diff is tried by tests/test_contributing.py
SMALLER = {
    "tune": (64, 4),
    "finetuning": (96, 12),
    "performance": (64, 4),
    "deploy": (64, 4),
}  # (side of the images, blocks) of pages that train or export
# What stands for `...`, and options that a shape of a command leaves out.
REQUIRED = {
    "finetune": {"--data": "x", "--out": "y"},
    "evaluate": {"--model": "test_vit", "--data": "x"},
    "compare": {"--model": "test_vit", "--data": "x"},
    "predict": {"--model": "test_vit", "--data": "x", "--out": "a.csv"},
    "embed": {"--model": "test_vit", "--data": "x", "--out": "y"},
    "profile": {"--model": "test_vit"},
    "benchmark": {"--model": "test_vit"},
    "visualize": {"--images": "x"},
    "diagnose": {"--data": "x"},
    "export": {"--model": "test_vit", "--out": "a.onnx"},
}
VITRIM = re.compile(r"(?:\S+=\S+ )*(?:(?:torchrun|accelerate launch)\b.* -m |(?:\S*python -m )?)vitrim (?P<rest>.+)")
OTHER = re.compile(
    r"pip install .+|git clone .+|python3 -m venv \.venv && source \.venv/bin/activate"
    r"|(\S*python -m )?pytest .+|hf (upload \S+ \S+|auth login)"
    r"|(torchrun \S+ -m|python -m) vitrim\.timm \w+\.py .+"  # timm's own scripts
)


def parses(command: str, arguments: list[str]) -> None:
    """Raise ValueError for a command line that `vitrim` would refuse; nothing runs. The one place that knows how."""
    parse(COMMANDS[command], arguments)


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch, tmp_path):
    """An empty folder to run in; methods, families and modules of the page are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vitrim.backbones, "FAMILIES", vitrim.backbones.FAMILIES)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    known, modules = dict(METHODS), set(sys.modules)
    yield
    METHODS.clear()
    METHODS.update(known)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def user(monkeypatch, page):
    """What the reader has: pretrained weights (here random ones), a model, images, a folder of photographs."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **given: create(name, **given))
    load = torch.load

    def by_name(file, **options):
        """Weights of a model's name; what is no path is a part of an exported program."""
        return create(Path(file).stem).state_dict() if isinstance(file, (str, Path)) else load(file, **options)

    monkeypatch.setattr(torch, "load", by_name)
    # The compiler itself takes a minute; tests/laws/test_law_6_compile.py has it.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch.manual_seed(0)
    side, depth = SMALLER.get(page.stem, (224, 12))
    model = create("deit_tiny_patch16_224", embed_dim=48, num_heads=3, img_size=side, depth=depth).eval()
    images = torch.randn(2, 3, side, side)
    return {"__name__": "page", "timm": timm, "torch": torch, "vitrim": vitrim, "model": model, "images": images}


def photographs(folder: Path, classes: int, each: int) -> None:
    for number in range(classes * each):
        path = folder / f"class{number % classes}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number * 7 % 256, number * 31 % 256, 90)).save(path)


def saved_models(page: Path, user: dict) -> None:
    """Folders that the page loads and that the reader has trained."""
    text = page.read_text()
    for folder in set(re.findall(r'vitrim\.load\("([^"]+)"', text)):
        if f'.save("{folder}")' not in text:
            vitrim.save(vitrim.reduce(user["model"], "evit"), folder)
    if 'reduce(model, "plan.json")' in text:
        body = vitrim.reduce(user["model"], "tome").body
        depth, (height, width) = body.depth, body.grid()
        plan = vitrim.Plan((("tome", {"r": [2] * depth}),), 0.9, 0.9, "any", depth, height * width)
        write_plans("plan.json", [plan], {})


def python_blocks(page: Path) -> list:
    return [block for block in blocks(page) if block.language == "python"]


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=name_of)
def test_python_runs_and_prints_what_the_page_shows(page, user):
    photographs(Path("photographs"), 2, 16)
    photographs(Path("train"), 2, 1)
    saved_models(page, user)
    for block in python_blocks(page):
        if block.mark == "from":
            source = {line.strip() for line in (ROOT / block.why).read_text().splitlines()}
            assert {line.strip() for line in block.code.splitlines() if line} <= source
        elif not block.mark:
            printed = run(block.code, user, f"{name_of(page)}:{block.line}")
            assert not block.printed or printed == block.printed


def run(code: str, names: dict, where: str) -> str:
    """What a block prints. A block that begins with `# name.py` is written into that file instead."""
    file = re.match(r"# (\w+\.py)\n", code)
    if file:
        Path(file[1]).write_text(code)
        return ""
    printed = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
        warnings.simplefilter("ignore", vitrim.UntrainedWarning)
        exec(compile("\n" * (int(where.rpartition(":")[2])) + code, where, "exec"), names)
    return printed.getvalue()


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)], ids=name_of)
def test_command_lines_are_those_of_the_commands(page):
    for block in python_blocks(page):
        if re.match(r"# \w+\.py\n", block.code):
            run(block.code, {}, ":0")
    refused = [f"{line}: {why}" for line in command_lines(page) if (why := why_not(line))]
    assert not refused, "\n".join(refused)


def why_not(line: str) -> str:
    """Why a line of a block is no command line; "" if it is one."""
    make, script = re.fullmatch(r"make ([\w-]+).*", line), re.match(r"(?:\S*)python (\S+\.py)\b", line)
    if found := VITRIM.fullmatch(line):
        return refusal(*shlex.split(found["rest"]))
    if make:
        return "" if f"\n{make[1]}:" in (ROOT / "Makefile").read_text() else f"no {make[1]} in the Makefile"
    if script:
        return "" if (ROOT / script[1]).exists() else f"no {script[1]}"
    return "" if OTHER.fullmatch(line) else "what is this line? tests/test_docs.py does not know its kind"


def refusal(command: str, *arguments: str) -> str:
    if command == "help" and set(arguments) <= set(COMMANDS):
        return ""
    if command not in COMMANDS:
        return f"no command {command}"
    given = [argument for argument in arguments if argument not in ("...", "ROW")]
    if len(given) < len(arguments):
        given += [
            part for option, value in REQUIRED[command].items() if option not in given for part in (option, value)
        ]
    try:
        parses(command, given)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_have_a_language_that_is_tried_and_reasons_where_they_are_not(page):
    for block in blocks(page):
        assert block.language in LANGUAGES
        assert block.mark != "not run" or len(block.why) > 10


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    for link in LINK.finditer(prose(page)):
        if "://" in link["path"]:
            continue
        target = (page.parent / link["path"]).resolve() if link["path"] else page
        assert target.exists(), link[0]
        if link["anchor"] and target.suffix == ".md":
            assert link["anchor"] in anchors(target), link[0]


@pytest.mark.parametrize("page", SITE, ids=name_of)
def test_a_page_says_first_what_the_reader_can_do_after_it(page):
    title, opening, *_ = page.read_text().split("\n\n")
    assert title.startswith("# ") and opening.startswith("After this page you "), opening


def test_the_figures_about_speed_are_those_of_the_results():
    """docs/performance.md quotes tables that benchmarks/tables.py fills."""
    docs = ROOT / "docs"
    sources = "".join((docs / "results" / name).read_text() for name in ("speed.md", "finetuning.md"))
    quoted = set(re.findall(r"(?<![\d.])\d\.\d\d(?![\d.])", prose(docs / "performance.md")))
    assert len(quoted) > 10 and quoted <= set(re.findall(r"\d+\.\d+", sources))
