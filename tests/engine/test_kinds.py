"""What a feature kind declares; a new one is a class and a line in a tuple."""

import numpy as np
import pytest
import torch
from counting import counting

from diffqa_features import DiffusionQAFeatures
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._engine import kinds
from diffqa_features._engine.kinds import STATISTICS, Kind, Recipe
from diffqa_features._engine.passes import draw_noise


class Spread(Kind):
    """Log standard deviation of a stage's output."""

    name = "spread"
    scope = "stage"

    def width(self, place):
        return None

    def taps(self, place, look):
        def see(hidden):
            spread = hidden.float().flatten(1).std(1).log()
            look.keep(self, place, "", spread[:, None])

        return {place.module: see}


@pytest.fixture
def features(sd1_folder, monkeypatch):
    monkeypatch.setattr(kinds, "KINDS", (*kinds.KINDS, Spread()))
    return DiffusionQAFeatures(
        str(sd1_folder),
        kinds=("alignment", "spread"),
        blocks=["up*", "up0"],
        image_size=64,
        device="cpu",
        dtype="float32",
    )


def test_a_new_kind_has_named_columns_and_a_place_in_the_store(
    features, sd1_folder, tmp_path
):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    features.set_params(memory=tmp_path / "store")
    matrix = features.transform([image])
    names = features.get_feature_names_out()
    mine = [name for name in names if "spread" in name]
    stages = ["up0", "up1", "up2", "up3"]
    assert mine == [f"t50__{s}__spread__prompt{k}" for s in stages for k in (0, 1)]
    assert matrix.shape == (1, len(names))
    metadata = {row["name"]: row for row in features.get_feature_metadata()}
    row = metadata["t50__up2__spread__prompt1"]
    assert (row["kind"], row["block"], row["prompt"]) == ("spread", "up2", "Bad photo.")

    # By hand, with plain hooks on the UNet.
    backbone = load_backbone(str(sd1_folder), "cpu", "float32")
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    latents = backbone.encode_images(pixels)
    alpha = backbone.alphas_cumprod[50].float()
    noise = draw_noise(0, 50, latents.shape[1:])
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    left = []
    handles = [
        block.register_forward_hook(lambda module, args, output: left.append(output))
        for block in backbone.unet.up_blocks
    ]
    try:
        with torch.inference_mode():
            states = backbone.condition(list(features.prompts)).states
            backbone.unet(noisy.expand(2, -1, -1, -1), 50, states)
    finally:
        for handle in handles:
            handle.remove()
    expected = [hidden[k].std().log().item() for hidden in left for k in (0, 1)]
    found = [matrix[0][list(names).index(name)] for name in mine]
    np.testing.assert_allclose(found, expected, rtol=1e-4)

    with counting(sd1_folder) as count:
        features.set_params(blocks="up0", kinds="spread")
        again = features.transform([image])
        assert (count.unet_passes, count.vae_rows) == (0, 0)
    np.testing.assert_array_equal(again[0], found[:2])


def test_an_unknown_kind_is_named_with_those_there_are(features):
    with pytest.raises(ValueError, match="spread"):
        features.set_params(kinds="colour").fit()


def test_a_record_does_not_depend_on_what_is_asked_beside_it(sd1_folder):
    """Parts stand in a kind's own order, whichever order a call names them in."""
    info = load_backbone(str(sd1_folder), "cpu", "float32").info
    for kind in kinds.KINDS:
        orders = [
            Recipe(some, info.blocks, info.stages, statistics, info.latent_channels)
            for some in ((kind,), kinds.KINDS, kinds.KINDS[::-1])
            for statistics in (STATISTICS, STATISTICS[::-1])
        ]
        length = sum(
            width
            for place in orders[0].places(kind)
            for _, width in kind.parts(place, STATISTICS)
        )
        record = np.arange(length)
        for place in orders[0].places(kind):
            for part, width in kind.parts(place, STATISTICS):
                first, *others = [
                    recipe.read(record, kind, place.name, part) for recipe in orders
                ]
                assert len(first) == width
                for other in others:
                    np.testing.assert_array_equal(first, other)
