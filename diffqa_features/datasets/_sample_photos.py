"""Real photographs from the installed scikit-learn and scikit-image packages."""

from importlib.util import find_spec
from numbers import Integral
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, validate_params

from diffqa_features._media.rows import as_rows, open_media

_CC0 = "CC0 1.0"
_PUBLIC = "no known copyright restrictions"
_UNSTATED = "distributed with scikit-image (BSD-3-Clause), source not stated there"

# Left out although they are at hand: drawings and masks (logo, horse, phantom, colour
# wheel, chessboards), a picture of 102 pixels (microaneurysms), a phase map computed
# from a hologram (cell), a photograph that was taken blurred (clock_motion), and the
# second view of a scene that is already there (motorcycle_right).
_PHOTOS = {
    "china": ("sklearn", "china.jpg", "CC BY 2.0, danielbuechele on Flickr"),
    "flower": ("sklearn", "flower.jpg", "CC BY 2.0, vultilion on Flickr"),
    "astronaut": ("skimage", "astronaut.png", "public domain, NASA Great Images"),
    "brick": ("skimage", "brick.png", f"{_CC0}, CC0Textures"),
    "camera": ("skimage", "camera.png", f"{_CC0}, Lav Varshney"),
    "chelsea": ("skimage", "chelsea.png", f"{_CC0}, Stefan van der Walt"),
    "coffee": ("skimage", "coffee.png", f"{_CC0}, Rachel Michetti"),
    "coins": ("skimage", "coins.png", f"{_PUBLIC}, Brooklyn Museum Collection"),
    "grass": ("skimage", "grass.png", f"{_CC0}, linolafett on DeviantArt"),
    "gravel": ("skimage", "gravel.png", f"{_CC0}, CC0Textures"),
    "hubble": ("skimage", "hubble_deep_field.jpg", "public domain, NASA HubbleSite"),
    "moon": ("skimage", "moon.png", _UNSTATED),
    "motorcycle": (
        "skimage",
        "motorcycle_left.png",
        "Middlebury 2014 stereo benchmark (Scharstein et al., GCPR 2014)",
    ),
    "page": ("skimage", "page.png", _UNSTATED),
    "retina": ("skimage", "retina.jpg", f"{_CC0}, Mikael Häggström"),
    "rocket": ("skimage", "rocket.jpg", "public domain, SpaceX Photos"),
    "text": ("skimage", "text.png", "public domain, Wikipedia (Corner.png)"),
    "tissue": ("skimage", "ihc.png", f"{_PUBLIC}, CMMI"),
}
_FOLDERS = {"sklearn": "datasets/images", "skimage": "data"}


@validate_params(
    {"image_size": [Interval(Integral, 1, None, closed="left"), None]},
    prefer_skip_nested_validation=True,
)
def load_sample_photos(*, image_size=192):
    """Load real photographs from other installed packages.

    Nothing is downloaded: the files are part of the wheels of scikit-learn and
    scikit-image. They show people, animals, objects, landscapes, textures, a printed
    page, the sky and a microscope slide; eight of the 18 are greyscale. None was used
    to train the bundled ``tiny`` backbone.

    Parameters
    ----------
    image_size : int or None, default=192
        Side in pixels: the largest central square is cropped and downscaled with an
        antialiasing (Lanczos) filter. Photographs are never upscaled: those with a
        smaller shorter side are left out, which leaves 16 at the default, 14 at 400 and
        9 at 512. With ``None``, all 18 are returned whole at their own size.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes

        data : list of ndarray of shape (image_size, image_size, 3), dtype uint8
            RGB pictures; greyscale ones have three equal channels.
        names : list of str
            Names of the photographs, in the order of `data`.
        filenames : list of str
            Path of the original file.
        DESCR : str
            Source and licence of each photograph.

    Raises
    ------
    ValueError
        If no photograph is as large as `image_size`.
    FileNotFoundError
        If an installed package lacks one of the files.

    Examples
    --------
    >>> from diffqa_features.datasets import load_sample_photos
    >>> photos = load_sample_photos()
    >>> len(photos.data), photos.data[0].shape, photos.names[:3]
    (16, (192, 192, 3), ['china', 'flower', 'astronaut'])
    """
    paths = [_path(name) for name in _PHOTOS]
    images = {
        name: next(open_media(row).frames())
        for name, row in zip(_PHOTOS, as_rows(paths), strict=True)
    }
    if image_size is not None:
        images = {
            name: central_square(image, image_size)
            for name, image in images.items()
            if min(image.shape[:2]) >= image_size
        }
    if not images:
        raise ValueError(
            f"No sample photograph has {image_size} pixels a side, and none is "
            "enlarged. Choose a smaller image_size."
        )
    return Bunch(
        data=list(images.values()),
        names=list(images),
        filenames=[str(_path(name)) for name in images],
        DESCR=_describe(images),
    )


def central_square(image: np.ndarray, size: int) -> np.ndarray:
    """The largest central square, downscaled to ``size`` pixels per side."""
    h, w = image.shape[:2]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return square.copy()
    picture = Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS)
    return np.array(picture)


def _path(name: str) -> Path:
    # Not through skimage.data: its functions download what they do not find.
    package, filename, _ = _PHOTOS[name]
    root = Path(find_spec(package).origin).parent
    path = root / _FOLDERS[package] / filename
    if not path.is_file():
        raise FileNotFoundError(
            f"The sample photograph {name!r} is missing: {path}. The wheel of "
            f"{package} contains it; reinstall that package from PyPI."
        )
    return path


def _describe(names) -> str:
    lines = [
        "Sample photographs",
        "==================",
        "",
        "Files of installed packages; nothing was downloaded.",
        "",
    ]
    for name in names:
        package, filename, source = _PHOTOS[name]
        package = {"sklearn": "scikit-learn", "skimage": "scikit-image"}[package]
        lines.append(f"- {name}: {filename} ({package}); {source}")
    return "\n".join(lines)
