"""Reduced models in timm's registry, by importing this module; and timm's own scripts with them, by running it:

    python -m vitrim.timm validate.py --model vitrim_deit_tiny_patch16_224 --model-kwargs method=evit keep=0.7 ...

timm has no hook by which its scripts would import another package, so this runs the script as it is, after the import.

Example:
    >>> import vitrim.timm
    >>> fast = timm.create_model("vitrim_deit_tiny_patch16_224", method="evit", macs=0.7)
    >>> type(fast).__name__, fast.methods[0].name, "vitrim_deit_tiny_patch16_224" in timm.list_models("vitrim_*")
    ('ReducedViT', 'evit', True)
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from .common.absent import absent
from .runtime import by_name

SCRIPTS = "timm's validate.py or train.py"


def main(argv: list[str]) -> None:
    """Run a script with its arguments, as Python itself would."""
    if not argv or argv[0].startswith("-"):
        sys.exit("usage: python -m vitrim.timm SCRIPT.py [ARGUMENTS of the script]")
    script = Path(argv[0])
    if not script.is_file():
        sys.exit(f"vitrim.timm: error: {absent('script', script, f'give the path of {SCRIPTS}')}")
    sys.argv = argv
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")


by_name.register()

if __name__ == "__main__":
    main(sys.argv[1:])
