"""Headerless YUV files against PyAV, which converts with FFmpeg, and closed forms."""

import av
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from diffqa_features import DiffusionQAFeatures, FeatureStore
from diffqa_features._media.video.raw import RawVideo, is_raw_video

W, H = 126, 50
# (rows, columns) of luma per chroma sample, bits, and how far FFmpeg may be off: its
# fast paths work with small tables, and with 10 bits it interpolates the chroma.
FORMATS = {
    "yuv420p": (2, 2, 8, 3),
    "yuv422p": (1, 2, 8, 3),
    "yuv444p": (1, 1, 8, 1),
    "yuv420p10le": (2, 2, 10, 10),
    "yuv422p10le": (1, 2, 10, 5),
    "yuv444p10le": (1, 1, 10, 1),
}
FFMPEG_MATRIX = {"bt601": 5, "bt709": 1}


def columns(**changes):
    facts = {"width": W, "height": H, "frame_rate": 30.0, "pixel_format": "yuv420p"}
    return facts | changes


def stacked(video, indices):
    return np.stack(list(video.read(indices)))


def write(path, pixel_format, n_frames=3, width=W, height=H, seed=0):
    """Smooth planes, so that the ways to enlarge chroma hardly differ."""
    rng = np.random.default_rng(seed)
    down, across, bits, _ = FORMATS[pixel_format]
    chroma = (-(-height // down), -(-width // across))
    parts = []
    for _ in range(n_frames):
        for low, high, shape in (
            (16, 235, (height, width)),
            (90, 170, chroma),
            (90, 170, chroma),
        ):
            plane = gaussian_filter(rng.normal(size=shape), 3)
            plane = low + (plane - plane.min()) / np.ptp(plane) * (high - low)
            plane = np.rint(plane * 2 ** (bits - 8))
            parts.append(plane.astype("u1" if bits == 8 else "<u2").tobytes())
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("matrix", FFMPEG_MATRIX)
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_the_pixels_are_those_of_ffmpeg(tmp_path, pixel_format, matrix):
    path = write(tmp_path / "a.yuv", pixel_format)
    video = RawVideo.from_columns(
        path, columns(pixel_format=pixel_format, color_matrix=matrix)
    )
    frames = stacked(video, range(video.count()))
    space = FFMPEG_MATRIX[matrix]
    options = {"video_size": f"{W}x{H}", "pixel_format": pixel_format}
    with av.open(str(path), format="rawvideo", options=options) as container:
        expected = [
            frame.reformat(
                format="rgb24", src_colorspace=space, dst_colorspace=space
            ).to_ndarray()
            for frame in container.decode(video=0)
        ]
    assert frames.shape == (3, H, W, 3)
    assert frames.dtype == np.uint8
    difference = np.abs(frames.astype(int) - np.stack(expected))
    assert difference.max() <= FORMATS[pixel_format][3]
    assert difference.mean() < 2.5


def test_what_carries_no_mark_is_bt601_to_ffmpeg_too(tmp_path):
    path = write(tmp_path / "a.yuv", "yuv444p", n_frames=1)
    options = {"video_size": f"{W}x{H}", "pixel_format": "yuv444p"}
    with av.open(str(path), format="rawvideo", options=options) as container:
        expected = next(container.decode(video=0)).to_ndarray(format="rgb24")
    video = RawVideo.from_columns(path, columns(pixel_format="yuv444p"))
    assert np.abs(next(video.read([0])).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("sample", "color"),
    [
        ((16, 128, 128), (0, 0, 0)),
        ((235, 128, 128), (255, 255, 255)),
        ((126, 128, 128), (128, 128, 128)),  # 110/219 of the way up
        ((81, 90, 240), (254, 0, 0)),  # red of the BT.601 colour bars
        ((41, 240, 110), (0, 0, 255)),  # and its blue
    ],
)
def test_colours_worked_out_by_hand(tmp_path, sample, color):
    path = tmp_path / "a.yuv"
    path.write_bytes(bytes(sample))
    facts = columns(width=1, height=1, pixel_format="yuv444p")
    video = RawVideo.from_columns(path, facts)
    pixel = next(video.read([0]))[0, 0]
    np.testing.assert_allclose(pixel.astype(int), color, atol=1)


def test_frames_are_read_by_number(tmp_path):
    path = write(tmp_path / "a.yuv", "yuv420p", n_frames=5)
    video = RawVideo.from_columns(path, columns())
    whole = stacked(video, range(5))
    np.testing.assert_array_equal(stacked(video, [4, 0, 0]), whole[[4, 0, 0]])
    assert list(video.read([])) == []
    for index in (5, -1):
        with pytest.raises(IndexError, match=f"frame {index} of a file of 5 frames"):
            list(video.read([index]))


def test_odd_sizes_have_chroma_for_their_last_row_and_column(tmp_path):
    path = write(tmp_path / "a.yuv", "yuv420p", n_frames=2, width=33, height=21)
    video = RawVideo.from_columns(path, columns(width=33, height=21))
    assert video.frame_bytes == 33 * 21 + 2 * 17 * 11
    assert stacked(video, [0, 1]).shape == (2, 21, 33, 3)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le"])
def test_every_strip_of_a_frame_has_its_own_chroma(tmp_path, pixel_format):
    path = write(tmp_path / "a.yuv", pixel_format, n_frames=2, height=64)
    facts = {"height": 64, "pixel_format": pixel_format}
    halves = stacked(RawVideo.from_columns(path, columns(**facts)), [0, 1])
    down, across, bits, _ = FORMATS[pixel_format]
    ends = np.cumsum([W * 64, W * 64 // across // down]) * (1 if bits == 8 else 2)
    frames = np.frombuffer(path.read_bytes(), np.uint8).reshape(2, -1)
    planes = np.split(frames, ends, axis=1)
    path.write_bytes(b"".join(plane.tobytes() for plane in planes))
    facts["height"] = 128
    (whole,) = stacked(RawVideo.from_columns(path, columns(**facts)), [0])
    np.testing.assert_array_equal(whole, np.concatenate(halves))


def test_a_file_that_does_not_hold_whole_frames(tmp_path):
    path = write(tmp_path / "a.yuv", "yuv420p")
    path.write_bytes(path.read_bytes()[:-10])
    video = RawVideo.from_columns(path, columns())
    message = "28,340 bytes are 2 whole frames of 126 x 50 yuv420p .9,450 bytes each."
    with pytest.raises(ValueError, match=message):
        video.count()
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="0 bytes are 0 whole frames"):
        list(video.read([0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": None}, "X has no 'width' for it"),
        ({"width": float("nan"), "pixel_format": None}, "no 'width', 'pixel_format'"),
        ({"height": 10.5}, "'height' must be a whole number of pixels. Got 10.5"),
        ({"height": "10"}, "'height' must be a whole number"),
        (
            {"width": 65_535, "height": 65_535},
            "65535 x 65535 pixels and takes about 96",
        ),
        ({"width": -4}, "'width' must be a whole number"),
        ({"frame_rate": 0}, "'frame_rate' must be a number above 0"),
        ({"frame_rate": "30"}, "'frame_rate' must be a number above 0"),
        ({"pixel_format": "nv12"}, "'pixel_format' must be one of 'yuv420p', .*'nv12'"),
        ({"color_matrix": "bt2020"}, "'color_matrix' must be one of 'bt601', 'bt709'"),
    ],
)
def test_facts_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        RawVideo.from_columns("a.yuv", columns(**changes))


def test_facts_of_a_table_with_blanks(tmp_path):
    path = write(tmp_path / "a.yuv", "yuv420p")
    facts = columns(width=float(W), height=np.int64(H), color_matrix=float("nan"))
    video = RawVideo.from_columns(path, facts)
    assert (video.width, video.height, video.color_matrix) == (W, H, "bt601")
    assert video.count() == 3


def test_everything_that_changes_the_pixels_is_in_the_facts():
    changes = [
        {},
        {"width": H, "height": W},
        {"pixel_format": "yuv422p"},
        {"color_matrix": "bt709"},
        {"frame_rate": 25},
    ]
    facts = {RawVideo.from_columns("a.yuv", columns(**c)).facts for c in changes}
    assert len(facts) == len(changes)


def test_the_suffix_tells():
    assert is_raw_video("a/b.yuv")
    assert is_raw_video("B.YUV")
    assert not is_raw_video("a.yuv/b.mp4")


def test_rows_of_a_table_carry_the_facts_to_the_estimator(tmp_path):
    write(tmp_path / "a.yuv", "yuv420p", n_frames=7, width=64, height=48)
    table = pd.DataFrame([{"path": tmp_path / "a.yuv", **columns(width=64, height=48)}])
    table["frame_rate"] = 2.0  # 3.5 seconds: frames 1, 3 and 5 at half past each
    store = FeatureStore(tmp_path / "store")
    features = DiffusionQAFeatures(image_size=64, memory=store)
    video = RawVideo.from_columns(tmp_path / "a.yuv", dict(table.iloc[0]))
    expected = features.transform([stacked(video, [1, 3, 5])])
    np.testing.assert_array_equal(features.transform(table), expected)
    # The same bytes of another size are other frames.
    table["width"], table["height"] = 48, 64
    assert not np.allclose(features.transform(table), expected)
    with pytest.raises(ValueError, match=r"Row 0 .*a\.yuv.*'width'"):
        features.transform(table[["path"]])
