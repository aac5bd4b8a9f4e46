"""Stacks: methods on one model, none of which leaks into another; and models that change under their methods."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import timm
import torch
from settings import backbones, brightness, capture, dense, images, nothing

import vitrim
from vitrim.runtime.turns import plan_turns

ROWS = {b.values[0].name: b.values[0] for b in backbones()}
X = images(ROWS["deit"])


def put(*methods: vitrim.Method, name: str = "deit") -> vitrim.ReducedViT:
    return vitrim.ReducedViT(dense(ROWS[name]), methods)


def kept(model: vitrim.ReducedViT, block: int, **given) -> torch.Tensor:
    return model(X, trace=True, **given)[1][block].kept


# -- a guide is one method's own


@torch.no_grad()
def test_each_method_of_a_stack_has_its_own_guide():
    first, second = vitrim.EViT(0.5, at=1, fuse=False, score=brightness), vitrim.EViT(0.5, at=2, fuse=False)
    both = put(first, second)
    seen = capture(both)
    both(X)
    (tokens, _, _, guided), (after, evidence, _, plain) = seen
    assert torch.equal(guided.index, tokens.notes[0].topk(13).indices)
    assert torch.equal(plain.index, evidence.class_attention().topk(7).indices), "the second has no guide"
    assert after.notes.keys() == {0}


@torch.no_grad()
def test_two_guides_each_choose_for_their_own_method():
    def darkness(x):
        return -brightness(x)

    both = put(vitrim.TopK(0.5, at=1, score="cls"), vitrim.EViT(0.5, at=0, fuse=False, score=brightness))
    again = put(vitrim.EViT(0.6, at=0, fuse=False, score=brightness), vitrim.EViT(0.5, at=2, score=darkness))
    alone = put(vitrim.EViT(0.5, at=0, fuse=False, score=brightness))
    assert torch.equal(kept(both, 0), kept(alone, 0))
    chosen, brightest = kept(again, 2), brightness(X).gather(1, kept(again, 1))
    darkest = kept(again, 1).gather(1, (-brightest).topk(chosen.shape[1] - 1).indices)
    assert torch.equal(chosen[:, :-1], darkest)


@torch.no_grad()
def test_scores_given_with_the_call_reach_every_method_that_takes_them():
    scores = torch.rand(2, 25)
    both = put(vitrim.EViT(0.5, at=1, fuse=False, score=brightness), vitrim.EViT(0.5, at=2, fuse=False))
    order = scores.topk(7).indices
    assert torch.equal(kept(both, 2, scores=scores), order)


def test_a_guide_that_makes_no_scores_of_patches_is_refused():
    wrong = put(vitrim.EViT(0.5, at=1, score=dense(ROWS["deit"])))  # a model's logits
    with pytest.raises(
        ValueError, match=r"scores are \[2, 7\]: give one for each patch .* \[2, 25\].*LastClassAttention"
    ):
        wrong(X)
    with pytest.raises(ValueError, match="scores are a float"):
        put(vitrim.TopK(0.5, at=1, score=lambda x: 1.0))(X)


# -- only proportional methods make tokens weigh in attention


@torch.no_grad()
def test_proportional_attention_of_one_method_leaves_the_others_tokens_alone():
    plain = vitrim.ToMe(r=5, at=0, proportional=False)
    model = put(plain, vitrim.ToMe(r=1, at=3))
    seen = capture(model)
    model(X)
    tokens = [tokens for tokens, *_ in seen]
    assert tokens[1].size is not None and tokens[1].key_bias is None, "until the second has merged, nothing weighs more"
    after = tokens[1].shrink(seen[1][3])
    assert after.key_size.sum(dim=1).tolist() == [20.0, 20.0] and after.size.sum(dim=1).tolist() == [25.0, 25.0]
    alone = put(vitrim.ToMe(r=5, at=0, proportional=False), vitrim.ToMe(r=0, at=3))
    both = put(vitrim.ToMe(r=5, at=0, proportional=False), vitrim.ToMe(r=0, at=3, proportional=False))
    assert torch.equal(alone(X), both(X))


# -- the class itself is a way to put methods on a model


@torch.no_grad()
def test_the_class_binds_what_it_is_given():
    method = vitrim.EViT(keep=0.5)
    made, given = vitrim.reduce(dense(ROWS["deit"]), method), put(method)
    assert torch.equal(made(X), given(X)) and method.places == ()
    with pytest.raises(ValueError, match=r"give a name .* or a method such as EViT"):
        vitrim.ReducedViT(dense(ROWS["deit"]), [])
    with pytest.raises(ValueError, match="needs a \\[CLS\\] token"):
        put(method, name="siglip")
    with pytest.raises(ValueError, match="both act in block 1"):
        put(vitrim.EViT(0.5, at=1), vitrim.TopK(0.5, at=1))


def test_one_method_twice_is_two_methods():
    method = vitrim.ToFe(keep=(0.5,), at=1)
    model = put(method, vitrim.ToFe(keep=(0.5,), at=3))
    assert model.methods[0].number == 0 and model.methods[1].number == 1
    assert not {p.data_ptr() for p in model.methods[0].parameters()} & {
        p.data_ptr() for p in model.methods[1].parameters()
    }


# -- counts of images in a stack


def test_costs_of_images_where_another_method_follows():
    model = put(vitrim.ToFe(keep=(0.6, 0.4, 0.3), at=(1, 2, 3)), vitrim.EViT(keep=0.5, at=3))
    counts = torch.tensor([[20, 10, 7], [11, 10, 3]])
    macs = vitrim.image_macs(model, counts)
    for image, counted in zip(counts.tolist(), macs.tolist(), strict=True):
        shares = tuple(count / 25 for count in image)
        planned = put(vitrim.ToFe(keep=shares, at=(1, 2, 3)), vitrim.EViT(keep=0.5, at=3))
        assert vitrim.profile(planned).macs == counted
    with pytest.raises(ValueError, match="evit follows a method whose images keep counts of their own"):
        vitrim.image_macs(model, counts.double())


@torch.no_grad()
def test_the_turns_are_those_of_the_methods():
    model = put(vitrim.ToMe(r=2, at=0), vitrim.EvoViT(keep=0.5, blocks=(2, 3)), vitrim.EViT(0.5, at=1))
    turns = plan_turns(list(model.methods), 4)
    assert [[s.method.name for s in t.between] for t in turns] == [["tome"], ["evit"], [], []]
    assert [[s.method.name for s in t.before] for t in turns] == [[], [], ["evovit"], ["evovit"]]
    assert [t.closes for t in turns] == [False, False, True, True]
    assert all([m.name for m in t.observers] == ["evovit"] for t in turns)


# -- features on the way


@torch.no_grad()
@pytest.mark.parametrize("name", ["ats", "tofe"])
def test_final_features_beside_the_intermediates_of_a_ragged_batch_cover_the_image(name):
    options = {"adaptive": "instance"} if name == "tofe" else {}
    model = put(vitrim.METHODS[name](**options))
    final, grids = model.forward_intermediates(X)
    assert final.shape == (2, 26, 48) and grids[-1].shape == (2, 48, 5, 5)
    assert torch.equal(final, model.forward_features(X, restore=True))


@torch.no_grad()
@pytest.mark.parametrize("name", ["idlevit", "tofe"])
def test_stopping_inside_a_span_gives_all_tokens(name):
    model = put(vitrim.METHODS[name](at=(1, 3)) if name == "tofe" else vitrim.IdleViT(blocks=(1, 2), keep=0.5))
    final, _ = model.forward_intermediates(X, indices=[2], stop_early=True)
    assert final.shape == (2, 26, 48)
    whole = model.forward_intermediates(X, indices=[2], norm=True, output_fmt="NLC", return_prefix_tokens=True)[1][0]
    assert torch.equal(final, torch.cat([whole[1], whole[0]], dim=1))


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit", "dinov3", "swin"])
def test_intermediate_layers_as_dino_gives_them(name):
    x, model = images(ROWS[name]), dense(ROWS[name])
    if not hasattr(model, "get_intermediate_layers"):
        model.get_intermediate_layers = lambda x, n, reshape: model.forward_intermediates(
            x, n, output_fmt="NCHW", intermediates_only=True
        )
    fast = nothing(ROWS[name])
    for ours, theirs in zip(
        fast.get_intermediate_layers(x, 2, reshape=True), model.get_intermediate_layers(x, 2, reshape=True), strict=True
    ):
        assert torch.equal(ours, theirs)


# -- a model that changes under its methods


@torch.no_grad()
@pytest.mark.parametrize("method", ["evit", "tome", "tofe", "dynamicvit", "idlevit", "ats"])
def test_another_input_size_keeps_the_rates(method):
    resized, fresh = (timm.create_model("vit_tiny_patch16_224", img_size=s, depth=4, num_classes=5) for s in (64, 96))
    resized.load_state_dict(fresh.state_dict() | {"pos_embed": resized.pos_embed})
    with pytest.warns(vitrim.UntrainedWarning) if method in ("tofe", "dynamicvit") else nullcontext():
        fast = vitrim.reduce(resized.eval(), method)
    fast.set_input_size(img_size=96)
    fresh.load_state_dict(resized.state_dict())
    again = vitrim.runtime.build.attach(fresh.eval(), method)
    again.methods.load_state_dict(fast.methods.state_dict())
    x = torch.randn(2, 3, 96, 96)
    assert torch.equal(fast(x), again(x))
    assert vitrim.profile(fast) == vitrim.profile(again)


@torch.no_grad()
def test_pruned_intermediate_layers_take_the_places_in_them_along():
    model = put(vitrim.EViT(0.6, at=(0, 1, 3)))
    before = model.forward_intermediates(X, [1], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([1]) == [1]
    assert [place.block for place in model.methods[0].places] == [0, 1]
    assert torch.equal(model.forward_intermediates(X, [1], intermediates_only=True)[0], before)
    assert len(vitrim.profile(model).blocks) == 2
    with pytest.raises(ValueError, match="prune the model first, then reduce it"):
        put(vitrim.DynamicViT(at=(0, 3))).prune_intermediate_layers([1])
