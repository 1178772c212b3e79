"""References to learn from: crops of photographs of Debian packages, and drawings.

    python tools/training_references.py FOLDER     unpacks the packages there

`photographs.csv` lists what is used, with author and licence (of the packages'
``copyright`` and ``README`` files and metadata); every picture of the packages was
looked at, and drawings, renderings, logos, a painting, what is soft, murky or noisy as
it is, and a photograph that is blurred on purpose (mate-backgrounds' Storm) were left
out. The packages are fetched by apt and unpacked into a folder, nothing is installed
and nothing of them ships. GCompris's photographs lie in Qt resource files and are WebP:
only crops that are made at least 2.2 times smaller are used. What `held_out` names was
not trained on them (``tiny``), and is judged by them.

scikit-image's and scikit-learn's photographs and Debian's lomiri-wallpapers are for
tests only.
"""

import csv
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from diffqa_features.datasets import make_procedural_images

TABLE = Path(__file__).with_name("photographs.csv")
_LARGEST_REDUCTION = 9.0
_FLAT = 2.5  # mean step between neighbours, of 255, below which a crop shows little


def list_photographs():
    with TABLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def unpack(folder):
    """Fetch and unpack the packages; what is there already stays."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for package in sorted({row["package"] for row in list_photographs()}):
        if (folder / "usr/share/doc" / package).is_dir():
            continue
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", archive, folder], check=True)
        for resources in folder.glob("usr/share/gcompris-qt/rcc/*.rcc"):
            for path, content in _resources(resources.read_bytes()):
                if path.endswith(".webp"):
                    picture = folder / "usr/share/gcompris-qt" / path
                    picture.parent.mkdir(parents=True, exist_ok=True)
                    picture.write_bytes(content)


def _resources(content, node=0, parent=""):
    """Paths and contents of the files of a Qt resource file, as they are stored."""
    version, tree, data, names = struct.unpack(">4I", content[4:20])
    at = tree + node * (22 if version > 1 else 14)
    name, flags, first, second = struct.unpack(">IHII", content[at : at + 14])
    (length,) = struct.unpack(">H", content[names + name : names + name + 2])
    start = names + name + 6
    own = content[start : start + 2 * length].decode("utf-16-be") if node else ""
    path = f"{parent}/{own}".lstrip("/")
    if flags & 2:  # a folder: the number of its children and the first of them
        for child in range(second, second + first):
            yield from _resources(content, child, path)
    else:
        (size,) = struct.unpack(">I", content[data + second : data + second + 4])
        yield path, content[data + second + 4 : data + second + 4 + size]


class References:
    """Number in, reference out: the same number is always the same picture.

    Parameters
    ----------
    folder : path
        Where `unpack` unpacked the packages.
    size : int
        Height and width of a reference, pixels.
    drawn : float
        Share of procedural pictures.
    photographs : sequence of str or None
        Names of those to use; all by default.
    """

    def __init__(self, folder, size=128, drawn=0.35, photographs=None):
        self.size, self.drawn = size, drawn
        self.rows = [
            row
            for row in list_photographs()
            if photographs is None or row["name"] in photographs
        ]
        self._pictures = {
            row["name"]: Image.open(Path(folder) / row["file"]).convert("RGB")
            for row in self.rows
        }

    def __call__(self, number, seed=0, like=None):
        """Name of what it is of, and pixels (size, size, 3), uint8.

        `like` is a name: the same photograph, or a drawing where that is one.
        """
        rng = np.random.default_rng([seed, number])
        drawn = rng.random() < self.drawn
        if drawn if like is None else like.startswith("procedural"):
            (image,) = make_procedural_images(
                1, image_size=self.size, random_state=int(rng.integers(2**31))
            )
            return f"procedural{number:06d}", image
        rows = [row for row in self.rows if like in (None, row["name"])]
        row = rows[rng.integers(len(rows))]
        picture = self._pictures[row["name"]]
        for _ in range(6):
            crop = self._crop(picture, float(row["smallest_reduction"]), rng)
            if _detail(crop) > _FLAT or rng.random() < 0.15:
                break
        return row["name"], _develop(crop, rng)

    def _crop(self, picture, smallest, rng):
        largest = min(_LARGEST_REDUCTION, min(picture.size) / self.size)
        reduction = smallest * (largest / smallest) ** rng.random()
        side = round(self.size * reduction)
        left, top = (int(rng.integers(0, full - side + 1)) for full in picture.size)
        box = (left, top, left + side, top + side)
        crop = picture.resize((self.size,) * 2, Image.Resampling.LANCZOS, box)
        x = np.rot90(np.asarray(crop), rng.integers(4))
        return x[:, ::-1] if rng.random() < 0.5 else x


def _detail(x):
    luma = x.mean(2)
    return (np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma)).mean()) / 2


def _develop(x, rng):
    """Tone, saturation and white balance as good cameras differ in them."""
    x = np.ascontiguousarray(x)
    saturation = 0.0 if rng.random() < 0.06 else rng.uniform(0.6, 1.35)
    enhancer = ImageEnhance.Color(Image.fromarray(x))
    x = np.asarray(enhancer.enhance(saturation), np.float32)
    if saturation:
        x = x * rng.normal(1, 0.03, 3)
    x = np.clip(x / 255, 0, 1) ** np.exp(rng.normal(0, 0.18))
    low, high = rng.uniform(0, 0.05), rng.uniform(0.92, 1.0)
    return np.rint(255 * (low + x * (high - low))).astype(np.uint8)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    unpack(sys.argv[1])
    print(f"{len(list_photographs())} photographs in {sys.argv[1]}")
