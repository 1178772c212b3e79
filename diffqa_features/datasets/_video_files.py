"""Frames in, an H.264 file out; also checks that such a file is complete."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from diffqa_features._utils.files import whole_file


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    frame_rate: float,
    *,
    tag: str,
    crf: float | None = None,
) -> None:
    """Write uint8 RGB frames (H, W, 3) with even sides; lossless if `crf` is None.

    `tag` becomes the file's comment. The file is written atomically.
    """
    import av

    quality = {"qp": "0"} if crf is None else {"crf": f"{crf:.2f}"}
    # Two calls may make the same set: each file is then written by one after the other.
    with whole_file(path, wait=True) as part:
        with av.open(str(part), "w", format="mp4") as container:
            container.metadata["comment"] = tag
            rate = Fraction(frame_rate).limit_denominator(1001)
            # With more threads the bytes depend on the machine, with the macroblock
            # tree on chance: equal calls were seen to give three different files.
            options = {"preset": "veryfast", "threads": "1", "mbtree": "0", **quality}
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.pix_fmt = "yuv420p"
            for index, frame in enumerate(frames):
                if index == 0:
                    stream.height, stream.width = frame.shape[:2]
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))
                container.mux(stream.encode(picture))
            container.mux(stream.encode())


def is_intact(path: Path, tag: str, n_frames: int) -> bool:
    """Whether the file has this tag, this many packets, and all their bytes."""
    if not path.is_file():
        return False
    import av

    try:
        with av.open(str(path)) as container:
            if container.metadata.get("comment") != tag:
                return False
            stream = container.streams.video[0]
            packets = [p for p in container.demux(stream) if p.size]
            return len(packets) == n_frames and not any(p.is_corrupt for p in packets)
    except (av.FFmpegError, IndexError):
        return False
