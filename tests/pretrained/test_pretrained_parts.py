"""Models of transformers with adapters and quantised layers: layers are called, and read only where they are what they
seem. With nothing reduced the result is the dense model's bit for bit; decisions are those of the same weights in plain
layers; what a folder could not hold is not written."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from counting import counted_macs
from small_models import build, call, differing, images, transformers
from small_vlms import build_vlm
from torch import nn

import vitrim
from vitrim.runtime.build import attach

CLASSIFIER = "ViTForImageClassification"
NAMES = (CLASSIFIER, "DINOv3ViTModel", "CLIPVisionModel", "SiglipVisionModel")
METHODS = {
    "tome": {"r": 6},
    "random": {"keep": 0.6},
    "evit": {"keep": 0.6, "at": (1, 2)},
    "idlevit": {"keep": 0.6},  # its score is folded from weights that may be read
}


def methods_for(name: str) -> list[str]:
    return [method for method in METHODS if not (name.startswith("Siglip") and method in ("evit", "idlevit"))]


def peft() -> Any:
    return pytest.importorskip("peft", reason="peft is not installed: pip install peft", exc_type=ImportError)


def lora(name: str, **options: Any) -> Any:
    """A peft model around the class; its adapters do something from the start."""
    parts = ["q_proj", "k_proj", "v_proj", "fc1", "up_proj"]
    given = {"r": 2, "lora_alpha": 8, "target_modules": parts, "init_lora_weights": False, **options}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own of transformers
        return peft().get_peft_model(build(name), peft().LoraConfig(**given)).eval()


def dynamic(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still there
        return torch.ao.quantization.quantize_dynamic(build(name), {nn.Linear})


def torchao(kind: str) -> Any:
    def quantised(name: str) -> nn.Module:
        quantization = pytest.importorskip(
            "torchao.quantization", reason="torchao is not installed, or wants another torch", exc_type=ImportError
        )
        model = build(name).requires_grad_(False)
        quantization.quantize_(model, getattr(quantization, kind)())
        return model

    return quantised


WRAPS: dict[str, Any] = {
    "lora": lambda name: lora(name).get_base_model(),
    "dynamic": dynamic,
    "torchao weights": torchao("Int8WeightOnlyConfig"),
    "torchao weights and activations": torchao("Int8DynamicActivationInt8WeightConfig"),
}


@torch.no_grad()
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_reduced_is_the_wrapped_model_bitwise(name, wrap):
    model, x = WRAPS[wrap](name), images()
    wanted = call(model, x, output_hidden_states=True)
    fast = vitrim.reduce(model, "tome", r=0)
    assert differing(call(fast, x, output_hidden_states=True), wanted) == []
    assert differing(wanted, call(build(name), x, output_hidden_states=True)) != []
    assert not fast.reduced.body.foldable(0), "what is wrapped is not read"


@torch.no_grad()
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_called(name, wrap):
    """Decisions and outputs are those of a model whose layers nobody could read, each in a wrapper of its own."""
    model, x = WRAPS[wrap](name), images()
    hidden = copy.deepcopy(model)
    for layer in attach(hidden, "random").backbone.modules():
        for key, part in list(layer.named_children()):
            if key in ("q_proj", "k_proj", "v_proj"):
                setattr(layer, key, _Wrapper(part))
    for method in methods_for(name):
        ours, theirs = (vitrim.reduce(one, method, **METHODS[method]).reduced for one in (model, hidden))
        (found, trace), (wanted, wanted_trace) = ours(x, trace=True), theirs(x, trace=True)
        assert torch.equal(found, wanted), method
        assert all(torch.equal(a.kept, b.kept) for a, b in zip(trace, wanted_trace, strict=True)), method


class _Wrapper(nn.Module):
    """A layer behind a call: it has no weights of its own to read."""

    def __init__(self, layer: Any):
        super().__init__()
        self.layer, self.in_features, self.out_features = layer, layer.in_features, layer.out_features

    def forward(self, x):
        return self.layer(x)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_decides_as_merged_and_costs_what_torch_counts(name):
    model, x = lora(name), images()
    merged = copy.deepcopy(model).merge_and_unload()
    model = model.get_base_model()
    for method in methods_for(name):
        ours, theirs = (vitrim.reduce(one, method, **METHODS[method]).reduced for one in (model, merged))
        (found, trace), (wanted, wanted_trace) = ours(x, trace=True), theirs(x, trace=True)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
        assert all(torch.equal(a.kept, b.kept) for a, b in zip(trace, wanted_trace, strict=True)), method
        assert counted_macs(ours, x) == 2 * vitrim.profile(ours).macs > 2 * vitrim.profile(theirs).macs


@pytest.mark.parametrize("wrap", [wrap for wrap in WRAPS if wrap != "lora"])
def test_quantised_layers_cost_what_plain_ones_do(wrap):
    model, plain = WRAPS[wrap]("SiglipVisionModel"), build("SiglipVisionModel")
    assert vitrim.profile(model).macs == vitrim.profile(plain).macs
    fast, same = (vitrim.reduce(one, "tome", macs=0.7) for one in (model, plain))
    assert vitrim.profile(fast).tokens == vitrim.profile(same).tokens


# -- peft around a model, before and after


def three_steps(model: Any) -> None:
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        model(pixel_values=images(), labels=torch.tensor([0, 1])).loss.backward()
        grown = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        assert grown and all("lora_" in name or "modules_to_save" in name for name in grown)
        optimiser.step()
        optimiser.zero_grad()


def test_reduce_first_then_adapt_and_train(tmp_path):
    fast = vitrim.reduce(build(CLASSIFIER), "tome", macs=0.7)
    before = {name: p.clone() for name, p in fast.named_parameters()}
    given = peft().LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own of transformers
        model = peft().get_peft_model(fast, given).train()
    three_steps(model)
    kept = {name.replace(".base_layer", "").replace("original_module.", ""): p for name, p in fast.named_parameters()}
    assert all(torch.equal(kept[name], value) for name, value in before.items())
    model.eval().save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model(pixel_values=images()).logits
        assert torch.equal(fast.reduced(images()), wanted)
        again = vitrim.reduce(build(CLASSIFIER), "tome", macs=0.7)
        loaded = peft().PeftModel.from_pretrained(again, tmp_path).eval()
        assert torch.equal(loaded(pixel_values=images()).logits, wanted)


def test_adapt_first_then_reduce_and_train():
    model = lora(CLASSIFIER)
    with pytest.raises(ValueError, match=r"PeftModel is a wrapper.*give what its get_base_model\(\) returns") as said:
        vitrim.reduce(model, "tome")
    assert len(str(said.value)) <= 300
    fast = vitrim.reduce(model.get_base_model(), "tome", macs=0.7).train()
    three_steps(fast)
    with torch.no_grad():
        whole = vitrim.reduce(model.get_base_model(), "tome", r=0).eval()
        assert torch.equal(model(pixel_values=images()).logits, call(whole, images()).logits), "the weights are shared"


# -- what cannot be held, loaded or packed


@pytest.mark.parametrize("wrap", WRAPS)
def test_what_would_come_back_as_another_model_is_not_saved(wrap, tmp_path):
    fast = vitrim.reduce(WRAPS[wrap](CLASSIFIER), "tome", macs=0.7)
    for save in (lambda: vitrim.save(fast, tmp_path), lambda: fast.save_pretrained(tmp_path)):
        with pytest.raises(ValueError, match=r"ViTForImageClassification cannot be saved whole") as e:
            save()
        assert len(str(e.value)) <= 300 and list(tmp_path.iterdir()) == []


def test_a_config_that_says_otherwise_is_not_saved(tmp_path):
    model: Any = build(CLASSIFIER)
    model.classifier = nn.Linear(48, 9)
    with pytest.raises(ValueError, match=r"classifier\.weight is a Tensor \[9, 48\], and its config says \[5, 48\]"):
        vitrim.save(vitrim.reduce(model, "tome"), tmp_path)


@pytest.mark.parametrize("make", [lambda: build(CLASSIFIER), lambda: build_vlm("LlavaModel")], ids=["vit", "llava"])
def test_weights_of_four_bits_are_refused_by_name(make):
    model: Any = make()
    model.config.quantization_config = transformers.BitsAndBytesConfig(load_in_4bit=True)
    with pytest.raises(ValueError, match=r"quantised weights \(BitsAndBytesConfig\), and only torchao's are") as said:
        vitrim.reduce(model, "tome")
    assert len(str(said.value)) <= 300


@torch.no_grad()
def test_a_folder_loaded_by_torchao_runs(tmp_path):
    torchao("Int8WeightOnlyConfig")(CLASSIFIER)  # or the test is skipped
    from torchao.quantization import Int8WeightOnlyConfig

    build(CLASSIFIER).save_pretrained(tmp_path)
    config = transformers.TorchAoConfig(Int8WeightOnlyConfig())
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path, quantization_config=config).eval()
    assert differing(call(vitrim.reduce(model, "evit", keep=1.0), images()), call(model, images())) == []


@torch.no_grad()
def test_packing_leaves_adapters_as_they_are():
    fast = vitrim.reduce(lora(CLASSIFIER).get_base_model(), "idlevit", keep=0.6)
    packed, x = vitrim.optimize(fast), images()
    torch.testing.assert_close(packed(x), fast.reduced(x), rtol=1e-4, atol=1e-4)
    kinds = {name.rpartition(".")[2]: type(part).__name__ for name, part in packed.named_modules()}
    assert kinds["o_proj"] == "PackedLinear" == kinds["fc2"] and kinds["q_proj"] == kinds["fc1"] == "Linear"
