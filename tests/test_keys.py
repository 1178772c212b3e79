"""Keys and seeds stay: stores of older versions hold entries under them.

A key that changes with intent goes with a new FORMAT in its file.
"""

import numpy as np

from diffqa_features._engine.latents import Framing
from diffqa_features._engine.passes import draw_noise
from diffqa_features._engine.records import Recipe
from diffqa_features._engine.request import Request
from diffqa_features._utils.hashing import pack_keys, unpack_keys
from diffqa_features.learned._training import seed_of
from diffqa_features.motion._extract import MotionRequest


def test_keys_of_features():
    request = Request(
        backbone="tiny",
        identity="identity",
        recipe=Recipe(("error",), (), (), ("mean",), 4),
        timesteps=(50,),
        prompts=("a",),
        view="stretch",
        image_size=64,
        multiple=8,
        frame_rate=1.0,
        max_frames=None,
        reader="auto",
        frame_statistics=("mean",),
        seed=3,
        device=None,
        dtype="float32",
        batch_size=None,
        layout=None,
    )
    assert request.record_key("frame", 50, "Good photo.", "error") == (
        "8f442a9a5712beda63e50958d398eddada7513f0"
    )
    assert request.latent_key("frame") == "b24a8b98807504139cfe99f1470ddf1abe0b4489"
    assert request.frames_key("media") == "d72ac266fcc4b68333a37448ddc876ac8552c316"


def test_keys_of_latents():
    framing = Framing("identity", "stretch", 64, 8)
    assert framing.key("frame") == "3764a539669c3c53490ce51e7e57b89894551a4e"


def test_keys_of_motion():
    request = MotionRequest(
        weights=None,
        identity="identity",
        size=8,
        channels=(2, 1),
        device=None,
        dtype="float32",
        batch_size=None,
        reader="imageio",
    )
    clip = np.arange(32 * 8 * 8 * 3, dtype=np.uint8).reshape(32, 8, 8, 3)
    assert request.clip_key(clip) == "81b076fc3a339cb9ec040f6b1b8c3334a34a55a4"
    assert request.list_key("media") == "199cb185f2df6d817290e7a00e283f342fb8ccb9"


def test_seeds():
    assert seed_of(0, 1, 2) == 48866349673933065
    noise = draw_noise(3, 50, (1, 2, 2)).flatten().tolist()
    expected = [-0.5023034, 0.1977363, -0.9643985, -2.1682506]
    np.testing.assert_allclose(noise, expected, atol=1e-6)


def test_lists_of_keys_come_back():
    packed = pack_keys(["00ff", "0102"])
    assert packed.dtype == np.uint8
    assert packed.tolist() == [[0, 255], [1, 2]]
    assert unpack_keys(packed) == ["00ff", "0102"]
