"""What encoders do to a picture: image and severity in, decoded image out."""

import io

import numpy as np
from PIL import Image

from diffqa_features._media.images import frame_pixels, identify

_BEST = 95  # above it encoders change their ways


def recode(image, **options):
    """Encode a picture and decode it again; options are those of Pillow's ``save``."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **options)
    return frame_pixels(identify(buffer.getvalue()))


def quality_at(best, worst, severity):
    """An encoder's quality, equal steps of severity about equally large."""
    return int(np.clip(round(best * (worst / best) ** severity), 0, _BEST))


def jpeg(image, severity, rng):
    """JPEG with chroma at half the resolution (4:2:0), as cameras and the web do."""
    return recode(image, format="JPEG", quality=quality_at(55, 4, severity))


def jpeg2000(image, severity, rng):
    """JPEG 2000: blur and ringing where rate is short."""
    rate = 16 * (200 / 16) ** severity
    return recode(image, format="JPEG2000", quality_mode="rates", quality_layers=[rate])


def double_jpeg(image, severity, rng):
    """Two passes of JPEG on grids that do not meet, as after cropping."""
    down, across = rng.integers(1, 8, 2)
    first = recode(image, format="JPEG", quality=quality_at(65, 7, severity))
    moved = np.roll(first, (down, across), (0, 1))
    second = recode(moved, format="JPEG", quality=quality_at(75, 10, severity))
    return np.roll(second, (-down, -across), (0, 1))


def webp(image, severity, rng):
    """Lossy WebP: VP8's transform and its deblocking."""
    return recode(image, format="WEBP", quality=quality_at(60, 1, severity), method=2)


def avif(image, severity, rng):
    """AVIF: AV1's, smooth where rate is short. Pillow 11.3 and later have it."""
    # One thread: the bytes must not depend on the machine.
    options = {"quality": quality_at(55, 4, severity), "speed": 9, "max_threads": 1}
    return recode(image, format="AVIF", **options)
