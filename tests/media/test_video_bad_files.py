"""Videos that are none, are cut or damaged: told apart, never a crash or a wait."""

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from video_files import QUIET, decode, encode, pan, silence, write_sound

from diffqa_features import DiffusionQAFeatures
from diffqa_features._media.rows import as_rows, open_media

READERS = ["auto", "decord", "imageio"]


def read(path, reader="auto", frame_rate=1000.0):
    row = as_rows(["whole.mp4", path])[1]
    return list(open_media(row, reader).frames(frame_rate))


def check(path, message, reader="auto"):
    with pytest.raises(ValueError) as info:
        read(path, reader)
    text = str(info.value)
    assert text.startswith(f"Row 1 ('{path}'): ")
    assert message in text
    assert text.endswith("drop the row.")
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


@pytest.mark.parametrize("reader", READERS)
def test_no_video_at_all(folder, reader):
    (folder / "text.mp4").write_text("this is no video " * 100)
    check(folder / "text.mp4", "not an image that Pillow can read here, nor", reader)
    (folder / "head.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(2000))
    check(folder / "head.mp4", "cannot be opened as a video", reader)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "m4a"])
def test_sound_only(folder, suffix):
    path = write_sound(folder / f"sound.{suffix}")
    check(path, "holds no video stream (only audio)")


def test_a_cover_picture_is_no_video(folder):
    from PIL import Image

    sound, path = write_sound(folder / "song.m4a"), folder / "cover.mp4"
    Image.fromarray(pan()[0]).save(folder / "cover.jpg")
    with (
        av.open(str(sound)) as source,
        av.open(str(folder / "cover.jpg")) as picture,
        av.open(str(path), "w") as target,
    ):
        copies = {}
        for container in (picture, source):
            stream = container.streams[0]
            copies[container] = target.add_stream_from_template(stream)
        copies[picture].disposition = av.stream.Disposition.attached_pic.value
        for container, copy in copies.items():
            for packet in container.demux():
                if packet.size:
                    packet.stream = copy
                    target.mux(packet)
    check(path, "holds no video stream (only a cover picture, audio)")


def test_zero_frames(folder):
    path = folder / "none.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuvj420p"
        beep = container.add_stream("pcm_s16le", rate=48000)
        container.mux(beep.encode(silence(1024)))
        container.mux(beep.encode(None))
    check(path, "without a single frame")


CUT = {
    "late_moov.mp4": {},
    "early_moov.mp4": {"file_options": {"movflags": "faststart"}},
    "fragments.mp4": {
        "file_options": {"movflags": "frag_keyframe+empty_moov"},
        "options": {"g": "10"},
    },
    "h264.mkv": {},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


@pytest.mark.parametrize("name", CUT)
def test_truncation_is_never_fewer_frames(folder, name):
    """Wherever the file is cut, be it between two frames."""
    data = encode(folder / name, pan(), **CUT[name]).read_bytes()
    path = folder / f"cut_{name}"
    for share in (0.02, 0.3, 0.6, 0.9, 0.999):
        path.write_bytes(data[: int(len(data) * share)])
        for reader in READERS:
            # What follows the last fragment is an index that is not missed.
            if (name, share) == ("fragments.mp4", 0.999):
                assert len(read(path, reader)) == 30
            else:
                check(path, "", reader)
    if name in ("early_moov.mp4", "h264.mkv"):
        path.write_bytes(data[: int(len(data) * 0.6)])
        text = check(path, " of about 30 frames decoded with the imageio reader")
        count = int(text.split(" of about")[0].split()[-1])
        assert 5 < count < 30


@pytest.mark.parametrize("name", ["early_moov.mp4", "h264.mkv", "hevc.mp4"])
def test_a_frame_that_fails_in_the_middle(folder, name):
    codec = "libx265" if name.startswith("hevc") else "libx264"
    options = QUIET if name.startswith("hevc") else {}
    path = encode(folder / f"fails_{name}", pan(), codec, options=options)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        big = sorted(packets[5:-5], key=lambda packet: packet.size)[-1]
        place, size, number = big.pos, big.size, packets.index(big)
    data = bytearray(path.read_bytes())
    found = data.find(bytes(big)[:40])
    assert found > 0 and place <= found < place + 60
    data[found + 4 : found + size] = np.random.default_rng(0).bytes(size - 4)
    path.write_bytes(data)
    text = check(path, " of about 30 frames decoded with the imageio reader", "imageio")
    count = int(text.split(" of about")[0].split()[-1])
    assert 0 < count <= number + 4  # frames of the other order may come before
    assert check(path, " of about 30 frames decoded", "auto") == text
    if name.endswith("mkv"):  # its checksums show damage before anything is decoded
        assert check(path, "the checksum at byte ", "decord") == text
        return
    with pytest.raises(ValueError, match=r"with decord \(it does not see damage"):
        read(path, "decord")


@pytest.mark.parametrize("name", ["raw.h264", "b_frames.avi"])
def test_damage_where_frames_have_no_time_stamps(folder, name):
    path = encode(folder / f"damaged_{name}", pan())
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    big = max(packets[5:-5], key=len)
    data = path.read_bytes()
    assert data.count(big) == 1
    noise = big[:12] + np.random.default_rng(0).bytes(len(big) - 12)
    path.write_bytes(data.replace(big, noise))
    for reader in ("auto", "imageio"):
        check(path, " of about 30 frames decoded with the imageio reader", reader)


def test_frames_before_the_damage_are_given(folder):
    """Frames are handed out as they are decoded; what comes later is an error then."""
    path = encode(folder / "tail.avi", pan(), "mjpeg", "yuvj420p")
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        whole = bytes(packets[20])
    data = path.read_bytes()
    assert data.count(whole) == 1
    data = data.replace(whole, bytes(len(whole)))
    path.write_bytes(data)
    row = as_rows([path])[0]
    found = []
    with pytest.raises(ValueError, match="20 of about 30 frames decoded"):
        for frame in open_media(row, "imageio").read(range(30)):
            found.append(frame)
    assert len(found) == 20


def test_a_change_of_size_is_refused(folder):
    path = folder / "resized.ts"
    parts = []
    for number, size in enumerate([(96, 128), (64, 80)]):
        part = encode(folder / f"part{number}.ts", pan(10, *size), "mpeg2video")
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    with pytest.raises(ValueError, match="Row 1"):
        read(path)


def test_a_file_that_grows_meanwhile(folder):
    path = encode(folder / "grows.mp4", pan())
    media = open_media(as_rows([path])[0])
    with pytest.raises(ValueError, match="changed while it was read"):
        for _ in media.frames():
            path.write_bytes(path.read_bytes() + b"\0\0\0\x08free")


def test_names_that_look_like_addresses(folder, monkeypatch):
    whole = encode(folder / "whole.mp4", pan())
    monkeypatch.chdir(folder)
    for name in ("file:a.mp4", "pipe:0", "concat:a|b", "a?b#c %20.mp4", "ä 日本.mp4"):
        Path(name).write_bytes(whole.read_bytes())
        for reader in READERS:
            assert len(read(name, reader)) == 30


def test_bad_rows_are_nan(sd1_folder, folder):
    whole = encode(folder / "good.mp4", pan())
    (folder / "cut.mp4").write_bytes(whole.read_bytes()[:3000])
    rows = [whole, folder / "cut.mp4", write_sound(folder / "a.mp4"), pan()[0]]
    features = DiffusionQAFeatures(
        str(sd1_folder), image_size=64, device="cpu", on_error="nan", blocks="down0.0"
    )
    with pytest.warns(RuntimeWarning, match="2 of 4 rows"):
        matrix = features.transform(rows)
    assert list(np.isnan(matrix).all(1)) == [False, True, True, False]
    assert [index for index, _ in features.failed_] == [1, 2]
    assert "cut.mp4" in features.failed_[0][1]


def test_no_damage_crashes_or_hangs(folder):
    """A process of its own reads damaged files and comes to its end."""
    whole = folder / "originals"
    whole.mkdir()
    encode(whole / "a.mp4", pan(), options={"g": "10"})
    encode(whole / "b.mkv", pan())
    encode(whole / "c.mp4", pan(), "libx265", options=QUIET)
    encode(whole / "d.webm", pan(), "libvpx-vp9", options={"deadline": "realtime"})
    encode(whole / "e.avi", pan(), "mjpeg", "yuvj420p")
    here = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(here / "damage.py"), str(whole), "0", "40"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(outcomes) == 80
    for _, name, *_, outcome in outcomes:
        if outcome.startswith("error"):
            assert "Row 0" in outcome and name in outcome
        else:
            got, _, _, promised = outcome.split()
            assert got == promised
    by_reader = [[o[-1] for o in outcomes if o[3] == r] for r in ("auto", "imageio")]
    assert by_reader[0] == by_reader[1]
    assert decode(whole / "a.mp4")
