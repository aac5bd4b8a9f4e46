"""Judging without labels, by likeness to the dense model; and nearest neighbours in a bank."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_evaluate import Told, batches, clusters, plain_knn, told_images

from vitrim.data import Batch, Unreadable
from vitrim.evaluate import evaluate, evaluate_many, knn_hits, recall_hits, wilson_interval


def unlabelled(images, size):
    return [(some, None) for some in images.split(size)]


class Blurred(Told):
    """Told, with noise of its own on what it says."""

    def forward(self, images):
        noise = torch.randn(images.shape[0], self.outputs, generator=torch.Generator().manual_seed(len(images)))
        return super().forward(images) + noise


def test_without_labels_there_are_agreement_and_cosine_with_their_intervals():
    images = told_images([0, 1, 2, 3, 4, 5, 0, 1])
    dense, other = Told(), Blurred()
    results = evaluate_many({"dense": dense, "other": other}, unlabelled(images, 8))
    result = results["other"]
    assert result.top1 is result.top5 is result.top1_interval is result.knn is None and result.images == 8
    ours, theirs = other(images).double().numpy(), dense(images).double().numpy()
    same = int((ours.argmax(1) == theirs.argmax(1)).sum())
    assert result.agreement == 100 * same / 8
    assert result.agreement_interval == tuple(100 * share for share in wilson_interval(same, 8))
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    half = 1.959964 * cosines.std(ddof=1) / np.sqrt(8)
    assert result.cosine == pytest.approx(cosines.mean(), abs=1e-6)
    assert result.cosine_interval == pytest.approx((cosines.mean() - half, min(1, cosines.mean() + half)), abs=1e-6)
    assert results["dense"].agreement is results["dense"].cosine is None
    assert "top1" not in result.as_dict()


def test_batches_do_not_matter_and_labels_change_nothing_about_agreement():
    images = told_images([0, 1, 2, 3, 4])
    models = {"dense": Told(), "moved": Told(shift=1)}
    one, many = (evaluate_many(models, unlabelled(images, size))["moved"] for size in (5, 2))
    assert one.agreement == many.agreement == 0 and one.cosine == pytest.approx(many.cosine)
    labelled = evaluate_many(models, batches(images, [0, 1, 2, 3, 4], 2))["moved"]
    assert labelled.agreement == one.agreement and labelled.cosine is None


def test_outputs_that_are_no_numbers_agree_with_nothing():
    images = told_images([0, 0, 1, 2])
    images[0, 0, 0, 0], images[2] = float("nan"), float("inf")
    result = evaluate(Told(), unlabelled(images, 3), dense=Told())
    assert (result.nonfinite, result.agreement) == (2, 50) and result.cosine == pytest.approx(1)


def test_features_without_labels_have_a_cosine_and_no_neighbours():
    features, _ = clusters()
    models = {"dense": Told(0, outputs=8), "moved": Told(0, shift=1, outputs=8)}
    result = evaluate_many(models, unlabelled(features.reshape(-1, 1, 1, 8), 7))["moved"]
    assert result.knn is result.neighbours is result.agreement is None and result.images == 60
    assert result.cosine_interval[0] < result.cosine < result.cosine_interval[1]


def test_one_image_has_a_cosine_and_no_interval():
    result = evaluate(Told(), unlabelled(told_images([0]), 1), dense=Told())
    assert result.cosine == pytest.approx(1) and result.cosine_interval is None


def test_some_labels_or_no_dense_model_are_refused():
    images = told_images([0, 1])
    with pytest.raises(ValueError, match="judged beside the dense one: give `dense`, or labels"):
        evaluate(Told(), unlabelled(images, 2))
    mixed = [(images, None), (images, torch.tensor([0, 1]))]
    with pytest.raises(ValueError, match="some batches have labels and some have none"):
        evaluate(Told(), mixed, dense=Told())


def test_skipped_images_are_named_without_labels_too():
    skipped = (Unreadable("x.jpg", "empty"),)
    result = evaluate(Told(), [Batch(told_images([0, 1]), None, skipped)], dense=Told())
    assert result.skipped == skipped and result.images == 2


# -- a bank


@pytest.mark.parametrize("k", [1, 5, 50])
def test_neighbours_in_a_bank_agree_with_a_plain_version(k):
    features, labels = clusters(90, spread=4.0)
    bank, rest = (features[:40], labels[:40] * 7), (features[40:], labels[40:] * 7)
    hits = knn_hits(*rest, k=k, bank=bank, chunk=7)
    # Row by row: the bank and one image, of which the last is judged by all others.
    plain = [plain_knn(torch.cat([bank[0], row[None]]), torch.cat([labels[:40], label[None]]), k)[-1]
             for row, label in zip(rest[0], labels[40:], strict=True)]  # fmt: skip
    assert hits.tolist() == plain and 0 < hits.sum() < 50


@pytest.mark.parametrize("k", [1, 5])
def test_recall_is_one_of_the_same_class_among_the_nearest(k):
    features, labels = clusters(spread=4.0)
    cosines = torch.nn.functional.normalize(features.double(), dim=1)
    cosines = (cosines @ cosines.T).fill_diagonal_(-2)
    plain = [
        bool((labels[row.argsort(descending=True)[:k]] == label).any())
        for row, label in zip(cosines, labels, strict=True)
    ]
    assert recall_hits(features, labels, k, chunk=7).tolist() == plain and 0 < sum(plain) < len(plain)
    assert recall_hits(features[:3], labels[:3] + 10, k, bank=(features, labels)).sum() == 0


def test_a_label_that_the_bank_lacks_is_never_found():
    features, labels = clusters(9)
    assert not knn_hits(features, labels + 10, k=3, bank=(features, labels)).any()
    with pytest.raises(ValueError, match="of a bank one"):
        knn_hits(features, labels, bank=(features[:0], labels[:0]))


def test_evaluation_says_which_neighbours_vote():
    features, labels = clusters()
    images, models = features.reshape(-1, 1, 1, 8), {"dense": Told(0, outputs=8), "other": Told(0, outputs=8)}
    bank, judged = batches(images[:40], labels[:40], 7), batches(images[40:], labels[40:], 7)
    result = evaluate_many(models, judged, bank=bank, neighbours=5)["other"]
    assert (result.images, result.knn, result.neighbours, result.bank) == (20, 100, 5, 40)
    alone = evaluate_many(models, judged)["other"]
    assert (alone.neighbours, alone.bank) == (19, 20)  # each of the others


def test_banks_that_are_none_are_refused():
    labelled = batches(told_images([0, 1]), [0, 1], 2)
    with pytest.raises(ValueError, match="have a classifier: leave it out"):
        evaluate(Told(), labelled, bank=labelled)
    with pytest.raises(ValueError, match="neighbours need labels"):
        evaluate(Told(0), unlabelled(told_images([0, 1]), 2), dense=Told(0), bank=labelled)
