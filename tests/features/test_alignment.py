"""`PromptAlignmentMaps` against hand-made averages of the eager attention."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffqa_features import PromptAlignmentMaps
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._engine.passes import draw_noise
from diffqa_features._media.views import to_pixels

SIZE = 64


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(5).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def maps_of(folder, **parameters):
    return PromptAlignmentMaps(
        str(folder), image_size=SIZE, device="cpu", dtype="float32", **parameters
    )


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("wide", [1, 2])
def test_maps_by_hand(small_folder, image, signed, wide):
    """Softmax or centred logits of `to_q` and `to_k`, resized and averaged."""
    image = np.concatenate([image, 255 - image], 1) if wide == 2 else image
    prompts = ["a sharp photo", "blur"]
    backbone = load_backbone(str(small_folder), "cpu", "float32")
    latents = backbone.encode_images(to_pixels(image[None]))
    conditioning = backbone.condition(prompts)
    states, content = conditioning.states, conditioning.content
    seen, sums = {}, []
    blocks = [b for b in backbone.info.blocks if b.name.startswith("up")]
    handles = [
        backbone.unet.get_submodule(f"{b.module}.{n}").register_forward_hook(
            lambda m, a, output, key=(b.name, n): seen.__setitem__(key, output)
        )
        for b in blocks
        for n in ("to_q", "to_k")
    ]
    for t in (20, 80):
        noise = draw_noise(0, t, latents.shape[1:])
        noisy = backbone.add_noise(latents, t, noise[None])
        with torch.no_grad():
            backbone.unet(noisy.expand(2, -1, -1, -1), t, encoder_hidden_states=states)
        for block in blocks:
            q, k = seen[block.name, "to_q"], seen[block.name, "to_k"]
            side = int((q.shape[1] / wide) ** 0.5)
            total = 0
            for h in range(block.heads):
                d = q.shape[-1] // block.heads
                part = slice(h * d, h * d + d)
                logits = q[..., part] @ k[..., part].transpose(1, 2) / d**0.5
                if signed:
                    weights = logits - logits.mean(1, keepdim=True)
                else:
                    weights = logits.softmax(2)
                words = [w[:, c].mean(1) for w, c in zip(weights, content, strict=True)]
                total = total + torch.stack(words) / block.heads
            grid = total.reshape(2, 1, side, side * wide)
            sums.append(F.interpolate(grid, (4, 6), mode="bilinear", antialias=True))
    for handle in handles:
        handle.remove()
    expected = torch.stack(sums).mean(0)[:, 0]
    estimator = maps_of(
        small_folder,
        prompts=prompts,
        timesteps=(20, 80),
        blocks="up*",
        map_size=(4, 6),
        signed=signed,
        view="fit",
    )
    estimator.set_params(image_size=SIZE * wide)
    result = estimator.maps([image])[0]
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_columns_are_the_maps_row_by_row(small_folder, image):
    estimator = maps_of(small_folder, map_size=(2, 3))
    flat, maps = estimator.transform([image]), estimator.maps([image])
    names = list(estimator.get_feature_names_out())
    assert flat.shape == (1, 12)
    assert flat[0, names.index("map__prompt1__y01__x02")] == maps[0, 1, 1, 2]


def test_unsigned_maps_are_shares(small_folder, image):
    maps = maps_of(small_folder).maps([image])
    assert (maps >= 0).all()
    assert (maps <= 1).all()


def test_signed_maps_average_to_nothing(small_folder, image):
    maps = maps_of(small_folder, signed=True, map_size=(8, 8), blocks="down0.*").maps(
        [image]
    )
    np.testing.assert_allclose(maps.mean((2, 3)), 0, atol=1e-5)


def test_maps_of_frames_are_averaged(small_folder, image):
    clip = np.stack([image, image[::-1]])
    estimator = maps_of(small_folder, map_size=(4, 4))
    single = estimator.maps(list(clip))
    expected = single.mean(0)
    np.testing.assert_allclose(
        estimator.maps([clip])[0], expected, rtol=1e-5, atol=1e-5 * single.max()
    )


def test_the_store_gives_the_same_maps(small_folder, image, tmp_path):
    estimator = maps_of(small_folder, memory=tmp_path, map_size=(4, 4))
    first = estimator.maps([image])
    np.testing.assert_array_equal(estimator.maps([image]), first)
    other = estimator.set_params(map_size=(2, 2)).maps([image])
    assert other.shape == (1, 2, 2, 2)
    plain = estimator.set_params(memory=None).maps([image])
    np.testing.assert_allclose(other, plain, rtol=1e-5, atol=1e-5 * plain.max())


@pytest.mark.parametrize("size", [(0, 3), (4,), (2.5, 2), [4, 4, 4]])
def test_bad_map_sizes(small_folder, image, size):
    with pytest.raises(ValueError, match="'map_size'"):
        maps_of(small_folder, map_size=size).maps([image])
