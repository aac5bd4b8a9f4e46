"""Fine-tuning: recipes, the loop on Accelerate, checkpoints."""

from .checkpoints import RunStopped
from .finetune import Report, finetune
from .recipes import RECIPES, Augmentation, Recipe, Weights, get_recipe, override, short
from .settings import Settings

__all__ = [
    "RECIPES",
    "Augmentation",
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
