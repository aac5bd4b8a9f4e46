"""Fine-tuning: recipes, the loop on Accelerate, checkpoints.

Example: two steps on a folder of eight photographs, `photos/cat` and `photos/dog`.
    >>> recipe = override(short(get_recipe("evit_finetune"), epochs=1), batch_size=4, mixup=0.0)
    >>> result = finetune(model, "evit", "photos", recipe, Settings(Path("out"), cpu=True, show=False), keep=0.5)
    >>> result.steps, len(result.photographs), result.unreadable
    (2, 8, {})
    >>> list(vitrim.load("out").methods)
    [EViT(keep=0.5)]

`finetune` gives back a `FinetuneResult`. A recipe is data: its losses are `Weights`, what is done to the photographs is
`Augmentation`.
    >>> recipe.weights.classification, recipe.augmentation.scale
    (1.0, (0.5, 1.0))
"""

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
