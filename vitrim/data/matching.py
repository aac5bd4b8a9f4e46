"""Which class of the model each class of a data set is: by the first rule that knows them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..common.errors import Part
from ..common.progress import remark
from ..common.text import counted, few
from .classes import MAP_HINT, Classes, LabelNames, OtherClasses, OtherCount, indices_of, pairs_of
from .folders import in_order
from .imagenet_names import WNID, ImageNetNames, imagenet_named, imagenet_of


def match_classes(
    names: Sequence[str],
    num_classes: int,
    label_names: LabelNames,
    where: str,
    class_map: Mapping[str, int] | None = None,
    empty: Sequence[str] = (),
) -> Classes:
    """Map the data's class names to the model's class indices.

    By `class_map` where one is given. Else by the model's own `label_names` where they hold every name; by wnid where
    the names are ImageNet wnids and the model has the classes of an ImageNet (1,000, 11,821, 21,841, 21,843 ...; the
    lists are timm's); by ImageNet's English names where each is one class of it, and the model has no other names of
    its own; by timm's natural order where the counts agree, the model has no names of its own, and most of the names
    are not ImageNet's. A model without a classifier (`num_classes == 0`) keeps the data's own numbering.
    empty: folders without a photograph, named where the counts differ

    Raises ValueError where none of these holds.
    """
    if class_map is not None:
        return _by_map(names, num_classes, label_names, class_map, where)
    if num_classes == 0:
        return Classes(tuple(names), tuple(range(len(names))), "the data's own classes: the model has no classifier")
    known = indices_of(label_names, num_classes)
    if known and known.keys() >= set(names):
        return Classes(tuple(names), tuple(known[name] for name in names), "by the model's own label names")
    imagenet = imagenet_of(num_classes)
    if imagenet and all(WNID.fullmatch(name) for name in names):
        return _match_wnids(names, imagenet, where)
    imagenet = _imagenet(num_classes, label_names)
    if imagenet and (indices := imagenet.match(names)):
        rule = f"by ImageNet's English names, to {imagenet.subset}"
        return Classes(tuple(names), tuple(indices), rule, by_english=_not_wnids(names))
    return _by_order(names, num_classes, known, imagenet, empty, where)


def _by_order(
    names: Sequence[str],
    num_classes: int,
    known: Mapping[str, int],
    imagenet: ImageNetNames | None,
    empty: Sequence[str],
    where: str,
) -> Classes:
    """Classes of which nothing but their number is known. Raises ValueError where more is, and they do not fit it."""
    meant = imagenet is not None and imagenet.knows_most(names)
    if imagenet and (known or (meant and len(names) == num_classes)):
        raise OtherClasses(*imagenet.refusal(names, where))
    if known:
        raise OtherClasses(*_other_classes([name for name in names if name not in known], known, where))
    if len(names) == num_classes:
        order = "by name, in natural order" if list(names) == in_order(set(names)) else "in the data set's own order"
        return Classes(tuple(names), tuple(range(num_classes)), order, by_order=True)
    if imagenet and imagenet.recognises(names):
        raise OtherCount(len(names), *imagenet.refusal(names, where))
    raise OtherCount(len(names), *_other_count(names, num_classes, empty, where))


def _imagenet(num_classes: int, label_names: LabelNames) -> ImageNetNames | None:
    """The names of the ImageNet that the model has learned, as far as its own names and their number tell."""
    known = indices_of(label_names, num_classes)
    return imagenet_named(num_classes, dict(pairs_of(label_names)) if known else {})


def _not_wnids(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not WNID.fullmatch(name))


def empty_are_classes(names: Sequence[str], empty: Sequence[str], num_classes: int, label_names: LabelNames) -> bool:
    """Whether folders without a photograph have to be counted as classes: there is nothing but the number of folders to
    go by, and only with them are there as many as the model has classes."""
    if not empty or len(names) + len(empty) != num_classes or indices_of(label_names, num_classes):
        return False
    imagenet = imagenet_of(num_classes)
    return bool(_not_wnids(names)) and not (imagenet and imagenet.knows_most(names))


def tell_english(classes: Classes, num_classes: int, where: str) -> None:
    """Say as which classes names are read by ImageNet's English names: one may have been meant otherwise."""
    imagenet = imagenet_of(num_classes) if classes.by_english else None
    if imagenet:
        remark(imagenet.remark({name: classes.mapping[name] for name in classes.by_english}, where))


def _by_map(
    names: Sequence[str], num_classes: int, label_names: LabelNames, class_map: Mapping[str, int], where: str
) -> Classes:
    """By a class map; names that it leaves out are read as ImageNet's, where most of the names are that."""
    missing = [name for name in names if name not in class_map]
    imagenet = _imagenet(num_classes, label_names) if 0 < len(missing) < len(names) else None
    meant = imagenet is not None and imagenet.knows_most(names) and imagenet.allows(class_map)
    rest = (imagenet.match(missing) if imagenet and meant else None) or []
    if missing and not rest:
        if imagenet and meant:
            raise OtherClasses(*imagenet.refusal(missing, where))
        raise ValueError(
            f"the class map has no index for {len(missing)} of the {counted(len(names), 'class', 'classes')} in "
            f"{where}: {few(missing)}; it names {few(list(class_map))}"
        )
    beyond = [f"{name} {class_map[name]}" for name in names if num_classes and class_map.get(name, 0) >= num_classes]
    if beyond:
        raise ValueError(
            f"the class map goes beyond the model's {num_classes} classes (0 to {num_classes - 1}): {few(beyond)}"
        )
    indices = {**class_map, **dict(zip(missing, rest, strict=True))}
    rule = "by the class map" + (", the others by ImageNet's names" if rest else "")
    return Classes(tuple(names), tuple(indices[name] for name in names), rule, by_english=_not_wnids(missing))


def _match_wnids(names: Sequence[str], imagenet: ImageNetNames, where: str) -> Classes:
    strangers = [name for name in names if not imagenet.places(name)]
    if strangers:
        them = "it" if len(strangers) == 1 else "them"
        raise ValueError(
            f"{where} has {counted(len(strangers), 'wnid')} not among the {len(imagenet.wnids)} classes of "
            f"{imagenet.subset}: {few(strangers)}; remove {them} or take a model that knows {them}"
        )
    indices = [imagenet.places(name)[0] for name in names]
    return Classes(tuple(names), tuple(indices), f"by wnid, to {imagenet.subset}", by_wnid=True)


def _other_classes(strangers: list[str], known: Mapping[str, int], where: str) -> tuple[Part, ...]:
    return (
        f"{where} has {counted(len(strangers), 'class', 'classes')} that the model has not learned: "
        f"{few(strangers)}; it knows {few(list(known))}: rename the folders, or ",
        *MAP_HINT,
    )


def _other_count(names: Sequence[str], num_classes: int, empty: Sequence[str], where: str) -> tuple[Part, ...]:
    hollow = f", besides {counted(len(empty), 'folder')} without a photograph ({few(empty)})" if empty else ""
    size = counted(len(names), "class", "classes")
    if imagenet_of(num_classes):
        way = ": name the classes as ImageNet does, in English (golf ball) or by wnid (n03445777), or "
    else:
        way = ", and nothing says which of them these are: "
    return f"{where} has {size} ({few(names)}){hollow} and the model {num_classes}{way}", *MAP_HINT
