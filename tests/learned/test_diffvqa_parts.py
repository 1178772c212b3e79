"""The parts of DiffVQA: the scan, its directions, masks, views of frames, losses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.models.mamba.modeling_mamba import MambaMixer

from diffqa_features._media.rows import as_rows, open_media
from diffqa_features._media.views import view_frames
from diffqa_features.learned.diffvqa.batches import LOSSES, collate, standardise
from diffqa_features.learned.diffvqa.mamba import FrameMamba
from diffqa_features.learned.diffvqa.network import (
    Clips,
    DiffVQANetwork,
    FeatureFusion,
    Sizes,
    log_change,
    with_change,
)
from diffqa_features.learned.diffvqa.selective_scan import (
    BothWays,
    LinearMixer,
    selective_scan,
    turn_around,
)
from diffqa_features.learned.diffvqa.view_features import (
    ViewedClip,
    mean_and_spread_per_cell,
    mean_changes,
)
from diffqa_features.learned.diffvqa.views import ViewSpec, open_rows

CHANNELS = (8, 12, 12, 8, 4)
SMALL = Sizes(
    width=16, mamba=True, mamba_size=32, patch_size=16, mamba_width=16,
    mamba_layers=2, mamba_state=8,
)  # fmt: skip
CHANGE = replace(SMALL, change=True)


# -- the scan --------------------------------------------------------------------------


def test_the_mixer_is_transformers_own():
    """The same parameters give the same output and gradients, without its loop."""
    mixer = LinearMixer(24, 8)
    tokens = torch.randn(2, 19, 24, requires_grad=True)
    wanted = [tokens, *mixer.parameters()]
    ours = mixer(tokens)
    theirs = MambaMixer.forward(mixer, tokens)
    torch.testing.assert_close(ours, theirs)
    grads = zip(
        torch.autograd.grad(ours.square().sum(), wanted),
        torch.autograd.grad(theirs.square().sum(), wanted),
        strict=True,
    )
    for one, other in grads:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_scan_and_its_gradient_are_right():
    """Against numerical differences, in float64, also of one step."""
    for length in (1, 5):
        shapes = [
            (2, length, 3),
            (2, length, 3),
            (3, 4),
            (2, length, 4),
            (2, length, 4),
        ]
        given = [torch.rand(shape).double().requires_grad_() for shape in shapes]
        given[2] = (-given[2].detach()).requires_grad_()
        assert torch.autograd.gradcheck(selective_scan, given)


def test_the_scan_needs_memory_in_proportion_to_its_length():
    """What a training step saves: transformers' loop is linear in that too."""

    def saved(length):
        sizes = []
        mixer = LinearMixer(8, 4)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.untyped_storage().nbytes()) or t, lambda t: t
        ):
            mixer(torch.randn(1, length, 8, requires_grad=True))
        return sum(sizes)

    assert saved(400) < 4.5 * saved(100)


def test_turning_around_leaves_padding_where_it_is():
    turned = turn_around(torch.tensor([1, 3, 4]), 4).tolist()
    assert turned == [[0, 1, 2, 3], [2, 1, 0, 3], [3, 2, 1, 0]]


def test_both_ways_reach_every_token():
    layer = BothWays(8, 4)
    tokens = torch.randn(1, 6, 8, requires_grad=True)
    output = layer(tokens, turn_around(torch.tensor([6]), 6))
    (first,) = torch.autograd.grad(output[0, 0].sum(), tokens, retain_graph=True)
    (last,) = torch.autograd.grad(output[0, 5].sum(), tokens)
    for gradient in (first, last):
        assert (gradient[0].abs().sum(1) > 0).all()


def test_mamba_tells_the_order_of_frames():
    network = FrameMamba(32, 16, 8, 1, 4)
    frames = torch.randint(0, 256, (1, 5, 32, 32, 3), dtype=torch.uint8)
    counts = torch.tensor([5])
    forth = network(frames, counts)
    back = network(frames.flip(1), counts).flip(1)
    assert (forth - back).abs().max() > 1e-3


# -- the network -----------------------------------------------------------------------


def random_clip(count, seed, views=("resize", "crop")):
    rng = np.random.default_rng(seed)
    features = {
        v: rng.normal(size=(1, count, 44, 4, 4)).astype(np.float32) for v in views
    }
    follows = np.arange(count) > 0
    return ViewedClip(
        np.arange(count),
        None,
        features,
        {v: rng.integers(0, 256, (1, count, 32, 32, 3), np.uint8) for v in views},
        {v: mean_changes(values, follows) for v, values in features.items()},
    )


def make_network(views=("resize", "crop"), sizes=SMALL):
    network = DiffVQANetwork(CHANNELS, views, sizes, 0)
    torch.nn.init.normal_(network.weigh[-1].weight)  # 0 at first
    return network


@pytest.mark.parametrize("sizes", [SMALL, CHANGE], ids=["paper", "change"])
@pytest.mark.parametrize("views", [("resize",), ("crop",), ("resize", "crop")])
def test_a_padded_batch_is_its_clips_alone(views, sizes):
    network = make_network(views, sizes)
    clips = [random_clip(count, count, views) for count in (3, 7, 1, 4)]
    device = torch.device("cpu")
    batch, mask = collate(clips, [0] * 4, device)
    # What stands behind the end must not matter, so it is made large.
    for view in views:
        batch[view].features[~mask] = 1e3
        batch[view].frames[~mask] = 200
        batch[view].changes[~mask] = 1e3
    together = network(batch, mask)
    for i, clip in enumerate(clips):
        alone = network(*collate([clip], [0], device))
        count = len(clip.numbers)
        for one, many in zip(alone, together, strict=True):
            if one is alone[2]:
                torch.testing.assert_close(many[i], one[0], rtol=1e-4, atol=1e-5)
                continue
            torch.testing.assert_close(many[i, :count], one[0], rtol=1e-4, atol=1e-5)
            assert (many[i, count:] == 0).all()
        assert float(alone[1].detach().sum()) == pytest.approx(1)


def ask_of_two(network, resized, crop):
    """Quality and weights of a clip that has each of its views from another one."""
    clip = ViewedClip(
        resized.numbers,
        None,
        {"resize": resized.features["resize"], "crop": crop.features["crop"]},
        {"resize": resized.frames["resize"], "crop": crop.frames["crop"]},
        {"resize": resized.changes["resize"], "crop": crop.changes["crop"]},
    )
    return network(*collate([clip], [0], torch.device("cpu")))[:2]


def test_the_resized_view_weighs_and_the_crop_grades():
    network = make_network()
    base, other = random_clip(4, 0), random_clip(4, 1)
    quality, weights = ask_of_two(network, base, base)
    same_quality, new_weights = ask_of_two(network, other, base)
    new_quality, same_weights = ask_of_two(network, base, other)
    torch.testing.assert_close(same_quality, quality)
    torch.testing.assert_close(same_weights, weights)
    assert (new_weights - weights).abs().max() > 1e-4
    assert (new_quality - quality).abs().max() > 1e-4


def test_with_changes_either_head_knows_the_other_views_clip():
    """Of its frames, only the sum: in another order they weigh and grade the same."""
    network = make_network(sizes=replace(CHANGE, mamba=False))
    base, other = random_clip(4, 0), random_clip(4, 1)
    quality, weights = ask_of_two(network, base, base)
    assert (ask_of_two(network, other, base)[0] - quality).abs().max() > 1e-4
    assert (ask_of_two(network, base, other)[1] - weights).abs().max() > 1e-4
    turned = replace(
        base,
        features={v: f[:, ::-1].copy() for v, f in base.features.items()},
        changes={v: c[:, ::-1].copy() for v, c in base.changes.items()},
    )
    for branch in network.branches.values():  # convolutions know the order otherwise
        for layer in (branch.frames.time, branch.change.time):
            layer.weight.data += layer.weight.data.flip(2)
    quality, weights = ask_of_two(network, base, base)
    torch.testing.assert_close(ask_of_two(network, turned, base)[0], quality)
    torch.testing.assert_close(ask_of_two(network, base, turned)[1], weights)


@pytest.mark.parametrize("sizes", [SMALL, CHANGE], ids=["paper", "change"])
def test_every_parameter_gets_a_gradient(sizes):
    network = make_network(sizes=sizes)
    quality, weights, _ = network(
        *collate([random_clip(3, 0), random_clip(2, 1)], [0, 0], torch.device("cpu"))
    )
    (quality * weights).sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert without == []


def test_first_weights_come_from_the_seed_alone(monkeypatch):
    reseeded = []  # generators of a GPU, which has them where there is one
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    before = torch.get_rng_state()
    first, again, other = (
        DiffVQANetwork(CHANNELS, ("crop",), SMALL, seed).state_dict()
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert reseeded == []
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "branches.crop.fusion.fuse.weight"
    assert not torch.equal(first[name], other[name])


def test_the_first_frame_has_not_changed():
    maps = torch.randn(2, 3, 5, 4, 4)
    both = with_change(maps)
    torch.testing.assert_close(both[:, :, :5], maps)
    assert (both[:, 0, 5:] == 0).all()
    torch.testing.assert_close(both[:, 2, 5:], maps[:, 2] - maps[:, 1])


def test_an_average_may_come_before_the_dimension_adjustment():
    """What the store holds, maps averaged to a grid, loses nothing of it."""
    fusion = FeatureFusion((6, 2), 5)
    maps = torch.randn(1, 6, 16, 16)
    (adjust,) = fusion.adjust
    before = adjust(torch.nn.functional.adaptive_avg_pool2d(maps, 4))
    after = torch.nn.functional.adaptive_avg_pool2d(adjust(maps), 4)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def test_features_are_standardised_by_channel():
    network = make_network()
    clips = [random_clip(3, 0), random_clip(5, 1)]
    for clip in clips:
        clip.features["crop"][:, :, 1] *= 50
        clip.features["crop"][:, :, 2] = 7  # never changes
    standardise(network, clips)
    fusion = network.branches["crop"].fusion
    values = np.concatenate([clip.features["crop"][0] for clip in clips])
    np.testing.assert_allclose(fusion.mean, values.mean((0, 2, 3)), atol=1e-5)
    expected = values.std((0, 2, 3))
    expected[2] = 1
    np.testing.assert_allclose(fusion.scale, expected, rtol=1e-4)


# -- spread and change -----------------------------------------------------------------


def test_the_mean_and_log_spread_of_cells():
    """By NumPy; a grid finer than the map repeats its places, which have no spread."""
    maps = torch.randn(2, 3, 8, 8) + 1e3
    kept = mean_and_spread_per_cell(maps, 2).numpy()
    cells = maps.numpy().astype(float).reshape(2, 3, 2, 4, 2, 4)
    np.testing.assert_allclose(kept[:, :3], cells.mean((3, 5)), rtol=1e-6)
    expected = np.log(cells.std((3, 5)) + 1e-3)
    np.testing.assert_allclose(kept[:, 3:], expected, atol=1e-4)
    fine = mean_and_spread_per_cell(maps[..., :2, :2], 4)
    np.testing.assert_allclose(fine[:, 3:], np.log(1e-3), rtol=1e-6)


def test_a_constant_map_has_a_finite_spread():
    kept = mean_and_spread_per_cell(torch.full((1, 1, 9, 9), 123.456), 2)
    np.testing.assert_allclose(kept[0, 1], np.log(1e-3), rtol=1e-4)


def test_changes_stay_within_bursts():
    """Frames 0 1 2, 7 8 and 20: the third burst has no neighbour to compare with."""
    level = np.array([0, 1, 4, 100, 102, -50], np.float32)
    sign = np.array([[1, -1], [1, -1]], np.float32)
    features = (level[:, None, None, None] * sign)[None]
    follows = np.diff([0, 1, 2, 7, 8, 20], prepend=-9) == 1
    changes = mean_changes(features, follows)
    assert changes.dtype == np.float32
    expected = [1, 1, 3, 2, 2, np.nan]
    np.testing.assert_array_equal(changes[0, :, 0], expected)


def test_a_freeze_is_the_floor_and_a_first_frame_is_not():
    features = np.random.default_rng(0).normal(size=(1, 6, 5, 4, 4)).astype(np.float32)
    features[0, 3:5] = features[0, 2]
    follows = np.arange(6) > 0
    size = log_change(torch.from_numpy(mean_changes(features, follows))).numpy()[0]
    np.testing.assert_allclose(size[3:5], np.log(1e-3), rtol=1e-6)
    assert (size[[0, 1, 2, 5]] > -1).all()
    np.testing.assert_array_equal(size[0], size[1])


def test_what_is_unknown_is_average():
    """A picture has no change; it gets neither that of a freeze nor that of a cut."""
    network = make_network(("crop",), CHANGE)
    clips = [random_clip(3, 0, ("crop",)), random_clip(1, 1, ("crop",))]
    assert np.isnan(clips[1].changes["crop"]).all()
    standardise(network, clips)
    branch = network.branches["crop"]
    logs = np.log(clips[0].changes["crop"][0] / branch.fusion.scale.numpy() + 1e-3)
    np.testing.assert_allclose(branch.change.mean, logs.mean(0), rtol=1e-5)
    np.testing.assert_allclose(branch.change.scale, logs.std(0), rtol=1e-3)
    alone = network(*collate(clips[1:], [0], torch.device("cpu")))[0]
    clips[1].changes["crop"][:] = (
        (branch.change.mean.exp() - 1e-3) * branch.fusion.scale
    ).numpy()
    average = network(*collate(clips[1:], [0], torch.device("cpu")))[0]
    torch.testing.assert_close(alone, average, rtol=1e-4, atol=1e-5)


def test_pictures_alone_teach_no_change():
    network = make_network(("crop",), CHANGE)
    standardise(network, [random_clip(1, seed, ("crop",)) for seed in range(3)])
    change = network.branches["crop"].change
    assert (change.mean == 0).all()
    assert (change.scale == 1).all()


# -- losses ----------------------------------------------------------------------------


def test_the_loss_by_hand():
    """PLCC by NumPy, pairs in two loops."""
    rng = np.random.default_rng(0)
    scores, target = rng.normal(size=6), np.array([0.0, 1, 1, 2, -1, 0])
    plcc = np.corrcoef(scores, target)[0, 1]
    lacking = [
        max(0, abs(a - b) - np.sign(a - b) * (s - r))
        for a, s in zip(target, scores)
        for b, r in zip(target, scores)
        if a != b
    ]
    given = torch.from_numpy(scores).requires_grad_()
    loss = LOSSES["plcc+rank"](given, torch.from_numpy(target))
    assert loss.item() == pytest.approx((1 - plcc) / 2 + np.mean(lacking))
    perfect = LOSSES["plcc+rank"](torch.from_numpy(target), torch.from_numpy(target))
    assert float(perfect) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("target", [[1.0], [2.0, 2.0]])
def test_a_batch_without_order_has_a_gradient_of_numbers(target):
    scores = torch.zeros(len(target), requires_grad=True)
    LOSSES["plcc+rank"](scores, torch.tensor(target)).backward()
    assert scores.grad.isfinite().all()


# -- views -----------------------------------------------------------------------------


def viewing(**changes):
    settings = {
        "views": ("resize", "crop"),
        "image_size": 32,
        "crop_size": 32,
        "n_crops": 2,
        "seed": 0,
        "mamba_size": 16,
        "changes": False,
        "frame_rate": 1.0,
        "max_frames": None,
        "burst_length": 1,
        "reader": "auto",
        "facts": (),
    }
    return ViewSpec(**{**settings, **changes})


def look(clip, **changes):
    """Views of one clip by (view, copy, frame)."""
    ((viewed),) = open_rows(as_rows([clip]), viewing(**changes), None)
    return {part: viewed.pixels[key] for part, key in viewed.features.items()}, viewed


def noise(count=3, height=70, width=90, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, 3), np.uint8)


def place_of(crop, frame):
    """Where a crop was cut out, by searching the whole frame."""
    windows = np.lib.stride_tricks.sliding_window_view(frame[..., 0], crop.shape[:2])
    ((top, left),) = np.argwhere((windows == crop[..., 0]).all((2, 3)))
    np.testing.assert_array_equal(
        frame[top : top + len(crop), left : left + crop.shape[1]], crop
    )
    return int(top), int(left)


def test_crops_stay_where_they_are_for_a_whole_clip():
    clip = noise()
    pixels, _ = look(clip)
    places = {
        copy: {place_of(pixels["crop", copy, t], clip[t]) for t in range(3)}
        for copy in range(2)
    }
    assert [len(found) for found in places.values()] == [1, 1]
    assert places[0] != places[1]
    expected = view_frames(clip[1:2], "stretch", 32, 1)[0]
    np.testing.assert_array_equal(pixels["resize", 0, 1], expected)


def test_crops_follow_from_content_and_seed(tmp_path):
    first, _ = look(noise())
    again, _ = look(noise())
    other, _ = look(noise(), seed=1)
    changed = noise()
    changed[0, 0, 0] ^= 255
    moved, _ = look(changed)
    part = "crop", 0, 2
    np.testing.assert_array_equal(first[part], again[part])
    frame = noise()[2]
    places = {place_of(p[part], frame) for p in (first, other, moved)}
    assert len(places) == 3


def test_what_mamba_sees_of_a_crop_is_its_middle():
    clip = noise()
    pixels, viewed = look(clip)
    small = viewed.values[viewed.frames["crop", 1, 0]]
    np.testing.assert_array_equal(small, pixels["crop", 1, 0][8:24, 8:24])
    reduced = viewed.values[viewed.frames["resize", 0, 0]]
    np.testing.assert_array_equal(reduced, view_frames(clip[:1], "stretch", 16, 1)[0])


def test_with_changes_mamba_sees_the_whole_crop():
    clip = noise()
    pixels, viewed = look(clip, changes=True)
    small = viewed.values[viewed.frames["crop", 1, 0]]
    crop = pixels["crop", 1, 0]
    np.testing.assert_array_equal(small, view_frames(crop[None], "stretch", 16, 1)[0])


@pytest.mark.parametrize(
    ("count", "changes", "numbers", "follows"),
    [
        (12, {"burst_length": 2}, [2, 3, 8, 9], [False, True, False, True]),
        (12, {}, [1, 4, 7, 10], [False, True, True, True]),
        (1, {"burst_length": 2}, [0], [False]),
    ],
)
def test_frames_follow_each_other_in_bursts(count, changes, numbers, follows):
    """Spread frames follow the one sampled before, however far that is."""
    _, viewed = look(noise(count), max_frames=4, **changes)
    assert viewed.numbers.tolist() == numbers
    assert viewed.follows.tolist() == follows


def test_keys_hold_all_that_pixels_depend_on():
    _, first = look(noise())

    def keys(viewed):
        return set(viewed.features.values()) | set(viewed.frames.values())

    assert len(keys(first)) == 18
    for change in (
        {"crop_size": 64}, {"seed": 1}, {"image_size": 64}, {"mamba_size": 8},
        {"facts": (1,)},
    ):  # fmt: skip
        _, other = look(noise(), **change)
        same = {p for p in first.features if first.features[p] == other.features[p]}
        kinds = {view for view, _, _ in same}
        expected = {
            "crop_size": {"resize"}, "seed": {"resize"}, "image_size": {"crop"},
            "mamba_size": {"resize", "crop"}, "facts": set(),
        }  # fmt: skip
        assert kinds == expected[next(iter(change))]
    _, other = look(noise(seed=1))
    assert not keys(first) & keys(other)
    assert open_media(as_rows([noise()])[0]).key


def test_batches_take_the_crop_that_is_asked_for():
    crops = np.repeat(np.arange(3, dtype=np.float32), 2).reshape(3, 1, 2, 1, 1)
    resized = np.full((1, 1, 2, 1, 1), 5, np.float32)
    clip = ViewedClip(np.arange(1), None, {"resize": resized, "crop": crops}, {}, {})
    batch, mask = collate([clip, clip], [2, 0], torch.device("cpu"))
    assert batch["crop"].features.flatten().tolist() == [2, 2, 0, 0]
    assert batch["resize"].features.flatten().tolist() == [5] * 4
    assert batch["crop"].frames is None
    assert mask.tolist() == [[True], [True]]
    assert isinstance(batch["crop"], Clips)
