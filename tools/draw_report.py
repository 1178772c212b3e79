"""Draw the pictures of the documentation's page on reports, and the README's.

    python tools/draw_report.py docs/_static

Photographs that come with scikit-learn and scikit-image are distorted, `diffqa report`
is run on them, and a headless Chromium (Debian's package ``chromium``) takes pictures
of the page.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from diffqa_features import datasets
from diffqa_features.cli import main as diffqa

PHOTOS = ("astronaut", "chelsea", "china", "coffee", "flower", "rocket")
FAMILIES = ["gaussian_blur", "white_noise", "jpeg", "pixelate", "oversharpen"]
SIZE = 1280, 940
SEEN = Path("photos/chelsea/left_in_focus.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write to")
    out = parser.parse_args().out.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_photos(SEEN.parents[1])
        diffqa(["report", "photos", "-r", "-o", "report.html"])
        page = Path("report.html").absolute()
        shoot(page, "", out / "report.webp")
        place = sorted(Path().glob("photos/*/*")).index(SEEN)
        shoot(page, f"#open={place}", out / "report_large.webp")
        os.chdir(out)  # nobody can remove the folder one is in on every system


def write_photos(folder):
    """One folder per photograph: as it is, and distorted at four levels."""
    found = datasets.load_sample_photos(image_size=288)
    for name, photo in zip(found.names, found.data):
        if name not in PHOTOS:
            continue
        images = datasets.make_distorted_images(
            [photo], families=FAMILIES, n_levels=4, image_size=288
        )
        (folder / name).mkdir(parents=True)
        Image.fromarray(photo).save(folder / name / "original.png")
        for pixels, family, level in zip(images.data, images.family, images.level):
            Image.fromarray(pixels).save(folder / name / f"{family}_{level}.png")
        if name == SEEN.parent.name:
            half = images.data[3].copy()
            half[:, : half.shape[1] // 2] = photo[:, : half.shape[1] // 2]
            Image.fromarray(half).save(SEEN)


def shoot(page, address, target):
    """Write what the browser shows, twice as fine as it is displayed."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "page.png")
        subprocess.run(
            [
                shutil.which("chromium") or "google-chrome",
                "--headless",
                "--no-sandbox",
                "--hide-scrollbars",
                "--force-device-scale-factor=1.5",
                f"--user-data-dir={folder}/profile",
                f"--window-size={SIZE[0]},{SIZE[1]}",
                "--virtual-time-budget=4000",
                f"--screenshot={picture}",
                f"{page.as_uri()}{address}",
            ],
            check=True,
            capture_output=True,
        )
        Image.open(picture).convert("RGB").save(target, quality=82, method=6)


if __name__ == "__main__":
    main()
