"""timm's inner parts on which vitrim stands, in tables, so that a timm which moves one fails with a sentence.

What timm documents (create_model, create_dataset, optimisers ...) is not listed; what a part computes is held by law 1.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from torch import nn

import vitrim
from vitrim.common.on_meta import on_meta

PACKAGE = Path(vitrim.__file__).parent


class Function(NamedTuple):
    """A function or class of timm: its module, its name there, what vitrim passes it (None: no call), and what for."""

    module: str
    name: str
    passed: str | None
    purpose: str


class Module(NamedTuple):
    """A part of a timm model: the model, the part's path in it, the attributes that vitrim reads, and what for."""

    model: str
    path: str
    attributes: str
    purpose: str


VIT, EVA, SWIN = "timm.models.vision_transformer", "timm.models.eva", "timm.models.swin_transformer"

FUNCTIONS = (
    Function(VIT, "VisionTransformer._pos_embed", "self x", "positions and prefix tokens of ViT, DeiT and LV-ViT"),
    Function(VIT, "VisionTransformer.pool", "self x", "pooling, image by image, of a ragged batch"),
    Function(VIT, "VisionTransformer.forward_head", "self x pre_logits", "pooling and classifier"),
    Function(VIT, "checkpoint_filter_fn", "state_dict model", "checkpoints of LV-ViT, found beside the model"),
    Function(VIT, "Block", None, "knowing the block of ViT, the base of LV-ViT's"),
    Function("timm.models.deit", "VisionTransformerDistilled", None, "knowing distilled DeiT"),
    Function(EVA, "Eva._pos_embed", "self x", "positions and rotary rows of EVA-02, DINOv3 and ROPE-ViT"),
    Function(EVA, "EvaBlock", None, "knowing the block of EVA-02 and DINOv3"),
    Function(EVA, "EvaBlockPostNorm", None, "knowing the block of the largest EVA-02"),
    Function(EVA, "EvaAttention", None, "knowing the attention of EVA-02"),
    Function("timm.layers", "apply_rot_embed_cat", "x emb half", "rotation of queries and keys"),
    Function("timm.layers", "nchw_to", "x fmt", "the output of LV-ViT's stem"),
    Function("timm.layers", "PatchEmbed.dynamic_feat_size", "self img_size", "the grid of an image of another size"),
    Function("timm.layers", "PatchEmbed.set_input_size", "self img_size patch_size", "LV-ViT at another image size"),
    Function("timm.layers", "HybridEmbed.feat_ratio", "self as_scalar", "the cost of a convolutional stem"),
    Function("timm.layers", "AttentionPoolLatent.forward", "self x attn_mask", "SigLIP's pooling of merged tokens"),
    Function(SWIN, "SwinTransformer", None, "knowing Swin"),
    Function(SWIN, "SwinTransformerStage", None, "knowing a stage of Swin"),
    Function(SWIN, "PatchMerging", None, "knowing what halves Swin's grid"),
    Function(SWIN, "SwinTransformerBlock._attn", "self x", "Swin's attention where no token is missing"),
    Function(SWIN, "SwinTransformerBlock.get_attn_mask", "self x", "which parts of a shifted window see each other"),
    Function(SWIN, "WindowAttention._get_rel_pos_bias", "self", "relative positions in Swin's windows"),
    Function(SWIN, "window_partition", "x window_size", "which cells a window holds"),
    Function(
        "timm.models._features", "feature_take_indices", "num_features indices", "blocks of forward_intermediates"
    ),
    Function("timm.utils.misc", "natural_key", "string_", "timm's order of class folders"),
)

BLOCK = "norm1 attn drop_path1 norm2 mlp drop_path2"
ROTARY = "num_heads head_dim scale rotate_half q_norm k_norm attn_drop norm gate proj proj_drop"
MODEL = (
    "blocks embed_dim num_features num_classes global_pool num_prefix_tokens cls_token patch_embed patch_drop norm_pre "
    "norm fc_norm head_drop head attn_pool pos_embed grad_checkpointing _model_args pretrained_cfg"
)
EMBED = "proj grid_size img_size patch_size strict_img_size dynamic_img_pad"

MODULES = (
    Module("deit_tiny_patch16_224", "", MODEL + " pool_include_prefix", "running a ViT, saving and loading it"),
    Module("deit_tiny_patch16_224", "patch_embed", EMBED + " flatten output_fmt", "image sizes and the grid"),
    Module("deit_tiny_patch16_224", "blocks.0", BLOCK + " ls1 ls2", "running half a block"),
    Module(
        "deit_tiny_patch16_224",
        "blocks.0.attn",
        "num_heads head_dim attn_dim scale qkv q_norm k_norm attn_drop norm gate proj proj_drop",
        "attention of a ViT",
    ),
    Module("deit_tiny_distilled_patch16_224", "", "head_dist dist_token", "the two heads of distilled DeiT"),
    Module("vit_base_patch16_siglip_224", "attn_pool", "q kv proj mlp latent_len num_heads head_dim", "what it costs"),
    Module("eva02_tiny_patch14_224", "", MODEL + " rope", "running EVA-02, saving and loading it"),
    Module("eva02_tiny_patch14_224", "blocks.0", BLOCK + " gamma_1 gamma_2", "running half a block"),
    Module("eva02_tiny_patch14_224", "blocks.0.attn", ROTARY + " qkv q_proj k_proj v_proj", "attention of EVA-02"),
    Module(
        "eva02_base_patch14_224", "blocks.0.attn", ROTARY + " qkv q_bias k_bias v_bias qkv_bias_separate", "its biases"
    ),
    Module("vit_small_patch16_rope_224", "blocks.0.attn", ROTARY + " qkv", "attention of ROPE-ViT"),
    Module(
        "swin_tiny_patch4_window7_224",
        "",
        "layers patch_embed num_features num_classes global_pool norm head _model_args pretrained_cfg",
        "running Swin, saving and loading it",
    ),
    Module("swin_tiny_patch4_window7_224", "patch_embed", "proj grid_size img_size strict_img_size", "image sizes"),
    Module("swin_tiny_patch4_window7_224", "head", "fc", "what the classifier costs"),
    Module("swin_tiny_patch4_window7_224", "layers.1", "blocks downsample", "stages and patch merging"),
    Module(
        "swin_tiny_patch4_window7_224",
        "layers.0.blocks.1",
        BLOCK + " dim window_size shift_size window_area dynamic_mask attn_mask",
        "where the windows of a block lie",
    ),
    Module(
        "swin_tiny_patch4_window7_224",
        "layers.0.blocks.0.attn",
        "num_heads scale qkv attn_drop proj proj_drop",
        "attention in windows",
    ),
)

# Private names that are neither timm's nor those of torch.nn.Module and its file.
OTHERS = {"_is_mkldnn_bf16_supported", "_asdict", "_replace", "_orig_mod"}
OTHERS |= {"_inductor", "_cdata"}  # torch's: documented for AOTInductor; a storage's address
# transformers': how attention runs, where a model came from, what is collected (tests/pretrained holds what they do).
OTHERS |= {"_attn_implementation", "_name_or_path", "_active_collector", "_keys_to_ignore_on_load_unexpected"}
OTHERS |= {"_reduces"}  # of a reduced model's class, set where the class is made
OTHERS |= {"_linear_pointwise", "_reorder_linear_weight"}  # torch's; trouble_with_packing() tells where they are gone


def _lost(what: str, purpose: str) -> str:
    return f"timm {timm.__version__} {what}; vitrim needs it for {purpose}"


@pytest.mark.parametrize("part", FUNCTIONS, ids=lambda part: part.name)
def test_a_function_is_where_it_was_and_takes_what_it_took(part: Function):
    try:
        found: Any = functools.reduce(getattr, part.name.split("."), importlib.import_module(part.module))
    except (ImportError, AttributeError):
        pytest.fail(_lost(f"has no {part.module}.{part.name}", part.purpose))
    if part.passed is None:
        return
    passed, takes = part.passed.split(), inspect.signature(found).parameters
    gone = [name for name in passed if name not in takes]
    assert not gone, _lost(f"no longer lets {part.name} take {', '.join(gone)}", part.purpose)
    new = [name for name, parameter in takes.items() if name not in passed and _must_be_given(parameter)]
    assert not new, _lost(f"asks {part.name} for more: {', '.join(new)}", part.purpose)


def _must_be_given(parameter: inspect.Parameter) -> bool:
    several = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in several


@functools.cache
def _model(name: str) -> nn.Module:
    with on_meta():
        return timm.create_model(name)


@pytest.mark.parametrize("part", MODULES, ids=lambda part: f"{part.model}-{part.path or 'model'}")
def test_a_module_has_the_attributes_it_had(part: Module):
    try:
        module = _model(part.model).get_submodule(part.path)
    except AttributeError:
        pytest.fail(_lost(f"builds {part.model} without {part.path}", part.purpose))
    gone = [name for name in part.attributes.split() if not hasattr(module, name)]
    where = f"{part.path} of {part.model}" if part.path else part.model
    assert not gone, _lost(f"has no {', '.join(gone)} in {where}", part.purpose)


def test_positions_of_eva_come_with_rotary_rows():
    with on_meta():
        given = _model("eva02_tiny_patch14_224").patch_embed(torch.empty(1, 3, 224, 224))
        out = _model("eva02_tiny_patch14_224")._pos_embed(given)
    told = _lost("no longer returns (tokens, rotary rows) from Eva._pos_embed", "rotating what stays")
    assert isinstance(out, tuple) and len(out) == 2, told


def test_the_factory_records_its_arguments():
    recorded = timm.create_model("test_vit", num_classes=3, img_size=64)._model_args
    told = _lost("no longer records create_model's arguments in _model_args", "saving and loading")
    assert {"num_classes": 3, "img_size": 64}.items() <= dict(recorded).items(), told


def test_a_tar_reader_can_be_closed_and_read_again(tmp_path):
    """`tar_state`, its `tf`, `children` and `reset`: processes that share an open tar file would disturb each other."""
    from PIL import Image

    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "1.png")
    with tarfile.open(tmp_path / "photographs.tar", "w") as archive:
        archive.add(tmp_path / "cat", "cat")
    reader = timm.data.create_dataset("", root=str(tmp_path / "photographs.tar"), search_split=False).reader
    reader[0]
    told = _lost("keeps open tar files elsewhere than in reader.tar_state", "reading tar files in several processes")
    states = getattr(reader, "tar_state", None)
    assert states, told
    for state in states.values() if isinstance(states, dict) else [states]:
        assert all(hasattr(state, name) for name in ("tf", "children", "reset")), told
    names = [name for name in ("class_to_idx", "class_name_to_idx") if hasattr(reader, name)]
    assert names and reader.filename(0), _lost("no longer names classes and files", "class names of a tar file")


def test_skipped_images_of_a_stream_are_logged_where_vitrim_listens():
    wds = pytest.importorskip("timm.data.readers.reader_wds")
    assert wds.__name__ == wds._logger.name, _lost("logs elsewhere", "counting the images that a stream leaves out")


# -- the tables are complete


def _trees() -> list[tuple[str, ast.AST]]:
    return [(path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())) for path in PACKAGE.rglob("*.py")]


def test_every_private_name_is_in_a_table():
    """Attributes with a leading underscore that vitrim itself never defines belong to somebody else."""
    torchs = {*dir(nn.Module()), *dir(nn.modules.module)}
    listed = {part.name.split(".")[-1] for part in FUNCTIONS} | torchs | OTHERS
    nodes = [(file, node) for file, tree in _trees() for node in ast.walk(tree)]
    own = {node.name for _, node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    own |= {node.attr for _, node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.asname or node.name for _, node in nodes if isinstance(node, ast.alias)}
    unlisted = [
        f"{file}:{node.lineno} {node.attr}"
        for file, node in nodes
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr not in own | listed
    ]
    assert not unlisted, f"private names that no table of this file lists: {unlisted}"


def test_every_import_from_a_private_module_is_in_the_table():
    listed = {(part.module, part.name.split(".")[0]) for part in FUNCTIONS}
    unlisted = [
        f"{file}:{node.lineno} {node.module}.{alias.name}"
        for file, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("timm.") and node.module.count(".") > 1
        for alias in node.names
        if (node.module, alias.name) not in listed
    ]
    assert not unlisted, f"imports from inside timm that the table of this file does not list: {unlisted}"
