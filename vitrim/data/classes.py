"""Which class of the model each class of a data set is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from timm.data import ImageNetInfo, infer_imagenet_subset

from ..common.errors import OptionError, Part
from ..common.text import counted, few, shortened
from .folders import in_order

WNID = re.compile(r"n\d{8}")
LabelNames = Sequence[str] | Mapping[int, str] | None  # timm's: a name for each index, or index -> name
MAP_HINT: tuple[Part, ...] = ("give a file of lines `name,index` as ", {"class_map": ...})


class OtherClasses(OptionError):
    """The classes of the data are not those of the model."""


class OtherCount(OtherClasses):
    """The data has another number of classes than the model, and nothing says which of them they are.

    count: classes of the data
    """

    def __init__(self, count: int, *parts: Part):
        super().__init__(*parts)
        self.count = count


@dataclass(frozen=True)
class Classes:
    """The classes of a data set and their places in the model.

    `names[i]` is the data's class i and `indices[i]` the model's index for it; both are empty where the data stores
    class indices itself. `rule` says in words how labels became class indices. `by_order` marks classes that were
    numbered by the order of their names alone, because nothing says in which order the model has learned them;
    `by_wnid` those of an ImageNet, whose order is known. `unlabelled`: there are no labels, and no classes.
    """

    names: tuple[str, ...]
    indices: tuple[int, ...]
    rule: str
    by_order: bool = False
    by_wnid: bool = False
    unlabelled: bool = False

    def index(self, label: int) -> int | None:
        """The model's class index for the data's own label; None where there are no labels."""
        if self.unlabelled:
            return None
        return self.indices[label] if self.indices else int(label)

    @property
    def mapping(self) -> dict[str, int]:
        """Name -> the model's class index, in the model's order; empty where the data stores class indices itself."""
        pairs = sorted(zip(self.names, self.indices, strict=True), key=lambda pair: pair[1])
        return dict(pairs)

    @property
    def other_order(self) -> tuple[str, ...]:
        """The names as torchvision's ImageFolder orders them (capitals first, `10` before `2`), where `by_order` did
        otherwise; else empty."""
        plain = tuple(sorted(self.names))
        natural = self.by_order and list(self.names) == in_order(set(self.names))
        return plain if natural and plain != self.names else ()


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
    lists are timm's); by timm's natural order where the counts agree and the model has no names of its own. A model
    without a classifier (`num_classes == 0`) keeps the data's own numbering.
    empty: folders without a photograph, named where the counts differ

    Raises ValueError where none of these holds.
    """
    if class_map is not None:
        return _by_map(names, num_classes, class_map, where)
    if num_classes == 0:
        return Classes(tuple(names), tuple(range(len(names))), "the data's own classes: the model has no classifier")
    known = indices_of(label_names, num_classes)
    if known and known.keys() >= set(names):
        return Classes(tuple(names), tuple(known[name] for name in names), "by the model's own label names")
    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset and all(WNID.fullmatch(name) for name in names):
        return _match_wnids(names, subset, where)
    if known:
        raise OtherClasses(*_other_classes([name for name in names if name not in known], known, where))
    if len(names) == num_classes:
        order = "by name, in natural order" if list(names) == in_order(set(names)) else "in the data set's own order"
        return Classes(tuple(names), tuple(range(num_classes)), order, by_order=True)
    raise OtherCount(len(names), *_other_count(names, num_classes, empty, where))


def empty_are_classes(names: Sequence[str], empty: Sequence[str], num_classes: int, label_names: LabelNames) -> bool:
    """Whether folders without a photograph have to be counted as classes: there is nothing but the number of folders to
    go by, and only with them are there as many as the model has classes."""
    wnids = all(WNID.fullmatch(name) for name in names)
    return (
        bool(empty)
        and not wnids
        and not indices_of(label_names, num_classes)
        and (len(names) + len(empty) == num_classes)
    )


def indices_of(label_names: LabelNames, num_classes: int) -> dict[str, int]:
    """A model's own class names with their indices; empty where it has none, or names for another number of classes.

    A name that two classes share (ImageNet's two cranes) says nothing and is left out.
    """
    by_index = isinstance(label_names, Mapping)
    pairs = label_names.items() if by_index else enumerate(label_names or ())
    found = [(str(name), int(index)) for index, name in pairs]
    complete = len(found) == num_classes or by_index  # an index may have no name there
    if not complete or not all(0 <= index < num_classes for _, index in found):
        return {}
    times = Counter(name for name, _ in found)
    return {name: index for name, index in found if times[name] == 1}


def _by_map(names: Sequence[str], num_classes: int, class_map: Mapping[str, int], where: str) -> Classes:
    missing = [name for name in names if name not in class_map]
    if missing:
        raise ValueError(
            f"the class map has no index for {len(missing)} of the {counted(len(names), 'class', 'classes')} in "
            f"{where}: {few(missing)}; it names {few(list(class_map))}"
        )
    beyond = [f"{name} {class_map[name]}" for name in names if num_classes and class_map[name] >= num_classes]
    if beyond:
        raise ValueError(
            f"the class map goes beyond the model's {num_classes} classes (0 to {num_classes - 1}): {few(beyond)}"
        )
    return Classes(tuple(names), tuple(class_map[name] for name in names), "by the class map")


def _match_wnids(names: Sequence[str], subset: str, where: str) -> Classes:
    position = {wnid: index for index, wnid in enumerate(ImageNetInfo(subset).label_names())}
    strangers = [name for name in names if name not in position]
    if strangers:
        them = "it" if len(strangers) == 1 else "them"
        raise ValueError(
            f"{where} has {counted(len(strangers), 'wnid')} not among the {len(position)} classes of {subset}: "
            f"{few(strangers)}; remove {them} or take a model that knows {them}"
        )
    return Classes(tuple(names), tuple(position[name] for name in names), f"by wnid, to {subset}", by_wnid=True)


def _other_classes(strangers: list[str], known: Mapping[str, int], where: str) -> tuple[Part, ...]:
    return (
        f"{where} has {counted(len(strangers), 'class', 'classes')} that the model has not learned: "
        f"{few(strangers)}; it knows {few(list(known))}: rename the folders, or ",
        *MAP_HINT,
    )


def _other_count(names: Sequence[str], num_classes: int, empty: Sequence[str], where: str) -> tuple[Part, ...]:
    hollow = f", besides {counted(len(empty), 'folder')} without a photograph ({few(empty)})" if empty else ""
    size = counted(len(names), "class", "classes")
    if infer_imagenet_subset({"num_classes": num_classes}):
        way = ": name the classes by ImageNet wnid (n01440764), or "
    else:
        way = ", and nothing says which of them these are: "
    return f"{where} has {size} ({few(names)}){hollow} and the model {num_classes}{way}", *MAP_HINT


def check_same_classes(
    learned: Classes, judged: Classes, where: str, learned_from: str = "the training photographs"
) -> None:
    """Raise ValueError where photographs are judged by other classes than those learned from.

    Names that both know must have one index. Where names were numbered by their order, both must have the same ones:
    `dog` is the first of dog and wolf, and the second of cat and dog.
    """
    if not (learned.names and judged.names):
        return
    mapping, other_mapping = learned.mapping, judged.mapping
    moved = [name for name in mapping.keys() & other_mapping.keys() if mapping[name] != other_mapping[name]]
    strangers = sorted(mapping.keys() ^ other_mapping.keys()) if learned.by_order or judged.by_order else []
    if strangers or moved:
        raise OptionError(
            f"{where} has other classes ({few(judged.names)}) than {learned_from} ({few(learned.names)}): "
            f"{few(strangers or sorted(moved))} would be judged as another class: rename the folders, or ",
            *MAP_HINT,
        )


def names_to_carry(classes: Classes, num_classes: int, known: LabelNames) -> list[str]:
    """The names, by index, that a model trained on these classes is to carry; empty where it needs none: where they are
    not all of its classes, where it has names (`known`), and for wnids.

    Example:
        >>> names_to_carry(Classes(("cat", "dog"), (1, 0), "by the class map"), 2, None)
        ['dog', 'cat']
    """
    complete = sorted(classes.indices) == list(range(num_classes)) and classes.names
    needed = complete and not classes.by_wnid and not indices_of(known, num_classes)
    return list(classes.mapping) if needed else []


def in_words(classes: Classes) -> str:
    """The rule, with the first classes and their indices, and whether another program would number them otherwise."""
    if not classes.by_order:
        return classes.rule
    first = few([f"{shortened(name, 30)} {index}" for name, index in classes.mapping.items()])
    other = few(classes.other_order)
    return f"{classes.rule} ({first})" + (f", not in torchvision's order ({other})" if other else "")


def english(name: str) -> str:
    """A class name for people: of an ImageNet wnid the first English one, of others spaces for underscores.

    Example:
        >>> english("n01440764"), english("golf_ball")
        ('tench', 'golf ball')
    """
    about = ImageNetInfo("imagenet-22k")
    if WNID.fullmatch(name) and name in about.label_names():
        return about.label_name_to_description(name).split(",")[0]
    return name.replace("_", " ")


def names_by_index(classes: Classes, num_classes: int) -> dict[int, str]:
    """The model's class index -> name, for people; of an ImageNet's classes the first of their English names.

    Example:
        >>> names_by_index(Classes(("cat", "dog"), (1, 0), "by the class map"), 2)
        {0: 'dog', 1: 'cat'}
    """
    found = imagenet_names(num_classes) if classes.by_wnid else {}
    return found or {index: name for name, index in classes.mapping.items()}


def names_of_classes(label_names: LabelNames, num_classes: int) -> dict[int, str]:
    """Class index -> name, for people, of a model: its own names where it carries some; else those of an ImageNet,
    where it has as many classes as one, as timm numbers them. An index that is missing has no known name.

    Example:
        >>> names_of_classes(["golf_ball", "n01440764"], 2), names_of_classes(None, 1000)[0], names_of_classes(None, 2)
        ({0: 'golf ball', 1: 'tench'}, 'tench', {})
    """
    pairs = label_names.items() if isinstance(label_names, Mapping) else enumerate(label_names or ())
    known = {int(index): english(str(name)) for index, name in pairs}
    if known:
        return known
    return imagenet_names(num_classes)


def imagenet_names(num_classes: int) -> dict[int, str]:
    """Class index -> the first English name, for the ImageNet of so many classes, as timm numbers them; empty: there is
    none.

    Example:
        >>> imagenet_names(1000)[0], imagenet_names(7)
        ('tench', {})
    """
    subset = infer_imagenet_subset({"num_classes": num_classes})
    if not subset:
        return {}
    about = ImageNetInfo(subset)
    return {index: about.index_to_description(index).split(",")[0] for index in range(num_classes)}
