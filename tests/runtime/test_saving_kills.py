"""After any kill, and for any number of writers, a reader gets one whole save or a refusal."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import fresh
import pytest
import torch
from saving_setup import FILES, number_of, numbered, saved

import vitrim
from vitrim.common import tensor_files
from vitrim.common.whole import Beside
from vitrim.runtime import saving


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_in_processes_of_their_own(tmp_path):
    """Killed at random moments and around every rename; writers beside a reader; a full disk."""
    script, folder = Path(__file__).with_name("save_and_kill.py"), tmp_path / "saved"
    folder.mkdir()
    code, said = fresh.run(script, folder, folder=tmp_path / "said")
    assert code == 0, said


def test_threads_that_save_into_one_folder(tmp_path):
    models, failed = [numbered(number) for number in range(4)], []

    def work(model):
        try:
            for _ in range(5):
                model.save(tmp_path)
                number_of(vitrim.load(tmp_path))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert number_of(vitrim.load(tmp_path)) in range(4) and sorted(os.listdir(tmp_path)) == FILES
    assert torch.empty(0).device.type == "cpu"


def test_another_saves_config_beside_the_weights_is_left_aside(tmp_path):
    """As a writer leaves it that was killed between the two renames."""
    for number in (1, 2):
        numbered(number).save(tmp_path / str(number))
    os.replace(tmp_path / "1" / "config.json", tmp_path / "2" / "config.json")
    assert number_of(vitrim.load(tmp_path / "2")) == 2


def test_the_config_may_be_edited(tmp_path):
    numbered(1).save(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("0.02", "0.5"))
    assert vitrim.load(tmp_path).methods[0].keep == 0.5


def test_both_files_have_the_rights_that_any_new_file_has(tmp_path, umask):
    numbered(1).save(tmp_path)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in FILES] == [0o640, 0o640]


def test_links_in_the_folder_are_replaced_and_never_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    for name in (f".config.json.{os.getpid()}", f".model.safetensors.{os.getpid()}"):
        (out / name).symlink_to(tmp_path / "victim")
    saved(numbered(1), out)
    (out / "model.safetensors").rename(tmp_path / "elsewhere")
    (out / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    assert number_of(saved(numbered(2), out)) == 2
    assert (tmp_path / "victim").read_text() == "mine" and (tmp_path / "elsewhere").read_bytes() == before
    assert not (out / "model.safetensors").is_symlink()


def test_files_of_others_are_not_replaced(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match=r"holds a config.json that is no save of vitrim's: give another folder"):
        numbered(1).save(tmp_path)
    assert os.listdir(tmp_path) == ["config.json"]
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    torch.save({}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds a model.safetensors that is no save"):
        numbered(1).save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    numbered(1).save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [*FILES, "other.json"]


def test_a_broken_save_can_be_saved_over(tmp_path):
    numbered(1).save(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert number_of(saved(numbered(2), tmp_path)) == 2
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    assert number_of(saved(numbered(1), tmp_path)) == 1


def test_what_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for folder, said in (
        ("", "folder is '': give the name of a folder"),
        (tmp_path / "file", "file is a file; give a folder"),
        (tmp_path / "file" / "in", "cannot be made: .*file is a file"),
    ):
        with pytest.raises(ValueError, match=said):
            numbered(1).save(folder)


def test_what_comes_back_from_the_disk_is_compared_before_it_counts(tmp_path, monkeypatch):
    numbered(1).save(tmp_path)

    def flipping(file, tensors, metadata):
        tensor_files.write_tensors(file, {name: tensor + 1 for name, tensor in tensors.items()}, metadata)

    monkeypatch.setattr(saving, "write_tensors", flipping)
    with pytest.raises(
        ValueError, match=r"came back from the disk as something else.*what it held before is as it was"
    ):
        numbered(2).save(tmp_path)
    assert number_of(vitrim.load(tmp_path)) == 1 and sorted(os.listdir(tmp_path)) == FILES


def test_a_writer_that_lives_keeps_its_file(tmp_path):
    """What is cleared away is what nobody holds."""
    left = tmp_path / ".model.safetensors.0123456789abcdef.part.safetensors"
    left.write_bytes(b"of a killed writer")
    others = [tmp_path / ".model.safetensors.mine", tmp_path / ".model.safetensors.0123456789abcdef.part"]
    for other in others:
        other.write_bytes(b"of somebody else")
    with Beside(tmp_path / "model.safetensors") as slow:
        assert not left.exists()
        numbered(1).save(tmp_path)
        assert slow.name.exists()
        slow.file.write(b"late")
        slow.publish()
    assert (tmp_path / "model.safetensors").read_bytes() == b"late"
    assert all(other.exists() for other in others)


def test_nothing_of_the_callers_is_changed(tmp_path):
    model = numbered(1).train()
    model.backbone.blocks[0].requires_grad_(False)
    before = {name: (p.data_ptr(), p._version, p.requires_grad) for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    model.save(tmp_path)
    vitrim.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state), "neither saves nor loads draw"
    assert model.training and model.backbone.training
    assert before == {name: (p.data_ptr(), p._version, p.requires_grad) for name, p in model.named_parameters()}
