"""Folders with ImageNet's English names are its classes, which is said; whose classes they are is not guessed at."""

from __future__ import annotations

import tarfile
from types import SimpleNamespace

import pytest
import timm
from made_pictures import fill, flat, matched, refused, small_vit

from vitrim.data import open_dataset
from vitrim.data.classes import OtherClasses, english, names_by_index, names_to_carry
from vitrim.data.imagenet_names import imagenet_names, imagenet_of, same
from vitrim.data.matching import empty_are_classes
from vitrim.data.sources import TorchImages

FOUR = {"tench": 0, "church": 497, "golf ball": 574, "parachute": 701}
SIZES = (1000, 11221, 11821, 21841, 21842, 21843)
HUGGING_FACE = [", ".join(names) for names in imagenet_of(1000).names]  # `tench, Tinca tinca`


# what is read


def test_folders_are_read_by_english_names_and_that_is_said_once(tmp_path, capsys):
    dataset = open_dataset(fill(tmp_path / "pictures", list(FOUR), each=1), small_vit(1000))
    assert dataset.classes.mapping == FOUR and dataset.classes.rule == "by ImageNet's English names, to imagenet-1k"
    assert [dataset[i][1] for i in range(4)] == [497, 574, 701, 0], "photographs are sorted by folder"
    assert capsys.readouterr().err == (
        f"vitrim: {tmp_path / 'pictures'}: class names are read as ImageNet's: "
        "church (497), golf ball (574), parachute (701) and 1 more\n"
    )


def test_tar_files_and_label_files_are_read_alike(tmp_path, capsys):
    root = fill(tmp_path / "pictures", list(FOUR), each=1)
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        archive.add(root, "pictures")
    packed = open_dataset(tmp_path / "pictures.tar", small_vit(1000))
    assert packed.classes.mapping == FOUR and [packed[i][1] for i in range(4)] == [497, 574, 701, 0]
    files = flat(tmp_path / "flat", ["a.png", "b.png"])
    (tmp_path / "labels.csv").write_text("a.png,golf ball\nb.png,Tench\n")
    listed = open_dataset(files, small_vit(1000), label_file=tmp_path / "labels.csv")
    assert [listed[i][1] for i in range(2)] == [574, 0]
    first, second = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'pictures.tar'}: class names are read as ImageNet's" in first
    assert second.endswith(
        "labels.csv: class names are read as ImageNet's: golf ball (574), Tench (0)".replace("T", "t")
    )


@pytest.mark.parametrize("name", ["golf ball", "Golf_Ball", "GOLF-BALL", "golf  ball", "_golf_ball_"])
def test_capitals_blanks_underscores_and_hyphens_are_alike(name):
    assert matched([name]).mapping == {name: 574} and same(name) == "golf ball"


@pytest.mark.parametrize(
    "name, index",
    [
        ("Tinca_tinca", 0),
        ("tench, Tinca tinca", 0),
        ("church building", 497),
        ("jack-o'-lantern", 607),
        ("tank suit", 639),
        ("Cardigan Welsh corgi", 264),
        ("n02012849", 134),  # beside English names
    ],
)
def test_other_names_of_a_class_and_its_wnid_are_read_too(name, index):
    assert matched([name, "tench"]).mapping[name] == index


@pytest.mark.parametrize("num_classes", SIZES)
def test_what_predictions_print_is_that_class_wherever_it_is_one_classs_name(num_classes):
    titles = imagenet_names(num_classes)
    alone = {same(title): index for index, title in titles.items()}
    shared = {same(title) for index, title in titles.items() if alone[same(title)] != index}
    wanted = {title: index for index, title in titles.items() if same(title) not in shared}
    assert len(wanted) > 0.85 * num_classes
    assert matched(list(wanted), num_classes).indices == tuple(wanted.values())
    for name in list(shared)[:20]:
        assert "classes of ImageNet" in refused([name], num_classes)


@pytest.mark.parametrize("num_classes", SIZES)
def test_a_wnid_and_all_of_its_own_names_are_one_class(num_classes):
    about = imagenet_of(num_classes)
    assert len(about.wnids) == num_classes and about.places(about.wnids[77]) == [77]
    for index in range(0, num_classes, 50):
        for name in about.names[index]:
            assert index in about.called(name) and about.has(index, name)
            assert index in about.places(name) or all(
                same(about.titles[other]) == same(name) for other in about.places(name)
            ), "another class may only come first by its title"


def test_a_name_that_another_class_has_too_is_told_apart_in_the_remark(tmp_path, capsys):
    names = ["church", "golf ball", "parachute", "Tinca_tinca", "harp"]
    open_dataset(fill(tmp_path, names, each=1), small_vit(1000))
    said = capsys.readouterr().err
    assert said.endswith("ImageNet's: harp (594, not harmonica 593), church (497), golf ball (574) and 2 more\n")
    open_dataset(fill(tmp_path / "two", ["Tinca_tinca", "n02012849"], each=1), small_vit(1000))
    assert capsys.readouterr().err.endswith("class names are read as ImageNet's: Tinca_tinca as tench (0)\n")


# whose classes they are


def test_models_with_other_names_or_numbers_of_classes_are_not_guessed_at():
    own = [f"product {index}" for index in range(1000)]
    said = refused(["church", "tench"], label_names=own, kind=OtherClasses)
    assert "has 2 classes that the model has not learned: church, tench" in said
    some = [f"product {index}" if index % 5 == 0 else title for index, title in imagenet_names(1000).items()]
    assert "has not learned: golf ball" in refused(
        ["golf ball", "product 5"], label_names=[*some[:574], "x", *some[575:]]
    )
    assert "nothing says which of them these are" in refused(["church", "tench"], 10)
    assert matched(["church", "tench"], 2).by_order and matched(["church", "tench"], 0).by_english == ()


@pytest.mark.parametrize(
    "kind", [list, lambda names: {str(i): name for i, name in enumerate(names)}], ids=["list", "json"]
)
def test_models_that_carry_imagenets_names_are_read_alike(kind):
    carried = kind(HUGGING_FACE)
    assert matched(["church", "tench"], label_names=carried).mapping == {"church": 497, "tench": 0}
    assert matched(["tench, Tinca tinca"], label_names=carried).rule == "by the model's own label names"
    said = refused(["golfball", "tench"], label_names=carried, kind=OtherClasses)
    assert "did you mean golf ball (574)?" in said
    wnids = kind(imagenet_of(1000).wnids)
    assert matched(["church", "n01440764"], label_names=wnids).mapping == {"church": 497, "n01440764": 0}


def test_as_many_folders_as_classes_are_numbered_by_order_only_if_few_are_imagenets():
    titles = list(imagenet_names(1000).values())
    own = sorted(f"c{index:03}" for index in range(1000))
    assert matched(own).by_order
    assert matched(own[:501] + titles[:499]).by_order
    assert "is 2 classes of ImageNet" in refused(titles, kind=OtherClasses)
    assert "'c000' and 499 more of 1,000 names are no class" in refused(own[:500] + titles[-500:], kind=OtherClasses)


def test_empty_folders_are_no_classes_of_imagenets_names():
    titles = [title for title in imagenet_names(1000).values() if same(title) not in ("crane", "maillot", "cardigan")]
    assert len(titles) == 994
    assert not empty_are_classes(titles, ["x"] * 6, 1000, None)
    assert empty_are_classes([f"c{i}" for i in range(994)], ["x"] * 6, 1000, None)
    assert matched(titles, empty=["x"] * 6).by_english == tuple(titles)


def test_predictions_keep_all_of_imagenets_names_and_no_others_are_carried():
    classes = matched(["church", "tench"])
    assert classes.of_imagenet and names_by_index(classes, 1000)[574] == "golf ball"
    every = matched([*imagenet_of(1000).wnids[:-1], "toilet tissue"])
    assert every.of_imagenet and names_to_carry(every, 1000, None) == []


def test_every_wnid_has_its_english_name():
    for num_classes in SIZES:
        about = imagenet_of(num_classes)
        assert [english(wnid) for wnid in about.wnids] == about.titles
    assert english("n00000000") == "n00000000" and english("golf_ball") == "golf ball"


def test_torchvisions_imagenet_is_read_by_its_wnids():
    """Its `classes` are tuples of English names, of which two are `("crane",)`."""
    dataset = SimpleNamespace(classes=[("crane",), ("crane",)], wnids=["n02012849", "n03126707"])
    assert TorchImages(dataset).names == dataset.wnids
    assert TorchImages(SimpleNamespace(classes=["cat", "dog"])).names == ["cat", "dog"]


def test_a_real_models_configuration_tells_enough(tmp_path):
    """Not only a model: also the `pretrained_cfg` that commands open data by."""
    cfg = timm.create_model("deit_tiny_patch16_224").pretrained_cfg
    root = fill(tmp_path, ["church", "tench"], each=1)
    assert open_dataset(root, cfg).classes.mapping == {"church": 497, "tench": 0}
