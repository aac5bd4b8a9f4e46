"""Weights that cannot be had: a server that does not answer, a file that may not be read; in vitrim's own words."""

from __future__ import annotations

import logging
import os
import socket
import urllib.error

import pytest
import timm
import torch
from huggingface_hub.errors import FileMetadataError, LocalEntryNotFoundError, OfflineModeIsEnabled

from vitrim import cli
from vitrim.backbones import TIMM
from vitrim.cli.shared import reaching
from vitrim.cli.shared.model import open_model
from vitrim.cli.shared.options import ModelOptions
from vitrim.common.text import cut, first_line, first_sentence, reason

HUB = (
    "An error happened while trying to locate the file on the Hub and we cannot find the requested files in the local "
    "cache. Please check your connection and try again or make sure your Internet connection is on."
)
NO_CONNECTION = "no connection to huggingface.co"


def of_package(module: str, name: str, base: type[Exception] = Exception) -> Exception:
    """An error as a package raises it that need not be installed."""
    return type(name, (base,), {"__module__": module})("[Errno -2] Name or service not known")


def because(error: Exception, cause: Exception | None) -> Exception:
    error.__cause__ = cause
    return error


UNREACHED = {
    "hub": LocalEntryNotFoundError(HUB),
    "hub, offline mode": because(LocalEntryNotFoundError(HUB), OfflineModeIsEnabled("Cannot reach it: offline mode")),
    "httpx": because(LocalEntryNotFoundError(HUB), of_package("httpx", "TransportError")),
    "httpx in another": because(RuntimeError("loading failed"), of_package("httpx2", "TransportError")),
    "requests": of_package("requests.exceptions", "ConnectionError", OSError),
    "a slow one": of_package("requests.exceptions", "Timeout", OSError),
    "no such host": socket.gaierror(-2, "Name or service not known"),
}


def failing(monkeypatch, error: Exception) -> None:
    """timm as it is where nothing can be downloaded: it logs every try, then raises."""
    build = timm.create_model

    def create(name, pretrained=False, **arguments):
        if not (pretrained or ":" in name):
            return build(name, **arguments)
        logging.getLogger("huggingface_hub.utils._http").warning("thrown while requesting HEAD https://huggingface.co")
        raise error

    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setattr(reaching, "unreachable", lambda url: False)  # `test_network.py` asks that


@pytest.mark.parametrize("kind", UNREACHED)
@pytest.mark.parametrize("name", ["test_vit", "hf_hub:timm/vit_tiny_patch16_224.augreg_in21k"])
def test_no_connection_is_said_with_the_way_out(kind, name, monkeypatch, caplog):
    failing(monkeypatch, UNREACHED[kind])
    before = logging.getLogger("huggingface_hub").level
    with pytest.raises(ValueError, match=NO_CONNECTION) as caught:
        open_model(ModelOptions(model=name))
    weights = f"the pretrained weights of {name} cannot be downloaded: {NO_CONNECTION}; give a local file with "
    looked_up = f"{name} cannot be looked up: {NO_CONNECTION}; give the name of its architecture in timm and a local "
    assert str(caught.value).startswith(looked_up if ":" in name else weights)
    assert "--checkpoint FILE" in str(caught.value) and len(str(caught.value)) <= 300
    assert not caplog.records, "every try was told before the error that tells it all"
    assert logging.getLogger("huggingface_hub").level == before, "quiet only meanwhile"


def test_another_server_is_not_called_by_that_name(monkeypatch):
    failing(monkeypatch, urllib.error.URLError(socket.gaierror(-2, "Name or service not known")))
    with pytest.raises(ValueError, match="cannot be downloaded: no connection to the server that holds them; give a"):
        open_model(ModelOptions(model="test_vit"))


ANSWERED = {
    "no such file": (urllib.error.HTTPError("https://x", 404, "Not Found", None, None), "HTTP Error 404: Not Found"),
    "no metadata": (because(LocalEntryNotFoundError(HUB), FileMetadataError("no ETag")), HUB.partition(". ")[0]),
    "damaged": (RuntimeError("the file is damaged. Delete it. And more\nand more"), "the file is damaged"),
    "long": (RuntimeError("so many words " * 100), "so many words so many"),
}


@pytest.mark.parametrize("kind", ANSWERED)
def test_any_other_cause_is_its_first_sentence_and_no_word_is_cut(kind, monkeypatch):
    error, sentence = ANSWERED[kind]
    failing(monkeypatch, error)
    with pytest.raises(ValueError, match="cannot be read or downloaded") as caught:
        open_model(ModelOptions(model="test_vit"))
    inside = str(caught.value).partition(" (")[2].partition("): give a local file with --checkpoint FILE")[0]
    assert inside.startswith(sentence) and len(str(caught.value)) <= 300
    assert inside == sentence or (inside.endswith(" ...") and inside.split()[-2] in ("so", "many", "words"))


def test_a_model_that_no_hub_has_is_not_called_a_connection(monkeypatch, capsys):
    failing(monkeypatch, KeyError("architecture"))
    assert cli.main(["profile", "--model", "hf_hub:some/thing"]) == 2
    assert capsys.readouterr().err == "vitrim: error: timm cannot build hf_hub:some/thing: 'architecture'\n"


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(monkeypatch, tmp_path):
    def refuse(*given, **options):
        raise PermissionError(13, "Permission denied", str(tmp_path / "w.pth"))

    model = timm.create_model("test_vit")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    monkeypatch.setattr("vitrim.backbones.timm.checkpoints.load_state_dict", refuse)
    with pytest.raises(ValueError, match=r"w\.pth cannot be read: Permission denied$"):
        TIMM.load_checkpoint(model, tmp_path / "w.pth")


def test_reasons_end_with_a_whole_word():
    assert cut("x" * 200, 80) == "x" * 39 + "..." + "x" * 38 and cut("one two three", 13) == "one two three"
    for length in range(20, 60):
        said = cut(HUB, length)
        assert len(said) <= length and said.endswith(" ...") and HUB.startswith(said.removesuffix("...")), said
    assert first_line(OSError(HUB)).endswith(" ...") and len(first_line(OSError(HUB))) <= 160
    assert first_sentence(OSError(HUB)) == HUB.partition(". ")[0] and first_sentence(KeyError()) == "KeyError"
    assert first_sentence(ValueError("it takes e.g. a file.pth. No more")) == "it takes e.g. a file.pth"
    assert reason(PermissionError(13, os.strerror(13), "x")) == "Permission denied" and reason(OSError("no")) == "no"
