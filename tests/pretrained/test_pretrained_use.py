"""A reduced model of transformers where such models live: Trainer, pipelines, folders, compilers; its refusals."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_models import IMAGE, build, call, differing, images, tensors, transformers
from torch.utils.data import Dataset

import vitrim
from vitrim.backbones import TRANSFORMERS

CLASSIFIER = "ViTForImageClassification"


@torch.no_grad()
def test_a_copy_is_a_model_of_its_own():
    fast, x = vitrim.reduce(build(CLASSIFIER), "tome", macs=0.7), images()
    before = call(fast, x)
    again = copy.deepcopy(fast)
    assert differing(call(again, x), before) == [] and again.reduced.backbone is again
    again.vit.layers[0].mlp.fc1.weight.zero_()
    assert differing(call(again, x), before) == [0] and differing(call(fast, x), before) == []


@torch.no_grad()
@pytest.mark.parametrize("name", [CLASSIFIER, "CLIPModel", "SiglipVisionModel"])
def test_pickled(name):
    fast, x = vitrim.reduce(build(name), "tome", macs=0.7), images()
    again = pickle.loads(pickle.dumps(fast))
    assert type(again) is type(fast) and again.reduced.backbone is again
    assert differing(call(again, x), call(fast, x)) == []


@torch.no_grad()
@pytest.mark.parametrize("name", ["Dinov2Model", "SiglipVisionModel"])
def test_compiled(name):
    fast, x = vitrim.reduce(build(name), "tome", macs=0.7), images()
    torch.compiler.reset()
    compiled: Any = torch.compile(fast, backend="eager", fullgraph=True)
    assert differing(compiled(pixel_values=x), call(fast, x)) == []


@torch.no_grad()
def test_exported():
    fast, x = vitrim.reduce(build("Dinov2ForImageClassification"), "tome", macs=0.7), images()
    program = torch.export.export(fast, (x,))
    for ours, eager in zip(tensors(program.module()(x)), tensors(call(fast, x)), strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_onnx(tmp_path):
    fast, x = vitrim.reduce(build(CLASSIFIER, num_hidden_layers=1), "evit", keep=0.7, at=0), images()
    made = vitrim.export(fast, tmp_path / "fast.onnx", images=x)
    (logits,) = onnxruntime.InferenceSession(made.path).run(None, {"images": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), call(fast, x).logits, rtol=1e-4, atol=1e-4)


def test_gradient_checkpointing_gives_the_same_gradients_and_leaves_the_dense_model():
    model = build(CLASSIFIER)
    gradients = []
    for checkpointing in (False, True):
        fast = vitrim.reduce(copy.deepcopy(model), "evit", macs=0.7).train()
        if checkpointing:
            fast.gradient_checkpointing_enable()
            assert fast.reduced.body.recomputes(0)
        call(fast, images(), labels=torch.tensor([0, 1])).loss.backward()
        gradients.append([p.grad for p in fast.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*gradients, strict=True))
    vitrim.reduce(model, "evit").gradient_checkpointing_enable()
    assert not model.vit.layers[0].gradient_checkpointing and not model.training


class _Photographs(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"pixel_values": images(1)[0] + i, "labels": i % 5, "name": f"{i}.jpg"}


def test_three_steps_of_trainer(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    if "keep_torch_compile" not in inspect.signature(accelerate.Accelerator.unwrap_model).parameters:
        pytest.skip(f"accelerate {accelerate.__version__} is older than transformers' Trainer needs")
    fast = vitrim.reduce(build(CLASSIFIER), "tome", macs=0.7)
    before = [p.clone() for p in fast.parameters()]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=2, report_to=[], use_cpu=True, save_strategy="no"
    )
    done = transformers.Trainer(fast, arguments, train_dataset=_Photographs()).train()
    assert done.global_step == 3 and any(not torch.equal(a, b) for a, b in zip(before, fast.parameters(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("task", ["image-classification", "image-feature-extraction"])
def test_pipelines(task):
    fast = vitrim.reduce(build(CLASSIFIER if "class" in task else "Dinov2Model"), "tome", macs=0.7)
    processor = transformers.ViTImageProcessor(size={"height": IMAGE, "width": IMAGE})
    run = transformers.pipeline(task, model=fast, image_processor=processor, device="cpu")
    photograph = Image.new("RGB", (50, 40), (200, 10, 30))
    x = processor(photograph, return_tensors="pt")["pixel_values"]
    found = run(photograph)
    if "class" in task:
        probabilities = call(fast, x).logits.softmax(dim=1)[0]
        assert found[0]["score"] == pytest.approx(float(probabilities.max()), abs=1e-5)
    else:
        torch.testing.assert_close(torch.tensor(found), call(fast, x).last_hidden_state, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::vitrim.UntrainedWarning")
@pytest.mark.parametrize("way", ["vitrim", "transformers"])
@pytest.mark.parametrize(
    ("name", "method"), [(CLASSIFIER, "tome"), ("Dinov2ForImageClassification", "dynamicvit"), ("CLIPModel", "evit")]
)
def test_saved_and_loaded(name, method, way, tmp_path):
    model, x = build(name), images()
    fast = vitrim.reduce(model, method, macs=0.7)
    vitrim.save(fast, tmp_path) if way == "vitrim" else fast.save_pretrained(tmp_path)
    for again in (vitrim.load(tmp_path), type(fast).from_pretrained(tmp_path)):
        assert differing(call(again, x), call(fast, x)) == [] and not again.training
        assert type(again) is type(fast) and again.config.architectures == [name]
    dense = getattr(transformers, name).from_pretrained(tmp_path).eval()
    assert differing(call(dense, x), call(model, x)) == []
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    with pytest.raises(ValueError, match="holds no reduced model of transformers"):
        model.save_pretrained(tmp_path / "dense")
        type(fast).from_pretrained(tmp_path / "dense")


@torch.no_grad()
def test_prediction_only():
    model, x = build(CLASSIFIER), images()
    alone = vitrim.reduce(model, [], prediction_only=True)
    torch.testing.assert_close(call(alone, x).logits, call(model, x).logits, rtol=1e-5, atol=1e-5)
    assert vitrim.profile(alone).macs < vitrim.profile(model).macs
    assert len(call(alone, x, output_hidden_states=True).hidden_states) == 5
    for module in (alone.vit.layernorm, alone.vit.layers[-1], alone.vit.layers[-1].mlp):
        seen = []
        handle = module.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.shape))
        call(alone, x)
        handle.remove()
        assert seen == [(2, 65, 48)], "a hook sees all tokens of the last layer"
    for name in ("ViTModel", "CLIPForImageClassification"):
        with pytest.raises(ValueError, match="prediction_only"):
            vitrim.reduce(build(name), [], prediction_only=True)


def test_every_image_keeps_its_own_number_of_tokens():
    fast, x = vitrim.reduce(build("Dinov2ForImageClassification"), "ats"), images(3)
    with torch.no_grad():
        whole = call(fast, x, output_hidden_states=True)
        assert whole.hidden_states[-1].shape == (3, 65, 48)
        for i in range(3):
            torch.testing.assert_close(call(fast, x[i : i + 1]).logits[0], whole.logits[i], rtol=1e-4, atol=1e-5)


REFUSED = {
    "output_attentions is not supported": lambda: call(_fast(), images(), output_attentions=True),
    "bool_masked_pos is not supported": lambda: call(
        _fast("ViTModel"), images(), bool_masked_pos=torch.zeros(2, 64, dtype=torch.bool)
    ),
    "attention_mask is not supported": lambda: call(_fast(), images(), attention_mask=torch.ones(2, 65)),
    r'by "eager", and only "sdpa" is supported: call model.set_attn_implementation\("sdpa"\)': lambda: vitrim.reduce(
        build(CLASSIFIER, _attn_implementation="eager"), "tome"
    ),
    "BeitModel is not supported: of transformers vitrim runs": lambda: vitrim.reduce(
        transformers.BeitModel(
            transformers.BeitConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=3, image_size=32)
        ),
        "tome",
    ),
    "ViTForMaskedImageModeling is not supported: of transformers vitrim runs ViT": lambda: vitrim.reduce(
        build("ViTForMaskedImageModeling"), "tome"
    ),
    "reduced already": lambda: vitrim.reduce(_fast(), "evit"),
    "call the model, not its encoder": lambda: _fast("Dinov2Model").encoder(torch.zeros(2, 65, 48)),
    r"mlp of layer 1 is a Sequential, and only transformers' ViTMLP": lambda: _with_strange_mlp(),
    "has been replaced": lambda: _with_patched_layer(),
}


def _fast(name: str = CLASSIFIER) -> Any:
    return vitrim.reduce(build(name), "tome", macs=0.7)


def _with_strange_mlp() -> Any:
    model: Any = build(CLASSIFIER)
    model.vit.layers[1].mlp = torch.nn.Sequential(torch.nn.Linear(48, 48))
    return vitrim.reduce(model, "tome")


def _with_patched_layer() -> Any:
    model: Any = build(CLASSIFIER)
    model.vit.layers[1].forward = lambda *given, **options: given[0]
    return vitrim.reduce(model, "tome")


@pytest.mark.parametrize("said", REFUSED)
def test_refusals_say_what_to_do(said):
    with pytest.raises(ValueError, match=said) as caught:
        REFUSED[said]()
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)


@torch.no_grad()
def test_hooks_act_on_layers_too():
    fast, x = _fast(), images()
    before = call(fast, x).logits
    handle = fast.vit.layers[1].register_forward_hook(lambda module, given, out: out * 1.5)
    assert not torch.allclose(call(fast, x).logits, before)
    handle.remove()
    assert torch.equal(call(fast, x).logits, before)


def test_another_version_is_refused(monkeypatch):
    from vitrim.backbones.transformers import checks

    monkeypatch.setattr(checks, "installed_version", lambda: "5.8.1")
    with pytest.raises(ValueError, match=r'transformers 5\.8\.1 is installed.*pip install "transformers>=5\.18,<6\.0"'):
        vitrim.reduce(build(CLASSIFIER), "tome")


TOWERS = {
    "ViTForImageClassification": "vit",
    "DeiTForImageClassification": "deit",
    "IJepaForImageClassification": "ijepa",
    "Dinov2ForImageClassification": "dinov2",
    "CLIPForImageClassification": "vision_model",
    "SiglipForImageClassification": "vision_model",
}


@torch.no_grad()
@pytest.mark.parametrize("name", TOWERS)
def test_a_classifiers_tower_gives_every_patch_where_it_is_called_itself(name):
    model, x = build(name), images()
    fast = vitrim.reduce(model, "tome", macs=0.7)
    ours, theirs = (getattr(each, TOWERS[name])(x, output_hidden_states=True) for each in (fast, model))
    assert [t.shape for t in tensors(ours)] == [t.shape for t in tensors(theirs)]
    nothing = vitrim.reduce(model, "tome", r=0)
    assert torch.equal(getattr(nothing, TOWERS[name])(x).last_hidden_state, theirs.last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("name", [CLASSIFIER, "Dinov2Model", "SiglipVisionModel"])
def test_a_hook_on_attention_sees_what_it_sees_on_the_dense_model(name):
    seen = []
    for keep in (None, 0):
        model = build(name)
        attention = next(m for m in model.modules() if type(m).__name__.endswith("Attention"))
        attention.register_forward_hook(lambda module, given, out: seen.append(out))
        call(model if keep is None else vitrim.reduce(model, "tome", r=keep), images())
    assert type(seen[0]) is type(seen[1]) is tuple and torch.equal(seen[0][0], seen[1][0]) and seen[1][1] is None


def test_what_is_set_after_reducing():
    fast = vitrim.reduce(build(CLASSIFIER), "tome", macs=0.7)
    assert type(fast.vit.layers[:2]) is torch.nn.ModuleList and fast.vit.layers[:2][1] is fast.vit.layers[1]
    with pytest.raises(ValueError, match="the model is reduced already: give the dense one"):
        vitrim.reduce(fast, "evit")
    fast.set_attn_implementation("eager")
    with pytest.raises(ValueError, match='attention was set to "eager", and a reduced model runs "sdpa"'):
        call(fast, images())


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    model = build(CLASSIFIER)
    for folder, save in (("dense", model.save_pretrained), ("fast", vitrim.reduce(model, "tome").save_pretrained)):
        save(tmp_path / folder)
        path = tmp_path / folder / "model.safetensors"
        weights = load_file(path)
        lost = next(key for key in sorted(weights) if "layer.2." in key or "layers.2." in key)
        save_file({key: value for key, value in weights.items() if key != lost}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"hf:.*dense cannot be loaded: the weights lack vit.layers.2\.\S+ of ViTFor"):
        TRANSFORMERS.create(f"hf:{tmp_path / 'dense'}", pretrained=True)
    with pytest.raises(ValueError, match=r"the weights lack vit.layers.2\.\S+ of ViTForImageClassification"):
        vitrim.load(tmp_path / "fast")


@torch.no_grad()
def test_a_model_without_its_pooler(tmp_path):
    model = transformers.ViTModel(build("ViTModel").config, add_pooling_layer=False).eval()
    fast = vitrim.reduce(model, "tome", macs=0.7)
    again = vitrim.load(vitrim.save(fast, tmp_path / "fast"))
    assert torch.equal(again(images()).last_hidden_state, fast(images()).last_hidden_state)
    model.save_pretrained(tmp_path / "dense")
    dense = TRANSFORMERS.create(f"hf:{tmp_path / 'dense'}", pretrained=True).eval()
    assert dense.pooler is None and torch.equal(vitrim.for_images(dense)(images()), model(images())[0][:, 0])
