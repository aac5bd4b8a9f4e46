"""What runs write, from whatever names images, and what they refuse."""

from __future__ import annotations

import csv
import json
import os
import tarfile
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
from small_runs import KINDS, content, left_beside, pictures, run_on, saved_model, small_model

import vitrim
from vitrim import cli
from vitrim.data import open_dataset
from vitrim.inference.journal import Unfinished

COUNT, BAD = 13, (0, 5, 12)
GOOD = COUNT - len(BAD)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("inference") / "data", COUNT, BAD)


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def own(data: Path | str, method=None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, logits and pooled features of the images that can be read, one by one by the model itself."""
    model = small_model() if method is None else vitrim.reduce(small_model(), method)
    images = open_dataset(data, small_model(), labels=False)
    places = [place for place in range(len(images)) if not isinstance(images[place], vitrim.data.Unreadable)]
    batch = torch.stack([images[place][0] for place in places])
    with torch.inference_mode():
        features = vitrim.ReducedViT(small_model(), None) if method is None else model
        return [images.name(place) for place in places], model(batch).numpy(), features.pooled(batch).numpy()


# -- rows


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_predictions_are_those_of_the_model(data, ending, workers, tmp_path):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"out.{ending}"
    done = run_on(data, out, workers=workers)
    names, logits, _ = own(data)
    assert (done.images, done.unreadable, done.rows, done.before) == (COUNT, len(BAD), GOOD, 0)
    files, index, share = table(out)
    wanted = torch.from_numpy(logits).softmax(1).topk(2)
    assert files == names
    np.testing.assert_array_equal(index, wanted.indices.numpy())
    np.testing.assert_allclose(share, wanted.values.numpy(), atol=1e-6)
    listed = rows_of(tmp_path / f"out.{ending}.unreadable.jsonl")
    assert [entry["file"] for entry in listed] == [entry for entry in every_name(data) if entry not in names]
    assert {entry["reason"] for entry in listed} == {"not an image, or damaged from its first bytes"}
    assert left_beside(out) == []


def every_name(data: Path) -> list[str]:
    return sorted(path.relative_to(data).as_posix() for path in data.rglob("*.png"))


def table(out: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Files, indices and probabilities of a table of any kind."""
    if out.suffix == ".csv":
        with open(out, newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["file", "label_1", "index_1", "probability_1", "label_2", "index_2", "probability_2"]
        kinds = [[[row[f"{name}_{k}"] for k in (1, 2)] for row in rows] for name in ("index", "probability")]
        return [row["file"] for row in rows], np.array(kinds[0], dtype=int), np.array(kinds[1], dtype=float)
    if out.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = pq.read_table(out).to_pylist()
    else:
        rows = rows_of(out)
    return (
        [row["file"] for row in rows],
        *(np.array([row[name] for row in rows]) for name in ("index", "probability")),
    )


@pytest.mark.parametrize("method", [None, "evit"])
def test_features_are_those_of_the_model(data, method, tmp_path):
    model = small_model() if method is None else vitrim.reduce(small_model(), method)
    run_on(data, tmp_path / "features", model=model)
    names, _, wanted = own(data, method)
    parts = sorted((tmp_path / "features").glob("*.npy"))
    np.testing.assert_allclose(np.concatenate([np.load(part) for part in parts]), wanted, atol=1e-5)
    assert [name for part in parts for name in json.loads(part.with_suffix(".json").read_text())] == names
    told = json.loads((tmp_path / "features" / "_run.json").read_text())
    assert told["found"] == {"images": COUNT, "unreadable": len(BAD)}


def test_features_in_parquet_are_those_in_npy(data, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    run_on(data, tmp_path / "npy")
    run_on(data, tmp_path / "parquet", format="parquet")
    found = pq.read_table(tmp_path / "parquet")  # of the whole folder: what begins with _ is passed over
    wanted = np.concatenate([np.load(part) for part in sorted((tmp_path / "npy").glob("*.npy"))])
    np.testing.assert_array_equal(np.array(found["embedding"].to_pylist(), dtype=np.float32), wanted)
    assert found.num_rows == GOOD


def test_a_model_of_fixed_batches_sees_no_other_size(data, tmp_path):
    seen = set()
    model = vitrim.reduce(small_model(), "evit")
    model.register_forward_pre_hook(lambda module, given: seen.add(len(given[0])))
    run_on(data, tmp_path / "out.csv", model=model, batch=4)
    assert seen == {4}


# -- what names images


def test_one_set_of_images_is_the_same_however_it_is_named(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data.parent)
    listed = "".join(f"{data / name}\n" for name in every_name(data))
    (tmp_path / "list.txt").write_text("\ufeff" + listed.replace("\n", "\r\n") + "\n")
    for name, arcname in (("tree.tar", str), ("flat.tar", os.path.basename)):
        with tarfile.open(tmp_path / name, "w") as archive:
            for file in every_name(data):
                archive.add(data / file, arcname=arcname(file))
    given = [data, tmp_path / "list.txt", f"{data}/**/*.png", tmp_path / "tree.tar", tmp_path / "flat.tar"]
    found = []
    for number, each in enumerate(given):
        run_on(each, tmp_path / f"{number}.jsonl")
        rows = rows_of(tmp_path / f"{number}.jsonl")
        found.append(sorted((os.path.basename(row["file"]), row["index"]) for row in rows))
    assert len(found[0]) == GOOD and all(each == found[0] for each in found)


def test_a_single_photograph_and_a_list_with_one_that_is_missing(data, tmp_path):
    names, _, _ = own(data)
    one = tmp_path / "one.jsonl"
    run_on(data / names[0], one)
    assert [row["file"] for row in rows_of(one)] == [str(data / names[0])]
    (tmp_path / "list").write_text(f"{data / names[1]}\nnowhere.png\n")
    done = run_on(tmp_path / "list", tmp_path / "two.jsonl")
    assert (done.rows, done.unreadable) == (1, 1)
    assert "No such file" in rows_of(tmp_path / "two.jsonl.unreadable.jsonl")[0]["reason"]


def test_several_words(data, line, tmp_path, capsys):
    """What a shell makes of a pattern, folders and patterns among it; each photograph once, in their order."""
    names, images = own(data)[0], line[0]
    Path("notes.md").write_text("none")
    first = f"{images}/{names[1]}"
    words = [first, "notes.md", images, f"{images}/x/y/*.png"]
    assert cli.main(["predict", *words, *line[1:], "--out", "a.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "left out: .md (1)" in said and "and 3 more at" in said
    assert [row["file"] for row in rows_of(tmp_path / "a.jsonl")] == [
        first, *(f"{images}/{name}" for name in names if name != names[1])
    ]  # fmt: skip
    assert cli.main(["embed", "--data", first, first, *line[1:], "--out", "features"]) == 0
    assert np.load("features/part-00000000.npy").shape == (1, 16)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["DATA", "nowhere.png"], "there is no file or folder nowhere.png"),
        (["DATA", "some.tar"], "some.tar is one of several: give photographs, folders and patterns, or it alone"),
        (["hfds/x", "DATA"], "hfds/x is one of several"),
        (["list", "list"], "list and what follows is no image"),
        (["DATA", "DATA", "--split", "x"], "--split x goes with one place"),
        (["DATA", "*.gif"], "*.gif matches no image"),
    ],
)
def test_words_that_do_not_go_together(words, said, line, capsys):
    for name in ("some.tar", "list"):
        Path(name).write_text("a\n")
    words = [line[0] if word == "DATA" else word for word in words]
    assert cli.main(["predict", *words, *line[1:], "--out", "a.csv"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not [name for name in os.listdir() if name.startswith("a.")]
    with pytest.raises(ValueError, match="several places are read without labels"):
        open_dataset(["a", "b"], small_model())


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("empty.txt", b"", "lists no file: give a file with the name of a photograph on each line"),
        ("weights.pth", b"PK\0\1", "is no text: give a folder, a .tar, or a list"),
        ("photos.zip", b"PK", "is packed: unpack it"),
    ],
)
def test_what_is_no_list(name, text, said, tmp_path):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=said):
        open_dataset(tmp_path / name, small_model(), labels=False)
    with pytest.raises(ValueError, match="matches no image"):
        open_dataset(f"{tmp_path}/*.png", small_model(), labels=False)


# -- going on


def stopped_after(parts: int, monkeypatch, data: Path, out: Path, **options) -> None:
    """A run whose disk is full after so many parts."""
    from vitrim.inference.journal import Journal

    add, seen = Journal.list_skipped, []

    def full(self, number, skipped):
        seen.append(number)
        if len(seen) > parts:
            raise Unfinished("the disk is full")
        add(self, number, skipped)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "list_skipped", full)
        with pytest.raises(Unfinished):
            run_on(data, out, **options)


@pytest.mark.parametrize("kind", ["csv", "npy"])
def test_a_run_goes_on_and_computes_nothing_twice(data, kind, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole" / KINDS[kind], tmp_path / "out" / KINDS[kind]
    whole.parent.mkdir()
    out.parent.mkdir()
    run_on(data, whole, part=4)
    stopped_after(2, monkeypatch, data, out, part=4)
    assert not out.exists()
    done = run_on(data, out, part=4, workers=1)
    assert done.before == 8 and content(out) == content(whole) and left_beside(out) == []


@pytest.mark.parametrize("what", ["model", "method", "data", "part"])
def test_a_run_that_was_asked_something_else_is_not_gone_on_with(data, what, tmp_path, monkeypatch):
    out = tmp_path / "out.csv"
    stopped_after(1, monkeypatch, data, out, part=4)
    other = {"part": 4}
    if what == "data":
        other["places"] = {"limit": 12}
    if what == "part":
        other["part"] = 8
    if what == "method":
        other["batch"] = 2
    if what == "model":
        torch.manual_seed(1)
        other["model"] = vitrim.for_images(type(small_model())(img_size=32, patch_size=8, embed_dim=16, depth=4,
                                                              num_heads=2, num_classes=5)).eval()  # fmt: skip
    with pytest.raises(ValueError, match="holds an unfinished run with other ") as caught:
        run_on(data, out, **other)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
    assert run_on(data, out, overwrite=True, **other).before == 0


def test_a_folder_of_somebody_elses_is_left_alone(data, tmp_path):
    out = tmp_path / "out.csv"
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "mine").write_text("")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="of no run of vitrim's: give another --out"):
            run_on(data, out, overwrite=overwrite)
    assert os.listdir(tmp_path / "out.csv.parts") == ["mine"]


def test_what_came_to_lie_there_meanwhile_is_not_replaced(data, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.raises(ValueError, match="is there now: give --overwrite to put what lies in"):
        run_on(data, out)
    assert out.read_text() == "mine"
    done = run_on(data, out, overwrite=True)
    assert done.before == COUNT and len(table(out)[0]) == GOOD


def test_nothing_but_unreadable_images(tmp_path):
    done = run_on(pictures(tmp_path / "bad", 3, (0, 1, 2)), tmp_path / "out.jsonl")
    assert (done.rows, done.unreadable) == (0, 3) and (tmp_path / "out.jsonl").read_bytes() == b""


# -- the commands


@pytest.fixture
def line(data, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return [str(data), "--checkpoint", str(saved_model(tmp_path / "model")), "--workers", "0", "--device", "cpu"]


def test_predict_and_its_names(line, tmp_path, capsys):
    Path("names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    assert cli.main(["predict", *line, "--class-names", "names.txt", "--out", "a.jsonl", "--json", "a.json"]) == 0
    rows, said = rows_of(tmp_path / "a.jsonl"), capsys.readouterr().out
    names = ["ant", "bee", "cat", "dog", "elk"]
    assert all(row["label"] == [names[index] for index in row["index"]] for row in rows) and len(rows) == GOOD
    assert f"wrote a.jsonl: {GOOD} rows" in said and "3 images cannot be read: " in said and "000.png: not an" in said
    figures = json.loads(Path("a.json").read_text())
    assert (figures["rows"], figures["unreadable"], figures["method"]) == (GOOD, 3, "evit")
    assert cli.main(["predict", *line, "--out", "a.jsonl"]) == 2
    assert "a.jsonl is there already: give another --out, or --overwrite" in capsys.readouterr().err
    assert cli.main(["predict", *line, "--out", "a.jsonl", "--overwrite", "--top", "1"]) == 0
    assert [len(row["label"]) for row in rows_of(tmp_path / "a.jsonl")] == [1] * GOOD


def test_embed_every_patch(line, tmp_path):
    assert cli.main(["embed", *line, "--dense", "--out", "features"]) == 0
    assert np.load("features/part-00000000.npy").shape == (GOOD, 16, 16)
    assert cli.main(["embed", *line, "--out", "features"]) == 2
    assert cli.main(["embed", *line, "--out", "features", "--overwrite"]) == 0
    assert np.load("features/part-00000000.npy").shape == (GOOD, 16)
    assert sorted(os.listdir(tmp_path)) == ["features", "model"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "a.xls"], "a.xls must end in .csv or"),
        (["--out", "nowhere/a.csv"], "there is no folder nowhere"),
        (["--out", "a.csv", "--top", "0"], "--top 0: give a whole number from 1"),
        (["--out", "a.csv", "--class-names", "few.txt"], "lists 2 names without an index, and the model has 5"),
        (["--out", "a.csv", "--prompt", "{}"], "goes with CLIP or SigLIP"),
        (["--out", "a.csv", "--data", "b"], "DATA is given in two ways"),
        (["--out", "a.csv", "b"], "there is no file or folder b"),
    ],
)
def test_refusals_of_predict(line, options, said, capsys):
    Path("few.txt").write_text("a\nb\n")
    assert cli.main(["predict", *line, *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not [name for name in os.listdir() if name.startswith("a.")]


def test_a_model_without_classes_is_embedded(line, tmp_path, capsys):
    headless = type(small_model())(img_size=32, patch_size=8, embed_dim=16, depth=4, num_heads=2, num_classes=0)
    with pytest.raises(ValueError, match="gives features and no classes"):
        vitrim.Predictor(headless.eval())
    assert vitrim.Embedder(headless.eval()).nothing()["embedding"].shape == (0, 16)


def test_processes_share_the_work(data, tmp_path):
    """Two that find each other as those of torchrun and `accelerate launch` do."""
    script = Path(__file__).with_name("shared_run.py")
    run_on(data, tmp_path / "whole.csv", part=4)
    code, said = fresh.run(script, data, tmp_path / "out.csv", folder=tmp_path / "said", processes=2)
    assert code == 0, said
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("computed-*")) == ["computed-0", "computed-1"]
    parts = [(tmp_path / f"computed-{rank}").read_text().split() for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == ["0", "1", "2", "3"] and len(parts[0]) == len(parts[1])
    code, said = fresh.run(script, data, tmp_path / "out.csv", folder=tmp_path / "said", processes=2)
    assert code != 0 and said.count("is there now: give --overwrite") >= 1


def test_a_carriage_return_in_a_name_ends_no_row(tmp_path):
    model, data = small_model(), pictures(tmp_path / "data", 3)
    (data / "000.png").rename(data / "cr\rx.png")
    run_on(data, tmp_path / "out.csv", model=model)
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 4 and len({len(row) for row in rows}) == 1 and "cr\rx.png" in {row[0] for row in rows}


def test_two_classes_may_have_one_name(tmp_path):
    names = ["crane", "dog", "crane", "cat", "cow"]
    (tmp_path / "names.txt").write_text("\n".join(names))
    assert list(vitrim.Predictor(small_model(), class_names=tmp_path / "names.txt").names) == names
