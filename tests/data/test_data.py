"""Data sets: what is found, how it is labelled, and what becomes of everything that is wrong with it."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from made_pictures import fill, flat, picture, small_vit
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config

from vitrim.data import Batch, Unreadable, collate, open_dataset, open_loader
from vitrim.data import sources as _sources
from vitrim.data.folders import in_order

WNIDS = ImageNetInfo().label_names()


def labels_of(dataset):
    return [label for _, label in (dataset[i] for i in range(len(dataset)))]


def everything(dataset, batch_size=2, workers=0):
    batches = list(open_loader(dataset, batch_size, workers))
    images = torch.cat([batch.images for batch in batches if len(batch.labels)])
    return images, torch.cat([batch.labels for batch in batches]), [s for batch in batches for s in batch.skipped]


# folders and classes


def test_class_folders_are_taken_in_natural_order_whatever_is_empty(tmp_path):
    root = fill(tmp_path, ["class10", "class2", "class1"])
    (root / "class3").mkdir()
    (root / ".hidden").mkdir()
    (root / "class1" / "._0.png").write_bytes(b"a Mac's shadow of a file")
    dataset = open_dataset(root, small_vit(4))
    assert dataset.classes.names == ("class1", "class2", "class3", "class10")
    assert labels_of(dataset) == [0, 0, 1, 1, 3, 3]


def test_wnid_folders_map_to_the_thousand_classes(tmp_path):
    root = fill(tmp_path, ["n03888257", "n01440764", "n02102040"])
    dataset = open_dataset(root, small_vit(1000))
    assert dataset.classes.names == ("n01440764", "n02102040", "n03888257")
    assert labels_of(dataset) == [0, 0, 217, 217, 701, 701]
    assert "wnid" in dataset.classes.rule


def test_wnid_folders_map_to_a_larger_imagenet_as_well(tmp_path):
    root = fill(tmp_path, ["n01440764", "n02102040"])
    larger = ImageNetInfo("imagenet-12k").label_names()
    assert labels_of(open_dataset(root, small_vit(11821)))[::2] == [larger.index(n) for n in ("n01440764", "n02102040")]


def test_label_names_of_the_model_come_first(tmp_path):
    model = small_vit(3)
    model.pretrained_cfg["label_names"] = ["pear", "apple", "fig"]
    assert labels_of(open_dataset(fill(tmp_path, ["apple", "pear"]), model)) == [1, 1, 0, 0]


def test_a_model_without_classifier_keeps_the_folders_own_classes(tmp_path):
    dataset = open_dataset(fill(tmp_path, ["x", "y"]), small_vit(0))
    assert labels_of(dataset) == [0, 0, 1, 1]


def test_limits_take_the_first_by_name(tmp_path):
    root = fill(tmp_path, ["a", "b", "c"], each=4)
    names = [entry[0].rsplit("/", 2)[1:] for entry in open_dataset(root, small_vit()).source.samples]
    assert names == sorted(names)
    dataset = open_dataset(root, small_vit(), limit_per_class=3)
    assert [dataset.source.name(i) for i in dataset.chosen] == [f"{c}/{i}.png" for c in "abc" for i in range(3)]
    assert len(open_dataset(root, small_vit(), limit_per_class=3, limit=5)) == 5
    assert len(open_dataset(root, small_vit(), limit=7)) == 7
    assert len(open_dataset(root, small_vit(), limit_per_class=100)) == 12


def test_images_below_a_class_folder_and_links_to_folders_are_found(tmp_path):
    root = fill(tmp_path / "data", ["a", "b"])
    fill(tmp_path / "else", ["c"])
    (root / "a" / "deep").mkdir()
    (root / "a" / "deep" / "z.JPEG").write_bytes(picture(kind="JPEG"))
    (root / "c").symlink_to(tmp_path / "else" / "c")
    assert labels_of(open_dataset(root, small_vit())) == [0, 0, 0, 1, 1, 2, 2]


def test_a_split_is_a_folder_below(tmp_path):
    fill(tmp_path / "val", ["a", "b", "c"])
    fill(tmp_path / "train", ["a", "b", "c"], each=3)
    assert len(open_dataset(tmp_path, small_vit(), split="train")) == 9
    with pytest.raises(ValueError, match=r"holds the splits train, val: choose one, for example .*val"):
        open_dataset(tmp_path, small_vit())
    with pytest.raises(ValueError, match="has no folder 'test'"):
        open_dataset(tmp_path, small_vit(), split="test")


# preparation


@pytest.mark.parametrize("crop_pct", [None, 1.0, 0.5])
def test_images_are_prepared_as_timm_does(tmp_path, crop_pct):
    root, model = fill(tmp_path, ["a", "b", "c"]), small_vit()
    config = resolve_model_data_config(model, {"input_size": (3, 32, 32), "crop_pct": crop_pct})
    with Image.open(root / "b" / "1.png") as image:
        expected = create_transform(**config, is_training=False)(image.convert("RGB"))
    assert torch.equal(open_dataset(root, model, crop_pct=crop_pct)[3][0], expected)
    assert torch.equal(
        open_dataset(root, {**model.pretrained_cfg, "num_classes": 3}, crop_pct=crop_pct, img_size=32)[3][0], expected
    )


def test_image_size_is_the_models_own_or_free_where_it_is_dynamic(tmp_path):
    root = fill(tmp_path, ["a", "b", "c"])
    assert open_dataset(root, small_vit(img_size=48))[0][0].shape == (3, 48, 48)
    dynamic = small_vit(dynamic_img_size=True)
    assert open_dataset(root, dynamic, img_size=64)[0][0].shape == (3, 64, 64)
    assert open_dataset(root, dynamic, img_size=(64, 32))[0][0].shape == (3, 64, 32)
    assert open_dataset(root, torch.nn.DataParallel(small_vit(img_size=48)))[0][0].shape == (3, 48, 48)
    with pytest.raises(ValueError, match=r"takes 32 x 32 pixels and img_size asks for 48 x 48"):
        open_dataset(root, small_vit(), img_size=48)


def test_a_model_for_gray_images_gets_gray_images(tmp_path):
    root, model = fill(tmp_path, ["a", "b", "c"]), small_vit(in_chans=1)
    with pytest.raises(ValueError, match="takes 1 channel and its mean has 3"):
        open_dataset(root, model)
    model.pretrained_cfg.update(mean=(0.5,), std=(0.5,))
    assert open_dataset(root, model)[0][0].shape == (1, 32, 32)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop_pct": 0.0}, "crop_pct=0.0"),
        ({"crop_pct": 1.5}, "crop_pct=1.5"),
        ({"img_size": 0}, "img_size=0"),
        ({"limit": 0}, "limit=0"),
        ({"limit_per_class": -1}, "limit_per_class=-1"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(fill(tmp_path, ["a", "b", "c"]), small_vit(), **options)


# files that cannot be read

DAMAGE = {
    "empty.png": b"",
    "text.jpg": b"this is no image at all",
    "truncated.jpg": picture(kind="JPEG")[:700],
    "truncated.png": picture()[:2000],
    "broken.png": picture()[:40] + b"\0" * 200 + picture()[240:],
    "header.gif.png": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_skipped_and_named(tmp_path, workers):
    root = fill(tmp_path, ["a", "b", "c"], each=3)
    for name, content in DAMAGE.items():
        (root / "b" / name).write_bytes(content)
    (root / "c" / "dangling.png").symlink_to(root / "nowhere.png")
    images, labels, skipped = everything(open_dataset(root, small_vit()), 4, workers)
    assert images.shape == (9, 3, 32, 32) and labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert {entry.name for entry in skipped} == {f"b/{name}" for name in DAMAGE} | {"c/dangling.png"}
    assert all(entry.reason and "\n" not in entry.reason for entry in skipped)


def test_an_image_too_large_to_be_honest_is_skipped(tmp_path, monkeypatch):
    root = fill(tmp_path, ["a", "b", "c"], each=1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    _, labels, skipped = everything_or_nothing(open_dataset(root, small_vit()))
    assert not len(labels) and len(skipped) == 3 and "DecompressionBomb" in skipped[0].reason


def everything_or_nothing(dataset):
    batches = list(open_loader(dataset, 2, 0))
    return None, torch.cat([batch.labels for batch in batches]), [s for batch in batches for s in batch.skipped]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16", "LA"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    root = fill(tmp_path, ["a", "b", "c"], each=1)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    Image.new(mode, (40, 40)).save(root / "a" / f"1.{kind.lower()}")
    assert open_dataset(root, small_vit())[1][0].shape == (3, 32, 32)


def test_a_batch_of_unreadable_files_is_empty_and_says_which():
    bad = [Unreadable("a.jpg", "empty"), Unreadable("b.jpg", "text")]
    batch = collate(bad)
    assert isinstance(batch, Batch) and len(batch.images) == len(batch.labels) == 0 and batch.skipped == tuple(bad)


# loading


def test_order_and_content_do_not_depend_on_workers_or_batches(tmp_path):
    dataset = open_dataset(fill(tmp_path, ["a", "b", "c"], each=5), small_vit())
    first = everything(dataset, 2, 0)
    for batch_size, workers in [(2, 2), (4, 2), (15, 0), (100, None), (1, 0)]:
        images, labels, _ = everything(dataset, batch_size, workers)
        assert torch.equal(images, first[0]) and torch.equal(labels, first[1])


def test_data_sets_pickle_for_spawned_workers(tmp_path):
    dataset = open_dataset(fill(tmp_path, ["a", "b", "c"]), small_vit())
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[2][0], dataset[2][0])


@pytest.mark.parametrize("options, message", [((0, 0), "batch_size=0"), ((1, -1), "workers=-1")])
def test_the_loader_refuses_nonsense(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        open_loader(open_dataset(fill(tmp_path, ["a", "b", "c"]), small_vit()), *options)


# what is no data set


def test_classes_that_do_not_match_are_refused(tmp_path):
    root = fill(tmp_path / "words", ["cat", "dog"])
    with pytest.raises(
        ValueError, match=r"has 2 classes \(cat, dog\) and the model 1000: name the classes as ImageNet"
    ):
        open_dataset(root, small_vit(1000))
    wnids = fill(tmp_path / "wnids", ["n01440764", "n99999999"])
    with pytest.raises(ValueError, match="not among the 1000 classes of imagenet-1k: n99999999"):
        open_dataset(wnids, small_vit(1000))


def test_paths_that_are_no_data_set_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    for hollow in ("hollow/class", "hollows/class", "hollows/other"):
        (tmp_path / hollow).mkdir(parents=True)
    (tmp_path / "broken.tar").write_bytes(b"no tar")
    flat(tmp_path / "flat", ["1.jpg"])
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "none.tar", "w"):
        pass
    refusals = {
        "nowhere": "there is no file or folder .*nowhere: give a folder",
        "notes.txt": "is a file and no data set",
        "empty": "holds no photographs .* and no folders",
        "hollow": "holds no photographs .* nor does its one folder$",
        "hollows": "holds no photographs .* nor do its 2 folders$",
        "flat": "no class folders: give a file of lines",
        "broken.tar": "cannot be read as a tar file",
        "tars/none.tar": "holds no photographs",
        "tars": "holds tar files: give one of them",
    }
    for name, message in refusals.items():
        with pytest.raises(ValueError, match=message) as caught:
            open_dataset(tmp_path / name, small_vit())
        assert "\n" not in str(caught.value)


def test_a_source_that_needs_another_package_names_it(monkeypatch):
    monkeypatch.setattr(_sources.importlib.util, "find_spec", lambda name: None)
    for name, package in {"hfds/x": "datasets", "tfds/x": "tensorflow-datasets", "wds/x": "webdataset"}.items():
        with pytest.raises(ValueError, match=f"pip install {package}$"):
            open_dataset(name, small_vit())


def test_timms_own_refusals_become_one_line(tmp_path):
    for name in ("torch/nothing", "torch/cifar10"):
        with pytest.raises(ValueError, match=f"timm cannot open {name} with split 'validation'") as caught:
            open_dataset(name, small_vit(10), root=tmp_path)
        assert "\n" not in str(caught.value)


def test_torchvisions_data_sets_need_to_be_told_where_they_are_stored():
    with pytest.raises(ValueError, match=r"^torch/cifar10 needs the folder where it is stored: give it as root, or"):
        open_dataset("torch/cifar10", small_vit(10))


# label files


@pytest.fixture
def four(tmp_path):
    return flat(tmp_path / "flat", ["d.png", "b.png", "a.png", "c.png"])


LABEL_FILES = {
    "spaces": "a.png n01440764\nb.png n02102040\n\nc.png n03888257\nd.png n01440764\nabsent.png n01440764\n",
    "tabs": "a.png\tn01440764\nb.png\tn02102040\nc.png\tn03888257\nd.png\tn01440764\n",
    "csv with header": "file,wnid\na.png,n01440764\nb.png, n02102040\nc.png,n03888257\nd.png,n01440764\n",
    "kaggle": "ImageId,PredictionString\na,n01440764 1 2 3 4 \nb,n02102040 1 2 3 4 n02102040 5 6 7 8\n"
    "c,n03888257 1 2 3 4\nd,n01440764 0 0 1 1\n",
    "indices": "d.png 0\nc.png 701\nb.png 217\na.png 0\n",
    "bare wnids": "n01440764\nn02102040\nn03888257\nn01440764\n",
    "bare indices": "0\n217\n701\n0\n",
    "byte order mark": "\ufeffa.png 0\nb.png 217\nc.png 701\nd.png 0\n",
}


@pytest.mark.parametrize("content", LABEL_FILES.values(), ids=LABEL_FILES)
def test_label_files_of_every_form(four, tmp_path, content):
    (tmp_path / "labels.txt").write_text(content, encoding="utf-8")
    dataset = open_dataset(four, small_vit(1000), label_file=tmp_path / "labels.txt")
    assert [dataset.source.name(i) for i in range(4)] == ["a.png", "b.png", "c.png", "d.png"]
    assert labels_of(dataset) == [0, 217, 701, 0]


def test_class_names_and_numbers_for_models_of_any_size(four, tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("a.png,golf ball\nb.png,church\nc.png,golf ball\nd.png,church\n")
    assert labels_of(open_dataset(four, small_vit(2), label_file=file)) == [1, 0, 1, 0]
    assert labels_of(open_dataset(four, small_vit(0), label_file=file)) == [1, 0, 1, 0]
    file.write_text("1\n2\n1\n2\n")
    assert labels_of(open_dataset(four, small_vit(3), label_file=file)) == [1, 2, 1, 2]
    assert len(open_dataset(four, small_vit(3), label_file=file, limit_per_class=1)) == 2


BAD_LABEL_FILES = {
    "a.png 0\nb.png 1\n": "has no label for 2 of 4 images: c.png, d.png",
    "0\n1\n": "has 2 labels, one a line, for 4 images: give one line",
    "a.png 0\nb.png\nc.png 0\nd.png 0\n": "the line 'b.png' has no label",
    "a.png 0\na.png 1\nb.png 0\nc.png 0\nd.png 0\n": "gives a.png two labels: 0 and 1",
    "a.png 0\nb.png 1000\nc.png 5\nd.png 5\n": "from 0 to 1000; class indices of the model go from 0 to 999",
    "": "is empty",
    "1000\n1\n3\n4\n": "ILSVRC2012 ids, whose order is not the models'",
    "a.png cat\nb.png dog\nc.png cat\nd.png dog\n": "has 2 classes .* and the model 1000",
    "a.png tench\nb.png chruch\nc.png tench\nd.png tench\n": "'chruch' is no class of ImageNet: did you mean church",
}


@pytest.mark.parametrize("content, message", BAD_LABEL_FILES.items())
def test_label_files_that_do_not_fit_are_refused(four, tmp_path, content, message):
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_dataset(four, small_vit(1000), label_file=tmp_path / "labels.txt")
    assert "\n" not in str(caught.value)


def test_a_label_file_must_be_text_and_goes_with_a_folder(four, tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00\x81")
    for path, file, message in [
        (four, tmp_path / "labels.txt", "cannot read the label file"),
        (four, tmp_path / "none.txt", r"^there is no label file .*none\.txt: give one with lines `file label`$"),
        (four, tmp_path / "flat", r"^cannot read the label file .*flat: Is a directory$"),
        (tmp_path / "labels.txt", tmp_path / "labels.txt", "goes with a folder"),
        (flat(tmp_path / "bare", []), tmp_path / "labels.txt", "holds no photographs"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_dataset(path, small_vit(1000), label_file=file)


def write_devkit(folder, ids, wnids):
    from scipy.io import savemat

    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
    table = np.array([(float(i), wnid, "words") for i, wnid in wnids.items()], dtype=kinds)
    savemat(folder / "meta.mat", {"synsets": table.reshape(-1, 1)})
    file = folder / "ILSVRC2012_validation_ground_truth.txt"
    file.write_text("".join(f"{i}\n" for i in ids))
    return file


def test_the_devkits_ids_go_through_its_meta_mat(four, tmp_path):
    shuffled = np.random.default_rng(0).permutation(WNIDS)
    file = write_devkit(tmp_path, [1000, 1, 7, 490], {i + 1: str(wnid) for i, wnid in enumerate(shuffled)})
    labels = labels_of(open_dataset(four, small_vit(1000), label_file=file))
    assert labels == [WNIDS.index(shuffled[i - 1]) for i in (1000, 1, 7, 490)]
    file.write_text("1001\n1\n1\n1\n")
    with pytest.raises(ValueError, match=r"has ids that .* does not know: 1001"):
        open_dataset(four, small_vit(1000), label_file=file)
    (tmp_path / "meta.mat").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"is not the ImageNet devkit's meta\.mat"):
        open_dataset(four, small_vit(1000), label_file=file)


def test_part_of_imagenets_validation_set_counts_by_file_number(tmp_path):
    root = flat(tmp_path / "val", ["ILSVRC2012_val_00000003.JPEG", "ILSVRC2012_val_00050000.JPEG"])
    ids = [1 + i % 1000 for i in range(50_000)]
    file = write_devkit(tmp_path, ids, {i + 1: wnid for i, wnid in enumerate(WNIDS)})
    assert labels_of(open_dataset(root, small_vit(1000), label_file=file)) == [2, 999]


# tar files and streams


def add(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def test_a_tar_of_class_folders(tmp_path):
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        for c, name in enumerate(["n02102040", "n01440764"]):
            for i in range(3):
                add(archive, f"val/{name}/{i}.png", picture(10 * c + i) if (c, i) != (0, 1) else b"damaged")
    dataset = open_dataset(tmp_path / "data.tar", small_vit(1000))
    expected, labels, skipped = everything(dataset)
    assert labels.tolist() == [0, 0, 0, 217, 217] and [entry.name for entry in skipped] == ["val/n02102040/1.png"]
    for other in (dataset, pickle.loads(pickle.dumps(dataset))):
        images, _, _ = everything(other, 1, 2)  # after this process has opened the file
        assert torch.equal(images, expected)
    assert labels_of(open_dataset(tmp_path / "data.tar", small_vit(1000), limit_per_class=1)) == [0, 217]


def test_torchvision_data_sets_are_read_through_timm(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": rows, "labels": [3, 1, 9, 3]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    from torchvision.datasets import CIFAR10

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CIFAR10, "_check_integrity", lambda self: True)
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
        dataset = open_dataset("torch/cifar10", small_vit(10), root=tmp_path, limit_per_class=1)
    assert labels_of(dataset) == [3, 1, 9]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves shards open
@pytest.mark.parametrize("workers", [0, 2])
def test_webdataset_shards(tmp_path, workers):
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    for shard in range(2):
        with tarfile.open(tmp_path / f"val-{shard:04d}.tar", "w") as archive:
            for i in range(3):
                damaged = (shard, i) == (1, 1)
                add(archive, f"{shard}{i}.png", b"damaged" if damaged else picture(i))
                add(archive, f"{shard}{i}.cls", str(i).encode())
    name = f"wds/{tmp_path}/val-{{0000..0001}}.tar"
    _, labels, skipped = everything(open_dataset(name, small_vit()), 2, workers)
    assert labels.tolist() == [0, 1, 2, 0, 2] and skipped[0].name == f"image 4 of {name}"
    _, labels, _ = everything(open_dataset(tmp_path / "val-0000.tar", small_vit(), limit=2), 2, workers)
    assert labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match="limit_per_class needs random access"):
        open_dataset(name, small_vit(), limit_per_class=1)


def test_hugging_face_datasets(tmp_path):
    pytest.importorskip("datasets", reason="datasets is not installed")
    root = fill(tmp_path / "data" / "validation", ["a", "b", "c"])
    (root / "b" / "0.png").write_bytes(b"damaged")
    dataset = open_dataset(f"hfds/{tmp_path / 'data'}", small_vit(), root=tmp_path / "cache")
    _, labels, skipped = everything(dataset)
    assert dataset.classes.names == ("a", "b", "c")
    assert labels.tolist() == [0, 0, 1, 2, 2] and skipped[0].name.endswith("b/0.png")
    assert len(open_dataset(f"hfds/{tmp_path / 'data'}", small_vit(), root=tmp_path / "cache", limit_per_class=1)) == 3


def test_natural_order_is_total():
    assert in_order({"b10", "b9", "A1", "a1"}) == ["A1", "a1", "b9", "b10"]
