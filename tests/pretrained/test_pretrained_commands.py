"""Models of transformers on the command line, as folders of theirs and of vitrim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_models import IMAGE, build, transformers

import vitrim
from vitrim import cli
from vitrim.backbones import TRANSFORMERS
from vitrim.data import open_dataset, open_loader
from vitrim.evaluate import ZeroShot, read_texts

tokenizers = pytest.importorskip("tokenizers")  # comes with transformers


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A dense model with its image processor in `vit`, and a reduced one in `fast`."""
    monkeypatch.chdir(tmp_path)
    model = build("ViTForImageClassification")
    model.save_pretrained("vit")
    size = {"height": IMAGE, "width": IMAGE}
    transformers.ViTImageProcessor(size=size, image_mean=[0.4] * 3, image_std=[0.3] * 3).save_pretrained("vit")
    vitrim.save(vitrim.reduce(model, "tome", macs=0.7), "fast")
    return tmp_path


def test_profile_of_a_folder(folder, capsys):
    assert cli.main(["profile", "--model", "hf:vit", "--method", "tome", "--macs", "0.7", "--json", "a.json"]) == 0
    told = json.loads(Path("a.json").read_text())
    assert told["gmacs"] == vitrim.profile(vitrim.load("fast")).gmacs and "64 > 54" in capsys.readouterr().out


@pytest.fixture
def data(folder) -> str:
    for number, label in enumerate("abcde"):
        Path("x", label).mkdir(parents=True)
        for shade in (0, 90):
            colour = (40 * number, shade, 200 - 40 * number)
            Image.new("RGB", (IMAGE, IMAGE), colour).save(Path("x", label, f"{shade}.png"))
    return "x"


RUN = ("--rounds", "1", "--batch-size", "8", "--workers", "0", "--json", "a.json")


def told(command: str, *line: str) -> dict:
    """The JSON of a command that does what it is asked to."""
    assert cli.main([command, *line]) == 0
    return json.loads(Path("a.json").read_text())


def test_evaluate_a_classifier_beside_itself(data):
    figures = told("evaluate", "--model", "hf:vit", "--data", data, "--method", "tome", "--macs", "0.7", *RUN)
    model = transformers.ViTForImageClassification.from_pretrained("vit").eval()
    images = torch.cat([batch[0] for batch in open_loader(open_dataset(data, vitrim.for_images(model)), 8, 0)])
    fast = vitrim.reduce(model, "tome", macs=0.7)
    with torch.inference_mode():
        dense, reduced = (each(pixel_values=images).logits.argmax(dim=1) for each in (model, fast))
    assert figures["agreement"] == 10 * int((dense == reduced).sum())
    assert figures["dense"]["top1"] == 10 * int((dense == torch.arange(5).repeat_interleave(2)).sum())


@pytest.mark.parametrize("name", ["Dinov2Model", "CLIPModel", "IJepaModel"])
def test_evaluate_features(data, name):
    build(name).save_pretrained("features")
    figures = told("evaluate", "--model", "hf:features", "--data", data, "--method", "random", "--keep", "1", *RUN)
    assert figures["cosine"] == pytest.approx(1, abs=1e-6) and "knn" in figures and "top1" not in figures


def tokenizer() -> Any:
    """One token for each letter."""
    letters = {letter: 4 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz .")}
    model = tokenizers.models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **letters}, unk_token="<unk>")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)


@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel"])
def test_zero_shot_is_what_the_model_says_of_texts(data, name):
    model = build(name)
    model.save_pretrained("both")
    tokenizer().save_pretrained("both")
    loaded = type(model).from_pretrained("both").eval()
    images = torch.cat([batch[0] for batch in open_loader(open_dataset(data, vitrim.for_images(loaded)), 8, 0)])
    texts = tokenizer()([f"this is a photo of {label}." for label in "abcde"], padding=True, return_tensors="pt")
    texts = {key: texts[key] for key in ("input_ids", "attention_mask")}
    if name == "SiglipModel":
        texts = {key: torch.nn.functional.pad(ids, (0, 64 - ids.shape[1])) for key, ids in texts.items()}
    with torch.inference_mode():
        wanted = loaded(pixel_values=images, **texts).logits_per_image
        zero_shot = ZeroShot(loaded, read_texts(loaded, list("abcde"), "this is a photo of {}."))
        assert torch.allclose(zero_shot(images), wanted, atol=1e-4)
    line = ("--method", "tome", "--macs", "0.7", "--class-names", "folders", "--prompt", "this is a photo of {}.")
    figures = told("evaluate", "--model", "hf:both", "--data", data, *line, *RUN)
    assert figures["dense"]["top1"] == 10 * int((wanted.argmax(1) == torch.arange(5).repeat_interleave(2)).sum())
    assert figures["class_names"] == list("abcde") and "agreement" in figures
    shares = wanted.sigmoid() if name == "SiglipModel" else wanted.softmax(1)
    Path("names").write_text("\n".join("abcde"))
    line = ("--class-names", "names", "--prompt", "this is a photo of {}.", "--out", "said.jsonl", "--device", "cpu")
    assert cli.main(["predict", data, "--model", "hf:both", *line, "--workers", "0"]) == 0
    said = [json.loads(row)["probability"] for row in Path("said.jsonl").read_text().splitlines()]
    assert torch.allclose(torch.tensor(said), shares.topk(5).values, atol=1e-4)


def test_class_names_that_do_not_go(data, capsys):
    Path("names").write_text("cat\ndog\n")
    build("CLIPModel").save_pretrained("mute")
    for line, said in (
        (
            ("--model", "hf:vit", "--class-names", "folders"),
            "ViTForImageClassification reads no texts",
        ),
        (("--model", "hf:vit", "--class-names", "names"), "lists 2 names, and x has 5 classes (a, b, c and 2 more)"),
        (("--model", "hf:vit", "--class-names", "nowhere"), "there is no file of class names nowhere"),
        (("--model", "hf:vit", "--prompt", "a {}"), "give --class-names too"),
        (("--model", "hf:mute", "--class-names", "folders"), "no tokenizer lies beside the weights of mute"),
        (("--model", "hf:vit", "--class-names", "folders", "--prompt", "a"), "has no place for a class name"),
    ):
        assert cli.main(["evaluate", "--data", data, *line]) == 2
        assert said in capsys.readouterr().err


def test_feature_maps_are_no_features(data, capsys):
    build("Dinov2Backbone").save_pretrained("maps")
    assert cli.main(["evaluate", "--model", "hf:maps", "--data", data]) == 2
    assert "Dinov2Backbone gives feature maps and no features of an image: give Dinov2Model" in capsys.readouterr().err


def test_the_dense_model_of_a_saved_folder(data, capsys):
    figures = told("evaluate", "--model", "hf:fast", "--data", data, "--method", "grid", "--keep", "0.5", *RUN)
    assert figures["method"] == "grid" and "--checkpoint fast takes the reduced" in capsys.readouterr().err


def test_weights_that_are_no_numbers(data, capsys):
    model = build("ViTForImageClassification")
    model.vit.layers[1].mlp.fc1.bias.data[0] = float("nan")
    model.save_pretrained("nan")
    assert cli.main(["evaluate", "--model", "hf:nan", "--data", data]) == 2
    assert "vit.layers.1.mlp.fc1.bias of ViTForImageClassification holds NaN or infinity" in capsys.readouterr().err


def test_another_model_of_transformers_beside_it(data):
    """As the guide whose class attention chooses, and as the dense model before fine-tuning."""
    told("evaluate", "--model", "hf:vit", "--guide", "hf:vit", "--keep", "0.7", "--data", data, *RUN)
    figures = told("evaluate", "--checkpoint", "fast", "--baseline", "hf:vit", "--data", data, *RUN)
    assert figures["baseline"]["top1"] == figures["dense"]["top1"]
    assert figures["baseline"]["agreement"] == figures["agreement"]


def test_compare_a_saved_folder(data):
    figures = told("compare", "--checkpoint", "fast", "--data", data, *RUN)
    assert [row["method"] for row in figures["rows"]] == ["dense", "tome"] and figures["rows"][1]["share"] <= 0.7


def test_benchmark(folder):
    line = ("--method", "tome", "--macs", "0.7", "--batch-size", "2", "--rounds", "1", "--runtime", "eager", "packed")
    figures = told("benchmark", "--model", "hf:vit", *line, "--json", "a.json")
    assert [(row["method"], row["runtime"]) for row in figures["rows"]] == [
        (method, runtime) for runtime in ("eager", "packed") for method in ("dense", "tome")
    ]


def test_a_model_of_any_size_on_fewer_pixels_instead(data):
    build("Dinov2ForImageClassification").save_pretrained("dino")
    line = ("--method", "tome", "--macs", "0.5", "--batch-size", "2", "--rounds", "1", "--instead", "--data", data)
    figures = told("benchmark", "--model", "hf:dino", *line, "--workers", "0", "--json", "a.json")
    fewer = [row for row in figures["rows"] if row["kind"] == "lower resolution"]
    assert fewer and all("top1" in row and row["gmacs"] < figures["rows"][0]["gmacs"] for row in fewer)


def test_the_processor_is_fetched_with_the_weights_and_later_sought_here_alone(folder, monkeypatch):
    asked, plain = [], transformers.AutoImageProcessor.from_pretrained

    def seen(place, local_files_only=False, **options):
        asked.append(local_files_only)
        return plain(place, local_files_only=local_files_only, **options)

    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", seen)
    model = TRANSFORMERS.create("hf:vit", pretrained=True)
    assert asked == [False] and TRANSFORMERS.data_config(model)["mean"] == (0.4, 0.4, 0.4) and asked == [False]
    model = transformers.ViTForImageClassification.from_pretrained("vit")
    assert TRANSFORMERS.data_config(model)["mean"] == (0.4, 0.4, 0.4) and asked == [False, True]


def test_export_and_its_file(data):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    build("ViTForImageClassification", num_hidden_layers=1).save_pretrained("small")
    line = ("--method", "grid", "--at", "0", "--keep", "0.5", "--out", "a.onnx")
    made = told("export", "--model", "hf:small", *line, *RUN[-2:])
    figures = told("evaluate", "--model", "a.onnx", "--baseline", "hf:small", "--data", data, *RUN)
    assert made["prediction_only"] and figures["gmacs"] == made["gmacs"] and figures["agreement"] == 100


def test_finetune_and_its_folder(data):
    pytest.importorskip("accelerate")
    line = ("--method", "tofe", "--macs", "0.7", "--recipe", "tofe", "--epochs", "1", "--batch-size", "4")
    assert cli.main(["finetune", "--model", "hf:vit", "--data", data, *line, "--workers", "0", "--out", "run"]) == 0
    fast = vitrim.load("run")
    assert type(fast).__name__ == "ViTForImageClassification" and fast.config.id2label[1] == "b"
    figures = told("evaluate", "--checkpoint", "run", "--data", data, *RUN)
    assert figures["method"] == "tofe" and figures["share"] < 0.75


def test_what_is_not_there_or_not_run(folder, capsys):
    config = json.loads(Path("vit/config.json").read_text())
    Path("vit/config.json").write_text(json.dumps({**config, "architectures": ["BeitModel"]}))
    assert cli.main(["profile", "--model", "hf:vit", "--keep", "0.5"]) == 2
    assert "holds a BeitModel, which is not supported: of transformers vitrim runs" in capsys.readouterr().err


def test_a_model_of_any_size_takes_images_as_its_processor_makes_them(data):
    """Its config may say another size: DINOv2 has learned on 518 pixels, and its processor makes 224."""
    model = build("Dinov2Model")
    model.save_pretrained("dino")
    crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": 24, "width": 24}}
    transformers.BitImageProcessor(**crop, image_mean=[0.4] * 3, image_std=[0.3] * 3).save_pretrained("dino")
    figures = told("evaluate", "--model", "hf:dino", "--data", data, "--method", "tome", "--macs", "0.7", *RUN)
    assert figures["image_size"] == [24, 24] and figures["crop_pct"] == 0.75 and 0.6 < figures["share"] <= 0.7
    dense = type(model).from_pretrained("dino").eval()
    fast = vitrim.reduce(dense, "tome", macs=0.7)
    assert vitrim.profile(fast).patches == 36 and vitrim.profile(fast, IMAGE).patches == 64
    vitrim.save(fast, "smaller")
    figures = told("evaluate", "--checkpoint", "smaller", "--data", data, *RUN)
    assert figures["image_size"] == [24, 24] and figures["gmacs"] == vitrim.profile(vitrim.load("smaller")).gmacs
    line = ("--model", "hf:dino", "--method", "tome", "--macs", "0.7", "--image-size", "48", "--json", "a.json")
    assert told("profile", *line)["patches"] == 144


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("--checkpoint", "vit"), "vit holds a model of transformers that is not reduced: give --model hf:vit"),
        (("--model", "hf:vit", "--image-size", "64"), "ViTForImageClassification keeps its image size"),
        (("--model", "hf:vit", "--num-classes", "3"), "built as its config.json says: leave out --num-classes"),
        (("--model", "hf:x", "--macs", "0.5"), "error: hf:x cannot be loaded: Unrecognized model in x."),
    ],
    ids=lambda given: given if isinstance(given, str) else given[1],
)
def test_what_is_meant_otherwise(data, capsys, line, said):
    assert cli.main(["evaluate", "--data", data, *line]) == 2
    assert said in capsys.readouterr().err


def test_the_processor_says_how_images_are_prepared(folder):
    model = TRANSFORMERS.create("hf:vit", pretrained=True)
    data = TRANSFORMERS.data_config(model)
    assert (
        data["mean"] == (0.4, 0.4, 0.4) and data["std"] == (0.3, 0.3, 0.3) and data["input_size"] == (3, IMAGE, IMAGE)
    )
    assert data["interpolation"] == "bilinear" and (data["crop_pct"], data["crop_mode"]) == (1.0, "squash")
    assert TRANSFORMERS.classes(model) == 5 and TRANSFORMERS.label_names(model) == {}
    assert TRANSFORMERS.undecayed(model) == {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}
