"""What ImageNet's classes are called: by wnid, and by English names, which folders of photographs may have."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

from timm.data import ImageNetInfo, infer_imagenet_subset

from ..common.errors import Part
from ..common.text import cut, few, shortened

WNID = re.compile(r"n\d{8}")
_BETWEEN = re.compile(r"[\s_-]+")
_MAP: Part = {"class_map": ...}
_ALIKE = 0.8  # of difflib: one wrong letter of five, or a blank that is missing; less is another word
_OURS = 0.9  # names of a class that a model must share with ImageNet; some lists are spelled a little differently


def same(name: str) -> str:
    """What is alike in all spellings of a name: no capitals, and blanks for `_` and `-`.

    Example:
        >>> same("Golf_Ball"), same("golf-ball")
        ('golf ball', 'golf ball')
    """
    return _BETWEEN.sub(" ", name).strip().casefold()


def imagenet_of(num_classes: int) -> ImageNetNames | None:
    """The ImageNet of so many classes, as timm numbers them; None: there is none."""
    subset = infer_imagenet_subset({"num_classes": num_classes})
    return _read(subset) if subset else None


@lru_cache(maxsize=3)
def _read(subset: str) -> ImageNetNames:
    return ImageNetNames(subset)


class ImageNetNames:
    """The names of an ImageNet's classes, which are WordNet's as timm stores them.

    Each class has a wnid and some English names (`church, church building`). The first of these is its title, which
    predictions show. Two classes may share a name: `harp` is the title of one and another name of the harmonica.

    Example:
        >>> about = ImageNetNames("imagenet-1k")
        >>> about.titles[497], about.places("Church_building"), about.places("harp"), about.places("crane")
        ('church', [497], [594], [134, 517])
    """

    def __init__(self, subset: str):
        info = ImageNetInfo(subset)
        self.subset = subset
        self.wnids: list[str] = info.label_names()
        self._info, self._by_wnid = info, {wnid: index for index, wnid in enumerate(self.wnids)}
        described = [info.label_name_to_description(wnid) for wnid in self.wnids]
        self.names = [text.split(", ") for text in described]
        self.titles = [names[0] for names in self.names]
        self._titled, self._called = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
        for index, text in enumerate(described):
            self._titled[same(self.titles[index])].append(index)
            # Some lists, such as Hugging Face's, call a class by all its names at once.
            for name in dict.fromkeys(map(same, (*self.names[index], text))):
                self._called[name].append(index)

    def places(self, name: str) -> list[int]:
        """The classes that a name is for: one by its wnid, else those that have it as title, else as another name."""
        if name in self._by_wnid:
            return [self._by_wnid[name]]
        return self._titled.get(same(name)) or self.called(name)

    def called(self, name: str) -> list[int]:
        """The classes that have this English name, whether as title or not."""
        return self._called.get(same(name), [])

    def match(self, names: Sequence[str]) -> list[int] | None:
        """The class of each name; None where a name is of none, or of several."""
        found = [self.places(name) for name in names]
        return [places[0] for places in found] if all(len(places) == 1 for places in found) else None

    def knows_most(self, names: Sequence[str]) -> bool:
        """Whether half of the names or more are of its classes: then the others are meant so, too."""
        return 2 * sum(map(bool, map(self.places, names))) >= len(names)

    def recognises(self, names: Sequence[str]) -> bool:
        """Whether some of them are names of its classes, or the first is spelled almost so."""
        return any(map(self.places, names)) or bool(self.near(names[0]))

    def has(self, index: int, name: str) -> bool:
        """Whether this is one of the names of a class."""
        return index in self.places(name) or index in self.called(name)

    def allows(self, class_map: Mapping[str, int]) -> bool:
        """Whether a class map gives none of its names to another class: it may be one of its classes."""
        return all(self.has(index, name) for name, index in class_map.items() if self.places(name))

    def definition(self, index: int) -> str:
        """WordNet's, in English."""
        return self._info.index_to_description(index, detailed=True).partition(": ")[2]

    # messages

    def remark(self, names: Mapping[str, int], where: str) -> str:
        """Which classes names were read as; first those that another class has, too."""
        read = sorted(names.items(), key=lambda pair: len(self.called(pair[0])) < 2)
        return f"{where}: class names are read as ImageNet's: {few([self._as_read(*pair) for pair in read])}"

    def _as_read(self, name: str, index: int) -> str:
        title = self.titles[index]
        others = [f"{self.titles[other]} {other}" for other in self.called(name) if other != index]
        words = f"{index}, not {few(others, 1)}" if others else str(index)
        return f"{title} ({words})" if same(name) == same(title) else f"{name} as {title} ({words})"

    def refusal(self, names: Sequence[str], where: str) -> tuple[Part, ...]:
        """Which of the names is the first that is of no class, or of several, and what to do about it."""
        name, places = next((name, places) for name in names if len(places := self.places(name)) != 1)
        about = f"{shortened(where, 30)}: {shortened(name, 40)!r}"
        if places:
            return self._several(name, places, about), _MAP
        strange = sum(not self.places(other) for other in names)
        others = f" and {strange - 1:,} more of {len(names):,} names are" if strange > 1 else " is"
        return f"{about}{others} no class of ImageNet{self._instead(name)}", _MAP

    def _several(self, name: str, places: list[int], about: str) -> str:
        more = f" and {len(places) - 2} more" if len(places) > 2 else ""
        choice = (", " if more else " and ").join(map(self._told_apart, places[:2])) + more
        return f"{about} is {len(places)} classes of ImageNet, {choice}: use one of these, or {_give(name, places)}"

    def _told_apart(self, index: int) -> str:
        """A class by a name that it alone has: an English one, else its wnid with what it means."""
        own = next((name for name in self.names[index] if self.places(name) == [index]), None)
        return f"{own} ({index})" if own else f"{self.wnids[index]} ({index}, {cut(self.definition(index), 24)})"

    def _instead(self, name: str) -> str:
        """What to do about a name that is of no class."""
        if near := self.near(name):
            meant = _give(name, [index for other in near for index in self.places(other)])
            return f": did you mean {' or '.join(map(self._spelled, near))}? rename it, or {meant}"
        wider = ", ".join(map(self._spelled, self._holding(name)))
        nearest = f" (nearest: {wider})" if wider else ""
        way = "rename it to an English name (golf ball) or a wnid (n03445777), or give a file of lines `name,index` as "
        return f"{nearest}: {way}"

    def near(self, name: str) -> list[str]:
        """At most two names that are spelled almost so, the nearest first: `chruch` has the letters of church."""
        key = same(name)
        found = difflib.get_close_matches(key, self._called, n=3, cutoff=_ALIKE)
        found.sort(key=lambda other: sorted(other.replace(" ", "")) != sorted(key.replace(" ", "")))
        return self._of_different_classes(found)

    def _holding(self, name: str) -> list[str]:
        """At most two names that have this one as a word, the shortest first: `Persian cat` for `cat`."""
        word = f" {same(name)} "
        found = (key for key in self._called if word in f" {key} " and "," not in key)
        return self._of_different_classes(sorted(found, key=lambda key: (not key.endswith(word.rstrip()), len(key))))

    def _of_different_classes(self, keys: Sequence[str]) -> list[str]:
        first: dict[int, str] = {}
        for key in keys:
            first.setdefault(self.places(key)[0], key)
        return [self._as_written(key) for key in first.values()][:2]

    def _as_written(self, key: str) -> str:
        names = self.names[self.places(key)[0]]
        return next((name for name in names if same(name) == key), ", ".join(names))

    def _spelled(self, name: str) -> str:
        return f"{shortened(name, 40)} ({' or '.join(map(str, self.places(name)[:2]))})"


def _give(name: str, places: Sequence[int]) -> str:
    """The line of a class map for a name, ready to paste."""
    lines = [f"`{_line(name, index)}`" for index in places[:2]]
    return f"give a file with the line {' or '.join(lines)} as "


def _line(name: str, index: int) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([name, index])
    return text.getvalue()


def imagenet_named(num_classes: int, own: Mapping[int, str]) -> ImageNetNames | None:
    """The ImageNet whose classes a model has: one of so many classes, and of its names, where it carries some.

    own: class index -> the name that the model carries; empty: none
    """
    found = imagenet_of(num_classes)
    shared = sum(found.has(index, name) for index, name in own.items()) if found else 0
    return found if shared >= _OURS * len(own) else None


def title_of(wnid: str) -> str | None:
    """The first English name of a class of any ImageNet; None: there is no such class.

    Example:
        >>> title_of("n01440764"), title_of("n00000000")
        ('tench', None)
    """
    for about in (_read("imagenet-1k"), _read("imagenet-21k-goog")):  # together they have the classes of all others
        if places := about.places(wnid):
            return about.titles[places[0]]
    return None


def imagenet_names(num_classes: int) -> dict[int, str]:
    """Class index -> the first English name, for the ImageNet of so many classes, as timm numbers them; empty: there is
    none.

    Example:
        >>> imagenet_names(1000)[0], imagenet_names(7)
        ('tench', {})
    """
    found = imagenet_of(num_classes)
    return dict(enumerate(found.titles)) if found else {}
