"""Frames of video files: the right ones, at the right times, the same of both readers.

Frames are compared with a plain decoding of the whole file; the numbers that they bear
tell which frame it is whatever the decoder says.
"""

import os
from pathlib import Path

import av
import decord
import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from video_files import QUIET, decode, encode, numbers_in, pan

from diffqa_features._media.rows import as_rows, open_media
from diffqa_features._media.video.video import choose_frames, open_video

TOLERANCE = 0  # levels of 255 between the readers, where decord is used at all

# What decord reads: both readers must give the frames of a plain decoding.
BOTH = {
    "h264.mp4": {"options": {"g": "10"}},
    "h264.mkv": {"options": {"g": "10"}},
    "h264_422.mp4": {"pix_fmt": "yuv422p"},
    "h264_444.mp4": {"pix_fmt": "yuv444p"},
    "h264_full_range.mp4": {"pix_fmt": "yuvj420p"},
    "h264_bt709.mp4": {"colorspace": 1},
    "h264_sound.mp4": {"sound": True},
    "hevc.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "log-level=error:keyint=10:open-gop=0"},
    },
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj422p"},
    "grey.mp4": {"codec": "libx265", "pix_fmt": "gray", "options": QUIET},
}
OPEN_GOP = "open-gop=1:keyint=8:bframes=3:b-adapt=0:scenecut=0"
# What decord gives wrongly, or not at all: "auto" takes the other reader.
ONE = {
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "10"}},
    "h264.avi": {},
    "h264.ts": {},
    "h264.flv": {},
    "h264_10_bit.mp4": {"pix_fmt": "yuv420p10le"},
    "hevc_10_bit.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": QUIET},
    "open_gop.mp4": {"options": {"x264-params": OPEN_GOP}},
    "open_gop.mkv": {
        "codec": "libx265",
        "options": {"x265-params": "log-level=error:open-gop=1:keyint=8:bframes=3"},
    },
    "refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=8"}},
    "b_frames.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "8"}},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1"}},
    "lossless.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p"},
    "rgb.mov": {"codec": "qtrle", "pix_fmt": "rgb24"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "raw.h264": {},
}
PICKED = [0, 3, 4, 11, 12, 20, 29]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


def media_of(source, reader="auto"):
    return open_media(as_rows([source])[0], reader)


def assert_same(found, expected, tolerance=0):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == np.uint8
        np.testing.assert_allclose(one.astype(int), other, atol=tolerance, rtol=0)


# -- both readers --


@pytest.mark.parametrize("name", BOTH)
def test_both_readers_give_the_same_frames(folder, name):
    path = encode(folder / name, pan(), **BOTH[name])
    expected = decode(path)
    assert numbers_in(expected) == list(range(30))
    for reader in ("imageio", "decord", "auto"):
        video = open_video(path, reader)
        assert_same(video.read(range(30)), expected, TOLERANCE)
        picked = [expected[at] for at in PICKED]
        assert_same(video.read(PICKED), picked, TOLERANCE)
        for at in (29, 11, 0):  # alone, and backwards
            assert_same(video.read([at]), expected[at : at + 1], TOLERANCE)


@pytest.mark.parametrize("name", ONE)
def test_what_decord_gets_wrong_is_read_rightly(folder, name):
    path = encode(folder / name, pan(), **ONE[name])
    expected = decode(path)
    assert numbers_in(expected) == list(range(30))
    for reader in ("imageio", "auto"):
        video = open_video(path, reader)
        assert_same(video.read(range(30)), expected)
        assert_same(video.read(PICKED), [expected[at] for at in PICKED])
        assert_same(video.read([17]), expected[17:18])
    np.testing.assert_allclose(video.times(), np.arange(30) / 25, atol=1e-3)
    with pytest.raises(ValueError, match=r"with decord \(.*reader='auto' or 'imageio'"):
        list(open_video(path, "decord").read([0]))


def test_content_instead_of_a_path(folder):
    path = encode(folder / "content.mp4", pan())
    assert_same(
        open_video(path.read_bytes()).read([4, 9]), open_video(path).read([4, 9])
    )
    with pytest.raises(ValueError, match="it reads files only"):
        list(open_video(path.read_bytes(), "decord").read([0]))


def test_of_two_videos_the_first_is_taken(folder):
    path = folder / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for height in (96, 192):  # decord would take the larger one
            stream = container.add_stream("mjpeg", rate=25)
            stream.height, stream.width, stream.pix_fmt = height, 128, "yuvj420p"
            streams.append(stream)
        for index in range(5):
            for stream, height in zip(streams, (96, 192), strict=True):
                pixels = pan(5, height, 128)[index]
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = index
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    frames = list(open_video(path).read(range(5)))
    assert frames[0].shape == (96, 128, 3)
    assert numbers_in(frames) == list(range(5))


def test_imageios_own_plugin_gives_the_same(folder):
    path = encode(folder / "plugin.mp4", pan())
    assert_same(open_video(path).read(range(30)), iio.imiter(path, plugin="pyav"))


def test_a_film():
    path = find_film()
    expected = decode(path)
    for reader in ("imageio", "decord"):
        video = open_video(path, reader)
        assert len(video.times()) == len(expected)
        picked = sorted({0, len(expected) - 1, *range(5, len(expected), 37)})
        assert_same(video.read(picked), [expected[at] for at in picked], TOLERANCE)


def find_film():
    near = Path(__file__).parents[3] / "shared/media/bigbuckbunny.mp4"
    path = Path(os.environ.get("DIFFQA_TEST_VIDEO", near))
    if not path.is_file():
        pytest.skip("set DIFFQA_TEST_VIDEO to a video")
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_decords_bridge_is_left_alone(folder):
    path = encode(folder / "bridge.mp4", pan())
    decord.bridge.set_bridge("torch")
    try:
        assert_same(open_video(path, "decord").read([5]), decode(path)[5:6])
    finally:
        decord.bridge.set_bridge("native")


def test_without_decord(folder, monkeypatch):
    path = encode(folder / "without.mp4", pan())
    monkeypatch.setitem(__import__("sys").modules, "decord", None)
    assert_same(open_video(path).read([5]), decode(path)[5:6])
    with pytest.raises(ValueError, match="cannot be imported"):
        list(open_video(path, "decord").read([5]))


# -- what is stored is not always what is shown --


TURNS = {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), -90: (0, 1, -1, 0)}


@pytest.mark.parametrize("degrees", TURNS)
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_pictures_are_turned_upright(folder, degrees, suffix):
    path = folder / f"turned.{suffix}"
    if suffix == "mkv":
        if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write such a file")
        encode(path, pan(), rotation=degrees)
    else:
        set_matrix(encode(path, pan()), TURNS[degrees])
    stored = decode(path)
    upright = [np.rot90(frame, degrees // 90) for frame in stored]
    for reader in ("auto", "imageio"):
        assert_same(open_video(path, reader).read(range(30)), upright)
    if suffix != "mkv":  # decord turns these itself, for its own reasons
        reader = decord.VideoReader(str(path), decord.cpu(0), num_threads=1)
        assert_same(open_video(path).read([7]), [reader[7].asnumpy()])


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
        ((1, 0, 0, -1), lambda frame: frame[::-1]),
        ((0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda frame: frame[::-1, ::-1].swapaxes(0, 1)),
    ],
)
def test_mirrored_pictures(folder, matrix, expected):
    path = encode(folder / "mirrored.mp4", pan())
    set_matrix(path, matrix)
    assert_same(open_video(path).read([3]), [expected(decode(path)[3])])


def test_other_angles_are_refused(folder):
    path = encode(folder / "slanted.mp4", pan())
    set_matrix(path, (0.7, 0.7, -0.7, 0.7))
    with pytest.raises(ValueError, match="no multiple of 90 degrees"):
        open_video(path)


def set_matrix(path, abcd):
    """Write a display matrix into the header of an MP4's only track."""
    data = path.read_bytes()

    def pack(a, b, c, d):
        rows = [a, b, 0, c, d, 0]
        return b"".join(int(v * 65536).to_bytes(4, "big", signed=True) for v in rows)

    at = data.index(pack(1, 0, 0, 1), data.index(b"tkhd"))
    path.write_bytes(data[:at] + pack(*abcd) + data[at + 24 :])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("odd.mp4", {"pix_fmt": "yuv444p"}),
        ("odd.webm", {"codec": "libvpx-vp9"}),
        ("odd.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ("odd.mkv", {"codec": "ffv1", "pix_fmt": "yuv420p"}),
    ],
)
def test_odd_sizes(folder, name, options):
    path = encode(folder / name, pan()[:5, :95, :127], **options)
    frames = list(open_video(path).read(range(5)))
    assert frames[0].shape == (95, 127, 3)
    assert_same(frames, decode(path))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("alpha.mov", {"codec": "qtrle", "pix_fmt": "argb"}),
        ("alpha.mkv", {"codec": "ffv1", "pix_fmt": "bgra"}),
        (
            "alpha.webm",
            {
                "codec": "libvpx-vp9",
                "pix_fmt": "yuva420p",
                "options": {"auto-alt-ref": "0", "crf": "4", "b": "0"},
            },
        ),
    ],
)
def test_alpha_is_on_white(folder, name, options):
    alpha = np.linspace(0, 255, 128).astype(np.uint8)
    alpha = np.broadcast_to(alpha[None, None, :, None], (5, 96, 128, 1))
    frames = np.concatenate([pan()[:5], alpha], axis=-1)
    path = encode(folder / name, frames, **options)
    share = alpha / 255
    expected = frames[..., :3] * share + 255 * (1 - share)
    found = np.stack(list(open_video(path).read(range(5)))).astype(float)
    if name == "alpha.webm":
        assert np.abs(found - expected).mean() < 4
    else:
        assert np.abs(found - expected).max() <= 1


def test_full_range_and_bt709_are_followed(folder):
    """The same picture in any coding of its colours comes out the same."""
    from av.video.reformatter import ColorRange, Colorspace

    pixels = pan()[3]
    for number, (space, width) in enumerate(
        [("ITU601", "MPEG"), ("ITU709", "MPEG"), ("ITU601", "JPEG"), ("ITU709", "JPEG")]
    ):
        path = folder / f"range{number}.mp4"
        with av.open(str(path), "w") as container:
            options = {"qp": "4"}
            stream = container.add_stream("libx264", rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv444p"
            stream.codec_context.colorspace = 1 if space == "ITU709" else 6
            stream.codec_context.color_range = 1 if width == "MPEG" else 2
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv444p",
                dst_colorspace=Colorspace[space],
                dst_color_range=ColorRange[width],
            )
            frame.pts = 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        for reader in ("decord", "imageio"):
            (found,) = open_video(path, reader).read([0])
            assert np.abs(found.astype(int) - pixels).mean() < 2


# -- time --


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_variable_frame_rates(folder, suffix):
    steps = np.random.default_rng(0).integers(10, 200, 29)
    pts = np.concatenate([[0], np.cumsum(steps)])
    path = encode(folder / f"variable.{suffix}", pan(), pts=pts)
    for reader in ("decord", "imageio"):
        media = media_of(path, reader)
        np.testing.assert_allclose(media.times(), pts / 1000, atol=1e-3)
        shown = [np.flatnonzero(pts <= 1000 * t)[-1] for t in np.arange(0.5, 3, 1 / 1)]
        assert numbers_in(media.frames(1.0)) == shown
        assert numbers_in(media.read(range(30))) == list(range(30))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_still_ending_is_no_damage(folder, suffix):
    """Frames that wait for others are decoded long before they are shown."""
    pts = [*range(0, 400, 40), 5000, 9000]
    path = encode(folder / f"ending.{suffix}", pan(12), pts=pts)
    for reader in ("decord", "imageio"):
        media = media_of(path, reader)
        np.testing.assert_allclose(media.times(), np.array(pts) / 1000, atol=1e-3)
        assert numbers_in(media.read(range(12))) == list(range(12))


def test_a_frame_per_hour(folder):
    path = encode(folder / "hours.mp4", pan(12), pts=3_600_000 * np.arange(12))
    assert numbers_in(media_of(path).read(range(12))) == list(range(12))
    with pytest.raises(ValueError, match="wrong frames where one is shown for very lo"):
        list(media_of(path, "decord").read([0]))


def test_a_late_start_is_the_beginning(folder):
    path = encode(folder / "late.mkv", pan(), pts=5000 + 40 * np.arange(30))
    times = open_video(path).times()
    np.testing.assert_allclose(times, 0.04 * np.arange(30), atol=1e-3)


def test_an_edit_list_hides_frames(folder):
    """A copy that begins between key frames: MP4 keeps the rest and hides it."""
    whole = encode(folder / "whole.mp4", pan(), options={"g": "10", "bf": "0"})
    path = folder / "edited.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                offset = int(0.16 / stream.time_base)
                packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
                packet.stream = copy
                target.mux(packet)
    for reader in ("auto", "imageio"):
        video = open_video(path, reader)
        assert numbers_in(video.read(range(len(video.times())))) == list(range(4, 30))
        np.testing.assert_allclose(video.times(), 0.04 * np.arange(26), atol=1e-3)


@pytest.mark.parametrize("reader", ["decord", "imageio"])
def test_frames_are_chosen_by_time(folder, reader):
    path = encode(folder / "rates.mp4", pan(100), rate=30, options={"g": "12"})
    media = media_of(path, reader)
    assert media.frame_rate == pytest.approx(30)
    # Frame n is shown from n/30 s on; there are 100/30 s.
    assert numbers_in(media.frames()) == [15, 45, 75]
    assert numbers_in(media.frames(2)) == [0, 15, 30, 45, 60, 75, 90]
    assert numbers_in(media.frames(0.5)) == [15, 75]
    assert numbers_in(media.frames(30)) == list(range(100))
    assert numbers_in(media.frames(1e6)) == list(range(100))
    assert numbers_in(media.frames(2, 3)) == [15, 45, 75]
    assert numbers_in(media.frames(2, 1)) == [45]


def test_a_short_clip_gives_its_middle(folder):
    path = encode(folder / "short.mp4", pan()[:7])
    assert numbers_in(media_of(path).frames()) == [3]
    single = encode(folder / "single.mp4", pan()[:1])
    media = media_of(single)
    assert numbers_in(media.frames()) == [0]
    assert not media.is_still
    assert list(media.times()) == [0.0]


steps = st.lists(st.floats(0.001, 2), min_size=1, max_size=40)


@given(steps, st.floats(0.05, 100))
def test_chosen_frames_are_those_shown_at_the_moments(steps, rate):
    clock = np.cumsum([0.0, *steps])
    times, duration = clock[:-1], clock[-1]
    chosen = choose_frames(times, duration, rate)
    moments = 0.5 + np.arange(-60, duration * rate + 1) / rate
    near = np.abs(clock[:, None] - moments).min(initial=1) < 1e-5
    if near:  # a moment on a border: the clock's ticks decide
        return
    moments = moments[(moments >= 0) & (moments < duration)]
    shown = sorted({int(np.flatnonzero(times <= t)[-1]) for t in moments})
    middle = [int(np.flatnonzero(times <= duration / 2)[-1])]
    assert list(chosen) == (shown or middle)


@given(steps, st.floats(0.05, 10))
def test_twice_the_rate_keeps_every_frame(steps, rate):
    clock = np.cumsum([0.0, *steps])
    once = choose_frames(clock[:-1], clock[-1], rate)
    twice = choose_frames(clock[:-1], clock[-1], 2 * rate)
    if clock[-1] > 0.51:
        assert set(once) <= set(twice)


# -- bursts --


@pytest.mark.parametrize(
    ("count", "limit", "length", "expected"),
    [
        (32, 8, 4, [6, 7, 8, 9, 22, 23, 24, 25]),  # around frames 8 and 24
        (32, 8, 8, range(12, 20)),
        (32, 11, 4, [6, 7, 8, 9, 22, 23, 24, 25]),  # no room for three bursts
        (32, 3, 8, [15, 16, 17]),  # nor for a whole one
        (32, None, 4, range(32)),
        (9, 8, 4, [0, 1, 2, 3, 4, 5, 6, 7]),  # two bursts that touch
        (6, 8, 4, range(6)),  # two that overlap; each frame once
        (3, 8, 8, range(3)),  # a clip shorter than a burst is used whole
        (1, 4, 2, [0]),
    ],
)
def test_bursts_are_runs_of_adjacent_frames(count, limit, length, expected):
    """At a rate at which every frame is a moment, as in an array."""
    clip = np.zeros((count, 8, 8, 3), np.uint8)
    media = open_media(as_rows([clip])[0])
    assert media.choose(1.0, limit, length).tolist() == list(expected)
    clock = np.arange(count + 1) / 30
    chosen = choose_frames(clock[:-1], clock[-1], 30.0, limit, length)
    assert chosen.tolist() == list(expected)


def test_a_burst_lies_around_its_moment():
    """At 0.5 s and 1.5 s of 10 frames per second, and within the video."""
    clock = np.arange(21) / 10
    chosen = choose_frames(clock[:-1], 2.0, 1.0, None, 4)
    assert chosen.tolist() == [3, 4, 5, 6, 13, 14, 15, 16]
    assert choose_frames(clock[:6], 0.6, 1.0, None, 4).tolist() == [2, 3, 4, 5]


@given(steps, st.floats(0.05, 100), st.integers(1, 50), st.integers(1, 9))
def test_bursts_of_any_length(steps, rate, limit, length):
    clock = np.cumsum([0.0, *steps])
    times, duration = clock[:-1], clock[-1]
    chosen = choose_frames(times, duration, rate, limit, length)
    assert 1 <= len(chosen) <= limit
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen[0] <= chosen[-1] < len(times)
    runs = np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1)
    assert min(map(len, runs)) >= min(length, limit, len(times))
    np.testing.assert_array_equal(
        choose_frames(times, duration, rate, limit, 1),
        choose_frames(times, duration, rate, limit),
    )


# -- animations and pages --


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations(tmp_path, suffix):
    pages = [Image.fromarray(frame) for frame in pan(20)]
    durations = [100, 300] * 10
    path = tmp_path / f"a.{suffix}"
    more = {"lossless": True} if suffix == "webp" else {}
    pages[0].save(
        path, save_all=True, append_images=pages[1:], duration=durations, **more
    )
    media = media_of(path)
    assert not media.is_still
    begins = np.concatenate([[0], np.cumsum(durations)[:-1]]) / 1000
    np.testing.assert_allclose(media.times(), begins)
    assert media.frame_rate == pytest.approx(5)
    assert numbers_in(media.frames()) == [3, 7, 13, 17]
    expected = pan(20)[PICKED[:5]]
    found = np.stack(list(media.read(PICKED[:5])))
    assert np.abs(found.astype(int) - expected).mean() < (8 if suffix == "gif" else 0.1)


def test_pages_have_no_clock(tmp_path):
    pages = [Image.fromarray(frame) for frame in pan(12)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    media = media_of(tmp_path / "a.tif")
    assert media.times() is None
    assert media.frame_rate is None
    assert_same(media.frames(), pan(12))
    assert numbers_in(media.frames(1.0, 2)) == [3, 9]
    with pytest.raises(ValueError, match=r"increase within \[0, 12\)"):
        list(media.read([3, 3]))


def test_pages_of_different_sizes_are_refused(tmp_path):
    pages = [Image.new("RGB", (40, 30)), Image.new("RGB", (20, 15))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"1 of 2 frames decoded with Pillow.*sizes"):
        list(media_of(tmp_path / "a.tif").frames())


def test_stills_and_arrays_have_no_clock(tmp_path):
    Image.fromarray(pan()[0]).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", pan()[0], pan()):
        media = media_of(source)
        assert media.times() is None
        assert media.frame_rate is None
    assert_same(media.read([2, 5]), pan()[[2, 5]])
    with pytest.raises(ValueError, match=r"increase within \[0, 30\)"):
        list(media.read([5, 2]))
    with pytest.raises(ValueError, match=r"increase within \[0, 30\)"):
        list(media.read([30]))
