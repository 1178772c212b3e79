"""References and distortion families in, a graded dataset with groups out."""

import io
import os
from collections.abc import Iterator
from numbers import Integral

import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from diffqa_features._media.rows import open_media, pixel_key
from diffqa_features._utils.checks import InOrder
from diffqa_features._utils.files import local_path, write_whole
from diffqa_features.datasets._distortions import FAMILIES, distort
from diffqa_features.datasets._graded import (
    check_families,
    check_size,
    grade_rng,
    graded_set,
    named_rows,
)
from diffqa_features.datasets._sample_photos import central_square, load_sample_photos

# Wang et al. (2004): Gaussian window of 11 x 11 with sigma 1.5, population covariance.
_SSIM = {
    "data_range": 255,
    "gaussian_weights": True,
    "sigma": 1.5,
    "use_sample_covariance": False,
}
_SMALLEST = 11  # that window must fit


@validate_params(
    {
        "references": ["array-like", None],
        "families": [StrOptions({"all", *FAMILIES}), InOrder()],
        "n_levels": [Interval(Integral, 2, None, closed="left")],
        "image_size": [Interval(Integral, _SMALLEST, None, closed="left"), None],
        "folder": [str, os.PathLike, None],
        "include_references": ["boolean"],
        "random_state": ["random_state"],
        "return_X_y": ["boolean"],
        "as_frame": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def make_distorted_images(
    references=None,
    *,
    families="all",
    n_levels=5,
    image_size=192,
    folder=None,
    include_references=False,
    random_state=0,
    return_X_y=False,
    as_frame=False,
):
    """Distort photographs with known distortions at graded levels, as KADID-10k does.

    The target is the negated level. It is exact, but comparable across families and
    photographs only as far as the levels are: no human rated these pictures. Split by
    `groups`, so that no photograph is on both sides of a split.

    Parameters
    ----------
    references : list of media, ndarray of shape (n, H, W, 3) or None, default=None
        Still pictures: paths, PIL pictures or arrays. ``None`` uses
        :func:`load_sample_photos`.
    families : "all", str or list of str, default="all"
        Distortions: ``"gaussian_blur"``, ``"lens_blur"``, ``"motion_blur"``,
        ``"white_noise"``, ``"color_noise"``, ``"impulse_noise"``, ``"jpeg"``,
        ``"jpeg2000"``, ``"pixelate"``, ``"quantise"``, ``"oversharpen"``,
        ``"low_contrast"``, ``"brighten"``, ``"darken"``, ``"desaturate"``,
        ``"oversaturate"``. ``"all"`` means all sixteen.
    n_levels : int, default=5
        Levels per family, at least 2. Level 1 is the mildest setting of a family,
        visible to a careful observer; level `n_levels` is the strongest, clearly bad;
        the levels in between are evenly spaced in severity.
    image_size : int or None, default=192
        Side in pixels. The central square of each reference is cropped and downscaled
        to this size before it is distorted. ``None`` keeps the references whole.
    folder : str, path-like or None, default=None
        Write the pictures there as lossless PNG files named
        ``<group>_<family>_<level>.png`` and return their paths. The folder is created
        if necessary. An existing file with the same bytes is left alone; any other file
        of that name is replaced. Files are written atomically. ``None`` keeps the
        pictures in memory (110 kB each at the default size).
    include_references : bool, default=False
        Also return the undistorted references, with family ``"reference"``, level 0 and
        target 0.
    random_state : int, RandomState instance or None, default=0
        Seed of the noise and of the direction of motion blur. A picture depends only on
        the pixels of its reference, the family, the level and this seed, not on what
        else the same call requests.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        Return `data` as a DataFrame with the single column ``path``, and `target` as a
        Series. Needs `folder` and pandas.

    Returns
    -------
    images : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes below; pictures are ordered by
        reference, family and level.

        data : list of ndarray of shape (H, W, 3), dtype uint8; list of str; DataFrame
            The pictures, or their paths.
        target : ndarray of shape (n,), dtype float64, or Series
            The negated level; higher is better.
        groups : ndarray of shape (n,), dtype str
            Name of the reference: the file name without its extension, or
            ``reference<row>`` if there is no file name.
        family : ndarray of shape (n,), dtype str
            Name of the distortion.
        level : ndarray of shape (n,), dtype int64
            1 to `n_levels`, and 0 for references.
        full_reference : ndarray of shape (n,), dtype float64
            Structural similarity (SSIM) to the reference in luminance; 1 means
            identical. Pure colour changes do not affect it.
        family_names : list of str
            The requested distortions.
        frame : DataFrame or None
            With ``as_frame=True``, all columns in one table.
        DESCR : str
            How the pictures were made.

    (data, target) : tuple
        If `return_X_y` is true.

    Raises
    ------
    ValueError
        If a family is unknown, if a reference is a video or smaller than `image_size`
        (or than 11 pixels), or if ``as_frame=True`` is used without `folder`.

    Notes
    -----
    If a distortion does not change a picture at all, as desaturation does to a grey
    photograph, the picture is left out: its bad grade would be unjustified.

    References
    ----------
    .. [1] Lin, H., Hosu, V. and Saupe, D. (2019). KADID-10k: A large-scale
       artificially distorted IQA database. QoMEX.
    .. [2] Wang, Z., Bovik, A. C., Sheikh, H. R. and Simoncelli, E. P. (2004). Image
       quality assessment: from error visibility to structural similarity. IEEE
       Transactions on Image Processing 13(4).

    Examples
    --------
    >>> from diffqa_features.datasets import make_distorted_images
    >>> images = make_distorted_images(families=["jpeg", "white_noise"], n_levels=3)
    >>> len(images.data), images.data[0].shape
    (96, (192, 192, 3))
    >>> print(images.groups[0], images.family[0], images.level[0], images.target[0])
    china jpeg 1 -1.0
    """
    if as_frame and folder is None:
        raise ValueError(
            "as_frame=True needs folder=...: a table holds paths, not pictures."
        )
    family_names = check_families(families, {"all": FAMILIES}, "make_distorted_images")
    seed = check_random_state(random_state).randint(2**31 - 1)
    data, facts = [], []
    for group, reference in _references(references, image_size):
        if include_references:
            data.append(_keep(reference, folder, f"{group}_reference_0"))
            facts.append((group, "reference", 0, 1.0))
        for family, level, image in _grades(reference, family_names, n_levels, seed):
            data.append(_keep(image, folder, f"{group}_{family}_{level}"))
            facts.append((group, family, level, _similarity(reference, image)))
    group, family, level, full_reference = map(np.array, zip(*facts, strict=True))
    columns = {
        "group": group,
        "family": family,
        "level": level,
        "full_reference": full_reference,
    }
    return graded_set(
        data,
        columns,
        _describe(family_names, n_levels, len(set(group.tolist())), len(level)),
        return_X_y=return_X_y,
        as_frame=as_frame,
        family_names=family_names,
    )


def _references(references, image_size) -> Iterator[tuple[str, np.ndarray]]:
    """Unique names, and pictures."""
    if references is None:
        photos = load_sample_photos(image_size=image_size)
        yield from zip(photos.names, photos.data, strict=True)
        return
    for name, row in named_rows(references):
        media = open_media(row)
        if not media.is_still:
            raise row.error(
                "a video, but references are still pictures; give "
                "one of its frames as an array."
            )
        (image,) = media.frames()
        check_size(row, image, image_size or _SMALLEST)
        yield name, image if image_size is None else central_square(image, image_size)


def _grades(
    reference: np.ndarray, families: list[str], n_levels: int, seed: int
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Family, level and picture, without pictures that equal the reference."""
    content = pixel_key(reference)
    severities = np.linspace(0, 1, n_levels)
    for family in families:
        for level, severity in enumerate(severities, start=1):
            rng = grade_rng(seed, content, family, level)
            image = distort(reference, family, severity, rng)
            if not np.array_equal(image, reference):
                yield family, level, image


def _similarity(reference: np.ndarray, image: np.ndarray) -> float:
    luma = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    return float(structural_similarity(reference @ luma, image @ luma, **_SSIM))


def _keep(image: np.ndarray, folder, name: str):
    """The picture itself, or the path of its file."""
    if folder is None:
        return image
    path = local_path(folder, "The 'folder' parameter") / f"{name}.png"
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    content = buffer.getvalue()
    if path.is_file() and path.read_bytes() == content:
        return str(path)
    # Two calls may make the same set: each file is then written by one after the other.
    write_whole(path, content, wait=True)
    return str(path)


def _describe(families: list[str], n_levels: int, n_groups: int, n: int) -> str:
    return "\n".join(
        [
            "Distorted images",
            "================",
            "",
            f"{n} pictures from {n_groups} references, {len(families)} distortion "
            f"families at up to {n_levels} levels: {', '.join(families)}.",
            "",
            "target: minus the level, higher is better; no human rated the pictures.",
            "groups: name of the reference; split by it.",
            "full_reference: SSIM of the luminance to the reference.",
        ]
    )
