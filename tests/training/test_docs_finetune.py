"""The commands of the fine-tuning docs are commands; their recipes and tables are those of the code."""

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from vitrim.cli import COMMANDS
from vitrim.cli.finetune import recipe_of
from vitrim.cli.shared.parse import parse
from vitrim.training import RECIPES

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / "finetuning.md", *sorted((ROOT / "docs" / "recipes").glob("*.md"))]
TABLES = tomllib.loads((ROOT / "benchmarks" / "reproduce.toml").read_text())["table"]


def commands(page):
    """The whole `vitrim finetune` commands of a page's blocks; those with `...` are shapes, not commands."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("vitrim finetune") and "..." not in line]


def options(command):
    return shlex.split(command, comments=True)[2:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_the_guide_and_of_the_recipes_parse(page):
    found = commands(page)
    assert found or page.stem == "README"
    for command in found:
        config = parse(COMMANDS["finetune"], options(command))
        assert page.stem in ("finetuning", "README", config.training.recipe)
        assert recipe_of(config).epochs >= 1


def test_every_recipe_has_its_page_and_its_row():
    index = (ROOT / "docs" / "recipes" / "README.md").read_text()
    for name, make in RECIPES.items():
        row = next(line for line in index.splitlines() if line.startswith(f"| [`{name}`]({name}.md) |"))
        *_, epochs, labels, teacher = row.strip("| ").split(" | ")
        recipe = make()
        assert int(epochs) == recipe.epochs
        assert (labels == "yes", teacher == "yes") == (recipe.labels, recipe.teaches)


def test_every_option_of_a_recipe_is_explained():
    index = (ROOT / "docs" / "recipes" / "README.md").read_text()
    names = [name for name in vars(parse(COMMANDS["finetune"], ["--data", "x", "--out", "y"]).change)]
    assert [name for name in names if f"`--{name.replace('_', '-')}`" not in index] == []


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table['page']} {table['title'][:20]}")
def test_the_page_has_every_row(table):
    text = (ROOT / "docs" / "reproduce.md").read_text()
    for row, *_ in table["rows"]:
        assert f"| `{row}` |" in text[text.index(f"### {table['title']}") :]


@pytest.fixture(scope="module")
def gpu_hours():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import gpu_hours

        yield gpu_hours
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_hours_by_hand(gpu_hours):
    dense = gpu_hours.run_of("--model deit_small_patch16_224 --recipe evit_finetune --method evit --keep 1")
    assert dense.training == pytest.approx(4.599e9, rel=1e-3)
    assert dense.hours(1e12) == pytest.approx(30 * 1281167 * 3 * 4.599e9 / 1e12 / 3600, rel=1e-3)
    idle = gpu_hours.run_of("--model deit_small_patch16_224 --recipe idlevit --method idlevit --keep 0.7")
    assert idle.teacher == pytest.approx(4.599e9, rel=1e-3)
    # Nine idling blocks form a map: queries and keys of 197 tokens, and their products.
    assert idle.training - idle.gmacs * 1e9 == pytest.approx(9 * (2 * 197 * 384**2 + 197**2 * 384), rel=1e-6)


def test_hours_follow_the_schedule_and_masked_training_costs_all_tokens(gpu_hours):
    deit = "--model deit_small_patch16_224"
    scratch = gpu_hours.run_of(f"{deit} --recipe evit_scratch --scratch --method evit --keep 0.5")
    assert scratch.gmacs * 1e9 < scratch.training < 0.4 * 4.599e9 + 0.6 * scratch.gmacs * 1e9
    masked = gpu_hours.run_of(f"{deit} --recipe tofe --method tofe --macs 0.5")
    assert masked.gmacs < 2.3
    # Selectors at three stages, approximators after two of them, all 196 patches each.
    own = 3 * 196 * (384 * 192 + 192 * 96 + 96 * 2) + 2 * 196 * 2 * 384 * 192
    assert masked.training == pytest.approx(4.599e9 + own, rel=1e-3)
