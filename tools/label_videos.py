"""Distorted clips with JOD labels, in shards: what the scorer of videos learns from.

    PYTHONPATH=JOD:. python tools/label_videos.py PACKAGES SHARDS --count 20
    PYTHONPATH=JOD:. python tools/label_videos.py PACKAGES SHARDS --first 900 --photos
    PYTHONPATH=JOD:. python tools/label_videos.py PACKAGES SHARDS --first 950 \\
        --filmed FILES

Shard k depends on k only: a call that was stopped goes on with the first one that is
not there. A shard holds 16 contents in motion (`_video_contents.py`) and 6 clips of
each, 32 frames of 96 pixels: the undistorted one (JOD 10), two with faults of timing,
two with faults of the picture, one with both. JOD is ColorVideoVDP's (`standard_4k`) at
the clip's frame rate; where frames were dropped, it sees what a player with a clock
shows. What a fault does not change counts as undistorted.

`timing` and `picture` are the true steps as JSON: families with their strengths, and
of timing also how much it changes a clip, mean difference in grey levels.

With `--photos` the contents are scikit-image's and scikit-learn's photographs, with
`--filmed` windows without cuts of videos that cameras took; both are for tests only.
"""

import argparse
import io
import json
from pathlib import Path

import av
import numpy as np
from _video_contents import PICTURE, SIZE, Content
from PIL import Image
from training_references import References, unpack

from diffqa_features._media.rows import as_rows, open_media
from diffqa_features.datasets import load_sample_photos
from diffqa_features.datasets._chains import FAULT_OF, FROM_ZERO, draw_chain
from diffqa_features.datasets._distortions import FAMILIES, distort
from diffqa_features.datasets._timing_faults import FAMILIES as TIMING
from diffqa_features.datasets._timing_faults import retime

CONTENTS = 16
FRAMES = 32
COMPRESSED_FROM = 11  # shards; a camera compressed half of their contents
_LONGER = 44  # frames of which a window is shown
_MILDEST, _STRONGEST = -0.4, 1.0
_CODECS = {"x264": (16, 48), "mpeg4": (2, 31)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("packages")
    parser.add_argument("shards", type=Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--photos", action="store_true")
    parser.add_argument("--filmed", nargs="+", metavar="FILE")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    args.shards.mkdir(parents=True, exist_ok=True)
    if args.photos:
        pictures = Photos()
    else:
        unpack(args.packages)
        pictures = References(args.packages, PICTURE)
    measure = Measure()
    for shard in range(args.first, args.first + args.count):
        path = args.shards / f"clips{shard:05d}.npz"
        if path.exists():
            continue
        if args.filmed:
            save(path, filmed_clips(args.filmed, shard), measure)
        else:
            save(path, shard_clips(pictures, shard), measure)


class Photos:
    """As `References`, of the photographs that are for tests only."""

    def __init__(self):
        photos = load_sample_photos(image_size=PICTURE)
        names = [Path(name).stem for name in photos.filenames]
        self._photos = dict(zip(names, photos.data, strict=True))

    def __call__(self, number, seed=0, like=None):
        names = sorted(self._photos)
        name = like or names[number % len(names)]
        turned = np.rot90(self._photos[name], seed % 4)
        return name, np.ascontiguousarray(turned)


def shard_clips(pictures, shard):
    for number in range(shard * CONTENTS, (shard + 1) * CONTENTS):
        rng = np.random.default_rng([7, number])
        name, picture = pictures(number, seed=7)
        later = [pictures(number, seed=8 + i, like=name)[1] for i in range(2)]
        content = Content([picture, later[0]], later[1], rng)
        if shard >= COMPRESSED_FROM and content.kind not in ("cut", "slides"):
            if rng.random() < 0.6:
                content = Recorded(content, rng)
        subsampled = rng.random() < 0.75
        yield (
            name,
            number,
            [
                Clip(content, timing, chain, subsampled, rng)
                for timing, chain in draw_faults(rng)
            ],
        )


class Recorded:
    """A content as a camera's file has it: compressed once, before anything else."""

    def __init__(self, content, rng):
        self.kind, self.frame_rate = content.kind, content.frame_rate
        codec = "x264" if rng.random() < 0.8 else "mpeg4"
        self.longest = content.longest
        frames = np.stack([content(float(t), 0) for t in range(self.longest + 1)])
        severity = rng.uniform(0, 0.35)
        self._frames = _compress(frames, self.frame_rate, codec, severity)

    def scene_at(self, t):
        return 0

    def __call__(self, t, scene):
        return self._frames[int(t)]


def filmed_clips(files, shard):
    for number in range(shard * CONTENTS, (shard + 1) * CONTENTS):
        rng = np.random.default_rng([7, number])
        path = Path(files[number % len(files)])
        content = Filmed(path, rng)
        clips = [
            Clip(content, timing, chain, False, rng)
            for timing, chain in draw_faults(rng)
        ]
        yield path.stem, number, clips


class Filmed:
    """As `Content`, a window of a video, at some reduction."""

    kind = "filmed"
    longest = 60

    def __init__(self, path, rng):
        (row,) = as_rows([path])
        media = open_media(row)
        self.frame_rate = float(media.frame_rate)
        while True:
            start = int(rng.integers(0, len(media.times()) - self.longest))
            frames = list(media.read(range(start, start + self.longest + 1)))
            if not _has_cut(frames):
                break
        height, width = frames[0].shape[:2]
        reduction = (min(height, width) / SIZE) ** rng.random()
        side = round(SIZE * reduction)
        top, left = (int(rng.integers(0, n - side + 1)) for n in (height, width))
        box = (left, top, left + side, top + side)
        self._frames = [
            np.asarray(
                Image.fromarray(frame).resize(
                    (SIZE, SIZE), Image.Resampling.LANCZOS, box
                )
            )
            for frame in frames
        ]

    def scene_at(self, t):
        return 0

    def __call__(self, t, scene):
        return self._frames[int(t)]


def _has_cut(frames):
    """Whether one step is far larger than those before and after.

    What should have been seen would be another scene: no measure of a late cut.
    """
    small = np.stack([frame[::4, ::4].mean(2) for frame in frames])
    change = np.abs(np.diff(small, axis=0)).mean((1, 2))
    around = np.maximum(change[:-2], change[2:])
    return bool((change[1:-1] > np.maximum(2.2 * around, 12)).any())


def draw_faults(rng):
    """Per clip: families of timing, and steps of the picture."""
    yield [], []
    for both in (False, False, True):
        timing = [str(family) for family in rng.choice(list(TIMING), 2, replace=False)]
        if rng.random() < 0.75 or "frame_drop" in timing:
            timing = timing[:1]
        yield (
            [(family, float(rng.uniform(_MILDEST, _STRONGEST))) for family in timing],
            draw_picture_faults(rng) if both else [],
        )
    for _ in range(2):
        yield [], draw_picture_faults(rng)


def draw_picture_faults(rng):
    which = rng.random()
    if which < 0.4:
        codec = "x264" if rng.random() < 0.75 else "mpeg4"
        return [(codec, float(rng.random()))]
    if which < 0.75:
        family = str(rng.choice(list(FAMILIES)))
        mildest = 0.0 if family in FROM_ZERO else _MILDEST
        return [(family, float(rng.uniform(mildest, _STRONGEST)))]
    chain = draw_chain(rng, rng.uniform(_MILDEST, 0.7))
    if rng.random() < 0.4:
        chain.append(("x264", float(rng.uniform(0, 0.8))))
    return chain


class Clip:
    """What is shown, when, what should have been, and how the two differ."""

    def __init__(self, content, timing, chain, subsampled, rng):
        self.frame_rate, self.kind = content.frame_rate, content.kind
        cache = {}

        def source(t, seen=None):
            """The frame at time t, of the scene of another one."""
            key = t, content.scene_at(t if seen is None else seen)
            if key not in cache:
                frame = content(float(t), key[1])
                cache[key] = _subsample(frame) if subsampled else frame
            return cache[key]

        at, self.times, gains = _retime(timing, content.longest, rng)
        # On the screen each frame stays until the next one is due.
        due = np.arange(self.times[-1] + 1)
        held = np.searchsorted(self.times, due, side="right") - 1
        # A cut that comes late is no loss: what should be seen is of the same scene.
        pairs = zip(at[0] + due, at[1][held], strict=True)
        self.reference = np.stack([source(t, seen) for t, seen in pairs])
        # Pictures are damaged before they are shown late, or on the way.
        seed = int(rng.integers(2**31))
        last = rng.random() < 0.5
        steps = [step for step in chain if step[0] not in _CODECS]
        damaged = {}

        def shown(place, t):
            key = place if last else t
            if key not in damaged:
                damaged[key] = _damage(source(t), steps, seed, key)
            return damaged[key]

        retimed = [_brighten(source(t), g) for t, g in zip(at[1], gains, strict=True)]
        change = np.abs(self.reference.astype(np.float32) - np.stack(retimed)[held])
        self.change = float(change.mean())
        self.timing = timing if self.change else []
        frames = np.stack(retimed)
        if steps:
            pairs = zip(at[1], gains, strict=True)
            frames = np.stack(
                [_brighten(shown(place, t), g) for place, (t, g) in enumerate(pairs)]
            )
        for family, severity in chain:
            if family in _CODECS:
                frames = _compress(frames, self.frame_rate, family, severity)
        self.frames, self.seen = frames, frames[held]
        self.chain = chain


def _retime(timing, longest, rng):
    """(first source time, source times shown), display times and gains of 32 frames."""
    dropped = any(family == "frame_drop" for family, _ in timing)
    length = longest if dropped else _LONGER if timing else FRAMES
    indices, gains = np.arange(length), np.ones(length)
    for family, severity in timing:
        if dropped:
            severity = min(severity, 0.85)
        after, gain = retime(family, length, severity, rng)
        indices, gains = indices[after], gains[after] * gain
    start = int(rng.integers(0, len(indices) - FRAMES + 1))
    gaps = np.flatnonzero(np.diff(indices) > 1)
    if dropped and len(gaps):
        start = int(np.clip(rng.choice(gaps) - rng.integers(1, 30), 0, start))
    indices, gains = indices[start : start + FRAMES], gains[start : start + FRAMES]
    if dropped:
        return (indices[0], indices), indices - indices[0], gains
    return (start, indices), np.arange(FRAMES), gains


def _brighten(frame, gain):
    if gain == 1:
        return frame
    return np.clip(np.rint(frame * np.float32(gain)), 0, 255).astype(np.uint8)


def _damage(frame, steps, seed, key):
    """Noise is new in every frame, what else is by chance is the same in all."""
    for place, (family, severity) in enumerate(steps):
        own = [key] if FAULT_OF[family] == "noise" else []
        rng = np.random.default_rng([seed, place, *map(int, own)])
        frame = distort(frame, family, severity, rng)
    return frame


def _subsample(frame):
    """As video has it: one colour per 2 × 2 pixels."""
    video = av.VideoFrame.from_ndarray(frame)
    return video.reformat(format="yuv420p").to_ndarray(format="rgb24")


def _compress(frames, frame_rate, codec, severity):
    mild, strong = _CODECS[codec]
    level = mild + (strong - mild) * severity
    if codec == "x264":
        options = {"preset": "veryfast", "mbtree": "0", "crf": f"{level:.2f}"}
    else:
        level = mild * (strong / mild) ** severity
        options = {"qmin": str(round(level)), "qmax": str(round(level))}
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        name = "libx264" if codec == "x264" else codec
        stream = container.add_stream(name, rate=round(frame_rate), options=options)
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer) as container:
        found = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return np.stack(found)


class Measure:
    """JOD of clips against their references, by ColorVideoVDP."""

    def __init__(self):
        import pycvvdp

        self._metric = pycvvdp.cvvdp(display_name="standard_4k", quiet=True)

    def __call__(self, clips):
        """Of the clips of one content; those of one length together."""
        jod = np.full(len(clips), 10, np.float32)
        for length in {len(clip.seen) for clip in clips}:
            of = [
                place
                for place, clip in enumerate(clips)
                if len(clip.seen) == length
                and not np.array_equal(clip.seen, clip.reference)
            ]
            if of:
                jod[of] = self._predict([clips[place] for place in of])
        return jod

    def _predict(self, clips):
        import torch

        pairs = [
            torch.from_numpy(np.stack(frames)).permute(0, 4, 1, 2, 3).contiguous()
            for frames in zip(*((clip.seen, clip.reference) for clip in clips))
        ]
        with torch.inference_mode():
            jod, _ = self._metric.predict(
                *pairs, dim_order="BCFHW", frames_per_second=clips[0].frame_rate
            )
        return jod.reshape(-1).numpy()


def save(path, made, measure):
    columns, pixels = {}, []
    for name, number, clips in made:
        for clip, jod in zip(clips, measure(clips), strict=True):
            pixels.append(clip.frames)
            row = {
                "jod": jod,
                "name": name,
                "number": number,
                "kind": clip.kind,
                "frame_rate": clip.frame_rate,
                "times": clip.times / clip.frame_rate,
                "timing": json.dumps(clip.timing),
                "change": clip.change,
                "picture": json.dumps(clip.chain),
            }
            for column, value in row.items():
                columns.setdefault(column, []).append(value)
    part = path.with_suffix(".part.npz")
    np.savez(part, pixels=np.stack(pixels), **columns)
    part.replace(path)


if __name__ == "__main__":
    main()
