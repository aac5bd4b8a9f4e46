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

# The help of `vitrim` shows them so.
GROUPS: dict[str, tuple[Command, ...]] = {
    "see it work": (DEMO, PLAYGROUND, METHODS),
    "choose a method": (PROFILE, COMPARE, EVALUATE, BENCHMARK, TUNE),
    "train it": (FINETUNE, RECIPES),
    "use it": (PREDICT, EMBED, EXPORT),
    "look closer": (VISUALIZE, DIAGNOSE, CHECK),
    "in the shell": (COMPLETION,),
}
COMMANDS: dict[str, Command] = {command.name: command for commands in GROUPS.values() for command in commands}
