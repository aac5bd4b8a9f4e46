"""`vitrim.testing.check_method`: a good method keeps the laws, and what is wrong with a broken one is said in words."""

from __future__ import annotations

import re

import pytest
import timm
import torch

import vitrim
from vitrim import Keep
from vitrim.methods import METHODS
from vitrim.testing import Finding, check_method, small_model
from vitrim.testing.check_method import _in_one_line


class Largest(vitrim.Method):
    """Keep the patch tokens of the largest norm."""

    name, title = "largest", "keep the tokens of the largest norm"

    def __init__(self, keep=0.5, at=None):
        super().__init__(keep, at)

    def forward(self, tokens, evidence, place):
        norms = tokens.patches.norm(dim=-1)
        return Keep(norms.topk(self.count(place, tokens.n), dim=1).indices, scores=norms)

    def count(self, place, n):
        return max(1, int(place.keep * n))


class Drawn(Largest):
    """Its choice is drawn anew at every call."""

    name = "drawn"

    def forward(self, tokens, evidence, place):
        return Keep(torch.rand(tokens.batch, tokens.n).topk(self.count(place, tokens.n), dim=1).indices)


class OfTheBatch(Largest):
    """It ranks the tokens of an image by the mean over the batch."""

    name = "of_the_batch"

    def forward(self, tokens, evidence, place):
        norms = tokens.patches.norm(dim=-1).mean(dim=0).expand(tokens.batch, -1)
        return Keep(norms.topk(self.count(place, tokens.n), dim=1).indices)


class Miscounted(Largest):
    """It plans one token fewer than it keeps."""

    name = "miscounted"

    def count(self, place, n):
        return max(1, int(place.keep * n) - 1)

    def forward(self, tokens, evidence, place):
        return Keep(tokens.patches.norm(dim=-1).topk(int(place.keep * tokens.n), dim=1).indices)


class Twice(Largest):
    """It keeps the first token again and again."""

    name = "twice"

    def forward(self, tokens, evidence, place):
        return Keep(torch.zeros(tokens.batch, self.count(place, tokens.n), dtype=torch.long))


@pytest.fixture(autouse=True)
def forgotten():
    known = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(known)


def states(report):
    return {finding.law: finding.state for finding in report.findings}


def test_a_good_method_keeps_every_law():
    vitrim.register_method(Largest)
    for given in (Largest, Largest(keep=0.7, at=(2, 5)), "largest"):
        assert set(states(check_method(given)).values()) == {"holds"}
    report = check_method("largest", keep=0.6)
    assert str(report).startswith("largest keep=0.6\nholds      keeps all: With nothing to remove, ")


def test_what_is_not_registered_is_not_saved_and_that_is_said():
    report = check_method(Largest)
    assert states(report).pop("comes back from disk") == "not asked" and not report.broken
    assert "put @vitrim.register_method above its class" in str(report)


@pytest.mark.parametrize(
    ("cls", "law", "words"),
    [
        (Drawn, "same again", "the same images gave other logits the second time"),
        (OfTheBatch, "images are alone", "image 0 keeps other tokens in block 3 of the batch than alone"),
        (Miscounted, "plan is what runs", "ValueError: method 'miscounted' leaves 12 of 25 patch tokens in block 3"),
        (Twice, "every token is kept once", "image 0 has patch 0 12 times in block 3"),
    ],
)
def test_what_a_broken_method_breaks_is_said(cls, law, words):
    with pytest.raises(ValueError, match=rf"^{cls.name} breaks \d of 7 laws\. ") as said:
        check_method(cls)
    assert re.search(rf"{law}(, [^:]+)?: {re.escape(words)}", str(said.value)) and len(str(said.value)) <= 300
    report = check_method(cls, raises=False)
    assert law in {finding.law for finding in report.broken}


def test_an_error_of_the_method_is_a_broken_law_with_its_words():
    class Failing(Largest):
        name = "failing"

        def forward(self, tokens, evidence, place):
            raise RuntimeError("no such\nthing")

    report = check_method(Failing, raises=False)
    assert "RuntimeError: no such thing" in str(report)
    with pytest.raises(ValueError, match=r"^failing breaks 6 of 7 laws\. same again, images are alone, ") as said:
        check_method(vitrim.register_method(Failing))
    assert str(said.value).count("RuntimeError") == 1 and len(str(said.value)) <= 300


def test_what_does_not_fit_into_a_line_is_in_the_report():
    found = tuple(Finding(f"law {i}", "", "broken", f"reason {i} " * 20) for i in range(4))
    line = _in_one_line("mine", found)
    assert line.startswith("mine breaks 4 of 7 laws. law 0: reason 0 reason 0") and "law 3" not in line
    assert line.endswith("; print check_method(..., raises=False) for the rest") and len(line) <= 300


@pytest.mark.parametrize("name", ["evit", "tome", "idlevit", "ats", "random"])
def test_methods_of_vitrim_keep_them(name):
    assert not check_method(name).broken


def test_on_a_model_of_ones_own():
    model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 48), depth=4, in_chans=1, num_classes=3).eval()
    vitrim.register_method(Largest)
    assert set(states(check_method(Largest, model)).values()) == {"holds"}
    with pytest.raises(ValueError, match="in train mode"):
        check_method(Largest, model.train())


def test_what_is_no_method_is_refused():
    for given, words in (
        (3, "3 is no method"),
        ("evitt", "^method 'evitt' is not known: did you mean evit[?] methods are evit, "),
    ):
        with pytest.raises(ValueError, match=words):
            check_method(given)
    with pytest.raises(ValueError, match="is made already"):
        check_method(Largest(keep=0.5), keep=0.7)


def test_the_small_model_is_the_same_at_every_call_and_draws_from_nobody():
    before = torch.get_rng_state()
    a, b = small_model(), small_model()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
