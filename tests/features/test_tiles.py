"""Tiles: pictures at native resolution, side by side with other views."""

import numpy as np
import pytest
from counting import counting, counting_decodes
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, PromptAlignmentMaps
from diffqa_features._media.views import cut_tiles, stitch_maps

SIZE = 64
STATISTICS = ("mean", "std", "min", "max")


def picture(height=130, width=200, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (height, width, 3), np.uint8)


def features(folder, **settings):
    settings = {"image_size": SIZE, "device": "cpu", "dtype": "float32"} | settings
    return DiffusionQAFeatures(str(folder), **settings)


def close(found, expected):
    size = np.maximum(np.abs(expected).max(axis=0), 0.02)
    return (np.abs(found - expected) / size).max() < 1e-5


@pytest.fixture(scope="module")
def alone(small_folder):
    """The tiles of a picture as pictures of their own, (8, D)."""
    tiles, _ = cut_tiles(picture(), SIZE, 8)
    return features(small_folder).transform(tiles)


def test_tiles_are_pooled_pictures_of_their_own(small_folder, alone):
    tiled = features(small_folder, view="tiles", n_tiles=8, tile_pooling=STATISTICS)
    row = tiled.transform([picture()])[0]
    pooled = [getattr(alone, statistic)(0) for statistic in STATISTICS]
    assert close(row[None], np.concatenate(pooled)[None])
    names = tiled.get_feature_names_out()
    assert len(names) == len(row) == 4 * alone.shape[1]
    assert names[0] == "t50__down0.0__alignment__prompt0__tiles-mean"
    assert names[-1] == "t50__error__prompt0-prompt1__tiles-max"


def test_views_stand_side_by_side(small_folder, alone):
    views = ("stretch", "tiles")
    both = features(small_folder, view=views, n_tiles=8, tile_pooling="max")
    frame = both.set_output(transform="pandas").transform([picture()])
    stretched = features(small_folder, view="stretch").transform([picture()])
    assert close(frame.filter(regex="__stretch$").to_numpy(), stretched)
    assert close(frame.filter(regex="__tiles-max$").to_numpy(), alone.max(0)[None])
    assert frame.shape[1] == 2 * alone.shape[1]
    metadata = both.get_feature_metadata()
    assert [row["name"] for row in metadata] == list(frame.columns)
    assert {(row["view"], row["tile_statistic"]) for row in metadata} == {
        ("stretch", None),
        ("tiles", "max"),
    }


def test_views_of_different_shapes_stand_side_by_side(small_folder):
    rows = [picture(), picture(80, 64, seed=1)]
    both = features(small_folder, view=("fit", "crop"), image_size=128).transform(rows)
    each = [
        features(small_folder, view=view, image_size=128).transform(rows)
        for view in ("fit", "crop")
    ]
    assert close(both, np.hstack(each))


def test_auto_shows_tiles_of_large_pictures_and_stretches_small_ones(small_folder):
    # 128 x 128 pixels are four squares of 64; one column less is a small picture, and
    # a strip that is narrower than a square counts as one.
    rows = [picture(128, 128), picture(128, 127), picture(), picture(32, 700, seed=1)]
    auto = features(small_folder)
    assert auto.view == "auto"
    tiled = features(small_folder, view="tiles").transform(rows)
    stretched = features(small_folder, view="stretch").transform(rows)
    expected = np.where([[True], [False], [True], [False]], tiled, stretched)
    assert close(auto.transform(rows), expected)
    assert close(auto.set_params(batch_size=1).transform(rows[::-1])[::-1], expected)
    names = features(small_folder, view="stretch").get_feature_names_out()
    np.testing.assert_array_equal(auto.get_feature_names_out(), names)
    assert {row["view"] for row in auto.get_feature_metadata()} == {"auto"}
    auto.set_params(tile_pooling=("mean", "std"))
    assert auto.get_feature_names_out()[-1] == f"{names[-1]}__auto-std"
    both = auto.transform(rows)
    assert close(both[:, : len(names)], expected)
    assert not both[1, len(names) :].any()  # of one view there is no spread


def test_auto_shares_the_store_with_what_it_stands_for(small_folder, tmp_path):
    paths = [tmp_path / "large.png", tmp_path / "small.png"]
    for path, pixels in zip(paths, (picture(), picture(100, 100)), strict=True):
        Image.fromarray(pixels).save(path)
    auto = features(small_folder, memory=tmp_path / "store")
    tiled = clone(auto).set_params(view="tiles").transform(paths)
    stretched = clone(auto).set_params(view="stretch").transform(paths)
    with counting(small_folder) as count:
        found = auto.transform(paths)
        assert count.vae_rows == count.unet_rows == 0
    np.testing.assert_array_equal(found, [tiled[0], stretched[1]])
    with counting_decodes() as work:
        np.testing.assert_array_equal(auto.transform(paths), found)
    assert not work["pixels"]


def test_a_map_by_auto_is_that_of_what_it_stands_for(small_folder):
    rows = [picture(), picture(64, 90)]
    settings = {"image_size": SIZE, "device": "cpu", "dtype": "float32", "n_tiles": 4}
    maps = {
        view: PromptAlignmentMaps(str(small_folder), view=view, **settings).maps(rows)
        for view in ("auto", "tiles", "stretch")
    }
    np.testing.assert_allclose(maps["auto"][0], maps["tiles"][0], atol=1e-6)
    np.testing.assert_allclose(maps["auto"][1], maps["stretch"][1], atol=1e-6)


def test_neighbours_order_and_batches_do_not_change_tiles(small_folder):
    rows = [picture(), picture(64, 64), np.full((90, 140, 3), 7, np.uint8), picture()]
    tiled = features(small_folder, view=("stretch", "tiles"), n_tiles=3)
    expected = np.concatenate([tiled.transform([row]) for row in rows])
    for batch_size in (1, 5):
        tiled.set_params(batch_size=batch_size)
        assert close(tiled.transform(rows[::-1])[::-1], expected)


def test_frames_of_a_clip_are_tiled_each(small_folder, tmp_path):
    clip = np.stack([picture(seed=0), picture(seed=1)])
    tiled = features(
        small_folder, view="tiles", n_tiles=2, frame_pooling=("mean", "max")
    )
    row = tiled.transform([clip])[0]
    single = tiled.set_params(frame_pooling="mean").transform(list(clip))
    assert close(row[None], np.concatenate([single.mean(0), single.max(0)])[None])
    tiled.set_params(frame_pooling=("std",), tile_pooling="mean")
    assert tiled.get_feature_names_out()[0].endswith("prompt0__tiles-mean__frames-std")


def test_each_tile_is_an_entry_of_the_store(small_folder, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(picture()).save(path)
    tiled = features(small_folder, view=("stretch", "tiles"), n_tiles=3)
    plain = tiled.transform([path])
    tiled.set_params(memory=tmp_path / "store")
    with counting(small_folder) as count:
        first = tiled.transform([path])
    assert (count.vae_rows, count.unet_rows) == (4, 8)
    assert close(first, plain)
    with counting(small_folder) as count:
        np.testing.assert_array_equal(tiled.transform([path]), first)
        # Another statistic, or one of the views, is there; so are the tiles in pixels.
        tiled.set_params(tile_pooling="std").transform([path])
        tiled.set_params(view="tiles").transform([path, picture()])
        assert count.vae_rows == count.unet_rows == 0
        tiled.set_params(n_tiles=None).transform([path])
    assert count.vae_rows == 3 * 4
    moved = path.rename(tmp_path / "moved.png")
    with counting(small_folder) as count:
        tiled.transform([moved])
        assert count.vae_rows == 0
        changed = picture()
        changed[0, 0] ^= 255  # the corner tile alone
        tiled.transform([changed])
    assert count.vae_rows == 1


def test_tiles_of_a_stored_file_are_not_decoded_again(small_folder, tmp_path):
    clip = [Image.fromarray(picture(seed=seed)) for seed in range(2)]
    path = tmp_path / "clip.png"
    clip[0].save(path, save_all=True, append_images=clip[1:], duration=1000)
    tiled = features(small_folder, view="tiles", n_tiles=2, memory=tmp_path / "store")
    first = tiled.transform([path])
    with counting(small_folder) as count:
        np.testing.assert_array_equal(tiled.transform([path]), first)
    assert count.vae_rows == 0


def test_in_a_grid_search(small_folder, tmp_path):
    rows = [picture(80, 100, seed) for seed in range(4)]
    pipeline = Pipeline(
        [
            ("features", features(small_folder, n_tiles=2, memory=tmp_path)),
            ("scale", StandardScaler()),
            ("svr", SVR()),
        ]
    )
    grid = {
        "features__view": ["stretch", "tiles", ("stretch", "tiles")],
        "features__tile_pooling": ["mean", STATISTICS],
    }
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise")
    with counting(small_folder) as count:
        search.fit(rows, np.arange(4.0))
    assert count.vae_rows == 4 * 3
    assert clone(search.best_estimator_).get_params()["features__n_tiles"] == 2


def test_maps_of_tiles_are_one_map(small_folder):
    maps = PromptAlignmentMaps(
        str(small_folder),
        image_size=SIZE,
        map_size=(6, 9),
        device="cpu",
        dtype="float32",
    )
    tiles, windows = cut_tiles(picture(), SIZE)
    expected = stitch_maps(maps.maps(tiles), windows, (6, 9))
    tiled = maps.set_params(view="tiles", n_tiles=None)
    np.testing.assert_allclose(tiled.maps([picture()])[0], expected, rtol=1e-4)
    assert len(tiled.get_feature_names_out()) == 2 * 6 * 9
    # Of one size, all in one colour: the same tiles, but elsewhere in the picture.
    plain = [np.full((64, 128, 3), 9, np.uint8), np.full((128, 64, 3), 9, np.uint8)]
    first, second = tiled.set_params(view="tiles").maps(plain)
    assert not np.allclose(first, second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"view": ()}, "'view' parameter of .* one or several"),
        ({"view": ("stretch", "stretch")}, "'view'"),
        ({"view": ("auto", "crop")}, "'auto' alone"),
        ({"view": ("tiles", "mosaic")}, "'view'"),
        ({"view": {"tiles"}}, "'view'"),
        ({"n_tiles": 0}, "'n_tiles'"),
        ({"tile_pooling": "median"}, "'tile_pooling' parameter of .* one or several"),
        ({"tile_pooling": ()}, "'tile_pooling'"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        DiffusionQAFeatures(**change).fit()


def test_maps_have_one_view():
    with pytest.raises(ValueError, match="'view' parameter of PromptAlignmentMaps"):
        PromptAlignmentMaps(view=("stretch", "tiles")).fit()


def test_a_sliver_that_tiles_would_make_huge_is_a_bad_row():
    sliver = np.zeros((8, 60_000, 3), np.uint8)
    features = DiffusionQAFeatures(view="tiles", kinds="alignment", image_size=512)
    with pytest.raises(ValueError, match=r"^Row 0 \(array\): enlarged it is") as info:
        features.fit_transform([sliver])
    assert info.value.row_index == 0
