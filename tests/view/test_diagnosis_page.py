"""A diagnosis in tables, plots and as a page: what was found is said, and nothing is fetched."""

from __future__ import annotations

import re

import browser
import numpy as np
import pytest
import torch
from pictures import small
from test_view_page import Reader

import vitrim
from vitrim.view import diagnose
from vitrim.view.diagnosis.page import differing_in_words, write_page
from vitrim.view.diagnosis.plots import as_svg, plots, styles_of
from vitrim.view.diagnosis.tables import CLASSES, more_classes, sections

MODEL = small()
FAST = [
    vitrim.reduce(MODEL, method) for method in (vitrim.EViT(keep=0.5), vitrim.IdleViT(keep=0.5), vitrim.ATS(keep=0.5))
]
IMAGES = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def found():
    return diagnose(FAST, [(IMAGES, torch.tensor([0, 1, 2, 0, 1, 2]))], differing=3)


@pytest.fixture(scope="module")
def page(tmp_path_factory, found):
    return write_page(tmp_path_factory.mktemp("page") / "p.html", found, "A <b>title", ["of a & b"])


def test_tables_have_what_was_found(found):
    tables = {section.name: section.table for section in sections(found)}
    idle = found.models["IdleViT keep=0.5"]
    row = next(row for row in tables["reselection"].rows if row[0] == "IdleViT keep=0.5")
    assert row[1:] == [f"{100 * share:.1f}" for share in (*vars(idle.reselection).values(), idle.reselection.ratio)]
    assert [row[0] for row in tables["similarity"].rows] == list(found.models)
    for row, each in zip(tables["similarity"].rows, found.models.values(), strict=True):
        assert row[1:] == [f"{mean:.3f}" for mean in each.similarity]
    assert [row[0] for row in tables["diversity"].rows] == list(found.models)[1:]
    assert [row[1] for row in tables["usage"].rows][-3:] == ["mean", "fewest", "most"]
    assert len(tables["classes"].rows) == 3 and tables["top1"].columns[2].title == "dense"


def test_what_is_left_out_is_said_and_of_reduced_models_alone(found):
    left_out = {section.name: section.left_out for section in sections(found)}
    assert left_out["reselection"] == {"no token that it leaves out comes back": ["EViT keep=0.5", "ATS keep=0.5"]}
    assert list(left_out["sorted_attention"].values()) == [["ATS keep=0.5"]]
    assert left_out["similarity"] == left_out["usage"] == {}


def test_a_diagnostic_that_fits_no_model_says_why():
    found = diagnose(FAST[0], [IMAGES])
    (reselection,) = (section for section in sections(found) if section.name == "reselection")
    assert reselection.table is None and reselection.left_out == {
        "no token that it leaves out comes back": ["EViT keep=0.5"]
    }
    model = small(class_token=False, global_pool="avg")
    found = diagnose(vitrim.reduce(model, "tome", r=8), [IMAGES])
    (attention,) = (section for section in sections(found) if section.name == "sorted_attention")
    assert attention.table is None and attention.left_out == {"the model has no [CLS] token": ["ToMe r=8"]}
    assert "sorted_attention" not in plots(found) and "inattentive" not in plots(found)


def test_more_classes_than_a_table_shows_are_counted():
    model = small(num_classes=40)
    found = diagnose(vitrim.reduce(model, "evit"), [(torch.randn(14, 3, 64, 64), torch.arange(14))])
    (classes,) = (section.table for section in sections(found) if section.name == "classes")
    assert len(classes.rows) == CLASSES and more_classes(found) == "4 more classes agree no less: the JSON has all"


def test_plots_show_the_lines_that_were_found(found):
    drawn = plots(found)
    lines = {line.get_label(): line.get_ydata() for line in drawn["similarity"].axes[0].get_lines()}
    assert lines.keys() == found.models.keys()
    for name, each in found.models.items():
        np.testing.assert_array_equal(lines[name], each.similarity)
    assert len(drawn["inattentive"].axes) == 2 and len(drawn["sorted_attention"].axes) == 4  # with the bar of colours
    np.testing.assert_allclose(
        drawn["sorted_attention"].axes[0].images[0].get_array(),
        np.maximum(found.models["dense"].sorted_attention.map.numpy() * 64, 1e-3),
    )
    styles = [tuple(style.values()) for style in styles_of(found).values()]
    assert len({(marker, colour) for colour, marker, *_ in styles}) == 4
    assert len(drawn["usage"].axes) == 2, "a panel for the method whose images keep numbers of their own"


def test_the_same_figures_make_the_same_text(found):
    assert as_svg(plots(found)["classes"]) == as_svg(plots(found)["classes"])


def test_the_page_is_well_formed_and_fetches_nothing(page, found):
    text = page.read_text(encoding="utf-8")
    read = Reader(text)
    outside = [uri for uri in read.fetched if not uri.startswith(("data:image/", "#"))]
    assert read.open == [] and outside == [] and "default-src 'none'" in text
    assert [file.name for file in page.parent.iterdir()] == [page.name]
    assert "A <b>title" in read.words and "of a & b" in read.words and differing_in_words(found) in read.words
    for section in sections(found):
        assert section.title in read.words
        for row in section.table.rows if section.table else ():
            assert {cell for cell in row if cell} <= set(read.words)
    assert all(image["alt"] for image in read.images)


def test_the_page_has_the_photographs_with_all_answers(page, found):
    text = page.read_text(encoding="utf-8")
    articles = re.findall("<article>.*?</article>", text, re.DOTALL)
    assert len(articles) == len(found.differing) == 3
    for article, one in zip(articles, found.differing, strict=True):
        answers = re.findall(r"<dd(.*?)>(.*?)</dd>", article)
        said = [one.label, str(one.dense), *map(str, one.reduced.values())]
        assert [words for _, words in answers] == said and one.name in article
        other = [words for mark, words in answers if "other" in mark]
        assert other == [str(each) for each in one.reduced.values() if each.label != one.dense.label] != []


def test_what_cannot_be_written_is_refused(tmp_path, found):
    with pytest.raises(ValueError, match="cannot be written"):
        write_page(tmp_path, found)


@pytest.mark.skipif(not (browser.DRIVER and browser.BROWSER), reason="no chromium and chromium-driver here")
def test_it_stands_in_a_browser(page):
    with browser.opened(page) as shown:
        loaded = "return [...document.images].map(e => e.complete && e.naturalWidth > 0)"
        assert shown.run(loaded) == [True] * (3 + 6)
        fetched = "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))"
        assert shown.run(fetched) == []
        wide = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert shown.run(wide), "the page is wider than the window"
