"""Block and stage names, held against real UNets and the order of their calls."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.modeling_utils import no_init_weights
from full_size import UNETS
from random_models import KINDS, XL_KINDS

from diffqa_features._backbone.blocks import list_blocks, list_stages, select_blocks
from diffqa_features._backbone.info import describe_backbone

NO_MID = {**KINDS["odd"]["unet"], "mid_block_type": None}
NESTED = {
    **KINDS["deep"]["unet"],
    "layers_per_block": [1, 2],
    "transformer_layers_per_block": [[2], [1, 3]],
    "reverse_transformer_layers_per_block": [[3, 1, 1], [1, 2]],
}
ONLY_CROSS = {
    **KINDS["sd1"]["unet"],
    "only_cross_attention": [True, False, True, False],
}
CONFIGS = {
    **{kind: parts["unet"] for kind, parts in {**KINDS, **XL_KINDS}.items()},
    **UNETS,
    "no mid block": NO_MID,
    "nested depths": NESTED,
    "only cross": ONLY_CROSS,
}


@pytest.fixture(scope="module", params=CONFIGS, ids=str)
def case(request):
    """A UNet on the meta device, its config as written to disk, and its calls."""
    with torch.device("meta"), no_init_weights():
        unet = UNet2DConditionModel(**CONFIGS[request.param]).eval()
        calls = {"attn2": [], "stages": []}
        for name, module in unet.named_modules():
            if name.endswith("attn2"):
                module.register_forward_hook(_record(calls["attn2"], name))
            if name.count(".") == 1 and name.startswith(("down_b", "up_b")):
                module.register_forward_hook(_record(calls["stages"], name))
            if name == "mid_block" and module is not None:
                module.register_forward_hook(_record(calls["stages"], name))
        side = 2 ** len(unet.config.block_out_channels)
        added = None
        if unet.config.addition_embed_type:
            sizes = 6 * unet.config.addition_time_embed_dim
            pooled = unet.config.projection_class_embeddings_input_dim - sizes
            added = {
                "text_embeds": torch.empty(1, pooled),
                "time_ids": torch.empty(1, 6),
            }
        unet(
            torch.empty(1, unet.config.in_channels, side, side),
            torch.zeros(1),
            torch.empty(1, 7, unet.config.cross_attention_dim),
            added_cond_kwargs=added,
        )
    return unet, json.loads(unet.to_json_string()), calls


def _record(calls, name):
    def hook(module, args, output):
        leaving = output[0] if isinstance(output, tuple) else output
        calls.append((name, leaving.shape[1]))

    return hook


def test_blocks_are_the_cross_attention_layers_in_the_order_of_their_calls(case):
    unet, config, calls = case
    blocks = list_blocks(config)
    assert [block.module for block in blocks] == [name for name, _ in calls["attn2"]]
    for block in blocks:
        layer = unet.get_submodule(block.module)
        assert block.heads == layer.heads
        assert block.channels == layer.to_q.in_features
        assert layer.to_k.in_features == config["cross_attention_dim"]


def test_block_names_say_where_a_block_lies(case):
    unet, config, _ = case
    blocks = list_blocks(config)
    assert len({block.name for block in blocks}) == len(blocks)
    for block in blocks:
        level, *numbers = block.name.split(".")
        path = block.module.split(".")
        assert path[0] == level.rstrip("0123456789") + (
            "_block" if level == "mid" else "_blocks"
        )
        assert level == "mid" or path[1] == level.lstrip("downup")
        at = path.index("attentions")
        assert numbers[0] == path[at + 1]
        depth = len(unet.get_submodule(".".join(path[: at + 3])))
        assert numbers[1:] == ([path[at + 3]] if depth > 1 else [])


def test_stages_are_the_levels_with_the_channels_that_leave_them(case):
    _, config, calls = case
    stages = list_stages(config)
    assert [(stage.module, stage.channels) for stage in stages] == calls["stages"]


def test_stable_diffusion_xl_has_seventy_layers():
    blocks = list_blocks(UNETS["sdxl"])
    assert len(blocks) == 70
    assert [block.name for block in blocks[:4]] == [
        "down1.0.0", "down1.0.1", "down1.1.0", "down1.1.1",
    ]  # fmt: skip
    assert {(block.channels, block.heads) for block in blocks} == {
        (640, 10),
        (1280, 20),
    }


@pytest.mark.parametrize("version", sorted(UNETS.keys() - {"sdxl"}))
def test_stable_diffusion_has_the_sixteen_blocks_of_the_design(version):
    names = [block.name for block in list_blocks(UNETS[version])]
    assert (
        names
        == (
            "down0.0 down0.1 down1.0 down1.1 down2.0 down2.1 mid.0 "
            "up1.0 up1.1 up1.2 up2.0 up2.1 up2.2 up3.0 up3.1 up3.2"
        ).split()
    )


def test_several_transformer_layers_get_a_third_number():
    assert [block.name for block in list_blocks(KINDS["deep"]["unet"])] == (
        "down0.0 down1.0.0 down1.0.1 mid.0.0 mid.0.1 "
        "up0.0.0 up0.0.1 up0.1.0 up0.1.1 up1.0 up1.1"
    ).split()


@pytest.mark.parametrize(
    "change",
    [
        {"down_block_types": ["SimpleCrossAttnDownBlock2D"] * 4},
        {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
        {"up_block_types": ["KCrossAttnUpBlock2D"] * 4},
    ],
)
def test_a_block_type_that_is_not_known_is_refused_by_name(change):
    (kind,) = [v if isinstance(v, str) else v[0] for v in change.values()]
    with pytest.raises(ValueError, match=kind):
        list_blocks({**UNETS["sd15"], **change})


def test_lengths_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match="attention_head_dim must be one value or 4"):
        list_blocks({**UNETS["sd15"], "attention_head_dim": [1, 2, 3]})
    with pytest.raises(ValueError, match="of one length"):
        list_blocks({**UNETS["sd15"], "block_out_channels": [320, 640]})


NAMES = tuple(block.name for block in list_blocks(UNETS["sd15"]))


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("all", NAMES),
        ("mid.0", ("mid.0",)),
        (["up3.*", "mid.0", "up3.1"], ("mid.0", "up3.0", "up3.1", "up3.2")),
        ("down[01].*", NAMES[:4]),
        (("down*", "all"), NAMES),
        ("*.2", ("up1.2", "up2.2", "up3.2")),
    ],
)
def test_patterns_select_in_execution_order_without_repeats(patterns, expected):
    assert select_blocks(patterns, NAMES) == expected
    assert select_blocks(patterns, iter(NAMES)) == expected


@pytest.mark.parametrize("pattern", ["up4.0", "upp3.0", "up[5-9].*", ""])
def test_a_pattern_without_a_match_names_the_closest_and_all(pattern):
    with pytest.raises(ValueError, match="Closest names") as caught:
        select_blocks(["mid.0", pattern], NAMES)
    message = str(caught.value)
    assert repr(pattern) in message
    assert all(name in message for name in NAMES)
    if pattern == "upp3.0":
        assert "Closest names: up3.0" in message


def test_no_pattern_or_one_that_is_no_str_is_refused():
    with pytest.raises(ValueError, match="No block is named"):
        select_blocks([], NAMES)
    with pytest.raises(TypeError, match="must be a str"):
        select_blocks([3], NAMES)


def test_describe_gives_the_blocks_of_the_folder(model_folder):
    config = json.loads((model_folder / "unet/config.json").read_text())
    info = describe_backbone(model_folder)
    assert info.blocks == list_blocks(config)
    assert info.stages == list_stages(config)
