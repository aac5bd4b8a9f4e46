"""The playground without a browser: what is offered, what is shown, what is let in, and where it listens."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from pictures import noise, small
from PIL import Image

import vitrim
from vitrim.common.ports import PORT, listening
from vitrim.methods import METHODS
from vitrim.playground import offers
from vitrim.playground import showing as showing_module
from vitrim.playground.answer import answer_html, message_html
from vitrim.playground.gate import Gate
from vitrim.playground.offers import SAVED, offer
from vitrim.playground.page import FAILED, _Acts
from vitrim.playground.server import address_of
from vitrim.playground.showing import MOST_PIXELS, Showing
from vitrim.view.looking import look

MODEL = small()
OFFER = offer(MODEL)
LEARNED = {"tofe", "dynamicvit"}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Times are taken, but not for long."""
    monkeypatch.setattr(showing_module, "TIMING", 0)


@pytest.fixture
def showing():
    return Showing({"one": OFFER, "other": offer(small(img_size=32))})


@pytest.fixture
def pictures(tmp_path):
    files = [tmp_path / f"{seed}.png" for seed in range(2)]
    for seed, file in enumerate(files):
        noise(seed).save(file)
    return files


# -- what is offered


def test_every_method_that_needs_no_training_is_offered():
    assert set(OFFER.reaches) == set(METHODS) - LEARNED == set(OFFER.choices)
    no_class_token = offer(small(class_token=False, global_pool="avg"))
    assert {"evit", "tome"} <= set(no_class_token.reaches), "with the score that such a model needs"


@pytest.mark.parametrize("method", OFFER.reaches)
def test_a_method_reaches_what_it_says_and_no_less(method):
    low, high = OFFER.reaches[method]
    assert 0 < low < 1 and high >= 1
    assert vitrim.profile(OFFER.reduced(method, low)).share <= low
    with pytest.raises(ValueError, match=r"out of reach: here \w+ can cost [\d.]+ to 100 % of the dense"):
        OFFER.reduced(method, low - 0.002)
    with pytest.raises(ValueError, match="out of reach"):
        OFFER.reduced(method, float("nan"))


def test_the_methods_of_a_folder_come_first_and_as_they_are():
    model = small()
    saved = vitrim.reduce(model, [vitrim.EViT(keep=0.5, at=1), vitrim.ToMe(r=5, at=2)])
    one = offer(saved.backbone, saved)
    assert next(iter(one.choices.items())) == (SAVED, "as saved")
    assert one.about(SAVED) == "EViT keep=0.5 + ToMe r=5" and one.about("tome") == "merge similar tokens"
    assert one.reduced(SAVED, 0.01) is saved
    with pytest.raises(ValueError, match="does not run that method here"):
        OFFER.reduced(SAVED, 0.5)


def test_a_model_without_a_method_is_refused(monkeypatch):
    monkeypatch.setattr(offers, "METHODS", {name: METHODS[name] for name in LEARNED})
    with pytest.raises(ValueError, match="runs none of the methods without training"):
        offer(MODEL)


# -- what is shown


def test_figures_are_those_of_the_library(showing, pictures):
    visit = showing.receive(pictures[0])
    for name, method, share in [("one", "evit", 0.7), ("one", "tome", 0.6), ("other", "idlevit", 0.8)]:
        one = showing.offers[name]
        fast = one.reduced(method, share)
        (seen,) = look([fast], pictures[0])
        shown = showing.show(visit, name, method, share)
        assert (shown.seen.fates.groups == seen.fates.groups).all() and (shown.seen.pixels == seen.pixels).all()
        assert [answers[0] for answers in shown.answers] == [seen.dense, seen.reduced]
        assert [len(answers) for answers in shown.answers] == [3, 3]
        assert sum(answer.probability for answer in shown.answers[0]) == pytest.approx(1)
        assert shown.gmacs == (vitrim.profile(one.dense).gmacs, vitrim.profile(fast).gmacs)
        assert min(shown.ms) > 0 and shown.rounds >= 3
        html = answer_html(shown)
        assert all(f"block {block}: {seen.fates.caption(block)}" in html for block in range(4))


def test_the_dense_model_looks_once_at_a_picture(showing, pictures):
    visit = showing.receive(pictures[0])
    showing.show(visit, "one", "evit", 0.7)
    view = visit.views["one"]
    showing.show(visit, "one", "tome", 0.6)
    assert visit.views == {"one": view}


def test_visitors_at_once_get_what_they_would_get_alone(showing, pictures):
    visits = [showing.receive(file) for file in pictures]
    asked = [(visit, method, 0.7) for visit in visits for method in ("evit", "tome")]

    def patches(one):
        visit, method, share = one
        return showing.show(visit, "one", method, share).seen.fates.groups

    alone = [patches(one) for one in asked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(patches, asked * 2))
    assert all((a == b).all() for a, b in zip(alone * 2, together, strict=True))


def test_a_model_without_a_classifier_shows_a_cosine(pictures):
    showing = Showing({"features": offer(small(num_classes=0))})
    shown = showing.show(showing.receive(pictures[0]), "features", "evit", 0.7)
    assert shown.answers == ([], []) and f"cosine {shown.seen.cosine:.3f} with dense" in answer_html(shown)


def test_names_are_no_markup(pictures):
    model = small()
    model.pretrained_cfg["label_names"] = ["<script>1</script>"] * 3
    showing = Showing({"one": offer(model)})
    html = answer_html(showing.show(showing.receive(pictures[0]), "one", "evit", 0.7))
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "<b>" not in message_html("<b>")


# -- pictures of strangers


@pytest.mark.parametrize(
    "mode, kind", [("L", "png"), ("CMYK", "jpeg"), ("P", "gif"), ("RGBA", "webp"), ("I;16", "tiff")]
)
def test_pictures_of_every_mode_are_taken(showing, tmp_path, mode, kind):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (70, 90), dtype=np.uint16))
    (picture if mode == "I;16" else noise().convert(mode)).save(tmp_path / "x", kind)
    showing.show(showing.receive(tmp_path / "x"), "one", "evit", 0.7)


def test_a_picture_is_turned_upright_and_of_several_the_first_is_taken(showing, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    noise().rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    noise().save(tmp_path / "moving.png", save_all=True, append_images=[noise(1)])
    noise().save(tmp_path / "still.png")
    turned, moving, still = (
        showing.receive(tmp_path / f"{name}.png").images["one"] for name in ("turned", "moving", "still")
    )
    assert torch.equal(turned, still) and torch.equal(moving, still)


def test_what_cannot_be_read_is_told_without_the_name_of_a_file(showing, tmp_path, monkeypatch):
    whole = io.BytesIO()
    noise().save(whole, "png")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"  # Pillow has other programs draw these
    cases = {
        b"no picture": "no JPEG, PNG, WebP, GIF, BMP or TIFF, or damaged from its first bytes",
        b"": "no JPEG",
        eps: "no JPEG",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>": "no JPEG",
        whole.getvalue()[:9000]: "it is damaged",
    }
    for content, said in cases.items():
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(ValueError, match=said) as refused:
            showing.receive(tmp_path / "bad.png")
        assert str(tmp_path) not in str(refused.value)
    with pytest.raises(ValueError, match="cannot be read") as refused:
        showing.receive(tmp_path / "lost.png")
    assert "lost" not in str(refused.value)


def test_no_pixel_of_too_large_a_picture_is_decoded(showing, tmp_path, monkeypatch):
    side = int(MOST_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=f"{side} x {side} pixels, and 64,000,000 in all can be taken"):
        showing.receive(tmp_path / "large.png")


def test_mistakes_are_told_and_faults_are_not(showing, pictures, monkeypatch, capsys):
    acts = _Acts(showing)
    visit, cleared, html = acts.receive(str(pictures[0]), "one", "evit", 65)
    assert visit is not None and cleared is None and "vitrim-figures" in html
    for given, said in {
        ("one", "evit", 1): "out of reach",
        ("none", "evit", 65): "no such model",
        ("one", "../x", 65): "does not run",
    }.items():
        assert said in acts.show(visit, *given)
    assert "Drop a photograph" in acts.show(None, "one", "evit", 65) and capsys.readouterr().err == ""
    monkeypatch.setattr(showing, "show", lambda *_: 1 / 0)
    assert FAILED in acts.show(visit, "one", "evit", 65)
    assert "ZeroDivisionError" in capsys.readouterr().err, "the one who runs the page is told"


# -- what is let in


def answered(method: str, path: str, body: bytes | None = None, uploads: str = "/tmp/uploads", **at) -> int:
    """The status that the gate gives; 200: it lets the request in, with its whole body."""

    async def app(scope, receive, send):
        if method == "POST":
            assert (await receive())["body"] == body
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            kept_here = any(b"default-src 'self'" in value for _, value in message["headers"])
            assert kept_here or method == "POST" or message["status"] != 200

    statuses: list[int] = []
    head = [(b"host", at.get("named", b"127.0.0.1:7860"))] if at.get("named", b"x") is not None else []
    head += [] if body is None else [(b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": head}
    asyncio.run(Gate(app, uploads, 1000, at.get("host", "127.0.0.1"))(scope, receive, send))
    return statuses[0]


def asks(path: object) -> bytes:
    return json.dumps({"data": [{"path": path, "url": "http://x/"}], "fn_index": 0}).encode()


LET_IN = {
    "the page": ("GET", "/"),
    "a script": ("GET", "/assets/index-1.js"),
    "an upload": ("POST", "/gradio_api/upload", b"x" * 1000),
    "a question": ("POST", "/gradio_api/queue/join", asks("/tmp/uploads/ab/x.png")),
    "a question about nothing": ("POST", "/gradio_api/queue/join", asks(None)),
}
KEPT_OUT = {
    "a file by path": (404, "GET", "/gradio_api/file=/etc/passwd"),
    "another's upload": (404, "GET", "/gradio_api/file=/tmp/uploads/ab/x.png"),
    "a proxy": (404, "GET", "/gradio_api/proxy=http://example.org"),
    "what it is like": (404, "GET", "/gradio_api/info"),
    "its parts": (404, "GET", "/config"),
    "its use": (404, "GET", "/monitoring"),
    "a call": (404, "POST", "/gradio_api/call/show", b"{}"),
    "a step up": (404, "GET", "/assets/%2e%2e/x"),
    "an unknown way": (404, "DELETE", "/"),
    "too much": (413, "POST", "/gradio_api/upload", b"x" * 1001),
    "of unknown length": (413, "POST", "/gradio_api/upload", None),
    "a file of the server's": (400, "POST", "/gradio_api/queue/join", asks("/etc/passwd")),
    "one beside the uploads": (400, "POST", "/gradio_api/queue/join", asks("/tmp/uploads/../x")),
    "a place on the net": (400, "POST", "/gradio_api/queue/join", asks("http://example.org/x.png")),
    "a path of another kind": (400, "POST", "/gradio_api/queue/join", asks(["/etc/passwd"])),
    "no question": (400, "POST", "/gradio_api/queue/join", b"[" * 5000),
}


@pytest.mark.parametrize("request_", LET_IN.values(), ids=LET_IN)
def test_what_the_page_needs_is_let_in(request_):
    assert answered(*request_) == 200


@pytest.mark.parametrize("expected", KEPT_OUT.values(), ids=KEPT_OUT)
def test_all_else_is_kept_out(expected):
    status, *request_ = expected
    assert answered(*request_) == status


MACHINE = socket.gethostname().encode()
OWN = (b"localhost", b"LOCALHOST:7860", b"127.0.0.1:7860", b"[::1]:7860")
OTHERS = (b"evil.example", b"127.0.0.1.evil.example:7860", b"localhost.evil.example", b"evil.example:7860", b"", None)
OTHERS += (b"[::1", b"\xff", b"evil.example@127.0.0.1.evil.example", b"a b")
NAMED = {
    "127.0.0.1": (OWN, (*OTHERS, b"192.168.1.7", MACHINE + b".evil.example")),
    "192.168.1.7": ((*OWN, b"192.168.1.7:7860"), (*OTHERS, b"192.168.1.8")),
    "my.example": ((*OWN, b"my.example", b"My.Example:80"), (*OTHERS, b"not-my.example")),
    "0.0.0.0": ((*OWN, b"192.168.1.7:7860", MACHINE), OTHERS),
    "::": ((*OWN, b"[fe80::1]:7860", MACHINE + b":7860"), OTHERS),
}


@pytest.mark.parametrize("host", NAMED)
def test_what_was_sent_to_another_name_is_kept_out(host):
    """Whatever it asks for: a name of somebody else's may lead here."""
    own, others = NAMED[host]
    for request_ in (LET_IN["the page"], LET_IN["an upload"], LET_IN["a question"]):
        assert {answered(*request_, host=host, named=named) for named in own} == {200}
        assert {answered(*request_, host=host, named=named) for named in others} == {403}


# -- where it listens


def test_a_port_that_is_asked_for_is_given_or_refused():
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address_of(taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(ValueError, match=f"port={port} is busy: give another one"), listening("127.0.0.1", port):
            pass
    with listening("127.0.0.1", port):
        pass


def test_without_one_the_next_free_port_is_taken():
    with listening("127.0.0.1", None) as first, listening("127.0.0.1", None) as second:
        assert PORT <= first.getsockname()[1] < second.getsockname()[1] < PORT + 100


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "::2"])
def test_an_address_of_another_machine_is_refused(host):
    with (
        pytest.raises(ValueError, match=r"is no address of this machine: give host=\"127\.0\.0\.1\""),
        listening(host, 0),
    ):
        pass
