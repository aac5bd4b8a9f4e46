"""Whether timm has a model of a name, read off its files: to import it takes seconds."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Container
from importlib.util import find_spec
from pathlib import Path

from ...common.absent import absent, near_path
from ...common.places import EXPORTED, HF_LISTING, TIMM_LISTING
from ...common.text import nearest, shortened

_REGISTERED = re.compile(r"@register_model\s+def (\w+)\(")
_LOCAL = re.compile(r"hf:(~|\.{0,2}[/\\])")  # a folder of transformers', and no repository
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_OWN = Path(__file__).parents[2] / "backbones" / "lvvit"  # LV-ViT, which vitrim registers with timm


def check_model_name(name: str, exported: bool = False) -> None:
    """Raise ValueError for a name that occurs nowhere in timm's files of models, and is for no other place. What passes
    may yet be none. exported: an exported file will do

    Example:
        >>> check_model_name("deit_tiny_patch16_224"), check_model_name("hf:facebook/deit-tiny-patch16-224")
        (None, None)
        >>> check_model_name("deit_tiny_patch16")
        Traceback (most recent call last):
        ValueError: timm has no model 'deit_tiny_patch16': did you mean deit_tiny_patch16_224, ...?
    """
    if not exported:
        refuse_exported(name)
    if ":" in name or name.lower().endswith(EXPORTED) or Path(name).exists():
        return _check_local(name)
    if re.search(r"[/\\]", name):
        raise ValueError(_no_path(name))
    if _occurs(name.partition(".")[0]):
        return
    near, place = nearest(name, _REGISTERED.findall(_text()), n=3), near_path(name)
    near = [*near, f"--checkpoint {shortened(place)}"] if place else near
    hint = f"did you mean {', '.join(near)}?" if near else f"{TIMM_LISTING}; {HF_LISTING}"
    raise ValueError(f"timm has no model {shortened(name)!r}: {hint}")


def refuse_exported(name: str) -> None:
    """Raise ValueError for an exported file, which few commands take by the option of a model."""
    if name.lower().endswith(EXPORTED):
        raise ValueError(
            f"{shortened(name)} is an exported file, which vitrim evaluate --model and vitrim compare --file take: "
            "here give a timm name"
        )


def _check_local(name: str) -> None:
    """Raise ValueError for a folder of transformers' that is not there."""
    place = name.removeprefix("hf:")
    if _LOCAL.match(name) and not Path(place).expanduser().exists():
        raise ValueError(
            absent("folder", place, "give one with config.json and weights, or a repository, hf:USER/NAME")
        )


def _no_path(name: str) -> str:
    """What is said of a path where nothing is."""
    way = "give a name of timm's, hf:NAME, or as --checkpoint weights or a folder that save() wrote"
    if _REPOSITORY.fullmatch(name) and not Path(name).parent.is_dir():
        way = f"did you mean hf:{name}?"
    return absent("file or folder", name, way)


def _occurs(architecture: str) -> bool:
    """Whether timm may have a model of that name: its registry has, or its files hold the word."""
    if architecture in _registered():
        return True
    return re.search(rf"(?<!\w){re.escape(architecture)}(?!\w)", _text()) is not None


def _registered() -> Container[str]:
    """What timm's registry holds, where somebody has imported timm already: models of their own among it."""
    timm = sys.modules.get("timm")
    return timm.list_models() if timm is not None else ()


@functools.cache
def _text() -> str:
    """The files of models, one behind the other."""
    spec = find_spec("timm")
    places = [Path(place) / "models" for place in (spec.submodule_search_locations if spec else None) or ()]
    files = [file for place in (*places, _OWN) for file in sorted(place.rglob("*.py"))]
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
