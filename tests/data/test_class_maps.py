"""Which class of the model each folder is: by what the model knows, by a class map, or by order, which is then said."""

from __future__ import annotations

import json

import pytest
from made_pictures import fill, flat, small_vit

import vitrim
from vitrim.backbones import TIMM
from vitrim.common.class_map import read_class_map
from vitrim.data import open_dataset
from vitrim.data.classes import Classes, check_same_classes, in_words, indices_of, names_to_carry
from vitrim.data.matching import match_classes

NUMBERED = [f"c{i}" for i in range(1, 11)]
TORCHVISION = {name: index for index, name in enumerate(sorted(NUMBERED))}


def labels_of(dataset):
    return [dataset[i][1] for i in range(len(dataset))]


# class maps


FORMS = {
    "torchvision.json": json.dumps({"cat": 0, "golf ball": 1, "7": 2}),
    "transformers.json": json.dumps({"0": "cat", "1": "golf ball", "2": "7"}),
    "list.json": json.dumps(["cat", "golf ball", "7"]),
    "plain.csv": "cat,0\ngolf ball,1\n7,2\n",
    "header.csv": "name,index\ncat,0\n\ngolf ball,1\n7,2\n",
    "turned.csv": "index,name\n0,cat\n1,golf ball\n",
    "quoted.csv": 'cat,0\n"golf ball",1\n7,2\n',
    "tabs.txt": "cat\t0\ngolf ball\t1\n7\t2\n",
    "spaces.txt": "cat 0\ngolf ball 1\n7 2\n",
    "names.txt": "cat\ngolf ball\n7\n",
    "mark.txt": "\ufeffcat 0\ngolf ball 1\n7 2\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_class_maps_of_every_form(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    expected = {"cat": 0, "golf ball": 1, "7": 2}
    if name == "turned.csv":
        del expected["7"]
    assert read_class_map(tmp_path / name) == expected
    assert read_class_map(expected) == expected


BAD_FORMS = {
    "nowhere.csv": (None, "there is no class map .*nowhere.csv: give a file of lines"),
    "empty.txt": ("", "is empty: give lines `name,index`"),
    "broken.json": ("{", "is not JSON"),
    "deep.json": ("[" * 100_000, "is not JSON"),
    "number.json": ("3", "is none: give lines"),
    "names.json": ('{"cat": "tabby"}', "is none: give lines"),
    "share.json": ('{"cat": 0.5}', "no class index, a whole number from 0: cat: 0.5"),
    "true.json": ('{"cat": true}', "no class index, a whole number from 0: cat: True"),
    "below.json": ('{"cat": -1}', "no class index, a whole number from 0: cat: -1"),
    "twice.csv": ("cat,0\ncat,1\n", "gives cat two indices: 0 and 1"),
    "torn.csv": ("cat,0\ndog,1\nbird\nfish,3\n", "'bird' is no name with an index"),
}


@pytest.mark.parametrize("name", BAD_FORMS)
def test_files_that_are_no_class_map_are_refused_in_one_line(tmp_path, name):
    content, message = BAD_FORMS[name]
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_class_map(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FORMS)
def test_lists_of_names_alone_must_be_as_long_as_the_model_has_classes(tmp_path, name):
    """Three names would otherwise be the first three of a thousand classes, whatever those are."""
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    found = read_class_map(tmp_path / name)
    assert read_class_map(tmp_path / name, len(found)) == read_class_map(tmp_path / name, 0) == found
    if name not in ("list.json", "names.txt"):
        assert read_class_map(tmp_path / name, 1000) == found, "with an index a few will do"
        return
    for size, said in (
        (1000, "1,000 classes: list all 1,000"),
        (2, "2 classes: list all 2"),
        (1, "1 class: list all 1"),
    ):
        with pytest.raises(ValueError, match=f"lists 3 names without an index, and the model has {said} in") as caught:
            read_class_map(tmp_path / name, size)
        assert "lines `name,index`" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("label_file", [False, True])
def test_a_list_of_a_few_names_judges_nothing(tmp_path, label_file):
    root = fill(tmp_path / "data", ["church", "dog", "fish"], each=1)
    (tmp_path / "names.txt").write_text("fish\ndog\nchurch\n")
    (tmp_path / "labels.csv").write_text("".join(f"{name}/0.png,{name}\n" for name in ("church", "dog", "fish")))
    options = {"label_file": tmp_path / "labels.csv"} if label_file else {}
    options["class_map"] = tmp_path / "names.txt"
    with pytest.raises(ValueError, match="lists 3 names without an index, and the model has 1,000 classes"):
        open_dataset(root, small_vit(1000), **options)
    assert sorted(labels_of(open_dataset(root, small_vit(3), **options))) == [0, 1, 2]
    assert open_dataset(root, small_vit(0), **options).classes.mapping == {"fish": 0, "dog": 1, "church": 2}


def test_a_class_map_goes_before_all_else(tmp_path):
    root, model = fill(tmp_path, NUMBERED, each=1), small_vit(10)
    model.pretrained_cfg["label_names"] = NUMBERED
    dataset = open_dataset(root, model, class_map=TORCHVISION)
    assert dataset.classes.mapping == TORCHVISION and dataset.classes.rule == "by the class map"
    assert labels_of(dataset) == [TORCHVISION[name] for name in NUMBERED]


def test_a_class_map_may_know_more_classes_and_put_two_names_together(tmp_path):
    root = fill(tmp_path, ["kitten", "cat", "dog"], each=1)
    dataset = open_dataset(root, small_vit(5), class_map={"cat": 3, "kitten": 3, "dog": 4, "bird": 9})
    assert labels_of(dataset) == [3, 4, 3]


@pytest.mark.parametrize(
    "class_map, message",
    [
        ({"a": 0, "x": 1}, "no index for 2 of the 3 classes in .*: b, c; it names a, x"),
        ({"a": 0, "b": 1, "c": 3}, r"beyond the model's 3 classes \(0 to 2\): c 3"),
    ],
)
def test_class_maps_that_do_not_fit_are_refused(tmp_path, class_map, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(fill(tmp_path, ["a", "b", "c"], each=1), small_vit(), class_map=class_map)


def test_a_class_map_reads_label_files_too_also_with_numbers_for_names(tmp_path):
    root = flat(tmp_path / "flat", ["a.png", "b.png"])
    (tmp_path / "labels.csv").write_text("a.png,10\nb.png,2\n")
    dataset = open_dataset(root, small_vit(), label_file=tmp_path / "labels.csv", class_map={"10": 0, "2": 1})
    assert labels_of(dataset) == [0, 1]


# what the model knows


def test_a_model_that_knows_its_classes_is_never_judged_by_order(tmp_path):
    model = small_vit(2)
    model.pretrained_cfg["label_names"] = ["dog", "cat"]
    known = open_dataset(fill(tmp_path / "same", ["cat", "dog"], each=1), model)
    assert labels_of(known) == [1, 0] and known.classes.rule == "by the model's own label names"
    for names in (["dog", "wolf"], ["wolf", "bear"]):
        with pytest.raises(ValueError, match=r"that the model has not learned: .*wolf; it knows dog, cat: rename"):
            open_dataset(fill(tmp_path / names[1], names, each=1), model)


def test_label_names_of_another_number_of_classes_say_nothing(tmp_path):
    model = small_vit(2)
    model.pretrained_cfg["label_names"] = ["dog", "wolf", "bear"]
    assert open_dataset(fill(tmp_path, ["cat", "dog"], each=1), model).classes.by_order


def test_names_that_two_classes_share_say_nothing():
    assert indices_of(["crane", "crane", "heron"], 3) == {"heron": 2}
    assert indices_of({"0": "a", "2": "b"}, 3) == {"a": 0, "b": 2}, "as JSON gives it back"
    assert indices_of({5: "a"}, 3) == indices_of(None, 3) == indices_of(["a"], 3) == {}


# by order


def test_natural_order_says_so_and_names_torchvisions_where_it_differs(tmp_path):
    classes = open_dataset(fill(tmp_path / "ten", NUMBERED, each=1), small_vit(10)).classes
    assert classes.by_order and classes.other_order == tuple(sorted(NUMBERED))
    said = in_words(classes)
    assert said == (
        "by name, in natural order (c1 0, c2 1, c3 2 and 7 more), not in torchvision's order (c1, c10, c2 and 7 more)"
    )
    same = open_dataset(fill(tmp_path / "words", ["ant", "bee"], each=1), small_vit(2)).classes
    assert same.other_order == () and in_words(same) == "by name, in natural order (ant 0, bee 1)"
    capital = open_dataset(fill(tmp_path / "capital", ["ant", "Bee"], each=1), small_vit(2)).classes
    assert capital.other_order == ("Bee", "ant")


def test_a_data_set_that_numbers_its_classes_itself_is_not_said_to_be_sorted():
    own = match_classes(["zebra", "ant", "bee"], 3, None, "there")
    assert own.rule == "in the data set's own order" and own.mapping == {"zebra": 0, "ant": 1, "bee": 2}
    assert own.by_order and own.other_order == ()


# training and judging


def by_order(*names):
    return Classes(names, tuple(range(len(names))), "by name, in natural order", by_order=True)


@pytest.mark.parametrize("others", [("dog", "wolf"), ("cat", "wolf"), ("bird", "cat"), ("x", "y")])
def test_photographs_of_other_classes_do_not_judge_a_training(others):
    with pytest.raises(ValueError, match=r"has other classes \(.*\) than the training photographs \(cat, dog\)"):
        check_same_classes(by_order("cat", "dog"), by_order(*others), "val")


def test_the_same_classes_and_those_with_known_places_do():
    check_same_classes(by_order("cat", "dog"), by_order("cat", "dog"), "val")
    check_same_classes(by_order("cat", "dog"), Classes((), (), "integers"), "val")
    known = Classes(("n01440764",), (0,), "by wnid", by_wnid=True)
    check_same_classes(known, Classes(("n02102040",), (217,), "by wnid", by_wnid=True), "val")
    with pytest.raises(ValueError, match="cat would be judged"):
        check_same_classes(
            Classes(("cat", "dog"), (1, 0), "by the class map"), Classes(("cat",), (0,), "by the class map"), "val"
        )


def test_class_names_go_with_the_saved_model(tmp_path):
    model = small_vit(2, depth=4)
    TIMM.record_data(model, {"label_names": names_to_carry(by_order("cat", "dog"), 2, None)})
    vitrim.reduce(model, "evit", keep=0.5).save(tmp_path / "saved")
    again = vitrim.load(tmp_path / "saved")
    root = fill(tmp_path / "data", ["dog"], each=1)
    assert labels_of(open_dataset(root, again)) == [1]
    with pytest.raises(ValueError, match="the model has not learned: wolf, zebra; it knows cat, dog"):
        open_dataset(fill(tmp_path / "other", ["wolf", "zebra"], each=1), again)


def test_names_are_given_only_where_they_are_all_and_new():
    assert names_to_carry(Classes(("cat",), (1,), "by the class map"), 2, None) == []
    assert names_to_carry(Classes((), (), "integers"), 2, None) == []
    both = Classes(("dog", "cat"), (1, 0), "by the class map")
    assert names_to_carry(both, 2, None) == ["cat", "dog"]
    assert names_to_carry(by_order("x", "y"), 2, ["cat", "dog"]) == [], "a model keeps the names that it has"
