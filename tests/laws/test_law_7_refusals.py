"""Law 7, methods and options: what cannot be is refused by name, with what is allowed and what to do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from settings import backbones, dense, images

import vitrim

ROWS = {b.values[0].name: b.values[0] for b in backbones()}


def _reduce(method="evit", name="deit", **options):
    return vitrim.reduce(dense(ROWS[name]), method, **options)


@pytest.mark.parametrize("method", ["evit", "topk", "random", "grid"])
@pytest.mark.parametrize("keep", [0, 0.0, -0.5, 1.5, 1.0000001, math.nan, math.inf, "a", True, None, (0.7, 0, 0.7)])
def test_wrong_keep_rates(method, keep):
    with pytest.raises(ValueError, match=r"keep=.* is (not in \(0, 1\]|text)"):
        _reduce(method, keep=keep)


@pytest.mark.parametrize("keep", [(), (0.7, 0.7), (0.7,) * 4, [0.5, 0.5]])
def test_wrong_number_of_keep_rates(keep):
    with pytest.raises(ValueError, match=r"keep rates for 3 places: give one rate, or one for each place"):
        _reduce(keep=keep)


def test_the_rate_that_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"keep=1\.7 "):
        _reduce(keep=(0.9, 1.7, 0.5))
    with pytest.raises(ValueError, match="keep=nan"):
        _reduce(keep=math.nan)


def test_a_rate_for_all_places_in_a_list_is_fine():
    assert vitrim.profile(_reduce(keep=[0.7])) == vitrim.profile(_reduce(keep=0.7))
    assert vitrim.profile(_reduce(keep=np.float64(0.7))) == vitrim.profile(_reduce(keep=0.7))


@pytest.mark.parametrize(
    ("at", "given"),
    [(4, "4"), (-1, "-1"), ((1, 9), "9"), ((), "no place")],
)
def test_places_outside_the_model(at, given):
    with pytest.raises(ValueError, match=rf"at.*{given} is not a block of this model.*0 to 3"):
        _reduce(keep=0.7, at=at)


@pytest.mark.parametrize(("at", "given"), [("ab", '"ab"'), (1.5, "1.5"), ((True,), "True"), ((1, "2"), '"2"')])
def test_places_that_are_no_block_numbers(at, given):
    with pytest.raises(ValueError, match=rf"at={given} is no block: give block numbers from 0"):
        _reduce(keep=0.7, at=at)


@pytest.mark.parametrize("at", [(2, 1), (1, 1), (0, 2, 2)])
def test_places_unsorted_or_repeated(at):
    with pytest.raises(ValueError, match="give blocks that rise, each named once"):
        _reduce(keep=0.7, at=at)


def test_too_shallow_for_the_default_places():
    from timm.models.vision_transformer import VisionTransformer

    shallow = VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=3, num_heads=2)
    with pytest.raises(ValueError, match=r"3 blocks has no room for 3 places: give at="):
        vitrim.reduce(shallow, "evit")
    assert vitrim.reduce(shallow, "evit", at=1)


def test_unknown_methods():
    with pytest.raises(ValueError, match=r"method 'evitt' is not known: did you mean evit\? methods are evit"):
        _reduce("evitt")
    for wrong in (None, 7, [], ["evit"], torch.nn.Identity()):
        with pytest.raises(ValueError, match=r"give a name .*evit.* or a method such as EViT"):
            _reduce(wrong)
    with pytest.raises(ValueError, match=r"method EViT is a class: give one of its objects, such as EViT\(\)"):
        _reduce(vitrim.EViT)


def test_unknown_options():
    with pytest.raises(
        ValueError, match=r"evit has no option kep: did you mean keep\? its options are keep, at, fuse, score"
    ):
        _reduce("evit", kep=0.7)
    with pytest.raises(ValueError, match=r"grid has no option score: its options are keep, at"):
        _reduce("grid", score="cls")
    with pytest.raises(ValueError, match=r"options keep go with a method's name"):
        _reduce(vitrim.EViT(), keep=0.7)


@pytest.mark.parametrize("score", ["class", "", None, 3])
def test_unknown_scores(score):
    with pytest.raises(ValueError, match=r"score=.*: choose one of cls, cls-values, tokens, shift, shift-mlp, "):
        _reduce(score=score)


@pytest.mark.parametrize("macs", [0, -0.1, 1.2, math.nan, math.inf, "half", True])
def test_wrong_budgets(macs):
    with pytest.raises(ValueError, match=r"is no share of the dense cost: give a number in \(0, 1\]"):
        _reduce(macs=macs)


def test_a_budget_out_of_reach_names_the_range():
    with pytest.raises(
        ValueError, match=r"evit cannot meet macs=0.05: out of reach, its plans cost .* of the dense model"
    ):
        _reduce(macs=0.05)


@pytest.mark.parametrize("name", ["siglip", "gap_no_cls", "gap_registers"])
@pytest.mark.parametrize("options", [{}, {"score": "-cls"}])
def test_class_attention_without_cls(name, options):
    """gap_registers has one prefix token, and it is a register."""
    for method in ("evit", "topk") if not options else ("evit",):
        with pytest.raises(ValueError, match=r"needs a \[CLS\] token and VisionTransformer has none.*score=\"tokens\""):
            _reduce(method, name, **options)


@pytest.mark.parametrize("name", ["siglip", "gap_no_cls", "gap_registers"])
def test_without_cls_the_named_way_out_works(name):
    for options in ({"score": "tokens"}, {"score": "random"}):
        assert _reduce("evit", name, keep=0.5, **options)(images(ROWS[name])).isfinite().all()


def test_a_reduced_model_is_not_reduced_again():
    with pytest.raises(ValueError, match=r"reduced already: give its `.backbone`"):
        vitrim.reduce(_reduce(), "evit")


def test_refusing_leaves_the_model_as_it_was():
    model = dense(ROWS["deit"])
    x, before = images(ROWS["deit"]), {name: p.clone() for name, p in model.state_dict().items()}
    logits = model(x)
    for options in ({"keep": 2}, {"at": 9}, {"macs": 0.01}, {"score": "x"}):
        with pytest.raises(ValueError):
            vitrim.reduce(model, "evit", **options)
    assert torch.equal(model(x), logits)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


@pytest.mark.parametrize("size", [(48, 48), (40, 32), (39, 40), (8, 8)])
def test_images_of_another_size(size):
    x = torch.randn(1, 3, *size)
    with pytest.raises(
        ValueError, match=rf"images are {size[0]} x {size[1]}, this model takes 40 x 40.*set_input_size"
    ):
        _reduce()(x)
    for call in ("forward_features", "forward_intermediates"):
        with pytest.raises(ValueError, match="this model takes 40 x 40"):
            getattr(_reduce(), call)(x)


@pytest.mark.parametrize("size", [(33, 40), (40, 20), (7, 8)])
def test_images_that_cannot_be_cut_into_patches(size):
    with pytest.raises(ValueError, match=rf"images are {size[0]} x {size[1]}, .*patches of 8 x 8.*multiples"):
        _reduce(name="dynamic")(torch.randn(1, 3, *size))


def test_the_ways_out_of_a_wrong_size_work():
    model = _reduce(keep=0.5)
    model.backbone.set_input_size(img_size=(48, 64))
    assert model(torch.randn(1, 3, 48, 64)).isfinite().all()
    assert _reduce(name="dynamic", keep=0.5)(torch.randn(1, 3, 48, 64)).isfinite().all()
