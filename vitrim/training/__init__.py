"""Fine-tuning: recipes, the loop on Accelerate, checkpoints."""

from .checkpoints import RunStopped
from .finetune import Report, finetune
from .recipes import RECIPES, Augmentation, Recipe, Weights, get_recipe, override, short
from .settings import Settings
from .signals import Interrupted

__all__ = [
    "RECIPES",
    "Augmentation",
    "Interrupted",
    "Recipe",
    "Report",
    "RunStopped",
    "Settings",
    "Weights",
    "finetune",
    "get_recipe",
    "override",
    "short",
]
