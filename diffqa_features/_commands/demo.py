"""`diffqa demo`: a folder scored as it is, then a model trained and compared."""

import time
from argparse import Namespace

import pandas as pd
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils._optional_dependencies import check_matplotlib_support

from diffqa_features import DiffusionQAFeatures, datasets, metrics
from diffqa_features._backbone.info import describe_backbone
from diffqa_features._commands import report, score
from diffqa_features._commands._demo_pictures import draw_pictures
from diffqa_features._utils.files import local_path, write_whole
from diffqa_features.features import NaturalSceneStatistics

FAMILIES = (
    "gaussian_blur", "white_noise", "jpeg", "jpeg2000", "pixelate", "oversharpen",
)  # fmt: skip
LEVELS = 4
# With ten photographs 1,440 UNet rows: three minutes at eight rows per second.
TIMESTEPS = (10, 50, 200)
_MARKER = ".diffqa-demo"
BLOCKS = ("down*", "mid*", "up*", "all")


def run(args):
    """Run the command."""
    started = time.perf_counter()
    check_matplotlib_support("diffqa demo")
    if args.photos < 2:
        raise ValueError("--photos must be at least 2: some are held out.")
    out = local_path(args.out, "--out")
    _check_folder(out)
    size = args.size or describe_backbone(args.backbone).image_size
    features = DiffusionQAFeatures(
        args.backbone, image_size=size, device=args.device, memory=str(out / "store")
    ).fit()
    write_whole(out / _MARKER, "")
    images, originals = _make_images(out / "images", args.photos, size)
    _score_folder(out, images, originals, args.device)

    print(
        f"\nNow a model is trained on them. Features of {args.backbone} at timesteps "
        f"{', '.join(map(str, TIMESTEPS))};\nthey are kept in {out / 'store'}, so that "
        "the search below and a second run\ncompute none of them again."
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
    written = ["scores.csv", "report.html", "results.csv", *written]
    print(f"\nWritten to {out}: {', '.join(written)}.")
    print(f"Look at {out / 'report.html'} in a browser.")
    print(f"Took {time.perf_counter() - started:.0f} s.")
    print(f"\nNext: diffqa extract {out / 'images'} --out features.parquet")
    return 0


def _score_folder(out, images, originals, device):
    """What `diffqa score` and `diffqa report` make of the pictures."""
    print(
        f"\nScored without training, as 'diffqa score {out / 'images'} -r' and "
        "'diffqa report' do:"
    )
    options = Namespace(
        inputs=[str(out / "images")],
        recursive=True,
        path_column="path",
        model=None,
        compare=None,
        large_views=40,
        on_error="raise",
        quote_formulas=False,
        quiet=False,
        chunk_size=64,
        device=device,
        batch_size=None,
        n_jobs=None,
        memory=None,
        reader=None,
    )
    for command, name in ((score, "scores.csv"), (report, "report.html")):
        command.run(Namespace(**vars(options), out=str(out / name)))
    scores = pd.read_csv(out / "scores.csv").set_index("path")["score"]
    table = pd.DataFrame(
        {
            "family": images.family,
            "level": images.level,
            "jod": scores[images.data].to_numpy(),
        }
    ).pivot_table(index="family", columns="level", values="jod")
    untouched = scores[originals].median()
    print(
        f"\nJOD, 10 for no visible loss; the photographs as they are: {untouched:.1f}"
    )
    print(f"{'distortion':<16}" + "".join(f"{f'level {n}':>10}" for n in table))
    for name, row in table.iterrows():
        print(f"{name:<16}" + "".join(f"{value:>10.1f}" for value in row))


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
    originals = [
        folder / "originals" / f"{name}.png" for name in photos.names[:n_photos]
    ]
    originals[0].parent.mkdir(exist_ok=True)
    for path, photo in zip(originals, photos.data):
        Image.fromarray(photo).save(path)
    print(
        f"{len(images.data)} pictures of {size} x {size} pixels in {folder}: "
        f"{n_photos} photographs,\n{len(FAMILIES)} distortions, {LEVELS} levels. The "
        "target is minus the level; nobody rated them."
    )
    return images, list(map(str, originals))


def _check_folder(out):
    """FileExistsError if a folder holds files, and was not made by a demo."""
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    # Those of earlier versions have no marker.
    if _MARKER in names or {"images", "store"} <= names:
        return
    names = sorted(name for name in names if not name.startswith("."))
    if names:
        raise FileExistsError(
            f"'{out}' holds other files ({names[0]}, ...) and no demo, which would "
            "replace files of the same names; choose another --out."
        )


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
