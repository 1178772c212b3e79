"""What containers say of themselves: a part that is missing shows, a whole file passes.

`cases` holds files that once gave fewer frames, or ended the process; all free to use.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
from child_processes import run_in_process
from command_line import python, run_command
from command_line import read as table
from PIL import Image
from video_files import decode, encode, numbers_in, pan

from diffqa_features._media.rows import as_rows, open_media
from diffqa_features._media.video.containers import demuxer_of
from diffqa_features._media.video.structure import structure_of

CASES = Path(__file__).parents[1] / "cases"
READERS = ("auto", "imageio")
SHORT = {"options": {"g": "5"}}


def read(path, reader="imageio"):
    return list(open_media(as_rows(["first.mp4", path])[1], reader).frames(1000))


def refused(path, cause, reader="imageio"):
    with pytest.raises(ValueError, match=cause) as info:
        read(path, reader)
    text = str(info.value)
    assert text.startswith(f"Row 1 ('{path}'): is damaged or cut (")
    assert text.endswith("restore the file or drop the row.")
    return text


# -- the cases --

BROKEN = {
    "flv_flv_trunc2.flv": ("bytes are missing", "7 of about 16 frames"),
    "ts264_ts_trunc1.ts": ("bytes of its last packet are missing", "4 of about 4 "),
    "wmv_wmv_cut0.wmv": ("bytes are missing", "10 of about 10 frames"),
    "raw_h264_trunc3.h264": ("pictures are missing", "14 of about 14 frames"),
    "frag_mp4_zero0.mp4": ("no box begins at byte 3,876", "8 of about 8 frames"),
    "vp8_webm_zero1.webm": ("no element begins at byte 1,409", "4 of about 16 "),
    "mjpeg_avi_zero0.avi": ("no chunk begins at byte 17,030", "12 of about 16 "),
    "ebml.mkv": ("no element begins at byte 12", "0 of about 0 frames"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_file_is_refused_with_what_was_readable(name):
    cause, count = BROKEN[name]
    for reader in (*READERS, "decord"):
        assert count in refused(CASES / name, cause, reader)


def test_wall_clock_time_stamps_do_not_end_the_process():
    """decord makes room by time stamps: std::bad_alloc, and no exception to catch."""
    script = (
        "import sys\n"
        "from diffqa_features._media.rows import as_rows, open_media\n"
        "for path in sys.argv[1:]:\n"
        "    frames = list(open_media(as_rows([path])[0]).frames(1000))\n"
        "    sys.stdout.write(f'{len(frames)} ')\n"
    )
    names = [CASES / f"epoch.{suffix}" for suffix in ("mkv", "webm")]
    process = python("-c", script, *names)
    out, error = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "8 8 "), error[-1000:]
    for path in names:
        found = [np.asarray(frame) for frame in read(path)]
        np.testing.assert_array_equal(found, read(path, "auto"))
        with pytest.raises(ValueError, match="promises far more frames than it has"):
            read(path, "decord")


def test_a_late_clock_in_other_containers(tmp_path):
    late = 1_700_000_000 + 40 * np.arange(12)
    for suffix in ("mp4", "mov", "mkv"):
        path = encode(tmp_path / f"late.{suffix}", pan(12), pts=late)
        assert numbers_in(read(path, "auto")) == list(range(12))


# -- one container after the other --


def ts_packets(data):
    return [data[at : at + 188] for at in range(0, len(data), 188)]


def ogg_pages(data):
    starts = [at for at in range(len(data)) if data[at : at + 5] == b"OggS\0"]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)])]


def test_a_transport_stream_without_one_packet(tmp_path):
    path = encode(tmp_path / "a.ts", pan(12), **SHORT)
    packets = ts_packets(path.read_bytes())
    for at in (5, len(packets) // 2, len(packets) - 2):
        path.write_bytes(b"".join(packets[:at] + packets[at + 1 :]))
        refused(path, "packets are missing before byte|does not")


def test_a_transport_stream_that_was_running(tmp_path):
    """The counters of a recording start anywhere."""
    path = encode(tmp_path / "a.ts", pan(12), **SHORT)
    packets = [bytearray(packet) for packet in ts_packets(path.read_bytes())]
    for packet in packets:
        packet[3] = packet[3] & 0xF0 | (packet[3] + 7) & 15
    path.write_bytes(b"".join(packets))
    assert numbers_in(read(path)) == list(range(12))


def test_an_ogg_file_without_one_page(tmp_path):
    path = encode(tmp_path / "a.ogv", pan(30), "libvpx", options={"b": "2000000"})
    pages = ogg_pages(path.read_bytes())
    assert len(pages) > 4
    assert numbers_in(read(path)) == list(range(30))
    path.write_bytes(b"".join(pages[:3] + pages[4:]))
    refused(path, "pages are missing")
    path.write_bytes(b"".join(pages[:-1]))
    refused(path, "its last page is missing")
    changed = bytearray(b"".join(pages))
    changed[-20] ^= 1
    path.write_bytes(changed)
    refused(path, "another checksum")


@pytest.mark.parametrize(
    "kind", ["yuv420p", "yuv411p", "yuv444p", "gray", "yuv422p10le", "gray12le"]
)
def test_y4m_ends_behind_a_frame(tmp_path, kind):
    frames = pan(5, 51, 67)
    path = encode(
        tmp_path / "a.y4m", frames, "wrapped_avframe", kind,
        file_options={"strict": "-1"},
    )  # fmt: skip
    whole = path.read_bytes()
    assert len(read(path)) == 5
    start = whole.rindex(b"FRAME\n")
    for end in (start - 1, start + 3, start + 900, len(whole) - 1):
        path.write_bytes(whole[:end])
        refused(path, "of its bytes are missing|no frame begins")
    path.write_bytes(whole[: start - 200] + whole[start:])
    refused(path, "no frame begins")


def test_y4m_whose_coding_is_in_a_comment(tmp_path):
    """As mjpegtools write it: 4:2:0 is not what it is without the word."""
    path = encode(
        tmp_path / "a.y4m", pan(3, 50, 66), "wrapped_avframe", "yuv444p",
        file_options={"strict": "-1"},
    )  # fmt: skip
    head, frames = path.read_bytes().split(b"\n", 1)
    words = [word for word in head.split(b" ") if not word.startswith((b"C", b"X"))]
    path.write_bytes(b" ".join([*words, b"XYSCSS=444"]) + b"\n" + frames)
    assert len(read(path)) == 3


def test_wmv_without_one_packet(tmp_path):
    path = encode(
        tmp_path / "a.wmv", pan(30), "wmv2", file_options={"packet_size": "500"}
    )
    data = path.read_bytes()
    assert numbers_in(read(path)) == list(range(30))
    start = data.index(bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")) + 50
    at = start + 3 * 500
    path.write_bytes(data[:at] + data[at + 500 :])
    refused(path, "500 of its bytes are missing")
    # In place of the one that is missing the one before it stands again.
    path.write_bytes(data[:at] + data[at - 500 : at] + data[at + 500 :])
    refused(path, "object")


def test_flv_that_was_streamed(tmp_path):
    options = {"flvflags": "no_duration_filesize"}
    path = encode(tmp_path / "a.flv", pan(12), file_options=options, **SHORT)
    data = path.read_bytes()
    assert numbers_in(read(path)) == list(range(12))
    path.write_bytes(data[: len(data) * 2 // 3])
    refused(path, "bytes are missing")
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(200) + data[middle + 200 :])
    refused(path, "tag|zero bytes|bytes are missing")


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
def test_matroska_that_was_streamed(tmp_path, suffix):
    codec = {"codec": "libvpx", "options": {"g": "5"}} if suffix == "webm" else SHORT
    path = tmp_path / f"a.{suffix}"
    encode(path, pan(12), file_options={"live": "1"}, **codec)
    data = path.read_bytes()
    assert numbers_in(read(path)) == list(range(12))
    path.write_bytes(data[: len(data) * 2 // 3])
    refused(path, "bytes are missing|no known element|no element")


def test_a_checksum_shows_what_decoders_do_not_see(tmp_path):
    path = encode(tmp_path / "a.mkv", pan(12), "libvpx", options={"g": "5"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(path, "the checksum at byte")


def test_a_fragment_that_is_missing(tmp_path):
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path = encode(tmp_path / "a.mp4", pan(30), file_options=options, **SHORT)
    data = path.read_bytes()
    assert numbers_in(read(path)) == list(range(30))
    starts = []
    at = data.find(b"moof")
    while at >= 0:
        starts.append(at - 4)
        at = data.find(b"moof", at + 1)
    path.write_bytes(data[: starts[2]] + data[starts[3] :])
    refused(path, "their numbers have a gap")
    path.write_bytes(data[: starts[3] + 3])
    refused(path, "no box begins")


def test_zeros_inside_a_unit_are_never_an_encoders(tmp_path):
    for suffix in ("mp4", "flv", "h264"):
        path = encode(tmp_path / f"a.{suffix}", pan(12), **SHORT)
        data = path.read_bytes()
        at = len(data) // 2
        path.write_bytes(data[:at] + bytes(40) + data[at + 40 :])
        with pytest.raises(ValueError, match="is damaged or cut"):
            read(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.flv", "a.ts", "a.wmv"])
def test_a_whole_file_passes(tmp_path, name):
    codec = {"avi": "mjpeg", "wmv": "wmv2"}.get(name[2:], "libx264")
    more = {"pix_fmt": "yuvj420p"} if codec == "mjpeg" else {}
    sound = name != "a.wmv"
    path = encode(tmp_path / name, pan(12), codec, sound=sound, **more)
    structure = structure_of(str(path))
    assert structure.fault == ""
    assert structure == structure_of(path.read_bytes())
    assert len(read(path)) == 12


# -- what opens a file --


def test_a_name_with_a_pattern_means_one_file(tmp_path):
    """FFmpeg by itself takes such a name for the pictures beside the file."""
    for number in range(3):
        Image.fromarray(pan(30)[20 + number]).save(tmp_path / f"pic{number:02d}.png")
    whole = encode(tmp_path / "whole.mp4", pan(12))
    path = tmp_path / "pic%02d.png"
    path.write_bytes(whole.read_bytes())
    expected = decode(whole)
    for reader in READERS:
        np.testing.assert_array_equal(read(path, reader), expected)
    with pytest.raises(ValueError, match=r"with decord \(it may take the name for"):
        read(path, "decord")


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\nwhole.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile whole.mp4\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        '<?xml version="1.0"?><MPD profiles="urn:mpeg:dash:profile:isoff-live:2011">',
    ],
)
@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "http:list.mp4"])
def test_files_that_name_others_are_not_followed(tmp_path, text, name):
    encode(tmp_path / "whole.mp4", pan(12))
    path = tmp_path / name
    path.write_text(text + "\n" * 500)
    for reader in (*READERS, "decord"):
        with pytest.raises(ValueError, match="nor a known kind of video"):
            read(path, reader)


def test_the_demuxer_follows_the_first_bytes():
    assert demuxer_of(b"\0\0\0\x20ftypisom") == "mov"
    assert demuxer_of(b"\0\0\0\x20ftypavif") == ""
    assert demuxer_of(b"\0\0\0\1\x67\x64\0\x0a") == "h264"
    assert demuxer_of(b"\0\0\0\1\x40\1\x0c\1") == "hevc"
    assert demuxer_of(b"\0\0\0\1\xff\xff\xff\xff") == ""
    assert demuxer_of((b"\x47" + bytes(187)) * 3) == "mpegts"


def test_frames_beyond_the_budget_are_refused_beforehand(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4", pan(3))
    raw = encode(tmp_path / "a.h264", pan(3))
    # 17 frames of 1.5 bytes and 12 bytes on the way to RGB, of 24 per pixel of a still.
    least = 128 * 96 * (17 * 1.5 + 12) / 24
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(least) + 1)
    for name in (path, raw):
        assert len(read(name, "auto")) == 3
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(least) - 1)
    for name in (path, raw):
        with pytest.raises(ValueError, match="MAX_IMAGE_PIXELS = None"):
            read(name, "auto")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert len(read(path, "auto")) == 3


def test_the_command_lists_what_is_damaged(tmp_path):
    whole = [CASES / "epoch.mkv", CASES / "epoch.webm"]
    names = [*whole, *(CASES / name for name in BROKEN)]
    words = ["extract", *names, "-o", tmp_path / "x.csv"]
    words += ["--image-size", 64, "--quiet"]
    log = tmp_path / "log"
    code = run_in_process(run_command, words, log)
    assert code == 3, log.read_text()[-1500:]
    paths, matrix, _ = table(tmp_path / "x.csv")
    assert paths == [str(path) for path in whole]
    assert np.isfinite(matrix).all()
    with (tmp_path / "x.csv.bad.csv").open(newline="") as file:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert list(listed) == [str(CASES / name) for name in BROKEN]
    for name, (_, count) in BROKEN.items():
        assert count in listed[str(CASES / name)]
