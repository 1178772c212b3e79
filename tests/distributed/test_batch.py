"""One batch: its columns, its bad rows, and the type that it came in."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from diffqa_features import (
    DiffusionQAFeatures,
    DistilledStudentRegressor,
    FeatureStore,
    MotionFeatures,
    NaturalSceneStatistics,
    load_scorer,
)
from diffqa_features._utils.fingerprint import fingerprint
from diffqa_features._utils.processor import fast_precision
from diffqa_features.distributed import BatchExtractor, BatchPredictor, extract


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Five pictures, of which the third is damaged."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    paths[2].write_bytes(paths[2].read_bytes()[:400])
    return [str(path) for path in paths]


GOOD = [0, 1, 3, 4]


def test_columns_are_those_of_the_estimator(files):
    features = NaturalSceneStatistics()
    extractor = pickle.loads(pickle.dumps(BatchExtractor(features)))
    done = extractor({"path": files, "id": np.arange(5)})
    names = list(features.get_feature_names_out())
    assert list(done) == ["path", "id", *names, "reason"]
    matrix = np.stack([done[name] for name in names], 1)
    good = [files[i] for i in GOOD]
    np.testing.assert_array_equal(matrix[GOOD], features.fit_transform(good))
    assert np.isnan(matrix[2]).all()
    assert [bool(reason) for reason in done["reason"]] == [False] * 2 + [True] + [
        False
    ] * 2
    assert files[2] not in done["reason"][2]  # the row says which; this says why
    assert features.on_error == "raise"
    assert done["id"].tolist() == list(range(5))


@pytest.mark.parametrize("kind", [str, FeatureStore])
def test_a_relative_store_is_that_of_the_sender(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    model = make_pipeline(NaturalSceneStatistics(memory=kind("store")), Ridge())
    sent = pickle.loads(pickle.dumps(BatchPredictor(model)))
    assert sent.features[0].memory == kind(str(tmp_path / "store"))
    assert model[0].memory == kind("store")


def test_what_depends_on_the_machine_is_that_of_the_sender(
    sd1_folder, tmp_path, monkeypatch
):
    (tmp_path / "vae").symlink_to(sd1_folder / "vae")
    monkeypatch.chdir(tmp_path)
    model = DiffusionQAFeatures(str(sd1_folder), vae="vae", dtype="auto", device="cpu")
    sent = pickle.loads(pickle.dumps(BatchExtractor(model)))
    assert sent.features.vae == str(tmp_path / "vae")
    assert sent.features.dtype == str(fast_precision()[0]).removeprefix("torch.")
    # What an output is known by says it, too, and not only "auto".
    stated = clone(model).set_params(dtype=sent.features.dtype)
    assert fingerprint(model) == fingerprint(stated)
    assert fingerprint(model) != fingerprint(stated.set_params(dtype="float16"))


def test_the_precision_of_a_step_is_that_of_its_own_device(monkeypatch):
    """And not of the first accelerator that the sender has."""
    model = make_pipeline(MotionFeatures("tiny", device="cpu", dtype="auto"), Ridge())
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    sent = pickle.loads(pickle.dumps(BatchPredictor(model)))
    assert sent.features[0].dtype == str(fast_precision()[0]).removeprefix("torch.")


@pytest.mark.parametrize(
    ("make", "on_cuda"),
    [
        (DiffusionQAFeatures, "float16"),
        (MotionFeatures, "float16"),
        (DistilledStudentRegressor, "bfloat16"),
    ],
)
def test_no_precision_is_that_of_the_device(make, on_cuda):
    """Which need not be here, as on the machine that sends work to others."""
    on = {device: make(device=device) for device in ("cpu", "cuda:3")}
    same = {"cpu": make(dtype="float32"), "cuda:3": make(dtype=on_cuda)}
    assert fingerprint(on["cpu"]) != fingerprint(on["cuda:3"])
    for device, model in on.items():
        if device == "cpu" or not torch.cuda.is_available():
            assert fingerprint(model) == fingerprint(same[device])
            pipeline = make_pipeline(NaturalSceneStatistics(), model)
            kind = BatchPredictor if hasattr(model, "predict") else BatchExtractor
            sent = pickle.loads(pickle.dumps(kind(pipeline)))
            assert sent.features[1].dtype == same[device].dtype


def test_pictures_by_content(files):
    """As Ray's `read_binary_files` and Hugging Face's undecoded images come."""
    content = [Path(files[i]).read_bytes() for i in GOOD]
    extractor = BatchExtractor(NaturalSceneStatistics(), media="image")
    expected = extractor({"image": [files[i] for i in GOOD]})
    names = extractor.columns
    for rows in (content, [{"bytes": c, "path": None} for c in content]):
        done = extractor({"image": rows, "id": GOOD})
        assert "image" not in done
        for name in names:
            np.testing.assert_array_equal(done[name], expected[name])


def test_a_batch_comes_back_as_it_came(files):
    extractor = BatchExtractor(NaturalSceneStatistics())
    table = pd.DataFrame({"path": files}, index=list("edcba"))
    frame = extractor(table)
    assert frame.index.tolist() == list("edcba")
    arrow = extractor(pa.table({"path": files}))
    assert isinstance(arrow, pa.Table)
    assert arrow.schema.field("reason").type == pa.string()
    pd.testing.assert_frame_equal(
        arrow.to_pandas(), frame.reset_index(drop=True), check_dtype=False
    )


def test_texts_of_other_columns_fill_prompts(files):
    features = DiffusionQAFeatures(
        prompts=["{caption}"], kinds="alignment", blocks="mid*", image_size=64
    )
    table = pd.DataFrame({"image": files[:2], "caption": ["a sharp photo", "fog"]})
    done = BatchExtractor(features, media="image")(table)
    rows = table.rename(columns={"image": "path"})
    (name,) = features.get_feature_names_out()
    expected = features.fit_transform(rows)[:, 0]
    np.testing.assert_allclose(done[name], expected, rtol=1e-5)
    assert done[name][0] != done[name][1]


def test_what_is_kept(files):
    table = {"path": files[:2], "id": [7, 8], "raw": [b"a", b"b"], "tags": [[1], [2]]}
    done = BatchExtractor(NaturalSceneStatistics())(table)
    assert list(done)[:2] == ["path", "id"]
    assert {"raw", "tags"}.isdisjoint(done)
    only = BatchExtractor(NaturalSceneStatistics(), keep=["id"])(table)
    assert next(iter(only)) == "id"
    assert "path" not in only
    with pytest.raises(ValueError, match="no column 'name': it has 'path', 'id'"):
        BatchExtractor(NaturalSceneStatistics(), keep=["name"])(table)
    with pytest.raises(ValueError, match="'reason' of the table would be replaced"):
        BatchExtractor(NaturalSceneStatistics())({**table, "reason": ["", ""]})


def test_predictions_of_a_pipeline_that_refuses_nan(files):
    model = make_pipeline(NaturalSceneStatistics(), StandardScaler(), Ridge())
    good = [files[i] for i in GOOD]
    model.fit(good, [1.0, 2.0, 3.0, 4.0])
    done = BatchPredictor(model)({"path": files})
    assert list(done) == ["path", "score", "reason"]
    np.testing.assert_allclose(done["score"][GOOD], model.predict(good), rtol=1e-5)
    assert np.isnan(done["score"][2])
    assert done["reason"][2]
    nothing = BatchPredictor(model)({"path": [files[2]]})
    assert np.isnan(nothing["score"]).all()


@pytest.mark.parametrize("nested", [FeatureUnion, Pipeline])
def test_a_step_that_would_hand_on_nan_does_not(files, nested):
    """As `diffqa fit` once saved its models; a missing file has no score."""
    step = NaturalSceneStatistics(on_error="nan")
    model = nested([("features", step)])
    done = BatchExtractor(model)({"path": [files[0], files[2], "none.png"]})
    assert [bool(reason) for reason in done["reason"]] == [False, True, True]
    assert done["reason"][2].startswith("no such file")
    assert np.isnan(done[list(done)[1]]).tolist() == [False, True, True]
    model = make_pipeline(model, DummyRegressor()).fit(files[:2], [1.0, 3.0])
    done = BatchPredictor(model)({"path": [files[0], "none.png"]})
    np.testing.assert_array_equal(done["score"], [2.0, np.nan])
    assert step.on_error == "nan"


def test_urls_of_this_machine_are_those_that_were_typed(files, tmp_path):
    """And not those of a table, though it has no other column."""
    near = f"file://{files[0]}"
    extractor = BatchExtractor(NaturalSceneStatistics())
    (reason,) = extractor({"path": [near]})["reason"]
    assert "write the path itself" in reason
    assert extract([near], extractor, tmp_path / "list")["bad"] == 0
    table = pd.DataFrame({"path": [near]})
    assert extract(table, extractor, tmp_path / "table")["bad"] == 1


def test_errors_that_no_row_makes_are_raised(files):
    failing = FunctionTransformer(fail, feature_names_out="one-to-one")
    model = make_pipeline(NaturalSceneStatistics(), failing)
    with pytest.raises(TypeError, match=r"scikit-learn estimator with predict\(\)"):
        BatchPredictor(model)
    with pytest.raises(TypeError, match=r"BatchPredictor calls its predict\(\)"):
        BatchExtractor(load_scorer())
    with pytest.raises(TypeError, match=r"scikit-learn estimator with transform\(\)"):
        extract(NaturalSceneStatistics(), pd.DataFrame({"path": files}), "out")
    with pytest.raises(ValueError, match="on purpose"):
        BatchExtractor(model)({"path": files[:1]})


def fail(X):
    raise ValueError("on purpose")
