"""Whether a server can be reached is found out at once, and never said of one that is merely slow."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import constants

from vitrim.cli.shared import model as models
from vitrim.cli.shared import reaching
from vitrim.cli.shared.model import open_model
from vitrim.cli.shared.options import ModelOptions
from vitrim.common import network
from vitrim.common.network import unreachable


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """No proxy, and no pause between tries."""
    monkeypatch.setattr(network, "getproxies", dict)
    monkeypatch.setattr(network, "PAUSE", 0.0)


def failing(monkeypatch, *errors: Exception | None) -> list[tuple]:
    """What each try to connect ends in, and what was tried."""
    tried, ends = [], iter(errors)

    def connect(address, timeout):
        tried.append(address)
        error = next(ends)
        if error is not None:
            raise error
        return socket.socket()

    monkeypatch.setattr(network.socket, "create_connection", connect)
    return tried


UNKNOWN, REFUSED = socket.gaierror(-2, "Name or service not known"), ConnectionRefusedError(111, "refused")


def test_a_server_that_is_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not unreachable(f"http://127.0.0.1:{port}")
    assert unreachable(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("ends", "gone"),
    [
        ((UNKNOWN, UNKNOWN, UNKNOWN), True),
        ((REFUSED, OSError(101, "Network is unreachable"), UNKNOWN), True),
        ((UNKNOWN, UNKNOWN, None), False),
        ((TimeoutError(),), False),
        ((UNKNOWN, TimeoutError()), False),
    ],
)
def test_it_takes_three_refusals(monkeypatch, ends, gone):
    tried = failing(monkeypatch, *ends)
    assert unreachable("https://huggingface.co") == gone
    assert tried == [("huggingface.co", 443)] * len(ends)


@pytest.mark.parametrize("proxies", [{"https": "http://proxy:3128"}, {"all": "socks5://proxy"}])
def test_a_proxy_alone_can_tell(monkeypatch, proxies):
    monkeypatch.setattr(network, "getproxies", lambda: proxies)
    assert failing(monkeypatch) == [] and not unreachable("https://huggingface.co")


@pytest.mark.parametrize("gone", [True, False])
def test_weights_are_asked_for_offline_where_there_is_no_network(monkeypatch, gone):
    """So nothing is tried again; afterwards all is as it was."""
    seen = []

    def create(self, name, **arguments):
        if arguments.get("pretrained"):
            seen.append(constants.HF_HUB_OFFLINE)
            raise socket.gaierror(-2, "Name or service not known")
        return right(self, name, **arguments)

    right = type(models.library_with("test_vit")).create
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(reaching, "unreachable", lambda url: gone)
    monkeypatch.setattr(type(models.library_with("test_vit")), "create", create)
    with pytest.raises(ValueError, match="no connection to huggingface"):
        open_model(ModelOptions(model="test_vit"))
    assert seen == [gone] and constants.HF_HUB_OFFLINE is False
