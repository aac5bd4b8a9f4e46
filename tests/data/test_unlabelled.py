"""Photographs without labels: which folders hold them, and what they become."""

from __future__ import annotations

import pytest
import timm
import torch
from PIL import Image

from vitrim.data import open_dataset, open_loader
from vitrim.data.unlabelled import is_flat


@pytest.fixture(scope="module")
def model():
    return timm.create_model("test_vit", img_size=32, num_classes=3)


def pictures(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (200, 30, 30)).save(folder / name)
    return folder


def test_a_folder_of_any_shape_is_read_without_labels(tmp_path, model):
    pictures(tmp_path, "1.png", "a/2.png", "a/deep/3.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    dataset = open_dataset(tmp_path, model, labels=False)
    assert dataset.classes.unlabelled and dataset.classes.mapping == {} and dataset[0][1] is None
    batch = next(iter(open_loader(dataset, 8, 0)))
    assert batch.images.shape == (3, 3, 32, 32) and batch.labels is None
    assert [entry.name for entry in batch.skipped] == ["broken.png"]


def test_a_loader_of_several_processes_gives_no_labels_either(tmp_path, model):
    dataset = open_dataset(pictures(tmp_path, "1.png", "2.png", "3.png"), model, labels=False)
    batches = list(open_loader(dataset, 2, workers=1))
    assert [batch.labels for batch in batches] == [None, None] and sum(len(b.images) for b in batches) == 3


def test_limits_draw_alike_without_labels(tmp_path, model):
    pictures(tmp_path, *(f"{number}.png" for number in range(9)))
    one, same, other = (open_dataset(tmp_path, model, labels=False, limit=4, seed=seed).chosen for seed in (0, 0, 1))
    assert one == same != other and len(one) == 4
    assert open_dataset(tmp_path, model, labels=False, limit=4).choice == "drawn at random, seed 0"


@pytest.mark.parametrize(
    ("names", "split", "flat"),
    [
        (["1.png"], None, True),
        (["1.png", ".hidden/2.png"], None, True),
        (["1.png", "a/2.png"], None, False),
        (["1.png", "a/deep/2.png"], None, False),
        (["a/1.png"], None, False),
        (["val/1.png", "train/a/2.png"], "val", True),
        (["val/1.png", "train/a/2.png"], "train", False),
    ],
)
def test_a_folder_without_class_folders_is_flat(tmp_path, model, names, split, flat):
    pictures(tmp_path, *names)
    assert is_flat(tmp_path, split) is flat
    if flat:
        assert open_dataset(tmp_path, model, labels=None, split=split).classes.unlabelled
        with pytest.raises(ValueError, match="photographs but no class folders"):
            open_dataset(tmp_path, model, split=split)


def test_class_folders_and_label_files_are_labels(tmp_path, model):
    pictures(tmp_path / "flat", "1.png", "2.png")
    (tmp_path / "labels.txt").write_text("1.png 2\n2.png 0\n")
    options = {"labels": None, "label_file": tmp_path / "labels.txt"}
    labelled = open_dataset(tmp_path / "flat", model, **options)
    assert [labelled[place][1] for place in (0, 1)] == [2, 0]
    pictures(tmp_path / "classes", "a/1.png", "b/1.png", "c/1.png", "loose.png")
    assert len(open_dataset(tmp_path / "classes", model, labels=None).classes.names) == 3
    assert not is_flat(tmp_path / "nowhere", None) and not is_flat("hfds/somebody", None)


@pytest.mark.parametrize("given", [{"class_map": {"a": 0}}, {"label_file": "labels.txt"}, {"limit_per_class": 2}])
def test_what_is_about_labels_is_refused_without_them(tmp_path, model, given):
    pictures(tmp_path, "1.png")
    with pytest.raises(ValueError, match=f"without labels, and {next(iter(given))} is about labels: leave it out"):
        open_dataset(tmp_path, model, labels=False, **given)


def test_folders_without_images_are_refused(tmp_path, model):
    with pytest.raises(ValueError, match="holds no image"):
        open_dataset(tmp_path, model, labels=False)
    with pytest.raises(ValueError, match="there is no file or folder"):
        open_dataset(tmp_path / "nowhere", model, labels=False)


def test_labels_none_stays_none_on_the_way_to_pinned_memory(tmp_path, model):
    from torch.utils.data._utils.pin_memory import pin_memory

    if not torch.cuda.is_available():
        pytest.skip("pinned memory needs a GPU")
    batch = next(iter(open_loader(open_dataset(pictures(tmp_path, "1.png"), model, labels=False), 1, 0)))
    assert pin_memory(batch).labels is None
