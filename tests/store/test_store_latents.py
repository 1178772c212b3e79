"""What a store does with latents, where its folder is, and the disk it is on."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from counting import counting

from diffqa_features import DiffusionQAFeatures, FeatureStore
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._engine.latents import encode_rows
from diffqa_features._engine.passes import Passes
from diffqa_features._engine.request import FrameSpec
from diffqa_features._media.rows import as_rows
from diffqa_features._store.disks import network_disk
from diffqa_features._store.store import as_store, wants_half


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)


@pytest.fixture
def features(small_folder):
    return DiffusionQAFeatures(str(small_folder), image_size=64, prompts="a photo")


def test_latents_are_kept_dropped_or_halved(features, images, small_folder, tmp_path):
    plain = features.transform(images)
    stores = {
        latents: FeatureStore(tmp_path / latents, latents=latents)
        for latents in ("keep", "drop", "float16")
    }
    sizes, found = {}, {}
    for latents, store in stores.items():
        features.set_params(memory=store, timesteps=50)
        found[latents] = features.transform(images)
        with counting(small_folder) as count:
            again = features.transform(images)
            assert count.unet_rows == count.vae_rows == 0
            np.testing.assert_array_equal(again, found[latents])
            # Another timestep needs the latents again.
            features.set_params(timesteps=20).transform(images)
        assert count.unet_rows == len(images)
        assert count.vae_rows == (len(images) if latents == "drop" else 0)
        sizes[latents] = store.info().entries
    np.testing.assert_array_equal(found["keep"], plain)
    np.testing.assert_array_equal(found["drop"], plain)
    assert sizes == {"keep": 10, "drop": 8, "float16": 10}
    difference = np.abs(found["float16"] - plain).max()
    assert 0 < difference < 0.02


def test_rounded_latents_have_keys_of_their_own(
    features, images, small_folder, tmp_path
):
    features.set_params(memory=FeatureStore(tmp_path / "s", latents="float16"))
    halved = features.transform(images)
    features.set_params(memory=tmp_path / "s")
    with counting(small_folder) as count:
        exact = features.transform(images)
    assert count.vae_rows == count.unet_rows == len(images)
    assert (exact != halved).any()
    features.set_params(memory=FeatureStore(tmp_path / "s", latents="drop"))
    with counting(small_folder) as count:
        np.testing.assert_array_equal(features.transform(images), exact)
    assert count.vae_rows == count.unet_rows == 0


def test_encoded_rows_follow_the_store(small_folder, images, tmp_path):
    """As learned methods encode; the features find the same latents."""
    info = describe_backbone(str(small_folder))
    passes = Passes(str(small_folder), "cpu", "float32", seed=0)
    rows, found = as_rows(images), {}
    for latents in ("keep", "drop", "float16"):
        store = FeatureStore(tmp_path / latents, latents=latents)
        half = wants_half(store)
        spec = FrameSpec(info.identity, "stretch", 64, info.multiple, half=half)
        with counting(small_folder) as count:
            for _ in range(2):
                encoded = encode_rows(rows, spec, passes, store=store)
                found.setdefault(latents, []).append(
                    np.concatenate([row.latents for row in encoded])
                )
        assert count.vae_rows == len(images) * (2 if latents == "drop" else 1)
    for one, two in found.values():
        np.testing.assert_array_equal(one, two)
        assert one.dtype == np.float32
    exact = found["keep"][0]
    np.testing.assert_array_equal(found["drop"][0], exact)
    np.testing.assert_array_equal(found["float16"][0], exact.astype(np.float16))


def test_latents_is_a_parameter_like_the_others(tmp_path):
    store = FeatureStore(tmp_path, latents="drop")
    assert store != FeatureStore(tmp_path)
    assert hash(store) != hash(FeatureStore(tmp_path))
    assert repr(store) == f"FeatureStore({str(tmp_path)!r}, latents='drop')"
    assert pickle.loads(pickle.dumps(store)) == store
    older = FeatureStore.__new__(FeatureStore)
    older.__setstate__({"path": str(tmp_path), "max_size": None})
    assert older == FeatureStore(tmp_path)
    with pytest.raises(ValueError, match=r"'latents' parameter .* Got 'half' instead"):
        FeatureStore(tmp_path, latents="half").info()


def test_a_relative_folder_is_that_of_the_caller(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    given = FeatureStore("store", max_size=10**6, latents="drop")
    for memory in ("store", Path("store"), given):
        store = as_store(memory)
        assert str(store.path) == str(tmp_path / "store")
    assert (store.max_size, store.latents) == (10**6, "drop")
    assert given.path == "store"
    # As a worker that was started elsewhere.
    sent = pickle.dumps(store)
    monkeypatch.chdir(tmp_path / "elsewhere")
    pickle.loads(sent).put({"a": np.zeros(2)})
    assert not list((tmp_path / "elsewhere").iterdir())
    assert (tmp_path / "store" / "features.sqlite").exists()


MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/me/local\\040disk rw - ext4 /dev/sdb1 rw
32 22 0:41 / /mnt/share rw - cifs //server/share rw
33 22 0:42 / /mnt/share rw - tmpfs none rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/store", ""),
        ("/home/me/store", "nfs4"),
        ("/home/me/local disk/store", ""),
        ("/homely/store", ""),
        ("/mnt/share/store", ""),  # what is mounted last is what is seen
    ],
)
def test_network_disks_are_known(folder, kind, tmp_path):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert network_disk(Path(folder), tmp_path / "mountinfo") == kind
    assert network_disk(Path(folder), tmp_path / "no such file") == ""
