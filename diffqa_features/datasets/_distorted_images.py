"""References and distortion families in, a graded dataset with groups out."""

import io
import itertools
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
from diffqa_features.datasets._chains import apply_chain, draw_chain
from diffqa_features.datasets._distortions import BASIC, FAMILIES
from diffqa_features.datasets._graded import (
    check_families,
    check_size,
    grade_rng,
    graded_set,
    named_rows,
)
from diffqa_features.datasets._jod import jod_of_picture
from diffqa_features.datasets._sample_photos import central_square, load_sample_photos

# Wang et al. (2004): Gaussian window of 11 x 11 with sigma 1.5, population covariance.
_SSIM = {
    "data_range": 255,
    "gaussian_weights": True,
    "sigma": 1.5,
    "use_sample_covariance": False,
}
_SMALLEST = 11  # that window must fit
_SMALLEST_JOD = 32  # pixels, for the pyramid of ColorVideoVDP
_JOD = "JOD to the reference by ColorVideoVDP (standard_4k), 10 for no visible loss"
_SETS = {"basic": BASIC, "all": tuple(FAMILIES), "realistic": ("realistic",)}


@validate_params(
    {
        "references": ["array-like", None],
        "families": [StrOptions({*_SETS, *FAMILIES}), InOrder()],
        "n_levels": [Interval(Integral, 2, None, closed="left")],
        "image_size": [Interval(Integral, _SMALLEST, None, closed="left"), None],
        "folder": [str, os.PathLike, None],
        "target": [StrOptions({"level", "jod"})],
        "full_reference": [StrOptions({"ssim", "jod"})],
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
    families="basic",
    n_levels=5,
    image_size=192,
    target="level",
    full_reference="ssim",
    folder=None,
    include_references=False,
    random_state=0,
    return_X_y=False,
    as_frame=False,
):
    """Distort photographs with known distortions at graded levels, as KADID-10k does.

    No human rated these pictures. Minus the level, the default target, is exact within
    a family and a photograph, and a poor guess across them: its rank correlation with
    visible loss (JOD) over families is 0.76. With ``target="jod"`` pictures of all
    families and photographs share one scale. Split by `groups`, so that no photograph
    is on both sides.

    Parameters
    ----------
    references : list of media, ndarray of shape (n, H, W, 3) or None, default=None
        Still pictures: paths, PIL pictures or arrays. ``None`` uses
        :func:`load_sample_photos`.
    families : str or list of str, default="basic"
        Distortions. ``"basic"`` are these sixteen: ``"gaussian_blur"``,
        ``"lens_blur"``, ``"motion_blur"``, ``"white_noise"``, ``"color_noise"``,
        ``"impulse_noise"``, ``"jpeg"`` (4:2:0), ``"jpeg2000"``, ``"pixelate"``,
        ``"quantise"``, ``"oversharpen"``, ``"low_contrast"``, ``"brighten"``,
        ``"darken"``, ``"desaturate"``, ``"oversaturate"``. ``"all"`` are these and
        ``"double_jpeg"``, ``"webp"``, ``"avif"``, ``"ringing"``, ``"camera_shake"``,
        ``"uneven_blur"``, ``"denoise"``, ``"poisson_noise"``, ``"speckle_noise"``,
        ``"luma_noise"``, ``"grain"``, ``"banding"``, ``"color_quantise"``,
        ``"unsharp"``, ``"upscale"``, ``"demosaic"``, ``"low_light"``,
        ``"overexpose"``, ``"haze"``, ``"mean_shift"``, ``"high_contrast"``,
        ``"color_cast"``, ``"color_diffusion"``, ``"color_shift"``,
        ``"chromatic_aberration"``, ``"jitter"``, ``"patches"``, ``"color_blocks"``.

        ``"realistic"`` are chains of two to four of them in the order in which a
        camera and then a network take them (blur, noise, tone, colour, sharpening,
        size, compression). Every level has a chain of its own, whose strongest step
        has the severity of the level, so levels of chains compare badly: ask for
        ``target="jod"``.
    n_levels : int, default=5
        Levels per family, at least 2. Level 1 is the mildest setting of a family,
        visible to a careful observer; level `n_levels` is the strongest, clearly bad;
        the levels in between are evenly spaced in severity.
    image_size : int or None, default=192
        Height and width in pixels of the central square that is cut out of each
        reference and reduced before it is distorted. ``None`` keeps the references
        whole.
    target : {"level", "jod"}, default="level"
        ``"level"`` is minus the level. ``"jod"`` is what ColorVideoVDP [3]_ makes of
        picture and reference, in just-objectionable differences: 10 is no visible
        loss, and of two pictures that are one apart three of four people prefer the
        better. It was fitted to human judgements. Needs the extra ``jod`` and about
        0.05 s per picture at the default size.
    full_reference : {"ssim", "jod"}, default="ssim"
        What is returned beside the target under this name.
    folder : str, path-like or None, default=None
        Write the pictures there as lossless PNG files named
        ``<group>_<family>_<level>.png`` and return their paths. The folder is created
        if necessary. An existing file with the same bytes is left alone; any other file
        of that name is replaced. Files are written atomically. ``None`` keeps the
        pictures in memory (110 kB each at the default size).
    include_references : bool, default=False
        Return the undistorted references too, with family ``"reference"``, level 0
        and target 0 (10 in JOD).
    random_state : int, RandomState instance or None, default=0
        Seed of all that is random in distortions. A picture depends on
        the pixels of its reference, the family, the level and this seed only, and not
        on what else is asked for in the same call.
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
            Minus the level, or JOD; higher is better.
        groups : ndarray of shape (n,), dtype str
            Name of the reference: the file name without its extension, or
            ``reference<row>`` if there is no file name.
        family : ndarray of shape (n,), dtype str
            Name of the distortion.
        level : ndarray of shape (n,), dtype int64
            1 to `n_levels`, and 0 for references.
        full_reference : ndarray of shape (n,), dtype float64
            ``"ssim"``: structural similarity of the luminance to the reference, 1 is
            equal; it does not see changes of colour alone. ``"jod"``: see `target`.
        chain : list of list of (str, float)
            Per picture the distortions it went through, in order, and their severities,
            0 for the mildest setting and 1 for the strongest; a step of a chain may be
            below 0, hardly or not visible.
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
        (or than 11 pixels, 32 for JOD), or if ``as_frame=True`` comes without `folder`.
    ImportError
        If JOD is asked for and ColorVideoVDP cannot be imported.

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
    .. [3] Mantiuk, R. K., Hanji, P., Ashraf, M., Asano, Y. and Chapiro, A. (2024).
       ColorVideoVDP: A visual difference predictor for image, video and display
       distortions. ACM Transactions on Graphics 43(4).

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
    family_names = check_families(families, _SETS, "make_distorted_images")
    seed = check_random_state(random_state).randint(2**31 - 1)
    wanted = sorted({full_reference, target} - {"level"})
    smallest = _SMALLEST_JOD if "jod" in wanted else _SMALLEST
    if image_size is not None and image_size < smallest:
        raise ValueError(
            f"The 'image_size' parameter of make_distorted_images must be at least "
            f"{smallest} for JOD. Got {image_size} instead."
        )
    data, facts, chains, measured = [], [], [], []
    for group, reference in _references(references, image_size, smallest):
        grades = _grades(reference, family_names, n_levels, seed)
        if include_references:
            grades = itertools.chain([("reference", 0, [], reference)], grades)
        for family, level, chain, image in grades:
            data.append(_keep(image, folder, f"{group}_{family}_{level}"))
            facts.append((group, family, level))
            chains.append(chain)
            measured.append([_MEASURES[name](reference, image) for name in wanted])
    group, family, level = map(np.array, zip(*facts, strict=True))
    measured = dict(zip(wanted, np.array(measured).T, strict=True))
    return graded_set(
        data,
        {
            "group": group,
            "family": family,
            "level": level,
            "full_reference": measured[full_reference],
        },
        _describe(
            family_names, n_levels, len(set(group.tolist())), len(level), target,
            full_reference,
        ),
        target=measured.get(target),
        return_X_y=return_X_y,
        as_frame=as_frame,
        chain=chains,
        family_names=family_names,
    )  # fmt: skip


def _references(references, image_size, smallest) -> Iterator[tuple[str, np.ndarray]]:
    """Names, all different, and pictures."""
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
        check_size(row, image, image_size or smallest)
        yield name, image if image_size is None else central_square(image, image_size)


def _grades(
    reference: np.ndarray, families: list[str], n_levels: int, seed: int
) -> Iterator[tuple[str, int, list[tuple[str, float]], np.ndarray]]:
    """Family, level, chain and picture, without pictures that equal the reference."""
    content = pixel_key(reference)
    severities = np.linspace(0, 1, n_levels).tolist()
    for family in families:
        for level, severity in enumerate(severities, start=1):
            rng = grade_rng(seed, content, family, level)
            chain = [(family, severity)]
            if family == "realistic":
                chain = draw_chain(rng, severity)
            image = apply_chain(reference, chain, rng)
            if not np.array_equal(image, reference):
                yield family, level, chain, image


def _similarity(reference: np.ndarray, image: np.ndarray) -> float:
    luma = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    return float(structural_similarity(reference @ luma, image @ luma, **_SSIM))


_MEASURES = {"ssim": _similarity, "jod": jod_of_picture}


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


def _describe(families, n_levels, n_groups, n, target, full_reference) -> str:
    meaning = {"level": "minus the level", "jod": _JOD}[target]
    measure = {"ssim": "SSIM of the luminance to the reference", "jod": _JOD}
    return "\n".join(
        [
            "Distorted images",
            "================",
            "",
            f"{n} pictures from {n_groups} references, {len(families)} distortion "
            f"families at up to {n_levels} levels: {', '.join(families)}.",
            "",
            f"target: {meaning}, higher is better; no human rated the pictures.",
            "groups: name of the reference; split by it.",
            f"full_reference: {measure[full_reference]}.",
            "chain: the distortions of each picture, in order, and their severities.",
        ]
    )
