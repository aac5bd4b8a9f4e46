"""The commands as data: what each does, examples, and which options it takes. Each is a module here of its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.files import check_output
from .shared.diagnose_options import DIAGNOSE
from .shared.inference_options import EMBED, PREDICT
from .shared.look_options import FIGURES, PAGES, LookOptions, check_look
from .shared.options import PRECISIONS, DataOptions, MethodChoice, ModelOptions, OutputOptions, RunOptions
from .shared.playground_options import PLAYGROUND
from .shared.signatures import own_signatures
from .shared.spec import PLACES, ROWS, Command, option, required
from .shared.speed_options import SpeedDataOptions, SpeedModelOptions, SpeedShowOptions, check_speed
from .shared.training_options import RECIPES, ChangeOptions, MachineOptions, TrainingOptions
from .shared.tune_options import TUNE

RUNTIMES = ("eager", "packed", "compiled", "onnx", "openvino", "aotinductor", "onnx-int8", "openvino-int8")
FORMATS = ("onnx", "openvino", "torch", "aotinductor")


@dataclass(kw_only=True)
class ProfileOptions:
    """Run"""

    seed: int = option("seed of methods that draw at random", 0)


@dataclass(kw_only=True)
class EvaluateOptions:
    """Comparison"""

    baseline: str | None = option(
        "another dense model to show; beside an exported file the only one: a file, a saved folder, or a timm name"
    )
    card: bool = option("write the figures into the model card, README.md, of the folder of --checkpoint", False)


def check_card(config: Any) -> None:
    """Raise ValueError for a card without the folder that it belongs to."""
    folder = config.model.checkpoint
    if config.more.card and not (folder is not None and folder.expanduser().is_dir()):
        raise ValueError("--card writes into a saved folder: give it as --checkpoint FOLDER")
    if config.more.card:
        check_output(folder / "README.md")


@dataclass(kw_only=True)
class CompareOptions:
    """Comparison"""

    file: tuple[Path, ...] = option(
        "exported files, a row for each; then no method but those that --method names", (), common=True
    )
    out: Path | None = option("draw accuracy against cost into this file (.png, .svg)", common=True)
    overwrite: bool = option("replace the file of --out, where it is there", False)
    best_under: tuple[float, ...] | None = option(
        "say which row is best at this share of the dense cost; without X, at each share of --macs",
        common=True,
        bare=True,
    )
    target_change: float | None = option(
        "say which row is cheapest among those at most X points below dense", common=True
    )


@dataclass(kw_only=True)
class BenchmarkOptions:
    """Run"""

    batch_size: tuple[int, ...] = option("images at a time", (1, 16), common=True)
    runtime: tuple[str, ...] = option("what runs the models", ("eager",), choices=RUNTIMES, common=True)
    precision: tuple[str, ...] = option("numbers to compute in", ("float32",), choices=PRECISIONS[:2], common=True)
    device: str | None = option("cpu, cuda, cuda:1 or mps", shown="the fastest that is there", common=True)
    threads: int | None = option("CPU threads", shown="torch's choice", common=True)
    rounds: int = option("timing rounds; the median counts", 15, common=True)
    seed: int = option("seed of random weights and images", 0)
    out: Path | None = option("draw time against MACs into this file (.png, .svg, .pdf)", common=True)
    vs: Path | None = option("the JSON of another run, to compare with", common=True, metavar="FILE")
    csv: Path | None = option("write the rows to this file as CSV", metavar="FILE")
    overwrite: bool = option("replace the files of --out and --csv, where they are there", False)


@dataclass(kw_only=True)
class ExportOptions:
    """File"""

    out: Path = required("the file to write: .onnx for ONNX Runtime, .xml for OpenVINO, .pt2 for PyTorch")
    format: str | None = option(
        "aotinductor: a .pt2 of machine code", shown="by the ending", choices=FORMATS, common=True
    )
    int8: str | None = option(
        "compute in int8: static (.onnx, .xml), ranges measured on --calibration; dynamic (.onnx), when it runs",
        choices=("static", "dynamic"),
        common=True,
    )
    calibration: str | None = option(
        "images for --int8 static; those of --data are left out of them", common=True, metavar="PATH"
    )
    overwrite: bool = option("replace the file, where it is there", False, common=True)
    batch_size: int | None = option("the only size of batches that the file takes", shown="any size", common=True)
    with_preprocessing: bool = option(
        "let the file take uint8 images [batch, height, width, 3] and normalise them itself", False, common=True
    )
    data: str | None = option(
        "images to check the file on, as for evaluate", shown="random ones", common=True, metavar="PATH"
    )
    limit: int | None = option("number of these images, drawn at random", shown="32; 256 with --int8", common=True)
    seed: int = option("seed of methods and images that are drawn at random", 0)


@dataclass(kw_only=True)
class CheckMethodOptions:
    """Method"""

    method: tuple[str, ...] = option(
        "methods to check: names, or my_file.py:Class", (), shown="all that run on it; the saved folder's",
        common=True, metavar="NAME",
    )  # fmt: skip
    macs: float = option("budget of each: a share of the dense cost; one that cannot meet it has its defaults", 0.7)

    def __post_init__(self):
        self.options: dict[str, Any] = {}  # those of the methods, by name


@dataclass(kw_only=True)
class CheckOptions:
    """Check"""

    data: str | None = option(
        "images to check on, as for evaluate", shown="two random ones", common=True, metavar="PATH"
    )
    limit: int | None = option("number of these images, drawn at random", shown="8")
    export: str = option(
        "whose ONNX file is written and compared: the first method's, all methods', or none",
        "first",
        choices=("first", "all", "none"),
        common=True,
    )
    device: str = option("cpu, cuda, cuda:1 or mps", "cpu")


@dataclass(kw_only=True)
class DemoOptions:
    """Demo"""

    out: Path | None = option("the page to write", shown="demo.html, or the next free demo-2.html ...", common=True)
    overwrite: bool = option("replace the page, where it is there", False, common=True)
    images: int = option("number of painted digits, without --data", 500, common=True)


@dataclass(kw_only=True)
class DemoDataOptions(DataOptions):
    """Images"""

    data: str | None = option(  # ty: ignore[incompatible-attribute-override]  # here the digits stand in for it
        "images of your own, for --model: a folder with one folder per class",
        common=True,
        metavar="PATH",
    )
    limit: int | None = option("use N of them, drawn at random, evenly over the classes", 500, common=True)


@dataclass(kw_only=True)
class DemoRunOptions(RunOptions):
    """Run"""

    rounds: int = option("timing rounds; the median counts", 3)  # of so many models
    threads: int | None = option("CPU threads", shown="1 for the digits, else torch's choice")


@dataclass(kw_only=True)
class ListOptions:
    """What to show"""

    method: tuple[str, ...] = option("methods of your own to show too: my_file.py:Class", ())


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "profile",
            "show what a model costs with a method, block by block",
            "Counts the multiply-accumulates (MACs) of one image, which papers call FLOPs. It needs no weights and no "
            "images; a checkpoint is only checked to fit.",
            (
                "vitrim profile --model deit_small_patch16_224 --method evit --keep 0.7",
                "vitrim profile --model deit_small_patch16_224 --method tome --macs 0.6",
            ),
            {"model": ModelOptions, "method": MethodChoice, "run": ProfileOptions, "output": OutputOptions},
            PLACES,
        ),
        Command(
            "evaluate",
            "judge one method beside the dense model: accuracy, agreement, cost, speed",
            "Both models see the same images in one pass, and are then timed alternately on one batch. Images without "
            "labels are judged by agreement, cosine and speed.",
            (
                "vitrim evaluate --model deit_small_patch16_224 --data val --keep 0.7",
                "vitrim evaluate --checkpoint runs/evit --data val",
                "vitrim evaluate --model fast.onnx --data val",
            ),
            {
                "model": ModelOptions,
                "method": MethodChoice,
                "data": DataOptions,
                "run": RunOptions,
                "more": EvaluateOptions,
                "output": OutputOptions,
            },
            PLACES,
            check=check_card,
        ),
        Command(
            "compare",
            "compare methods at several keep rates or budgets: one table, one plot",
            "All models see the same images in one pass, and are then timed alternately on one batch. An option goes "
            "to every method that takes it.",
            (
                "vitrim compare --model deit_small_patch16_224 --data val --method evit topk",
                "vitrim compare --checkpoint runs/evit --data val --macs 0.7 0.5 --out a.png",
            ),
            {
                "model": ModelOptions,
                "method": MethodChoice,
                "data": DataOptions,
                "run": RunOptions,
                "more": CompareOptions,
                "output": OutputOptions,
            },
            ROWS,
            endings=(".png", ".svg"),
        ),
        PREDICT,
        EMBED,
        TUNE,
        Command(
            "finetune",
            "fine-tune a reduced model, with or without labels",
            "The dense model teaches a copy of itself that has the method. A run can be interrupted at any moment; "
            "--resume goes on from its last checkpoint. The result is a folder for --checkpoint and vitrim.load.",
            (
                "vitrim finetune --model deit_small_patch16_224 --data train --out runs/evit",
                "vitrim finetune --checkpoint runs/evit --data train --epochs 2 --out runs/2",
            ),
            {
                "model": ModelOptions,
                "method": MethodChoice,
                "training": TrainingOptions,
                "machine": MachineOptions,
                "change": ChangeOptions,
                "output": OutputOptions,
            },
            PLACES,
        ),
        Command(
            "benchmark",
            "time dense and reduced models in turn, and say how much of the promise they keep",
            "Needs neither images nor weights: speed does not depend on them. kept: the speed-up, "
            "divided by what the MACs promise. roofline: the time that the MACs would take at the rate at which this "
            "machine multiplies matrices, divided by the time taken.",
            (
                "vitrim benchmark --model deit_small_patch16_224 --macs 0.7 0.5",
                "vitrim benchmark --model deit_tiny_patch16_224 --detail --instead",
            ),
            {
                "model": SpeedModelOptions,
                "method": MethodChoice,
                "run": BenchmarkOptions,
                "show": SpeedShowOptions,
                "data": SpeedDataOptions,
                "output": OutputOptions,
            },
            ROWS,
            endings=(".png", ".svg", ".pdf"),
            check=check_speed,
        ),
        Command(
            "export",
            "write a reduced model as a file for ONNX Runtime, OpenVINO or PyTorch",
            "The file is run, and compared with the model, before it is there. It gives the prediction alone, so the "
            "last block computes no more, where the model allows that (--prediction-only).",
            (
                "vitrim export --model deit_small_patch16_224 --macs 0.6 --out fast.onnx",
                "vitrim export --checkpoint runs/evit --data val --int8 dynamic --out a.onnx",
            ),
            {"model": ModelOptions, "method": MethodChoice, "file": ExportOptions, "output": OutputOptions},
            PLACES,
            endings=(".onnx", ".xml", ".pt2"),
        ),
        Command(
            "check",
            "check a model with its weights against its reduced self: exit code 1 if anything deviates",
            "identity: with nothing reduced every output is the model's, bit for bit. Then with each method at --macs: "
            "outputs are finite and whole; macs are those that torch counts; an image alone is the same in a batch; "
            "weights are shared and untouched; what is saved comes back; an ONNX file agrees.",
            (
                "vitrim check deit_tiny_patch16_224 --checkpoint weights.safetensors",
                "vitrim check hf:google/vit-base-patch16-224 --method tome evit",
                "vitrim check runs/evit --data val",
            ),
            {"model": ModelOptions, "method": CheckMethodOptions, "check": CheckOptions, "output": OutputOptions},
            "several values: one check for each",
            word="MODEL",
        ),
        Command(
            "visualize",
            "draw what becomes of the patches of photographs, with one method or several side by side",
            "For each photograph: the patches at work in each block, how many blocks each took part in, and what the "
            "dense and the reduced model say. A page (.html) steps through the blocks, by the arrow keys too.",
            (
                "vitrim visualize cat.jpg --model deit_small_patch16_224 --method evit tome",
                "vitrim visualize photos --checkpoint runs/tofe --out page.html",
            ),
            {"look": LookOptions, "model": ModelOptions, "method": MethodChoice, "output": OutputOptions},
            ROWS,
            endings=(*FIGURES, *PAGES),
            takes="images",
            check=check_look,
        ),
        DIAGNOSE,
        PLAYGROUND,
        Command(
            "methods",
            "list the methods and what each runs on; with a NAME, all about one",
            "",
            ("vitrim methods", "vitrim methods evit"),
            {"more": ListOptions, "output": OutputOptions},
            word="NAME",
            words=own_signatures,
        ),
        Command(
            "recipes",
            "list the training recipes; with a NAME, its numbers",
            "",
            ("vitrim recipes", "vitrim recipes distill"),
            {"output": OutputOptions},
            word="NAME",
            words=lambda: RECIPES,
        ),
        Command(
            "completion",
            "print a script that completes vitrim's commands and options in bash, zsh or fish",
            'For bash and zsh, in ~/.bashrc or ~/.zshrc: eval "$(vitrim completion bash)". For fish, in config.fish: '
            "vitrim completion fish | source.",
            ('eval "$(vitrim completion bash)"', "vitrim completion fish | source"),
            word="SHELL",
            words=lambda: ("bash", "zsh", "fish"),
            needs_word=True,
        ),
        Command(
            "demo",
            "compare the papers' methods on handwritten digits, or on images of your own: a table and a page",
            "Without options a small model that comes with the package reads digits among distracting fragments; no "
            "network is needed. --model and --data make the same page for a model and images of your own, with the "
            "methods that need no training.",
            (
                "vitrim demo",
                "vitrim demo --model deit_small_patch16_224 --data val --out page.html",
            ),
            {
                "model": ModelOptions,
                "data": DemoDataOptions,
                "more": DemoOptions,
                "run": DemoRunOptions,
                "output": OutputOptions,
            },
            endings=(".html", ".htm"),
        ),
    )
}
