"""What is not exactly one class of ImageNet is refused, with what to do; and what a class map may leave out then."""

from __future__ import annotations

import pytest
from made_pictures import fill, matched, refused, small_vit

from vitrim.common.errors import as_arguments
from vitrim.data import open_dataset
from vitrim.data.classes import OtherCount
from vitrim.data.imagenet_names import imagenet_of
from vitrim.data.matching import match_classes


@pytest.mark.parametrize(
    "name, near",
    [
        ("golfball", "golf ball (574)?"),
        ("chruch", "church (497) or crutch (523)?"),
        ("Parashute", "parachute (701)"),
        ("tenchh", "tench (0)?"),
        ("pandaa", "panda (387 or 388)?"),
    ],
)
def test_mistyped_names_are_refused_with_the_nearest_and_a_line_to_paste(name, near, tmp_path):
    for names in ([name], [name, "harp", "tench"]):
        said = refused(names, kind=OtherCount)
        assert said.startswith(f"pictures: '{name}' is no class of ImageNet: did you mean {near}"), said
    line = said.partition("the line `")[2].partition("`")[0]
    assert said.endswith(" as class_map")
    (tmp_path / "map.csv").write_text(line)
    dataset = open_dataset(
        fill(tmp_path / "data", [name, "harp"], each=1), small_vit(1000), class_map=tmp_path / "map.csv"
    )
    assert dataset.classes.mapping == {name: int(line.rpartition(",")[2]), "harp": 594}


@pytest.mark.parametrize(
    "name, told",
    [
        ("crane", "n02012849 (134, large long-necked ...) and n03126707 (517, lifts and moves ...)"),
        ("maillot", "n03710637 (638, tights for dancers ...) and tank suit (639)"),
        ("Cardigan", "Cardigan Welsh corgi (264) and n02963159 (474, knitted jacket that ...)"),
        ("panda", "lesser panda (387) and giant panda (388)"),
    ],
)
def test_names_of_two_classes_are_refused_with_a_name_for_each(name, told):
    said = refused([name, "tench"])
    first, second = imagenet_of(1000).places(name)
    assert f"pictures: '{name}' is 2 classes of ImageNet, {told}: use one of these" in said
    assert f"the line `{name},{first}` or `{name},{second}` as class_map" in said
    for word in told.split(" and ")[0:2]:
        other = word.partition(" (")[0]
        assert matched([other, "tench"]).mapping[other] in (first, second)


def test_the_first_that_does_not_fit_is_named_and_the_others_counted():
    assert "pictures: 'golfball' and 1 more of 4 names are no class" in refused(["tench", "golfball", "harp", "chruch"])
    assert "'cat' is no class of ImageNet (nearest: bear cat (387), tabby cat (281)): rename" in refused(
        ["cat", "harp"]
    )
    assert "'zzzz' is no class of ImageNet: rename it to an English name" in refused(["tench", "zzzz"])
    assert "'n99999999' is no class" in refused(["n99999999", "tench"])
    assert "(cat, dog, owl) and the model 1000: name the classes as ImageNet does" in refused(["cat", "dog", "owl"])


def test_refusals_name_the_flag_and_stay_short_with_what_commands_add():
    long = "a place/" * 20
    for name in ("crane", "golfball", "a class of a very long name " * 5):
        with pytest.raises(OtherCount) as caught:
            match_classes([name, "tench"], 1000, None, long)
        told = caught.value.told(lambda options: "--class-map" if "class_map" in options else as_arguments(options))
        assert told.endswith(" as --class-map")
        assert len(told + "; or, to learn them anew, create the model with --num-classes 50") <= 300, name


# a class map


def test_a_class_map_may_leave_out_what_english_names_say(tmp_path, capsys):
    root = fill(tmp_path, ["crane", "church", "golf ball"], each=1)
    dataset = open_dataset(root, small_vit(1000), class_map={"crane": 517})
    assert dataset.classes.mapping == {"church": 497, "crane": 517, "golf ball": 574}
    assert dataset.classes.rule == "by the class map, the others by ImageNet's names"
    assert capsys.readouterr().err.endswith("class names are read as ImageNet's: church (497), golf ball (574)\n")
    assert matched(["crane", "tench"], class_map={"crane": 3, "tench": 4}).by_english == (), "it says all"


def test_what_a_class_map_leaves_out_is_read_only_where_it_goes_with_imagenet():
    kept = "the class map has no index for"
    assert kept in refused(["banana", "sku 1", "sku 2"], class_map={"sku 1": 0, "sku 2": 1}), "most are not ImageNet's"
    assert kept in refused(["banana", "church"], class_map={"church": 3}), "its church is another"
    assert kept in refused(["banana"], class_map={"church": 497}), "it names none of the folders"
    assert kept in refused(["banana", "church"], 5, class_map={"church": 4}), "no ImageNet's model"
    assert kept in refused(["banana", "church"], 0, class_map={"church": 4}), "no classifier"
    assert "'crane' is 2 classes" in refused(["crane", "church", "tench"], class_map={"tench": 0})
