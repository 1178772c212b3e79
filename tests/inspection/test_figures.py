"""Every display as a figure: fits a column, cuts no text, leaves rcParams alone."""

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text

from diffqa_features import inspection
from diffqa_features.inspection import (
    AlignmentMapDisplay,
    EmbeddingDisplay,
    FrameScoresDisplay,
    NoiseRoundTripDisplay,
    PredictionDisplay,
    SearchHeatmapDisplay,
    TimestepCurveDisplay,
    TrainingCurveDisplay,
)

mpl.use("agg")
import matplotlib.pyplot as plt  # after the choice of a backend

rng = np.random.default_rng(0)
IMAGE = rng.integers(0, 256, (40, 60, 3), np.uint8)
PROMPTS = ["Good photo.", "A photo with rather a lot of compression."]
LABELS = np.array(["gaussian_blur", "jpeg2000", "white_noise"])[rng.integers(0, 3, 50)]


def maps():
    return AlignmentMapDisplay(IMAGE, rng.random((2, 4, 5)), prompts=PROMPTS)


def maps_of_blocks():
    values = rng.normal(size=(3, 2, 4, 5))
    blocks = ["down1.0", "mid.0", "up3.2"]
    return AlignmentMapDisplay(IMAGE, values, prompts=PROMPTS, blocks=blocks)


def predictions():
    y = rng.uniform(0, 100, 50)
    y_pred = y + rng.normal(0, 5, 50)
    y_pred[:3] += 60
    names = [f"a_rather_long_name_{i:04d}.png" for i in range(50)]
    return PredictionDisplay.from_predictions(
        y, y_pred, labels=LABELS, names=names, mapping="logistic5"
    )


def heatmap():
    timesteps = [(10,), (10, 50, 100, 200, 400, 800)]
    blocks = ["down*", "mid*", ["up0.0", "up1.0", "up2.0"]]
    names = {"row_name": "timesteps", "column_name": "blocks"}
    return SearchHeatmapDisplay(rng.random((2, 3)), timesteps, blocks, **names)


def wide_heatmap():
    blocks = [f"down{i}.{j}" for i in range(8) for j in range(2)]
    return SearchHeatmapDisplay(rng.random((8, 16)), range(0, 800, 100), blocks)


def curves():
    names = ["KonIQ-10k", "LIVE Challenge", "KADID-10k", "SPAQ"]
    values = {name: rng.uniform(0.5, 0.8, 6) for name in names}
    bands = {n: np.stack([v - 0.1, v + 0.1]) for n, v in values.items()}
    return TimestepCurveDisplay(np.arange(6) * 180, values, bands)


def embedding():
    points = 1000 * rng.normal(size=(50, 2))
    return EmbeddingDisplay(points, y=rng.uniform(1, 5, 50), labels=LABELS)


def frame_scores():
    thumbnails = dict.fromkeys((0, 4, 9), IMAGE)
    weights = np.full(10, 0.1)
    return FrameScoresDisplay(
        rng.uniform(1, 5, 10),
        np.arange(10),
        times=np.arange(10) / 2,
        weights=weights,
        thumbnails=thumbnails,
    )


def round_trip():
    several = np.stack([IMAGE] * 3)
    levels, similarity = np.array([0.32, 0.85, 1.0]), np.array([0.9, 0.8, 0.4, 0.1])
    return NoiseRoundTripDisplay(
        IMAGE, IMAGE, (95, 500, 950), levels, several, several, similarity
    )


def training():
    epochs = np.arange(1, 9)
    srcc = 0.9 - 0.6 / epochs
    return TrainingCurveDisplay(
        epochs, 1 / epochs, srcc=srcc, validation_srcc=srcc - 0.02 * epochs
    )


MAKERS = [
    maps,
    maps_of_blocks,
    predictions,
    heatmap,
    wide_heatmap,
    curves,
    embedding,
    frame_scores,
    round_trip,
    training,
]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def display(request):
    return request.param()


@pytest.fixture(scope="module", params=MAKERS, ids=lambda maker: maker.__name__)
def plotted(request):
    """A display that was written to a file; the settings of matplotlib before it."""
    before = mpl.rcParams.copy()
    display = request.param().plot()
    display.figure_.savefig(io.BytesIO())
    return display, before, mpl.rcParams.copy()


def test_every_display_is_here():
    assert {type(maker()).__name__ for maker in MAKERS} == set(inspection.__all__)


def test_width_is_that_of_a_column_or_a_page(plotted):
    figure = plotted[0].figure_
    assert figure.get_figwidth() in (3.5, 7.16)
    assert figure.get_figheight() < 6


def test_nothing_is_cut_off(plotted):
    figure = plotted[0].figure_
    parts = [*figure.axes, *figure.legends]
    for ax in figure.axes:
        parts += ax.child_axes
    for part in parts:
        box = part.get_tightbbox()
        assert box.x0 >= figure.bbox.x0 - 0.5 and box.x1 <= figure.bbox.x1 + 0.5, part
        assert box.y0 >= figure.bbox.y0 - 0.5 and box.y1 <= figure.bbox.y1 + 0.5, part


def test_text_can_be_read(plotted):
    figure = plotted[0].figure_
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
    assert {t.get_fontsize() for t in texts} <= {7, 8}


def test_rcparams_are_left_alone(plotted):
    _, before, after = plotted
    assert after == before


def test_it_is_drawn_anew_from_the_same_numbers(display):
    stored = {k: v for k, v in vars(display).items() if not k.endswith("_")}
    first = display.plot().figure_
    assert display.plot() is display
    assert display.figure_ is not first
    assert all(vars(display)[name] is value for name, value in stored.items())
    images = [np.asarray(f.canvas.buffer_rgba()) for f in map(drawn, (first, display))]
    np.testing.assert_array_equal(*images)


def drawn(display):
    figure = getattr(display, "figure_", display)
    figure.canvas.draw()
    return figure


@pytest.mark.parametrize(
    ("maker", "style", "read"),
    [
        (predictions, {"alpha": 0.2}, lambda d: d.scatters_[0].get_alpha() == 0.2),
        (heatmap, {"cmap": "cividis"}, lambda d: d.image_.cmap.name == "cividis"),
        (maps, {"alpha": 0.3}, lambda d: d.axes_[1].images[1].get_alpha() == 0.3),
        (curves, {"linewidth": 3}, lambda d: d.lines_[0].get_linewidth() == 3),
        (curves, {"band_alpha": 0}, lambda d: d.bands_[0].get_alpha() == 0),
        (
            embedding,
            {"y_name": "DMOS"},
            lambda d: "DMOS" in d.colorbar_.ax.get_ylabel(),
        ),
        (embedding, {"size": 30}, lambda d: d.scatters_[0].get_sizes() == [30]),
        (frame_scores, {"color": "red"}, lambda d: d.line_.get_color() == "red"),
        (
            round_trip,
            {"interpolation": "nearest"},
            lambda d: d.axes_[0, 0].images[0].get_interpolation() == "nearest",
        ),
    ],
)
def test_styles(maker, style, read):
    display = maker()
    assert not read(display.plot())
    assert read(display.plot(**style))


@pytest.mark.parametrize(
    "maker", [predictions, heatmap, curves, embedding, frame_scores]
)
def test_given_axes_keep_their_own_sizes(maker):
    figure, ax = plt.subplots(figsize=(6, 5))
    display = maker().plot(ax)
    assert (display.ax_, display.figure_) == (ax, figure)
    assert ax.xaxis.label.get_fontsize() == mpl.rcParams["font.size"]
    assert not figure.legends
