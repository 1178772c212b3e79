"""`diffqa demo`: distorted photographs in, a table against a baseline, pictures out."""

import time

import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils._optional_dependencies import check_matplotlib_support

from diffqa_features import DiffusionQAFeatures, datasets, metrics
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._commands._demo_pictures import draw_pictures
from diffqa_features._utils.files import local_path, write_whole
from diffqa_features.features import NaturalSceneStatistics

FAMILIES = (
    "gaussian_blur", "white_noise", "jpeg", "jpeg2000", "pixelate", "oversharpen",
)  # fmt: skip
LEVELS = 4
# With ten photographs 1,440 UNet rows: three minutes at eight rows per second.
TIMESTEPS = (10, 50, 200)
BLOCKS = ("down*", "mid*", "up*", "all")


def run(args):
    """Run the command."""
    started = time.perf_counter()
    check_matplotlib_support("diffqa demo")
    if args.photos < 2:
        raise ValueError("--photos must be at least 2: some are held out.")
    out = local_path(args.out, "--out")
    size = args.size or describe_backbone(args.backbone).image_size
    features = DiffusionQAFeatures(
        args.backbone, image_size=size, device=args.device, memory=str(out / "store")
    ).fit()
    images = _make_images(out / "images", args.photos, size)

    print(
        f"\nFeatures of {args.backbone} at timesteps {', '.join(map(str, TIMESTEPS))}; "
        f"they are kept in {out / 'store'}, so that\nthe search below and a second run "
        "compute none of them again."
    )
    clone(features).set_params(timesteps=TIMESTEPS, verbose=1).transform(images.data)

    cv = GroupKFold(min(5, args.photos))
    search = _search(features, images, cv)
    best = search.best_params_
    print(
        f"\nGrid search, {cv.get_n_splits()} folds, whole photographs held out: best "
        f"are timestep {best['features__timesteps']}\nand blocks "
        f"{best['features__blocks']!r} (chosen on these very folds)."
    )
    options = {"groups": images.groups, "cv": cv}
    predicted = {
        name: cross_val_predict(model, images.data, images.target, **options)
        for name, model in (
            ("diffusion", search.best_estimator_),
            ("baseline", _with_regressor(NaturalSceneStatistics())),
        )
    }
    table = _compare(images, predicted)
    _show(table)
    write_whole(out / "results.csv", table.to_csv(index=False))
    written = draw_pictures(out, search, features, images, predicted["diffusion"])
    print(f"\nWritten to {out}: results.csv, {', '.join(written)}.")
    print(f"Took {time.perf_counter() - started:.0f} s.")
    print(f"\nNext: diffqa extract {out / 'images'} --out features.parquet")
    return 0


def _make_images(folder, n_photos, size):
    photos = datasets.load_sample_photos(image_size=size)
    if len(photos.data) < n_photos:
        raise ValueError(
            f"--photos {n_photos}: there are {len(photos.data)} photographs of {size} "
            "pixels a side; ask for fewer, or a smaller --size."
        )
    images = datasets.make_distorted_images(
        photos.filenames[:n_photos],
        families=FAMILIES,
        n_levels=LEVELS,
        image_size=size,
        folder=folder,
    )
    print(
        f"{len(images.data)} pictures of {size} x {size} pixels in {folder}: "
        f"{n_photos} photographs,\n{len(FAMILIES)} distortions, {LEVELS} levels. The "
        "target is minus the level; nobody rated them."
    )
    return images


def _with_regressor(features):
    return Pipeline(
        [("features", features), ("scale", StandardScaler()), ("svr", SVR(C=10))]
    )


def _search(features, images, cv):
    grid = {"features__timesteps": TIMESTEPS, "features__blocks": BLOCKS}
    search = GridSearchCV(
        _with_regressor(features), grid, scoring=metrics.srcc_scorer, cv=cv
    )
    return search.fit(images.data, images.target, groups=images.groups)


def _compare(images, predicted):
    """SRCC and PLCC of held-out predictions: over all, and within each distortion."""
    rows = []
    for name in ("all", *images.family_names):
        chosen = (images.family == name) | (name == "all")
        row = {"distortion": name, "n": int(chosen.sum())}
        for method, values in predicted.items():
            scores = images.target[chosen], values[chosen]
            row[f"srcc_{method}"] = metrics.srcc_score(*scores)
            row[f"plcc_{method}"] = metrics.plcc_score(*scores)
        rows.append(row)
    return pd.DataFrame(rows)


def _show(table):
    print(f"\n{'':<16}{'':>4}  {'diffusion features':>20}  {'scene statistics':>20}")
    print(f"{'distortion':<16}{'n':>4}" + f"  {'SRCC':>11}{'PLCC':>9}" * 2)
    for row in table.itertuples(index=False):
        name, n, *scores = row
        cells = "".join(
            f"  {srcc:>11.3f}{plcc:>9.3f}"
            for srcc, plcc in zip(scores[::2], scores[1::2])
        )
        print(f"{name:<16}{n:>4}{cells}")
        if name == "all":
            print("-" * 64)
