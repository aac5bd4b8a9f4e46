"""Completion: the scripts are ones that the shells take, and they complete what the commands take."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest

from vitrim.cli import COMMANDS, main
from vitrim.cli.shared.signatures import AUTO, own_signatures

METHODS = [*own_signatures(), AUTO.name]
ASK = """
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _vitrim; echo "${{COMPREPLY[@]}}"
"""
# Says which words a command line has, so that a test sees what Tab has made of it.
SHOW = "vitrim() { printf '<%s>' \"$@\"; echo; }; PS1=; bind 'set enable-bracketed-paste off'\n"


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
        ("vitrim ''", [*COMMANDS, "help"]),
        ("vitrim --", ["--help", "--version"]),
        ("vitrim he", ["help"]),
        ("vitrim help ''", list(COMMANDS)),
        ("vitrim help co", ["compare", "completion"]),
        ("vitrim help compare ''", []),
        ("vitrim co", ["compare", "completion"]),
        ("vitrim methods to", ["tofe", "tome", "topk"]),
        ("vitrim methods evit --w", ["--wide"]),
        ("vitrim completion bash ''", ["--help", "--help-all", "--config"]),
    ],
)
def test_bash_completes_commands(capsys, words, wanted):
    assert set(completed(capsys, words)) == set(wanted)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("vitrim profile --appr", ["--approximator"]),
        ("vitrim compare --hel", ["--help", "--help-all"]),
        ("vitrim compare --method evit --conf", ["--config"]),
        ("vitrim compare --no-f", ["--no-fuse"]),
        ("vitrim demo --no-", []),
        ("vitrim compare --device cpu --ro", ["--root", "--rounds"]),
        ("vitrim compare --wide --rou", ["--rounds"]),
    ],
)
def test_bash_completes_options(capsys, words, wanted):
    assert set(completed(capsys, words)) == set(wanted)


@pytest.mark.parametrize("words", ["--wide ''", "--device cpu ''", "--keep 0.7 0.5 ''", "--data . ''"])
def test_options_are_offered_where_no_value_is_due(capsys, words):
    assert {"--model", "--no-fuse", "--help"} <= set(completed(capsys, f"vitrim compare {words}"))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("compare --method ev", ["evit", "evovit"]),
        ("compare --method ''", METHODS),
        ("compare --method evit ''", METHODS),
        ("compare --method evit tome ran", ["random"]),
        ("compare --method = ev", ["evit", "evovit"]),
        ("compare --method =", METHODS),
        ("finetune --recipe idle", ["idlevit"]),
        ("evaluate --precision b", ["bfloat16"]),
        ("evaluate --device ''", ["cpu", "cuda", "mps"]),
        ("finetune --device ''", ["cpu", "cuda"]),
        ("profile --score to", ["tokens"]),
        ("profile --merge cluster+", ["cluster+match"]),
        ("finetune --trackers wandb tens", ["tensorboard"]),
        *((f"compare --{name} ''", []) for name in ("keep", "model", "rounds", "best-under", "split")),
    ],
)
def test_bash_completes_values_and_nothing_else(capsys, in_own_folder, words, wanted):
    Path("evaluation").touch()
    assert set(completed(capsys, f"vitrim {words}")) == set(wanted)


@pytest.mark.parametrize(
    "words",
    [
        *(
            f"compare --{name}"
            for name in ("data", "checkpoint", "out", "json", "config", "label-file", "bank", "root")
        ),
        *("visualize", "visualize a.jpg", "visualize --images", "visualize --device cpu", "visualize --overwrite"),
        *("diagnose", "diagnose --out", "diagnose --class-map"),
        *("finetune --val", "evaluate --baseline", "demo --class-map", "compare --method", "methods --method"),
    ],
)
def test_bash_offers_files_where_a_path_is_due(capsys, in_own_folder, words):
    Path("photographs").mkdir()
    assert completed(capsys, f"vitrim {words} pho") == ["photographs"]


def pressed(capsys, folder: Path, *lines: str) -> list[str]:
    """The words of these lines as they are after bash, in a terminal of its own, has taken every Tab in them."""
    (folder / "rc").write_text(SHOW + script(capsys, "bash"))
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "INPUTRC": "/dev/null", "HOME": str(folder)}
    shell = ["bash", "--rcfile", str(folder / "rc"), "-i"]
    with subprocess.Popen(
        shell, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, cwd=folder, env=environment
    ) as run:
        os.write(ours, "".join(f"{line}\n" for line in (*lines, "exit")).encode())
        said = run.communicate(timeout=30)[0].decode()
    os.close(ours), os.close(theirs)
    return [line for line in said.splitlines() if line.startswith("<")]


def test_tab_in_a_terminal(capsys, tmp_path):
    (tmp_path / "my photographs").mkdir()
    (tmp_path / "compare").mkdir()  # a folder named as a command changes nothing
    typed = [
        "vitrim he\tcomp\t",
        "vitrim compa\t--method evit top\t--data my\t",
        "vitrim profile --method=top\t--dev\t",
        "vitrim finetune --dev\tcu\t",
    ]
    assert pressed(capsys, tmp_path, *typed) == [
        "<help><comp>",
        "<compare><--method><evit><topk><--data><my photographs/>",
        "<profile><--method=topk><--dev>",
        "<finetune><--device><cuda>",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_takes_its_script(capsys, shell):
    text = script(capsys, shell)
    assert "--method" in text or "-l method" in text
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    done = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("vitrim he", {"help"}),
        ("vitrim help ", set(COMMANDS)),
        ("vitrim methods to", {"tofe", "tome", "topk"}),
        ("vitrim compare --method evit to", {"tofe", "tome", "topk"}),
        ("vitrim compare --no-f", {"--no-fuse"}),
        ("vitrim compare --device ", {"cpu", "cuda", "mps"}),
        ("vitrim compare --rounds ", set()),
        ("vitrim compare --data pho", {"photographs/"}),
        ("vitrim visualize pho", {"photographs/"}),
        ("vitrim diagnose pho", {"photographs/"}),
    ],
)
def test_fish_completes(capsys, in_own_folder, line, wanted):
    if shutil.which("fish") is None:
        pytest.skip("no fish here")
    Path("photographs").mkdir()
    ask = script(capsys, "fish") + f"complete -C '{line}'\n"
    done = subprocess.run(["fish", "--no-config"], input=ask, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and {offer.partition("\t")[0] for offer in done.stdout.splitlines()} == wanted


def test_fish_has_a_line_for_every_option(capsys):
    text = script(capsys, "fish")
    for option in ("recipe", "keep", "approximator", "best-under"):
        assert f"-l {option} " in text
    assert all(name in text for name in METHODS)


def test_another_shell_is_refused(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "shell 'tcsh' is not known: choose one of bash, zsh, fish" in capsys.readouterr().err
    assert main(["completion"]) == 2
    assert "needs a SHELL: bash, zsh, fish" in capsys.readouterr().err
