"""The losses against cases worked out by hand, their gradients, and their scale in batch and depth."""

import math

import pytest
import torch
import torch.nn.functional as F

from vitrim.training import losses


def test_classification_with_class_numbers_and_soft_targets():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    by_hand = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    hard, soft = torch.tensor([0, 1]), torch.eye(2)
    assert losses.classification(logits, hard).item() == pytest.approx(by_hand)
    assert losses.classification(logits, soft).item() == pytest.approx(by_hand)
    smoothed = losses.classification(logits, hard, smoothing=0.1)
    assert smoothed.item() == pytest.approx(losses.classification(logits, soft * 0.9 + 0.05).item())


def test_logit_kl_by_hand():
    teacher, student = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    by_hand = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert losses.logit_kl(student, teacher).item() == pytest.approx(by_hand, rel=1e-6)
    assert losses.logit_kl(teacher, teacher).item() == pytest.approx(0, abs=1e-7)
    warm = F.kl_div((student / 2).log_softmax(-1), (teacher / 2).softmax(-1), reduction="batchmean") * 4
    assert losses.logit_kl(student, teacher, temperature=2.0).item() == pytest.approx(warm.item(), rel=1e-4)


def test_feature_mse_normalises_over_channels():
    student, teacher = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 2.0]]])
    assert losses.feature_mse(student, teacher).item() == pytest.approx((0.6**2 + 0.2**2) / 2)
    assert losses.feature_mse(student, teacher, normalise=False).item() == pytest.approx((9 + 4) / 2)
    assert losses.feature_mse(student * 7, student).item() == pytest.approx(0, abs=1e-7)


# One prefix token and three patches, of which the first is selected: S = {0, 1}, I = {2, 3}, K = 1, N - K = 2.
MAP = torch.tensor(
    [[[0.4, 0.3, 0.2, 0.1], [0.1, 0.5, 0.2, 0.2], [0.25, 0.25, 0.25, 0.25], [0.0, 0.1, 0.4, 0.5]]], dtype=torch.float64
)
SELECTED = torch.tensor([[True, False, False]])
INTER = (0.3**2 + 0.4**2) / 1 + (0.25**2 + 0.1**2) / 2
INTRA = ((1 - 0.7) ** 2 + (1 - 0.6) ** 2) / 1


@pytest.mark.parametrize(
    ("part", "by_hand"), [("inter", INTER), ("intra", INTRA), ("both", INTER + INTRA), ("none", 0.0)]
)
def test_token_cut_by_hand(part, by_hand):
    assert losses.token_cut(MAP, SELECTED, part).item() == pytest.approx(by_hand, rel=1e-6)


def test_token_cut_row_mean_divides_by_all_rows_of_s():
    by_hand = (0.3**2 + 0.4**2) / 2 + (0.25**2 + 0.1**2) / 2 + INTRA / 2
    assert losses.token_cut(MAP, SELECTED, row_mean=True).item() == pytest.approx(by_hand, rel=1e-6)


def test_token_cut_refuses_unknown_parts():
    with pytest.raises(ValueError, match="inter, intra"):
        losses.token_cut(MAP, SELECTED, "outer")


def test_approximation_counts_frozen_tokens_only():
    student, teacher = torch.zeros(2, 3, 2), torch.ones(2, 3, 2)
    teacher[0, 0] = 3.0
    frozen = torch.tensor([[True, True, False], [False, False, False]])
    assert losses.approximation(student, teacher, frozen).item() == pytest.approx(((9 + 1) / 2 + 0) / 2)


def test_macs_budget_squares_each_image_or_the_mean():
    macs = torch.tensor([6.0, 2.0])
    assert losses.macs_budget(macs, target=4.0, dense=10.0).item() == pytest.approx(0.04)
    assert losses.macs_budget(macs, target=4.0, dense=10.0, of_mean=True).item() == pytest.approx(0.0, abs=1e-9)


def test_keep_ratio_by_hand():
    masks = [torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])]
    assert losses.keep_ratio(masks, [0.7, 0.49]).item() == pytest.approx((0.2**2 + 0.24**2) / 2)
    with pytest.raises(ValueError, match="2 masks for 1 keep rates"):
        losses.keep_ratio(masks, [0.7])


def test_token_labels_adds_the_patches_mean():
    logits, tokens = torch.zeros(2, 4), torch.zeros(2, 5, 4)
    target, token_target = torch.eye(4)[:2], torch.full((2, 5, 4), 0.25)
    both = losses.token_labels(logits, tokens, target, token_target, dense_weight=0.5)
    assert both.item() == pytest.approx(1.5 * math.log(4))


def test_patch_labels_by_hand():
    logits = torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]]).log().expand(2, -1, -1)
    target = torch.tensor([[1.0, 0.0], [0.3, 0.7], [0.5, 0.5]]).expand(2, -1, -1)
    first, second, third = -math.log(0.8), math.log(2), -0.5 * (math.log(0.1) + math.log(0.9))
    assert losses.patch_labels(logits, target).item() == pytest.approx((first + second + third) / 3)
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    masked = losses.patch_labels(logits, target, mask)
    assert masked.item() == pytest.approx(((first + second) / 2 + third) / 2)
    whole = losses.token_labels(logits[:, 0], logits, target[:, 0], target, dense_weight=2.0, mask=mask)
    assert whole.item() == pytest.approx(first + 2 * masked.item())
    assert losses.patch_labels(logits, target, torch.zeros(2, 3)).item() == 0


def losses_of(b, n=6):
    """Every loss on one random batch of b images, as (name, value)."""
    torch.manual_seed(0)
    one = torch.randn(1, n, 8), torch.randn(1, n, 8)
    x, y = (t.expand(b, -1, -1).clone() for t in one)
    logits, teacher = x[:, 0], y[:, 0]
    attention = F.pad(x @ y.transpose(1, 2), (1, 0, 1, 0)).softmax(-1)
    mask = (x[..., 0] > 0).float()
    yield "classification", losses.classification(logits, teacher.argmax(-1), 0.1)
    yield "logit_kl", losses.logit_kl(logits, teacher)
    yield "feature_mse", losses.feature_mse(x, y)
    yield "token_cut", losses.token_cut(attention, mask > 0)
    yield "approximation", losses.approximation(x, y, mask == 0)
    yield "macs_budget", losses.macs_budget(mask.sum(1), 2.0, 6.0)
    yield "keep_ratio", losses.keep_ratio([mask], [0.3])
    yield "token_labels", losses.token_labels(logits, x, teacher.softmax(-1), y.softmax(-1))
    yield "patch_labels", losses.patch_labels(x, y.softmax(-1), mask)


def test_a_batch_of_equal_images_costs_what_one_costs():
    alone, eight = dict(losses_of(1)), dict(losses_of(8))
    for name, value in alone.items():
        assert eight[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_keep_ratio_does_not_grow_with_depth():
    mask = torch.tensor([[1.0, 0.0]])
    assert losses.keep_ratio([mask] * 6, [0.9] * 6).item() == pytest.approx(losses.keep_ratio([mask], [0.9]).item())


SMOOTH = {
    "classification": lambda x, y: losses.classification(x[:, 0], y[:, 0].softmax(-1)),
    "logit_kl": lambda x, y: losses.logit_kl(x[:, 0], y[:, 0]),
    "feature_mse": lambda x, y: losses.feature_mse(x, y),
    "token_cut inter": lambda x, y: losses.token_cut((x @ y.transpose(1, 2)).softmax(-1), CHOSEN, "inter"),
    "token_cut intra": lambda x, y: losses.token_cut((x @ y.transpose(1, 2)).softmax(-1), CHOSEN, "intra"),
    "approximation": lambda x, y: losses.approximation(x[:, 1:], y[:, 1:], ~CHOSEN),
    "macs_budget": lambda x, y: losses.macs_budget(x.mean(dim=(1, 2)), 2.0, 6.0),
    "keep_ratio": lambda x, y: losses.keep_ratio([x[..., 0]], [0.3]),
    "token_labels": lambda x, y: losses.token_labels(x[:, 0], x[:, 1:], y[:, 0].softmax(-1), y[:, 1:].softmax(-1)),
    "patch_labels": lambda x, y: losses.patch_labels(x[:, 1:], y[:, 1:].softmax(-1), CHOSEN.float()),
}
CHOSEN = torch.tensor([[True, False, True, False]] * 2)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_agree_with_finite_differences(name):
    torch.manual_seed(0)
    x, y, direction = (torch.randn(2, 5, 6) for _ in range(3))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(SMOOTH[name](x, y), x)
    with torch.no_grad():
        step = 1e-2 * direction
        slope = (SMOOTH[name](x + step, y) - SMOOTH[name](x - step, y)) / 2e-2
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=2e-2, abs=1e-4)
    assert gradient.abs().sum() > 0


def test_budget_and_ratio_pull_masks_towards_their_target():
    mask = torch.ones(1, 4, requires_grad=True)
    losses.keep_ratio([mask], [0.5]).backward()
    assert (mask.grad > 0).all()
    macs = torch.tensor([1.0], requires_grad=True)
    losses.macs_budget(macs, target=3.0, dense=6.0).backward()
    assert macs.grad.item() == pytest.approx(2 * (1 - 3) / 36)
