"""ToFe's stored shares: no bit is lost on any way, and the counts made from them are those of six decimals."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from settings import backbones, dense
from timm.utils import ModelEmaV3

import vitrim
from vitrim.runtime.build import attach

ROWS = {b.values[0].name: b.values[0] for b in backbones()}
SHARES = torch.tensor([1 / 3, 0.123456789, 1 / 7])


def learned() -> vitrim.ReducedViT:
    model = attach(dense(ROWS["deit"]), "tofe")
    model.methods[0].move_shares(SHARES, 1.0)
    return model


def through_state(model: vitrim.ReducedViT) -> vitrim.ReducedViT:
    fresh = attach(dense(ROWS["deit"]), "tofe", keep=0.9)
    fresh.load_state_dict(model.state_dict())
    return fresh


def assigned(model: vitrim.ReducedViT) -> vitrim.ReducedViT:
    fresh = attach(dense(ROWS["deit"]), "tofe", keep=0.9).to("meta")
    fresh.load_state_dict(model.state_dict(), assign=True)
    return fresh


WAYS = {
    "copy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "to": lambda model: model.to("cpu"),
    "half": lambda model: model.half(),
    "bfloat16 and back": lambda model: model.bfloat16().float(),
    "double": lambda model: model.double(),
    "shared memory": lambda model: model.share_memory(),
    "train and eval": lambda model: model.train().eval(),
    "empty": lambda model: model.to_empty(device="cpu"),
    "state dict": through_state,
    "state dict, assigned": assigned,
    "running mean": lambda model: ModelEmaV3(model, decay=0.5).module,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_no_bit_is_lost(way):
    other = way(learned())
    assert other.methods[0].kept_shares.dtype == torch.float32
    assert torch.equal(other.methods[0].kept_shares, SHARES)
    assert [place.keep for place in other.methods[0].places] == [0.333333, 0.123457, 0.142857]


def test_shapes_alone_know_the_counts():
    model = learned()
    profile = vitrim.profile(model)
    meta = copy.deepcopy(model).to("meta")
    assert vitrim.profile(meta) == vitrim.profile(meta.half()) == profile
    assert meta.methods[0].kept_shares.dtype == torch.float32
    back = meta.to_empty(device="cpu").methods[0]
    torch.testing.assert_close(back.kept_shares, SHARES, atol=1e-6, rtol=0)  # all that shapes alone have kept


def test_a_running_mean_counts_from_eval_on():
    model = learned()
    mean = ModelEmaV3(model, decay=0.5)
    model.methods[0].set_rates([0.8, 0.6, 0.4])
    mean.update(model)
    wanted = SHARES.lerp(torch.tensor([0.8, 0.6, 0.4]), 0.5)
    torch.testing.assert_close(mean.module.methods[0].kept_shares, wanted)
    keeps = [place.keep for place in mean.module.eval().methods[0].places]
    assert keeps == [round(share, 6) for share in mean.module.methods[0].kept_shares.tolist()]


def test_rates_given_for_all_places():
    method = learned().methods[0]
    method.set_rates([0.8, 0.6, 0.4])
    assert torch.equal(method.kept_shares, torch.tensor([0.8, 0.6, 0.4]))
    for wrong in ([0.5], [0.5, 0.5, 1.5], [0.5] * 4):
        with pytest.raises(ValueError):
            method.set_rates(wrong)
