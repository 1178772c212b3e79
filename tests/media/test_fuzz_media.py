"""Two hundred damaged media: no abort, no endless wait, no fewer frames."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz_media import frames_of
from PIL import Image
from video_files import encode, pan

from diffqa_features import DiffusionQAFeatures

COUNT = 200
VIDEOS = {
    "h264.mp4": {"options": {"g": "5"}},
    "fragments.mp4": {
        "options": {"g": "5"},
        "file_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "h264.mkv": {"options": {"g": "5"}},
    "vp8.webm": {"codec": "libvpx", "options": {"deadline": "realtime"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "flv1.flv": {"codec": "flv1"},
    "h264.ts": {"options": {"g": "5"}},
    "wmv2.wmv": {"codec": "wmv2"},
    "vp8.ogv": {"codec": "libvpx", "options": {"deadline": "realtime"}},
}
PICTURES = ("png", "jpg", "webp", "tif")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Every damaged copy with what came of it, from a process of its own."""
    folder = tmp_path_factory.mktemp("fuzz")
    for name, options in VIDEOS.items():
        encode(folder / name, pan(12, 64, 80), **options)
    for suffix in PICTURES:
        Image.fromarray(pan()[0]).save(folder / f"picture.{suffix}")
    here = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(here / "fuzz_media.py"), str(folder), "11", str(COUNT)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == COUNT
    return folder, lines


def test_never_fewer_frames(outcomes):
    folder, lines = outcomes
    whole = {
        path.name: frames_of(path, "imageio")
        for path in folder.iterdir()
        if path.is_file()
    }
    read = dict.fromkeys(whole, 0)
    for line in lines:
        if "error" in line:
            assert "Row 0 (" in line["error"]
            assert line["copy"] in line["error"]
            continue
        count, shapes = line["got"]
        expected = whole[line["name"]]
        assert (count, len(shapes)) == (expected[0], 1), line
        read[line["name"]] += 1
    # Not everything is refused: some damage hits what nobody needs.
    assert sum(read.values()) >= COUNT // 40


def test_rows_of_damaged_files_are_finite_or_nan(outcomes):
    folder, lines = outcomes
    fine = [line for line in lines if "got" in line][:4]
    broken = [line for line in lines if "error" in line][:3]
    paths = [folder / "damaged" / line["copy"] for line in (*fine, *broken)]
    features = DiffusionQAFeatures(device="cpu", on_error="nan", max_frames=1)
    with pytest.warns(RuntimeWarning, match=f"{len(broken)} of {len(paths)} rows"):
        matrix = features.transform(paths)
    assert np.isfinite(matrix[: len(fine)]).all()
    assert np.isnan(matrix[len(fine) :]).all()
    indices = [index for index, _ in features.failed_]
    assert indices == list(range(len(fine), len(paths)))
