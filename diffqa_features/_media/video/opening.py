"""A container opened with the demuxer of its content, and the decoder of its frames.

Everything that FFmpeg would otherwise guess is set here: demuxer, protocol, maximum
frame size, and that damage is not concealed.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from diffqa_features._media.budget import check_budget, most_pixels

STRICT = "crccheck+explode"
_HELD = 17  # frames in a decoder: sixteen that others lean on, and the next one
_SHOWN = 12  # bytes per pixel of the one that is turned to RGB and handed on


class VideoError(ValueError):
    """What is wrong with a video, and a remedy."""


def opened(source: str | bytes, demuxer: str):
    """Open a container with PyAV, even if its metadata are not UTF-8.

    Demuxer and protocol are explicit, because FFmpeg would guess them from the name: a
    protocol in "a:b.mp4", a pattern in "a%02d.png".
    """
    import av

    name = BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
    # From PyAV 19 on there is no such option: it replaces by itself.
    old = int(av.__version__.split(".")[0]) < 19
    options = {
        "format_whitelist": demuxer,
        "protocol_whitelist": "file",
        # For the frames that are decoded while it is opened.
        "max_pixels": largest_frame(),
    }
    try:
        return av.open(
            name,
            format=demuxer or None,
            options=options,
            **({"metadata_errors": "replace"} if old else {}),
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"cannot be opened as a video ({cause_of(error)}): it is cut, damaged, or "
            "not a video; restore the file or drop the row."
        ) from error


def largest_frame() -> str:
    """Pixels of the largest frame within the budget, 8-bit 4:2:0."""
    limit = most_pixels(_HELD * 1.5 + _SHOWN)
    return str(min(limit or 2**31 - 1, 2**31 - 1))


def check_frame(width: int, height: int, pixel_format) -> None:
    """Check a decoder's frames, plus one converted to RGB, against the budget."""
    stored = 1.5
    if pixel_format is not None:
        sample = type(pixel_format)(pixel_format.name, 64, 64)
        parts = sample.components
        sizes = [-(-part.bits // 8) * part.width * part.height for part in parts]
        stored = sum(sizes) / 64**2
    check_budget(width, height, 1, _HELD * stored + _SHOWN)


def pick_stream(container):
    """The video stream that is not a cover picture."""
    from av.stream import Disposition

    kinds = []
    for stream in container.streams:
        cover = bool(stream.disposition & Disposition.attached_pic)
        if stream.type == "video" and not cover:
            if stream.codec_context is None:
                raise VideoError(
                    "is coded in a way that is not known here; convert the file to "
                    "H.264, or drop the row."
                )
            return stream
        kinds.append("a cover picture" if cover else stream.type)
    raise VideoError(
        "holds no video stream"
        + f" (only {', '.join(sorted(set(kinds)))})" * bool(kinds)
        + "; drop the row."
    )


def codec_name(stream) -> str:
    """Name of the codec, independent of the decoder."""
    return stream.codec_context.codec.canonical_name


def decoder_of(stream, strict: bool, **options: str):
    """The decoder; FFmpeg's own, except for VP8 and VP9 with alpha, which it drops."""
    import av

    context = stream.codec_context
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(codec_name(stream))
    if name and stream.metadata.get("alpha_mode") == "1":
        alpha = av.CodecContext.create(name, "r")
        alpha.extradata = context.extradata
        context = alpha
    # Rows are read in several threads; more in each would hold more frames.
    context.thread_count = 1
    options["max_pixels"] = largest_frame()
    if strict:  # nothing is patched up in silence
        options["err_detect"] = STRICT
    context.options = options
    return context


def decoded(container, stream, context, needed=None) -> Iterator:
    """Every frame from the container's current position, as a PyAV frame.

    Frames before the first key frame, or that reference such frames, are not shown by
    players either. From there on, a damaged frame is an error. With `needed`, a set of
    timestamps, frames that are neither needed nor referenced are skipped.
    """
    entered = whole = False
    for packet in container.demux(stream):
        entered = entered or packet.is_keyframe
        if not entered:
            continue
        if needed is not None:
            context.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
        for frame in context.decode(packet if packet.size else None):
            whole = whole or not frame.is_corrupt
            if frame.is_corrupt and whole:
                raise VideoError("a frame is incomplete")
            if whole:
                yield frame
        if not packet.size:
            return


def decode_all(container, number: int, strict: bool) -> Iterator:
    """Every frame of a stream from the start of the file."""
    stream = container.streams[number]
    return decoded(container, stream, decoder_of(stream, strict))


def cause_of(error: Exception) -> str:
    """FFmpeg's error message, without its number and file name."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[0].lower() + text[1:].rstrip(".")


def count_decodable(source, demuxer: str, number: int | None, strict: bool) -> int:
    """Number of intact frames before the first damaged one, by decoding everything."""
    count = 0
    try:
        with opened(source, demuxer) as container:
            if number is None:
                number = pick_stream(container).index
            for _ in decode_all(container, number, strict):
                count += 1
    except Exception:  # that it fails is known; what is asked is how far it comes
        pass
    return count


def damaged(
    source, demuxer: str, number: int | None, strict: bool, stated: int, cause: str
) -> str:
    """Say what is wrong and how far the file can be read."""
    count = count_decodable(source, demuxer, number, strict)
    return (
        f"is damaged or cut ({cause}): {count} of about {max(stated, count)} frames "
        "decoded with the imageio reader; restore the file or drop the row."
    )
