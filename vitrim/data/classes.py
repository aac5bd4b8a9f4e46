"""The classes of a data set with their places in the model, and what they are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..common.errors import OptionError, Part
from ..common.text import few, shortened
from .folders import in_order
from .imagenet_names import WNID, imagenet_names, title_of

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
    `by_wnid` those of an ImageNet, whose order is known. `by_english`: the names that were read as ImageNet's English
    ones. `unlabelled`: there are no labels, and no classes.
    """

    names: tuple[str, ...]
    indices: tuple[int, ...]
    rule: str
    by_order: bool = False
    by_wnid: bool = False
    by_english: tuple[str, ...] = ()
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
    def of_imagenet(self) -> bool:
        """Whether the model's classes are those of an ImageNet, as far as the names tell."""
        return self.by_wnid or bool(self.by_english)

    @property
    def other_order(self) -> tuple[str, ...]:
        """The names as torchvision's ImageFolder orders them (capitals first, `10` before `2`), where `by_order` did
        otherwise; else empty."""
        plain = tuple(sorted(self.names))
        natural = self.by_order and list(self.names) == in_order(set(self.names))
        return plain if natural and plain != self.names else ()


def indices_of(label_names: LabelNames, num_classes: int) -> dict[str, int]:
    """A model's own class names with their indices; empty where it has none, or names for another number of classes.

    A name that two classes share (ImageNet's two cranes) says nothing and is left out.
    """
    found = pairs_of(label_names)
    complete = len(found) == num_classes or isinstance(label_names, Mapping)  # an index may have no name there
    if not complete or not all(0 <= index < num_classes for index, _ in found):
        return {}
    times = Counter(name for _, name in found)
    return {name: index for index, name in found if times[name] == 1}


def pairs_of(label_names: LabelNames) -> list[tuple[int, str]]:
    """A model's own class names, each with its index."""
    pairs = label_names.items() if isinstance(label_names, Mapping) else enumerate(label_names or ())
    return [(int(index), str(name)) for index, name in pairs]


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
    not all of its classes, where it has names (`known`), and for ImageNet's.

    Example:
        >>> names_to_carry(Classes(("cat", "dog"), (1, 0), "by the class map"), 2, None)
        ['dog', 'cat']
    """
    complete = sorted(classes.indices) == list(range(num_classes)) and classes.names
    needed = complete and not classes.of_imagenet and not indices_of(known, num_classes)
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
    title = title_of(name) if WNID.fullmatch(name) else None
    return title or name.replace("_", " ")


def names_by_index(classes: Classes, num_classes: int) -> dict[int, str]:
    """The model's class index -> name, for people; of an ImageNet's classes the first of their English names.

    Example:
        >>> names_by_index(Classes(("cat", "dog"), (1, 0), "by the class map"), 2)
        {0: 'dog', 1: 'cat'}
    """
    found = imagenet_names(num_classes) if classes.of_imagenet else {}
    return found or {index: name for name, index in classes.mapping.items()}


def names_of_classes(label_names: LabelNames, num_classes: int) -> dict[int, str]:
    """Class index -> name, for people, of a model: its own names where it carries some; else those of an ImageNet,
    where it has as many classes as one, as timm numbers them. An index that is missing has no known name.

    Example:
        >>> names_of_classes(["golf_ball", "n01440764"], 2), names_of_classes(None, 1000)[0], names_of_classes(None, 2)
        ({0: 'golf ball', 1: 'tench'}, 'tench', {})
    """
    known = {index: english(name) for index, name in pairs_of(label_names)}
    if known:
        return known
    return imagenet_names(num_classes)
