"""Completion: the scripts are ones that the shells take, and they complete what the commands take."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from vitrim.cli import COMMANDS, main
from vitrim.cli.shared.signatures import own_signatures

ASK = """
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _vitrim; echo "${{COMPREPLY[@]}}"
"""


def script(capsys, shell: str) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def completed(capsys, words: str) -> list[str]:
    """What bash offers for the last of these words."""
    ask = script(capsys, "bash") + ASK.format(words=words)
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("vitrim ''", list(COMMANDS)),
        ("vitrim co", ["compare", "completion"]),
        ("vitrim compare --method ev", ["evit", "evovit"]),
        ("vitrim methods to", ["tofe", "tome", "topk"]),
        ("vitrim finetune --recipe idle", ["idlevit"]),
        ("vitrim evaluate --precision b", ["bfloat16"]),
        ("vitrim profile --appr", ["--approximator"]),
    ],
)
def test_bash_completes(capsys, words, wanted):
    assert set(completed(capsys, words)) == set(wanted)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_takes_its_script(capsys, shell):
    text = script(capsys, shell)
    assert "--method" in text or "-l method" in text
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    done = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_fish_has_a_line_for_every_option(capsys):
    text = script(capsys, "fish")
    for option in ("recipe", "keep", "approximator", "best-under"):
        assert f"-l {option} " in text
    assert all(name in text for name in own_signatures())


def test_another_shell_is_refused(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "shell 'tcsh' is not known: choose one of bash, zsh, fish" in capsys.readouterr().err
    assert main(["completion"]) == 2
    assert "needs a SHELL: bash, zsh, fish" in capsys.readouterr().err
