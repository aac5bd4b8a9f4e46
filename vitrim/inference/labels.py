"""What the classes of a model are called: by a file, by the model itself, or as the ImageNet that it has learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..common.class_map import names_in_order, read_class_map
from ..common.kinds_given import check_path, check_several
from ..common.text import counted, shortened
from ..data.classes import WNID, english, imagenet_names

_FORMS = "give names in the model's order, {name: index}, or a file of these"
UNNAMED = "no names are known: labels are class indices"


def label_names(
    model: nn.Module, given: str | Path | Sequence[str] | Mapping[str, int] | None = None
) -> tuple[tuple[str, ...], str]:
    """A name for every class of a model for images, by index, and in words where they come from.

    model: with timm's attributes `num_classes` and `pretrained_cfg`, as `vitrim.for_images` gives it
    given: names in the model's order, {name: index}, or a file (`vitrim.common.class_map` says of which forms)

    ImageNet's wnids become English. A class without a name is called by its index.
    Raises ValueError for a model without classes, and for names that are not those of its classes.
    """
    about: Any = model
    count = about.num_classes
    if given is not None:
        return _given(given, count), "as given"
    if known := _carried((getattr(about, "pretrained_cfg", None) or {}).get("label_names")):
        return _filled(known, count), "the model's own"
    if found := imagenet_names(count):
        return _filled(found, count), f"ImageNet's, as the model tells {count:,} classes apart"
    return _filled({}, count), UNNAMED


def _given(given: str | Path | Sequence[str] | Mapping[str, int], count: int) -> tuple[str, ...]:
    if isinstance(given, (str, Path)):
        check_path("class_names", given, _FORMS)
    else:
        check_several("class_names", given, _FORMS)
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    if listed and len(given) != count:
        raise ValueError(
            f"class_names has {counted(len(given), 'name')}, and the model {counted(count, 'class', 'classes')}: give "
            "one for each, in its order"
        )
    if listed:
        return tuple(map(_english, map(str, given)))
    where: Any = given
    if isinstance(given, (str, Path)) and (names := names_in_order(given)) and len(names) == count:
        return tuple(map(_english, names))  # two classes may have one name: ImageNet has two cranes
    what = f"the class names {shortened(where)}" if isinstance(given, (str, Path)) else "class_names"
    by_name = read_class_map(where, count, what)
    beyond = [name for name, index in by_name.items() if index >= count]
    if beyond:
        raise ValueError(
            f"{what}: {shortened(beyond[0])} is class {by_name[beyond[0]]}, and the model has {count:,} classes, from "
            f"0 to {count - 1:,}"
        )
    return _filled({index: name for name, index in by_name.items()}, count)


def _carried(names: Any) -> dict[int, str]:
    """The names that a model carries, a list or by index."""
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names or ())
    return {int(index): str(name) for index, name in pairs}


def _filled(names: Mapping[int, str], count: int) -> tuple[str, ...]:
    return tuple(_english(names.get(index, str(index))) for index in range(count))


def _english(name: str) -> str:
    return english(name) if WNID.fullmatch(name) else name
