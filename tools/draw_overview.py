"""Draw the picture of the README and of the documentation's first page.

    python tools/draw_overview.py docs/_static/overview.png

Everything in it is computed here with ``tiny``: the maps of a photograph of which one
half is blurred, and predictions for photographs that were held out.
"""

import argparse
import io

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from diffqa_features import DiffusionQAFeatures, PromptAlignmentMaps, datasets
from diffqa_features.inspection import PredictionDisplay

PHOTO = "chelsea"
FAMILIES = ["gaussian_blur", "white_noise", "jpeg"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="PNG to write")
    photos = datasets.load_sample_photos()
    fig, (left, middle, right) = plt.subplots(
        1, 3, figsize=(9, 2.9), layout="constrained", width_ratios=(1, 1, 1.45)
    )
    out = parser.parse_args().out
    draw_map(left, middle, half_blurred(photos.data[photos.names.index(PHOTO)]))
    draw_predictions(right, photos.data)
    buffer = io.BytesIO()
    fig.savefig(buffer, dpi=110)
    # A palette: a third of the size, in every clone.
    Image.open(buffer).convert("RGB").quantize(256).save(out, optimize=True)


def half_blurred(photo):
    blurred = gaussian_filter(photo.astype(np.float32), (3, 3, 0))
    picture = photo.copy()
    half = photo.shape[1] // 2
    picture[:, half:] = blurred[:, half:].round().astype(np.uint8)
    return picture


def draw_map(left, middle, picture):
    prompts = "a blurred photo.", "a sharp photo."
    blurred, sharp = PromptAlignmentMaps(prompts=prompts).maps([picture])[0]
    left.imshow(picture)
    left.set_title("right half is blurred", fontsize="medium")
    height, width = picture.shape[:2]
    middle.imshow(picture.mean(-1), cmap="gray")
    middle.imshow(
        blurred - sharp,
        cmap="viridis",
        alpha=0.6,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="bilinear",
    )
    middle.set_title("attention to “blurred”, less “sharp”", fontsize="medium")
    for ax in (left, middle):
        ax.set_axis_off()


def draw_predictions(ax, photos):
    data = datasets.make_distorted_images(photos[:10], families=FAMILIES, n_levels=4)
    model = make_pipeline(DiffusionQAFeatures(), StandardScaler(), SVR(C=10))
    predicted = cross_val_predict(
        model, data.data, data.target, groups=data.groups, cv=GroupKFold(5)
    )
    display = PredictionDisplay(data.target, predicted, labels=data.family)
    display.plot(ax, spread=0.5)
    ax.legend(handles=display.scatters_, loc="lower right", frameon=False)
    ax.set_xlabel("minus the level of distortion")
    ax.set_ylabel("predicted")


if __name__ == "__main__":
    main()
