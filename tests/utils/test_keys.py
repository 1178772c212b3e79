"""Keys and seeds stay: stores of older versions hold entries under them.

A key that changes with intent goes with a new `FORMAT`, for all of them.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from diffqa_features import FeatureStore, NaturalSceneStatistics
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.blocks import Stage
from diffqa_features._engine.kinds import AttentionMap, Error, Recipe
from diffqa_features._engine.passes import draw_noise
from diffqa_features._engine.request import FrameSpec, Request
from diffqa_features._utils.hashing import (
    FORMAT,
    hash_values,
    make_key,
    pack_keys,
    unpack_keys,
)
from diffqa_features.learned._training import seed_of
from diffqa_features.learned.control.features import Chain
from diffqa_features.learned.diffvqa import views
from diffqa_features.learned.dpiqa.prompts import encode_prompts
from diffqa_features.learned.student.teacher import TeacherCache
from diffqa_features.motion._extract import MotionRequest

PINNED = {
    "latent": "39dae001a701fced98608419a12692a42279cc2d",
    "released": "32bc9589555c680c8ecfb41a84fd2b66d1898532",
    "frames": "e8e519b11ce23786c080b60bcc0ebb6609232308",
    "record": "82b497dd0b9bb715d90595d8915d19a1deee972f",
    "tiles": "895a8ec8405b1d765406fc30bb6ba4c69d859a8d",
    "auto": "2f956e8fbd5117fd0cc29202cfdb2af982d777f5",
    "tile": "b92c810f0017f4d8d81514b123ff9fba6b067132",
    "map": "f7f146cef1dfdbcb535e80885d75036ef22829d8",
    "controlled": "12895041073afba51bd792569b5b94832b6229c2",
    "motion": "94f0f8f3c14c2a2834400386cd8bff678f910910",
    "motion clips": "aa54c6f08a83d7a5dea5ce56d4f4f3d5d6a09f06",
}
VIEW_OF_A_CLIP = "b2ce603553eb8e83f0e7e1f2dc60e9b9f7f2fd88"
CROP_OF_A_CLIP = "dcf4c43df56850a1faf5971924aa085e1d9d8f8f"
TEACHER = "fffd0f87ff02503f76f0eb47c882fd3c2da824f7"
# Made where the entry is computed, so looked up in a store.
SCENE_STATISTICS = "7db7a28ea54268b22cf69e73bb763f7d50935d0e"
TEXT_TOKENS = (
    "f66990a52cdb04f8500a1bd146c847ce0e3d1901"  # with the second edition of `tiny`
)

WORDS = st.text("ab;1\ud800", max_size=3)
FACTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda children: st.tuples(children) | st.tuples(children, children),
    max_leaves=4,
)


def typed(fact):
    """Facts that are equal in Python and not the same fact told apart."""
    if isinstance(fact, tuple):
        return tuple(map(typed, fact))
    if isinstance(fact, float):
        return "float", fact, math.copysign(1, fact)
    return type(fact).__name__, fact


@given(st.lists(FACTS, max_size=3), st.lists(FACTS, max_size=3))
def test_keys_are_equal_where_all_facts_are(ours, theirs):
    same = typed(tuple(ours)) == typed(tuple(theirs))
    assert (make_key(*ours) == make_key(*theirs)) == same


def test_no_two_neighbours_merge():
    alike = [
        ("a", "b"), ("ab",), ("a", "", "b"), (("a",), "b"), (("a", "b"),), ("a b",),
        (1,), (1.0,), (True,), ("1",), (None,), ("None",), ((),), (), ("1;int 2",),
        (1, 2), ("int 1;",), (0.0,), (-0.0,), (0,), (False,),
    ]  # fmt: skip
    assert len({make_key(*facts) for facts in alike}) == len(alike)


@pytest.mark.parametrize(
    "fact",
    [
        b"bytes", np.int64(1), np.bool_(True), np.zeros(2), [1], {"a": 1}, 1j, object(),
        FrameSpec("identity", "stretch", 64, 8), torch.float32,
    ],
    ids=lambda fact: type(fact).__name__,
)  # fmt: skip
def test_an_object_is_no_fact(fact):
    with pytest.raises(TypeError, match=f"of type {type(fact).__name__}"):
        make_key("kind", fact)
    with pytest.raises(TypeError, match="store key"):
        make_key("kind", ("nested", (fact,)))


def test_subclasses_count_as_what_they_are():
    """numpy's float64 and str are Python's, whatever their repr says."""
    assert make_key(np.float64(0.1), np.str_("a")) == make_key(0.1, "a")


def test_pinned_keys():
    frames = FrameSpec("identity", "stretch", 64, 8)
    request = Request(
        backbone="tiny",
        views=(frames,),
        recipe=Recipe((Error(),), (), (), ("mean",), 4),
        timesteps=(50,),
        prompts=("a",),
        frame_statistics=("mean",),
        seed=3,
        device=None,
        batch_size=None,
        layout=None,
    )
    chain = Chain((Stage("down0", "down_blocks.0", 8),), control="weights")
    motion = MotionRequest(
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
    tiles = replace(frames, view="tiles", n_tiles=9)
    found = {
        "tiles": tiles.tiles_key("frame"),
        "auto": replace(tiles, view="auto").tiles_key("frame"),
        "tile": tiles.key("tile"),
        "latent": frames.key("frame"),
        "released": replace(frames, normalization="clip").key("frame"),
        "frames": frames.list_key("media"),
        "record": request.record_key(frames, "frame", 50, "Good photo.", Error()),
        "map": request.record_key(frames, "frame", 50, "a", AttentionMap((4, 6), True)),
        "controlled": chain.key("latent", "down0", "mean"),
        "motion": motion.clip_key(clip),
        "motion clips": motion.list_key("media"),
    }
    assert FORMAT == 2
    assert found == PINNED


def test_pinned_keys_of_stored_entries(tmp_path):
    store = FeatureStore(tmp_path)
    image = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    (row,) = NaturalSceneStatistics(memory=store).fit_transform([image])
    tokens = encode_prompts(load_backbone("tiny"), ["of no other test"], store=store)
    found = store.get([SCENE_STATISTICS, TEXT_TOKENS])
    np.testing.assert_array_equal(found[SCENE_STATISTICS], row)
    np.testing.assert_array_equal(found[TEXT_TOKENS], tokens)


def test_pinned_keys_of_learned_methods():
    spec = views.ViewSpec(
        views=("crop", "resize"), image_size=64, crop_size=64, n_crops=1, seed=3,
        mamba_size=8, changes=False, frame_rate=8.0, max_frames=None, burst_length=1,
        reader="auto", facts=("identity", 4),
    )  # fmt: skip
    assert views._feature_key(spec, "media", ("resize", 0, 2)) == VIEW_OF_A_CLIP
    assert views._frame_key(spec, "media", ("crop", 0, 2)) == CROP_OF_A_CLIP
    cache = TeacherCache(Ridge(), scores=True, maps=False, store=None, verbose=0)
    assert cache._name("score", "picture") == TEACHER


def test_seeds():
    assert seed_of(0, 1, 2) == 48866349673933065
    assert seed_of(np.int64(0), 1, np.uint8(2)) == seed_of(0, 1, 2)
    noise = draw_noise(3, 50, (1, 2, 2)).flatten().tolist()
    expected = [-0.5023034, 0.1977363, -0.9643985, -2.1682506]
    np.testing.assert_allclose(noise, expected, atol=1e-6)


def test_lists_of_keys_come_back():
    packed = pack_keys(["00ff", "0102"])
    assert packed.dtype == np.uint8
    assert packed.tolist() == [[0, 255], [1, 2]]
    assert unpack_keys(packed) == ["00ff", "0102"]


def test_hashes_follow_every_value():
    facts = [
        (1, "a"),
        (1, "b"),
        ("1", "a"),
        ((1, "a"),),
        (np.arange(3), "a"),
        (np.arange(3.0), "a"),
        (np.arange(3)[None], "a"),
        ({"a": torch.zeros(2)},),
        ({"a": torch.ones(2)},),
        ({"b": torch.ones(2)},),
        ([],),
    ]
    keys = [hash_values(*fact) for fact in facts]
    assert len(set(keys)) == len(keys)
    assert hash_values(*facts[4]) == hash_values(np.arange(3), "a")
    numbers = np.int64(3), np.float32(0.5), np.bool_(True)
    assert hash_values(*numbers) == hash_values(3, 0.5, True)
    longs = {hash_values(np.longdouble(text)) for text in ("1", "1.5")}
    assert len(longs) == 2


def test_hashes_do_not_follow_the_order_of_names():
    weights = {"b": np.zeros((2, 3), np.float32), "a": np.ones(2, np.float32)}
    assert hash_values(weights) == hash_values(dict(sorted(weights.items())))
    changed = [{**weights, name: weights[name] + 1e-7} for name in weights]
    changed.append({**weights, "b": np.zeros((3, 2), np.float32)})
    assert len({hash_values(values) for values in [weights, *changed]}) == 4


def test_hashes_spell_objects_as_told():
    numbers = {2, 1, 3}
    assert hash_values(numbers, spell=sorted) == hash_values([1, 2, 3])
    assert hash_values(FrameSpec("identity", "stretch", 64, 8)) != hash_values(
        FrameSpec("identity", "stretch", 64, 9)
    )
