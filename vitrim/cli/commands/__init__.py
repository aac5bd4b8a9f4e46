"""The commands as data: what each is for, and which options it takes.

A file for each, none of which imports PyTorch. What a command does is in the module of its name, one folder above.
"""

from ..shared.spec import Command
from .benchmark import BENCHMARK
from .check import CHECK
from .compare import COMPARE
from .demo import DEMO
from .diagnose import DIAGNOSE
from .evaluate import EVALUATE
from .export import EXPORT
from .finetune import FINETUNE
from .inference import EMBED, PREDICT
from .lists import COMPLETION, METHODS, RECIPES
from .playground import PLAYGROUND
from .profile import PROFILE
from .tune import TUNE
from .visualize import VISUALIZE

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        PROFILE, EVALUATE, COMPARE, PREDICT, EMBED, TUNE, FINETUNE, BENCHMARK, EXPORT, CHECK, VISUALIZE, DIAGNOSE,
        PLAYGROUND, METHODS, RECIPES, COMPLETION, DEMO,
    )
}  # fmt: skip
