"""A method's file that leaves something out, gets it wrong, or has changed since a folder was saved."""

from __future__ import annotations

import json

import pytest
import torch
from test_registry import FILE, X, file, forgotten, tiny  # noqa: F401  a fixture among them

import vitrim
from vitrim.methods import METHODS, import_method

BARE = """
import torch
import vitrim


class Bad(vitrim.Method):
    name = "bad"

    def forward(self, tokens, evidence, place):
        return vitrim.Keep(torch.arange(3).expand(tokens.batch, -1))

    def count(self, place, n):
        return 3

    def default_places(self, depth):
        return (1,)
"""


def test_a_class_without_a_constructor_has_no_options_and_comes_back(file, tmp_path):  # noqa: F811
    file.write_text(BARE)
    cls = import_method(f"{file}:Bad")
    assert cls.option_names() == [] and cls.has_defaults() and cls().options() == {} and repr(cls()) == "Bad()"
    fast = vitrim.reduce(tiny(), "bad")
    fast.save(tmp_path / "out")
    assert torch.equal(vitrim.load(tmp_path / "out")(X), fast(X))


def test_options_that_the_constructor_has_not_kept(file):  # noqa: F811
    file.write_text(FILE.replace("self.power = power", "pass"))
    with pytest.raises(ValueError, match="Largest does not keep its option power: set self"):
        import_method(f"{file}:Largest")().options()


def test_a_forward_that_leaves_another_number_than_count_says(file):  # noqa: F811
    file.write_text(BARE.replace("return 3", "return 5"))
    fast = vitrim.reduce(tiny(), import_method(f"{file}:Bad")())
    with pytest.raises(ValueError, match="method 'bad' leaves 3 of 4 patch tokens in block 1, and its count says 5"):
        fast(X)


@pytest.mark.parametrize("returned", ["tokens.x", "3", "[0, 1]"])
def test_a_forward_that_returns_no_decision(file, returned):  # noqa: F811
    lines = BARE.splitlines()
    (place,) = (i for i, line in enumerate(lines) if line.strip().startswith("return vitrim."))
    lines[place] = lines[place].partition("return")[0] + f"return {returned}"
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"method 'bad' decides by a .*: let its forward return a Keep, Fuse, Merge"):
        vitrim.reduce(tiny(), import_method(f"{file}:Bad")())(X)


DECISIONS = {
    "vitrim.Keep(torch.arange(3))": r"a Keep whose index is int64 \[3\]: give whole numbers",
    "vitrim.Keep(torch.zeros(len(tokens.x), 3))": "index is float32",
    "vitrim.Keep(torch.zeros(len(tokens.x) + 1, 3, dtype=torch.int64))": "give whole numbers",
    "vitrim.Keep(torch.full((len(tokens.x), 3), 999))": "index goes from 999 to 999: give numbers of patch tokens",
    "vitrim.Keep(torch.full((len(tokens.x), 3), -1))": "index goes from -1 to -1",
    "vitrim.Fuse(torch.zeros(len(tokens.x), 2, dtype=torch.int64), torch.ones(2))": r"a Fuse whose weights are \[2\]",
    "vitrim.Mask(torch.ones(2))": r"a Mask whose mask is \[2\]",
    "vitrim.Merge(torch.zeros(len(tokens.x), tokens.n, dtype=torch.int64), torch.ones(len(tokens.x), tokens.n), 3, "
    "torch.zeros(len(tokens.x), 2, dtype=torch.int64))": "a Merge whose lead is",
    "vitrim.Join(torch.zeros(len(tokens.x), tokens.n - 1, dtype=torch.int64), torch.full((len(tokens.x), 1), 999), "
    "torch.zeros(len(tokens.x), 1, dtype=torch.int64), tokens.sizes)": "a Join whose moved goes from 999",
    "vitrim.Join(torch.zeros(len(tokens.x), tokens.n - 1, dtype=torch.int64), torch.zeros(len(tokens.x), 1, "
    "dtype=torch.int64), torch.zeros(len(tokens.x), 1, dtype=torch.int64), torch.ones(2))": "a Join whose sizes are",
}


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_decision_that_cannot_be_is_told_in_its_words(file, decision):  # noqa: F811
    lines = BARE.splitlines()
    (place,) = (i for i, line in enumerate(lines) if line.strip().startswith("return vitrim."))
    lines[place] = lines[place].partition("return")[0] + f"return {decision}"
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=f"method 'bad' returns .*{DECISIONS[decision]}") as raised:
        vitrim.reduce(tiny(), import_method(f"{file}:Bad")())(X)
    assert len(str(raised.value)) < 300


def test_a_join_may_drop_tokens(file):  # noqa: F811
    lines = BARE.splitlines()
    (place,) = (i for i, line in enumerate(lines) if line.strip().startswith("return vitrim."))
    one = "torch.zeros(len(tokens.x), 1, dtype=torch.int64)"
    lead = "torch.arange(3).expand(len(tokens.x), -1)"
    join = f"vitrim.Join({lead}, {one} + tokens.n - 1, {one}, tokens.sizes)"
    lines[place] = lines[place].partition("return")[0] + f"return {join}"
    file.write_text("\n".join(lines) + "\n")
    _, trace = vitrim.reduce(tiny(), import_method(f"{file}:Bad")())(X, trace=True)
    assert trace[-1].kept.shape[1] == 3 and (trace[-1].owners >= 0).sum(dim=1).tolist() == [4] * len(X)


def test_a_source_that_has_changed_since_is_said_and_loads(file, tmp_path, recwarn):  # noqa: F811
    vitrim.ReducedViT(tiny(), [import_method(f"{file}:Learned")(0.6, at=1)]).save(tmp_path / "out")
    vitrim.load(tmp_path / "out")
    assert not recwarn.list
    forgotten("learned-direction")
    file.write_text(FILE.replace("p=self.power", "p=1.0"))  # of the class below it
    with pytest.warns(UserWarning, match="the source of method learned-direction differs from that at saving") as said:
        vitrim.load(tmp_path / "out", methods=[f"{file}:Learned"])
    assert "\n" not in str(said[0].message) and "house_methods:Learned" in str(said[0].message)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert len(config["methods"][0].pop("source")) == 16
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    recwarn.clear()
    vitrim.load(tmp_path / "out")  # a folder of before has no hash
    assert not recwarn.list


def test_to_save_a_class_whose_name_is_taken(file, tmp_path):  # noqa: F811
    import_method(f"{file}:Largest")
    other = type("Other", (METHODS["largest"],), {})
    with pytest.raises(ValueError, match="the name 'largest' of Other is taken by house_methods:Largest: give the"):
        vitrim.reduce(tiny(), other(at=1)).save(tmp_path / "out")
