"""Fine-tuning: recipes, the loop on Accelerate, checkpoints."""

from .checkpoints import RunStopped
from .finetune import FinetuneResult, finetune
from .recipes import RECIPES, Augmentation, Recipe, Weights, get_recipe, override, short
from .settings import Settings
from .signals import Interrupted

__all__ = [
    "RECIPES",
    "Augmentation",
    "FinetuneResult",
    "Interrupted",
    "Recipe",
    "RunStopped",
    "Settings",
    "Weights",
    "finetune",
    "get_recipe",
    "override",
    "short",
]
