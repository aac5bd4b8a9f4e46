"""Model cards: figures that were measured with these weights and this method, and no other; the owner's words stay."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from saving_setup import tiny

import vitrim
from vitrim import cli
from vitrim.runtime.card import END, START
from vitrim.runtime.measured import in_public, match

DATA = ["--limit", "4", "--rounds", "1", "--workers", "0", "--threads", "1", "--device", "cpu"]
PLACES = "/home/ada/secret/photos/val"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A saved model, and the JSON of both commands on it."""
    from PIL import Image

    root = tmp_path_factory.mktemp("run")
    for number in range(4):
        path = root / "data" / "val" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number * 60, 90, 200 - number * 50)).save(path)
    vitrim.reduce(tiny(num_classes=2), "evit", keep=0.6).save(root / "fast")
    given = ["--checkpoint", str(root / "fast"), "--data", str(root / "data" / "val"), *DATA]
    assert cli.main(["evaluate", *given, "--card", "--json", str(root / "evaluate.json")]) == 0
    assert cli.main(["compare", *given, "--method", "evit", "tome", "--json", str(root / "compare.json")]) == 0
    return root


@pytest.fixture(scope="module")
def fast(run):
    return vitrim.load(run / "fast")


def figures(run, command="evaluate"):
    return json.loads((run / f"{command}.json").read_text())


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_has_the_figures_of_the_run(run, fast, tmp_path):
    found = figures(run)
    written = (run / "fast" / "README.md").read_text()
    folder = fast.save_pretrained(tmp_path / "fast", measured=run / "evaluate.json")
    assert (folder / "README.md").read_text() == written
    for row in (found, found["dense"]):
        for value in (f"{row['gmacs']:.3f}", f"{row['images_per_s']:.1f}", f"{row['top1']:.1f}"):
            assert f"{value}" in written
    assert f"{found['speed_up']:.2f} (" in written and f"{found['agreement']:.1f} (" in written
    assert "4 images of data/val" in written or f"4 images of {in_public(found['data'])}" in written
    assert found["processor"] in written and f"torch {found['torch']}" in written
    assert "vitrim evaluate --checkpoint" in written and "--limit 4" in written and "--json" not in written
    result = metadata(written)["model-index"][0]["results"][0]
    assert result["metrics"][0]["value"] == round(found["top1"], 2) and result["dataset"]["args"]["images"] == 4


def test_a_row_of_compare_is_found_by_its_method_and_options(run, fast, tmp_path):
    rows = figures(run, "compare")["rows"]
    found = match(run / "compare.json", fast)
    assert found.reduced in rows and found.reduced["method"] == "evit" and found.dense == rows[0]
    merged = vitrim.reduce(fast.backbone, "tome", r=rows[2]["options"]["r"])
    assert match(run / "compare.json", merged).reduced == next(row for row in rows if row["method"] == "tome")


def test_without_figures_there_are_none(tmp_path):
    fast = vitrim.reduce(tiny(), "evit", keep=0.6)
    card = (fast.save_pretrained(tmp_path) / "README.md").read_text()
    measured = card.split("## Measured")[1]
    assert "Nothing has been measured" in measured and not any(letter.isdigit() for letter in measured)
    said = metadata(card)
    assert "model-index" not in said and "license" not in said and "base_model" not in said


def other_weights(model):
    model.backbone.head.bias.data += 1


OTHERS = {
    "of other weights": lambda f, m: (f, other_weights(m)),
    "none of this model": lambda f, m: ({**f, "method": "bat"}, None),
    "none of this model, evit": lambda f, m: ({**f, "options": {**f["options"], "keep": 0.61}}, None),
    "and none of this": lambda f, m: ({**f, "learned": "0" * 64}, None),
    "of other weights than": lambda f, m: ({key: value for key, value in f.items() if key != "weights"}, None),
    "holds no figures of a model": lambda f, m: ({**f, "command": "profile"}, None),
    "holds no figures": lambda f, m: ({**f, "dense": None}, None),
    "no figures of a model beside": lambda f, m: ({**f, "speed_up": "fast"}, None),
    "holds no figures of": lambda f, m: ({**f, "command": "compare", "rows": "none"}, None),
}


@pytest.mark.parametrize("said", OTHERS)
def test_figures_of_anything_else_are_refused_and_nothing_is_written(said, run, fast, tmp_path):
    model = copy.deepcopy(fast)
    given, _ = OTHERS[said](figures(run), model)
    with pytest.raises(ValueError, match=said) as error:
        model.save_pretrained(tmp_path / "fast", measured=given)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 300
    assert not (tmp_path / "fast").exists()


def test_a_file_of_no_figures_is_named(fast, tmp_path):
    for text in ("", "[1]", "{", '{"command": "evaluate"}', "NaN"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"x\.json holds no figures"):
            fast.save_pretrained(tmp_path / "fast", measured=tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"none\.json holds no figures: No such file"):
        fast.save_pretrained(tmp_path / "fast", measured="none.json")


def test_what_the_owner_wrote_stays_and_old_figures_go(run, fast, tmp_path):
    fast.save_pretrained(tmp_path, measured=run / "evaluate.json", license="mit", base_model="ada/dense")
    card = (tmp_path / "README.md").read_text()
    mine = card.replace("tags:\n", "language: en\ntags:\n- mine\n").replace(START, f"Bonjour, señor\n\n{START}")
    (tmp_path / "README.md").write_text(mine + "\nAnd more.\n", encoding="utf-8")
    fast.save_pretrained(tmp_path)
    again = (tmp_path / "README.md").read_text(encoding="utf-8")
    said = metadata(again)
    assert (said["language"], said["license"], said["base_model"]) == ("en", "mit", "ada/dense")
    assert said["tags"][0] == "mine" and "evit" in said["tags"] and "model-index" not in said
    assert "Bonjour, señor" in again and again.rstrip().endswith("And more.") and "Nothing has been measured" in again
    assert again.count(START) == again.count(END) == 1
    fast.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == again, "it changes no more"


def test_a_card_without_metadata_or_marks_is_added_to(fast, tmp_path):
    (tmp_path / "README.md").write_text("# My model\n\nIt is mine.\n")
    fast.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.index("It is mine.") < card.index(START) and metadata(card)["library_name"] == "vitrim"


@pytest.mark.parametrize("text", ["---\na: [\n---\nx", "---\n- a\n---\nx"])
def test_a_card_that_cannot_be_read_is_left_alone(text, fast, tmp_path):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ValueError, match=r"the metadata of README.md cannot be read: mend"):
        fast.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == text


def test_paths_are_shown_as_strangers_may_read_them(run, fast, tmp_path):
    found = figures(run)
    found |= {"data": PLACES, "given": {**found["given"], "data": PLACES, "checkpoint": r"C:\Users\ada\fast"}}
    card = (fast.save_pretrained(tmp_path, measured=found) / "README.md").read_text()
    assert "ada" not in card and "photos/val" in card and "--checkpoint fast" in card


def test_base_model_and_license_are_known_where_the_weights_were_timms_own(run, fast, tmp_path):
    published = {**figures(run), "model": "deit_tiny_patch16_224", "checkpoint": None}
    said = metadata((fast.save_pretrained(tmp_path, measured=published) / "README.md").read_text())
    assert (said["base_model"], said["license"]) == ("timm/deit_tiny_patch16_224.fb_in1k", "apache-2.0")


REFUSED = {
    "--card writes into a saved folder: give it as --checkpoint FOLDER": ["--model", "test_vit"],
    "leave out --method and its options": ["--checkpoint", "fast", "--method", "tome"],
    "--card is of the saved model, EViT": ["--checkpoint", "fast", "--keep", "0.5"],
}


@pytest.mark.parametrize("said", REFUSED)
def test_a_card_of_another_model_is_refused_before_anything_is_measured(said, run, capsys, monkeypatch):
    monkeypatch.chdir(run)
    before = (run / "fast" / "README.md").read_bytes()
    assert cli.main(["evaluate", *REFUSED[said], "--data", "data/val", *DATA, "--card"]) == 2
    assert said in capsys.readouterr().err and (run / "fast" / "README.md").read_bytes() == before


def test_a_card_that_is_a_link_out_of_the_folder_is_not_followed(run, fast, tmp_path):
    (tmp_path / "secret.md").write_text("mine")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "README.md").symlink_to(tmp_path / "secret.md")
    with pytest.raises(ValueError, match="a link out of the folder"):
        fast.save_pretrained(tmp_path / "shared", measured=figures(run))
    assert (tmp_path / "secret.md").read_text() == "mine" and len(list((tmp_path / "shared").iterdir())) == 1
