"""Folders: every photograph once, whatever links there are; what is left out is counted; empty ones are no classes."""

from __future__ import annotations

import os
import tarfile

import pytest
from made_pictures import fill, flat, picture, small_vit

from vitrim.common.walking import AGAIN, CLOSED, HIDDEN
from vitrim.data import folders as _folders
from vitrim.data import open_dataset
from vitrim.data.folders import BESIDE, below
from vitrim.data.unlabelled import unlabelled


def names_of(dataset):
    return [dataset.source.name(i) for i in range(len(dataset))]


# links


def loops(root):
    """Class folders with every kind of link that leads to a folder twice."""
    fill(root / "data", ["a", "b", "c"])
    data = root / "data"
    (data / "a" / "self").symlink_to(data / "a")
    (data / "a" / "up").symlink_to(data)
    (data / "a" / "out").symlink_to(root)
    (data / "b" / "to_c").symlink_to(data / "c")
    (data / "b" / "also_up").symlink_to("..")
    (data / "c" / "dangling").symlink_to(root / "nowhere")
    fill(root / "elsewhere", ["more"])
    (root / "elsewhere" / "more" / "back").symlink_to(root / "elsewhere")
    (data / "c" / "more").symlink_to(root / "elsewhere" / "more")
    fill(root / "elsewhere", ["not asked for"])
    return data


def test_links_that_form_a_loop_end_and_every_photograph_is_found_once(tmp_path):
    dataset = open_dataset(loops(tmp_path), small_vit())
    expected = [f"{name}/{i}.png" for name in ("a", "b", "c", "c/more") for i in range(2)]
    assert sorted(names_of(dataset)) == sorted(expected)
    assert dataset.source.labels() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert dataset.left_out == {AGAIN: 6, "without an ending": 1}


def test_unlabelled_and_labelled_folders_are_walked_alike(tmp_path):
    data = loops(tmp_path)
    model = small_vit()
    (tmp_path / "labels.csv").write_text("".join(f"{name},0\n" for name in below(data)[0]))
    config = open_dataset(data, model).config
    found = [
        names_of(unlabelled(data, config)),
        names_of(open_dataset(data, model, label_file=tmp_path / "labels.csv")),
    ]
    assert [len(names) for names in found] == [8, 8] and found[0] == found[1] == sorted(found[0])


def test_a_class_that_links_to_another_class_takes_nothing_from_it(tmp_path):
    root = fill(tmp_path, ["b", "c"])
    (root / "a").symlink_to(root / "b")
    dataset = open_dataset(root, small_vit(2))
    assert dataset.classes.names == ("b", "c") and len(dataset) == 4 and dataset.left_out == {AGAIN: 1}


def test_two_loops_side_by_side_end(tmp_path):
    root = fill(tmp_path, ["a", "b", "c"])
    for name in "abc":
        for other in "abc":
            (root / name / f"to_{other}").symlink_to(root / other)
    assert len(open_dataset(root, small_vit())) == 6


def test_many_links_in_a_chain_are_followed(tmp_path):
    root = fill(tmp_path / "data", ["a", "b", "c"])
    chain = tmp_path / "chain"
    for i in range(20):  # the system itself follows 40 at a time
        (chain / str(i)).mkdir(parents=True)
        (chain / str(i) / "next").symlink_to(chain / str(i + 1))
    flat(chain / "20", ["last.png"])
    (root / "b" / "chain").symlink_to(chain / "0")
    assert open_dataset(root, small_vit()).source.labels() == [0, 0, 1, 1, 1, 2, 2]


def test_folders_that_cannot_be_opened_are_counted(tmp_path, monkeypatch):
    root = fill(tmp_path, ["a", "b", "c"])
    (root / "b" / "closed").mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(_folders.os, "scandir", refuse)  # root may open anything, so permissions prove nothing
    dataset = open_dataset(root, small_vit())
    assert len(dataset) == 6 and dataset.left_out == {CLOSED: 1}


def closing(monkeypatch, name):
    """From now on folders of that name may not be read. Root may read any, so permissions would prove nothing."""
    scan = os.scandir

    def refuse(path="."):
        if os.path.basename(os.path.normpath(path)) == name:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(_folders.os, "scandir", refuse)


@pytest.mark.parametrize(
    "closed, options",
    [
        ("data", {}),
        ("data", {"labels": None}),
        ("data", {"labels": False}),
        ("data", {"label_file": "labels.txt"}),
        ("data", {"split": "a"}),
        ("b", {}),
        ("b", {"labels": None}),
        ("b", {"labels": False, "split": "b"}),
    ],
)
def test_data_that_may_not_be_read_is_one_line(tmp_path, monkeypatch, closed, options):
    """Of class folders too: without one of them every figure would be of other data than was asked for."""
    root = fill(tmp_path / "data", ["a", "b", "c"])
    closing(monkeypatch, closed)
    with pytest.raises(ValueError, match=rf"the folder .*{closed} cannot be opened: Permission denied; make") as caught:
        open_dataset(root, small_vit(), **options)
    assert "\n" not in str(caught.value) and len(str(caught.value).replace(str(tmp_path), "")) <= 300


def test_a_link_to_itself_in_an_empty_folder_is_one_line(tmp_path):
    (tmp_path / "me").symlink_to("me")
    with pytest.raises(ValueError, match=r"holds no photographs .* and no folders$"):
        open_dataset(tmp_path, small_vit())


# what is left out


def test_what_is_no_photograph_or_has_no_class_is_counted(tmp_path):
    root = fill(tmp_path, ["a", "b", "c"])
    flat(root, ["beside.png", "also beside.jpg"])
    for name in ("notes.txt", "a/x.heic", "b/y.HEIC", "b/z.avif", "c/README", "c/._0.png", ".DS_Store", "c/.DS_Store"):
        (root / name).write_bytes(b"")
    (root / "c" / ".ipynb_checkpoints").mkdir()
    (root / ".git").mkdir()
    dataset = open_dataset(root, small_vit())
    assert len(dataset) == 6
    expected = {BESIDE: 2, ".txt": 1, ".heic": 2, ".avif": 1, "without an ending": 1, HIDDEN: 2}
    assert dataset.left_out == expected
    assert unlabelled(root, dataset.config).left_out == {k: v for k, v in expected.items() if k != BESIDE} | {HIDDEN: 3}


def test_gif_is_a_photograph_in_evaluation_as_in_training(tmp_path):
    root = fill(tmp_path, ["a", "b", "c"])
    (root / "a" / "x.gif").write_bytes(picture(kind="GIF"))
    dataset = open_dataset(root, small_vit())
    assert len(dataset) == len(unlabelled(root, dataset.config)) == 7 and dataset[2][0].shape == (3, 32, 32)


def test_labels_of_files_that_are_not_there_are_counted(tmp_path):
    root = flat(tmp_path / "flat", ["a.png", "b.png", "x.webm"])
    (tmp_path / "labels.csv").write_text("a.png,0\nb.png,1\nc.png,2\nd.png,0\n")
    dataset = open_dataset(root, small_vit(), label_file=tmp_path / "labels.csv")
    assert dataset.left_out == {".webm": 1, "labels of files that are not there": 2}


def test_what_a_tar_file_holds_besides_is_counted(tmp_path):
    fill(tmp_path / "data", ["a", "b"])
    flat(tmp_path / "data", ["beside.png"])
    for name in ("a/x.webp", "b/notes.txt"):
        (tmp_path / "data" / name).write_bytes(b"")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "data", "")
    dataset = open_dataset(tmp_path / "x.tar", small_vit(2))
    assert dataset.classes.names == ("a", "b") and dataset.left_out == {BESIDE: 1, ".webp": 1, ".txt": 1}
    assert [dataset[i][1] for i in range(len(dataset))] == [0, 0, 1, 1]
    assert sorted(names_of(dataset)) == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    with tarfile.open(tmp_path / "flat.tar", "w") as archive:
        archive.add(tmp_path / "data" / "beside.png", "beside.png")
    with pytest.raises(ValueError, match="has photographs but no class folders"):
        open_dataset(tmp_path / "flat.tar", small_vit(2))


# empty folders


def test_a_folder_without_a_photograph_is_no_class(tmp_path):
    root = fill(tmp_path, ["cat", "dog"])
    (root / "bird" / "deeper").mkdir(parents=True)
    (root / "fish").mkdir()
    (root / "fish" / "x.heic").write_bytes(b"")
    dataset = open_dataset(root, small_vit(2))
    assert dataset.classes.mapping == {"cat": 0, "dog": 1}
    with pytest.raises(
        ValueError, match=r"has 2 classes \(cat, dog\), besides 2 folders without a photograph"
    ) as caught:
        open_dataset(root, small_vit(3))
    assert "(bird, fish)" in str(caught.value) and "`name,index` as class_map" in str(caught.value)


def test_only_where_the_counts_ask_for_it_empty_folders_are_classes_and_that_is_said(tmp_path):
    root = fill(tmp_path, ["cat", "dog"])
    (root / "bird").mkdir()
    dataset = open_dataset(root, small_vit(3))
    assert dataset.classes.mapping == {"bird": 0, "cat": 1, "dog": 2} and dataset.source.labels() == [1, 1, 2, 2]
    assert "1 folder without a photograph among them: bird" in dataset.classes.rule


def test_empty_wnid_folders_change_nothing(tmp_path):
    root = fill(tmp_path, ["n02102040", "n03888257"])
    (root / "n01440764").mkdir()
    assert set(open_dataset(root, small_vit(1000)).classes.mapping.values()) == {217, 701}
