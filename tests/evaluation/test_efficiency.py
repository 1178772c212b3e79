"""Costs against closed forms and an independent count; times by a clock set by hand."""

import time

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import VotingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from diffqa_features import (
    DiffusionQAFeatures,
    FeatureStore,
    NaturalSceneStatistics,
    evaluation,
)
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._utils.profiling import _watchers, timed, watched
from diffqa_features.evaluation._meters import ClockMeter, CostMeter

SMALL = {"image_size": 64, "device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8))


class Network(RegressorMixin, BaseEstimator):
    """A network of known cost that names no stages."""

    def fit(self, X, y=None):
        # A part that is never run must not be counted.
        self.net_ = nn.ModuleDict(
            {
                "conv": nn.Conv2d(3, 8, 3, padding=1, stride=2),
                "linear": nn.Linear(8 * 32 * 32, 5),
                "unused": nn.Linear(100, 100),
            }
        )
        return self

    @torch.inference_mode()
    def predict(self, X):
        x = torch.from_numpy(np.stack(X)).permute(0, 3, 1, 2).float()
        return self.net_["linear"](self.net_["conv"](x).flatten(1)).mean(1).numpy()


def test_cost_of_a_network_in_closed_form(images):
    frame = evaluation.efficiency(Network().fit(images), images, n_repeats=2).frame
    assert frame["stage"].tolist() == ["other", "total"]
    convolution = 8 * 32 * 32 * 3 * 3 * 3
    linear = 8 * 32 * 32 * 5
    np.testing.assert_allclose(frame["gmac"], (convolution + linear) / 1e9)
    assert (frame["parameters"] == 8 * 27 + 8 + 8 * 32 * 32 * 5 + 5).all()


@pytest.mark.parametrize("shape", [(1, 2, 16, 8), (2, 4, 64, 32)])
def test_attention_in_closed_form(shape):
    batch, heads, n, width = shape
    query, key = torch.randn(shape), torch.randn(batch, heads, 10, width)
    with torch.inference_mode(), CostMeter() as costs:
        scaled_dot_product_attention(query, key, key)
    assert costs.of(None)["gmac"] == pytest.approx(
        2 * batch * heads * n * 10 * width / 1e9
    )


def macs_by_hooks(backbone, run):
    """Counted by hooks on layers, and on the attention between their outputs."""
    found = {"unet": 0, "vae": 0}
    held = {}

    def see(part):
        def hook(module, args, output):
            if isinstance(module, nn.Conv2d):
                kernel = module.weight[0].numel()
                found[part] += output.numel() * kernel
            else:
                found[part] += output.numel() * module.in_features

        return hook

    def see_attention(part):
        def hook(module, args, kwargs, output):
            query, key = held.pop((module, "q")), held.pop((module, "k"))
            found[part] += 2 * query.numel() * key.shape[1]

        return hook

    handles = []
    for part, root in (("unet", backbone.unet), ("vae", backbone._vae)):
        for module in root.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                handles.append(module.register_forward_hook(see(part)))
            if hasattr(module, "to_q"):
                for name in "qk":

                    def hold(inner, args, output, key=(module, name)):
                        held[key] = output

                    layer = getattr(module, f"to_{name}")
                    handles.append(layer.register_forward_hook(hold))
                attention = see_attention(part)
                handles.append(
                    module.register_forward_hook(attention, with_kwargs=True)
                )
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def test_parameters_in_a_list_are_counted():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.factors = nn.ParameterList([torch.ones(3), torch.ones(4)])

        def forward(self, x):
            return x * self.factors[0].sum()

    with CostMeter() as meter, watched(meter):
        Listed()(torch.ones(1))
    assert meter.of(None)["parameters"] == 7


def test_cost_of_the_backbone_by_an_independent_count(small_folder, images):
    features = DiffusionQAFeatures(str(small_folder), **SMALL).fit()
    frame = evaluation.efficiency(features, images, n_repeats=1).frame
    frame = frame.set_index("stage")
    assert frame.index.tolist() == [
        "decode", "vae", "text", "unet", "pool", "other", "total",
    ]  # fmt: skip
    backbone = load_backbone(str(small_folder), "cpu", "float32")
    found = macs_by_hooks(backbone, lambda: features.transform(images[:1]))
    assert min(found.values()) > 1e6
    assert frame.loc["unet", "gmac"] * 1e9 == pytest.approx(found["unet"], rel=1e-6)
    assert frame.loc["vae", "gmac"] * 1e9 == pytest.approx(found["vae"], rel=1e-6)
    assert frame.loc["total", "gmac"] == pytest.approx(frame["gmac"].iloc[:-1].sum())
    # The whole UNet runs; of the VAE only what encodes.
    unet = sum(p.numel() for p in backbone.unet.parameters())
    assert frame.loc["unet", "parameters"] == unet
    encoder = [backbone._vae.encoder, getattr(backbone._vae, "quant_conv", None)]
    assert frame.loc["vae", "parameters"] == sum(
        p.numel() for part in encoder if part is not None for p in part.parameters()
    )
    assert frame.loc["total", "parameters"] == frame["parameters"].iloc[:-1].sum()


def test_an_early_stop_is_cheaper(small_folder, images):
    cases = {
        "whole": {},
        "early": {"kinds": "alignment", "blocks": "down0*"},
        "one prompt": {"prompts": ("",)},
    }
    methods = {
        name: DiffusionQAFeatures(str(small_folder), **SMALL, **change).fit()
        for name, change in cases.items()
    }
    table = evaluation.efficiency(methods, images, n_repeats=1)
    unet = table.frame[table.frame["stage"] == "unet"].set_index("method")
    assert unet.loc["early", "gmac"] < 0.5 * unet.loc["whole", "gmac"]
    assert unet.loc["early", "parameters"] < 0.5 * unet.loc["whole", "parameters"]
    assert unet.loc["one prompt", "gmac"] == 0.5 * unet.loc["whole", "gmac"]


def test_a_pipeline_is_timed_without_its_memory(small_folder, images, tmp_path):
    store = FeatureStore(tmp_path)
    features = DiffusionQAFeatures(str(small_folder), **SMALL, memory=store)
    model = make_pipeline(features, StandardScaler(), SVR())
    model.fit(images, [1.0, 2, 3, 4])
    entries = store.info().entries
    table = evaluation.efficiency(model, images, n_repeats=3)
    frame = table.frame.set_index("stage")
    assert "regress" in frame.index and frame.loc["unet", "gmac"] > 0
    assert store.info().entries == entries
    assert model.steps[0][1].memory is store  # the estimator itself is left alone
    total = frame.loc["total"]
    parts = frame.drop(index="total")
    assert parts["share"].sum() == pytest.approx(1)
    assert total["latency_p50_ms"] <= total["latency_p90_ms"] <= total["latency_p99_ms"]
    assert total["images_per_second"] > 0
    assert np.isnan(parts["images_per_second"]).all()
    assert {"device", "memory", "torch", "data"} <= set(table.facts)


@pytest.mark.parametrize(
    "wrap",
    [
        FrozenEstimator,
        lambda model: VotingRegressor([("a", model), ("b", model)]),
        lambda model: TransformedTargetRegressor(model),
        lambda model: make_pipeline(
            ColumnTransformer([("x", model[0], [0])]), FrozenEstimator(model[1])
        ),
    ],
)
def test_no_part_is_timed_with_its_memory(wrap, images, tmp_path):
    store = FeatureStore(tmp_path)
    model = make_pipeline(NaturalSceneStatistics(memory=store), Ridge())
    X = np.array([[str(tmp_path / f"{n}.png")] for n in range(4)], object)
    for (path,), image in zip(X, images):
        Image.fromarray(image).save(path)
    model = wrap(model.fit(X[:2], [1.0, 2])).fit(X[:2], [1.0, 2])
    entries = store.info().entries
    evaluation.efficiency(model, X[2:], n_repeats=1, n_warmup=1)
    assert store.info().entries == entries > 0


class Clock:
    """Shows what the stages below take, and nothing else."""

    def __init__(self):
        self.now = 5.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


class Waiter(RegressorMixin, BaseEstimator):
    """Waits in nested stages for known times."""

    def __init__(self, clock=None):
        self.clock = clock

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def predict(self, X):
        for _ in X:
            with timed("unet"):
                self.clock.wait(0.02)
                with timed("pool"):
                    self.clock.wait(0.04)
                self.clock.wait(0.02)
            self.clock.wait(0.03)
        return np.zeros(len(X))


def test_stages_are_exclusive_and_sum_to_the_whole(images, clock):
    waiter = Waiter(clock).fit(images)
    frame = evaluation.efficiency(waiter, images, n_repeats=3).frame
    times = frame.set_index("stage")["latency_p50_ms"].to_dict()
    expected = {"unet": 40, "pool": 40, "other": 30, "total": 110}
    assert times == pytest.approx(expected)
    assert frame["images_per_second"].iloc[-1] == pytest.approx(1 / 0.11)


def test_the_clock_hears_other_threads(clock):
    from concurrent.futures import ThreadPoolExecutor

    @timed("decode")
    def decode():
        clock.wait(0.03)

    with watched(ClockMeter()) as meter, ThreadPoolExecutor(1) as pool:
        with timed("unet"):
            pool.submit(decode).result()
    assert meter.seconds["decode"] == pytest.approx(0.03)
    assert _watchers == []


def test_peak_memory_is_seen_where_it_is_taken():
    with CostMeter() as costs, watched(costs):
        with timed("small"):
            small = np.ones(1)
        with timed("large"):
            large = np.ones(20_000_000)  # 153 MiB
            del large
        with timed("after"):
            small += 1
    small, large, after = (costs.of(n)["peak_mib"] for n in ("small", "large", "after"))
    if np.isnan(large):
        pytest.skip("peak memory is not measured on this system")
    assert large - small > 140 and large - after > 140
    assert costs.of(None)["peak_mib"] == large


def test_no_hook_and_no_watcher_survives_an_error(images):
    class Broken(Waiter):
        def predict(self, X):
            with timed("unet"):
                raise RuntimeError("broken")

    from torch.nn.modules import module

    before = len(module._global_forward_pre_hooks)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            evaluation.efficiency(Broken().fit(images), images)
    with pytest.raises(RuntimeError, match="broken"):
        with CostMeter() as costs, watched(costs):
            Broken().predict(images)
    assert len(module._global_forward_pre_hooks) == before
    assert _watchers == []


def test_bad_input_is_refused(images):
    model = make_pipeline(DiffusionQAFeatures(**SMALL), SVR())
    with pytest.raises(NotFittedError):
        evaluation.efficiency(model, images)
    with pytest.raises(ValueError, match="no media rows"):
        evaluation.efficiency(model, [])
    with pytest.raises(ValueError, match="'n_repeats' parameter"):
        evaluation.efficiency(model, images, n_repeats=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(small_folder, images):
    features = DiffusionQAFeatures(
        str(small_folder), image_size=64, device="cuda"
    ).fit()
    table = evaluation.efficiency(features, images, n_repeats=3)
    frame = table.frame.set_index("stage")
    assert "CUDA" in table.facts["memory"]
    assert frame.loc["unet", "peak_mib"] > 0
    on_cpu = DiffusionQAFeatures(str(small_folder), **SMALL).fit()
    expected = evaluation.efficiency(on_cpu, images, n_repeats=1).frame
    expected = expected.set_index("stage").loc["unet", "gmac"]
    assert frame.loc["unet", "gmac"] == pytest.approx(expected, rel=1e-6)
