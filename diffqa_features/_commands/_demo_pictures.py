"""Results of the demo in, its three pictures out."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageFilter

from diffqa_features import PromptAlignmentMaps, datasets
from diffqa_features._utils.files import whole_file
from diffqa_features.inspection import (
    AlignmentMapDisplay,
    PredictionDisplay,
    SearchHeatmapDisplay,
)

PROMPTS = ("a sharp photo.", "a blurred photo.")
_PHOTOS = ("coffee", "chelsea")


def draw_pictures(out, search, features, images, predicted):
    """Write the pictures into the folder `out`; return their names."""
    drawings = {
        "alignment_maps.png": lambda: _draw_maps(features),
        "prediction.png": lambda: _draw_prediction(images, predicted),
        "grid.png": lambda: _draw_grid(search),
    }
    plt.switch_backend("agg")  # no display is needed to write a file
    for name, draw in drawings.items():
        figure = draw()
        with whole_file(out / name) as path:
            # As sharp for the figures of a column as for the wide one.
            dpi = 220 if figure.get_figwidth() < 8 else 130
            figure.savefig(path, dpi=dpi, format="png")
        plt.close(figure)
    return list(drawings)


def _draw_maps(features):
    maps = PromptAlignmentMaps(
        features.backbone,
        prompts=PROMPTS,
        timesteps=50,
        image_size=features.image_size,
        device=features.device,
        memory=features.memory,
    )
    photos = datasets.load_sample_photos(image_size=features.image_size)
    by_name = dict(zip(photos.names, photos.data))
    chosen = [by_name[name] for name in _PHOTOS if name in by_name] or photos.data[:2]
    figure, axes = plt.subplots(
        len(chosen),
        4,
        figsize=(11, 3.1 * len(chosen) + 0.3),
        layout="constrained",
        squeeze=False,
    )
    for photo, row in zip(chosen, axes):
        display = AlignmentMapDisplay.from_estimator(
            maps, [blur_left_half(photo)], ax=row, difference=True
        )
        display.axes_[0].set_title("left half blurred")
    figure.suptitle("Where each prompt is attended to", fontsize="large")
    return figure


def blur_left_half(photo):
    """The photograph (H, W, 3) with its left half out of focus."""
    w = photo.shape[1]
    blurred = Image.fromarray(photo).filter(ImageFilter.GaussianBlur(w / 48))
    photo = photo.copy()
    photo[:, : w // 2] = np.asarray(blurred)[:, : w // 2]
    return photo


def _draw_prediction(images, predicted):
    names = [Path(path).stem for path in images.data]
    display = PredictionDisplay.from_predictions(
        images.target, predicted, labels=images.family, names=names, spread=0.6
    )
    display.ax_.set(
        xlabel="target: minus the level of distortion",
        ylabel="prediction for a held-out photograph",
        xticks=np.unique(images.target),
    )
    return display.figure_


def _draw_grid(search):
    display = SearchHeatmapDisplay.from_estimator(
        search,
        rows="features__timesteps",
        columns="features__blocks",
        score_name="SRCC, mean over folds",
    )
    display.ax_.set_ylabel("timestep")
    return display.figure_
