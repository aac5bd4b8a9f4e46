"""--config: a file of options, or the JSON of an earlier run, says what the command line would have."""

from __future__ import annotations

import json

import pytest
from colours import refused

from vitrim import cli

pytestmark = pytest.mark.usefixtures("in_own_folder")
MODEL = ("--model", "vit_tiny_patch16_224")


def profiled(capsys, *arguments) -> str:
    cli.main(["profile", *arguments])
    return capsys.readouterr().out


OWN = """
import vitrim
from vitrim.methods import Keep

@vitrim.register_method
class Evens(vitrim.Method):
    name, title = "config-evens", "keep every other token"

    def __init__(self, blocks: int = 4):
        super().__init__(0.5)
        self.blocks = blocks
"""

TYPED = {
    "a dial": ("--method", "tome", "--r", "8"),
    "flags": ("--method", "tome", "--no-proportional"),
    "several values": ("--method", "topk", "--keep", "0.8", "0.7", "0.6"),
}


@pytest.mark.parametrize("typed", TYPED.values(), ids=TYPED)
def test_the_json_of_a_run_repeats_it_and_is_left_as_it_is(capsys, tmp_path, typed):
    first = profiled(capsys, *MODEL, *typed, "--json", "run.json")
    before = (tmp_path / "run.json").read_bytes()
    assert json.loads(before)["given"]["method"] == [typed[1]]
    again = profiled(capsys, "--config", "run.json")
    assert typed[1] in again and again.splitlines()[:3] == first.splitlines()[:3]
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize("method", ['"tome"', '["tome"]'])
def test_a_method_is_taken_from_a_file_of_options(capsys, tmp_path, method):
    (tmp_path / "run.toml").write_text(
        f'model = "vit_tiny_patch16_224"\nmethod = {method}\nr = 8\nproportional = false\n'
    )
    out = profiled(capsys, "--config", "run.toml")
    assert "tome" in out.splitlines()[0] and "evit" not in out
    assert out == profiled(capsys, *MODEL, "--method", "tome", "--r", "8", "--no-proportional")


def test_what_is_typed_comes_before_what_the_file_says(capsys, tmp_path):
    (tmp_path / "run.toml").write_text('model = "vit_tiny_patch16_224"\nmethod = "evit"\nkeep = 0.5\nfuse = false\n')
    out = profiled(capsys, "--config", "run.toml", "--keep", "0.9", "--fuse")
    assert out == profiled(capsys, *MODEL, "--method", "evit", "--keep", "0.9")


def test_a_method_of_ones_own_is_imported_from_a_file_of_options(capsys, tmp_path):
    (tmp_path / "evens.py").write_text(OWN)
    (tmp_path / "run.toml").write_text('model = "vit_tiny_patch16_224"\nmethod = "evens.py:Evens"\nblocks = 3\n')
    from vitrim.cli.shared.parse import parse

    config = parse(cli.COMMANDS["profile"], ["--config", "run.toml"])
    assert config.method.method == ("config-evens",) and config.imports == ("evens.py:Evens",)
    assert config.method.options == {"blocks": 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('config = "other.toml"', "names another file of options"),
        ('[model]\nname = "x"', "model is a table"),
        ("method = 3", "method '3' is not known"),
        ('method = "tome"\nscore = "cls"', "--score is no option of tome"),
    ],
)
def test_what_a_file_of_options_may_not_say_is_one_line(capsys, tmp_path, text, words):
    (tmp_path / "run.toml").write_text(text + "\n")
    assert words in refused(capsys, "profile", *MODEL, "--config", "run.toml")


def test_an_option_of_several_values_is_given_once(capsys):
    twice = refused(capsys, "profile", *MODEL, "--keep", "0.7", "--keep", "0.5")
    assert "--keep is given twice: give it once, with all of its values" in twice


def test_a_file_without_a_class_is_no_method(capsys):
    refusal = refused(capsys, "profile", *MODEL, "--method", "mine.py")
    assert "there is no file mine.py: give my_file.py:Class" in refusal
