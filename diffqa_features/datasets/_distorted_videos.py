"""References and distortion families in, a graded dataset of video files out."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from diffqa_features._media.rows import as_rows, open_media
from diffqa_features._utils.checks import InOrder
from diffqa_features._utils.files import local_path
from diffqa_features.datasets import _distortions, _timing_faults
from diffqa_features.datasets._clip_sources import clip_sources
from diffqa_features.datasets._graded import check_families, grade_rng, graded_set
from diffqa_features.datasets._jod import jod_of_clip
from diffqa_features.datasets._video_files import is_intact, write_video

_CRF = 20, 44
_PICTURES = ("gaussian_blur", "white_noise")
SPATIAL = ("x264", *_PICTURES)
TEMPORAL = tuple(_timing_faults.FAMILIES)
FAMILIES = (*SPATIAL, *TEMPORAL)
_SETS = {"all": FAMILIES, "spatial": SPATIAL, "temporal": TEMPORAL}

_SMALLEST_JOD = 32  # pixels, for the pyramid of ColorVideoVDP
_FORMAT = 1
"""Raised whenever the same call would write other frames; part of every file's tag."""


@validate_params(
    {
        "folder": [str, os.PathLike],
        "references": ["array-like", None],
        "families": [StrOptions({*_SETS, *FAMILIES}), InOrder()],
        "n_levels": [Interval(Integral, 2, None, closed="left")],
        "n_references": [Interval(Integral, 1, None, closed="left")],
        "n_frames": [Interval(Integral, 16, None, closed="left")],
        "frame_rate": [Interval(Real, 1, 240, closed="both")],
        "image_size": [Interval(Integral, 16, None, closed="left")],
        "target": [StrOptions({"level", "jod"})],
        "full_reference": [StrOptions({"jod"}), None],
        "include_references": ["boolean"],
        "random_state": ["random_state"],
        "return_X_y": ["boolean"],
        "as_frame": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def make_distorted_videos(
    folder,
    references=None,
    *,
    families="all",
    n_levels=5,
    n_references=6,
    n_frames=72,
    frame_rate=30.0,
    image_size=128,
    target="level",
    full_reference=None,
    include_references=False,
    random_state=0,
    return_X_y=False,
    as_frame=False,
):
    """Write clips with known spatial and temporal distortions at graded levels.

    No human rated these clips. Minus the level, the default target, is exact within a
    family and a content, and a poor guess across them. With ``target="jod"`` clips of
    all families and contents share one scale, on which faults of timing count as much
    as they are seen. Split by `groups`, so that no content is on both sides.

    Parameters
    ----------
    folder : str or path-like
        Folder for the clips, named ``<content>_<family>_<level>.mp4``. It is created if
        necessary. Complete files of an identical call are kept, so an interrupted call
        resumes; any other file of that name is replaced. Files are written atomically.
    references : list of media, ndarray of shape (n, T, H, W, 3) or None, default=None
        Videos: paths or arrays of frames, of which the first `n_frames` are used. A
        still picture becomes a clip by moving a camera over it. ``None`` does this with
        procedural pictures.
    families : str or list of str, default="all"
        Distortions. ``"spatial"``: ``"x264"`` (lossy compression with increasing CRF),
        ``"gaussian_blur"`` and ``"white_noise"`` (new in each frame). ``"temporal"``:
        ``"frame_drop"`` (bursts of frames are missing and the clip is shorter),
        ``"freeze"`` (one or two freezes, after which playback catches up), ``"judder"``
        (frames come early or late), ``"frame_rate"`` (fewer frames per second, each
        held longer) and ``"flicker"`` (brightness changes from frame to frame).
        ``"all"`` means all eight.
    n_levels : int, default=5
        Levels per family, at least 2. Level 1 is the mildest setting of a family, level
        `n_levels` the strongest; the levels in between are evenly spaced in severity.
    n_references : int, default=6
        Number of procedural contents if `references` is None.
    n_frames : int, default=72
        Frames per clip, at least 16. A video with fewer frames is used whole.
    frame_rate : float, default=30.0
        Frames per second of the clips from stills, arrays and procedural pictures. A
        video keeps its mean rate; all its frames get the same duration.
    image_size : int, default=128
        Height and width in pixels of the central square that is cut out and reduced
        before anything is distorted; even.
    target : {"level", "jod"}, default="level"
        ``"level"`` is minus the level. ``"jod"`` is what ColorVideoVDP [1]_ makes of
        the clip and its reference as the files show them, in just-objectionable
        differences: 10 is no visible loss, and of two clips that are one apart three
        of four people prefer the better. Needs the extra ``jod`` and about a second
        per clip at the default size, files that were kept included. Where frames were
        dropped, the metric sees what a player with a clock shows: the last frame
        before the gap is held until the next one is due.
    full_reference : {"jod"} or None, default=None
        What is returned beside the target under this name.
    include_references : bool, default=False
        Write the undistorted clips too, with family ``"reference"``, level 0 and
        target 0 (10 in JOD).
    random_state : int, RandomState instance or None, default=0
        Seed of the motion, the noise and the positions of artefacts. A clip depends
        only on the frames of its reference, the family, the level and this seed, not on
        what else the same call requests.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        Return `data` as a DataFrame with the single column ``path``, and `target` as a
        Series. Needs pandas.

    Returns
    -------
    videos : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes below; clips are ordered by
        reference, family and level.

        data : list of str, or DataFrame
            Paths of the clips.
        target : ndarray of shape (n,), dtype float64, or Series
            Minus the level, or JOD; higher is better.
        groups : ndarray of shape (n,), dtype str
            Name of the content: the file name without its extension, ``reference<row>``
            if there is no file name, or ``procedural<number>``.
        distortion : ndarray of shape (n,), dtype str
            Name of the distortion.
        level : ndarray of shape (n,), dtype int64
            1 to `n_levels`, and 0 for references.
        full_reference : ndarray of shape (n,), dtype float64
            JOD, where `full_reference` or `target` asks for it.
        distortion_names : list of str
            The requested distortions.
        frame : DataFrame or None
            With ``as_frame=True``, all columns in one table.
        DESCR : str
            How the clips were made.

    (data, target) : tuple
        If `return_X_y` is true.

    Raises
    ------
    ValueError
        If a family is unknown, or a reference is smaller than `image_size` or has
        fewer than 16 frames.
    ImportError
        If JOD is asked for and ColorVideoVDP cannot be imported.

    Notes
    -----
    All files are H.264 in MP4 with 4:2:0 chroma at a constant frame rate. All except
    those of the family ``"x264"`` are encoded losslessly, so they contain no other
    artefacts. A level that does not change the clip, such as a freeze in a clip without
    motion, is left out: its bad grade would be unjustified.

    The shipped tiny motion network was trained on clips of procedural pictures with the
    same five temporal families (and other seeds).

    References
    ----------
    .. [1] Mantiuk, R. K., Hanji, P., Ashraf, M., Asano, Y. and Chapiro, A. (2024).
       ColorVideoVDP: A visual difference predictor for image, video and display
       distortions. ACM Transactions on Graphics 43(4).

    Examples
    --------
    >>> import tempfile
    >>> from diffqa_features.datasets import make_distorted_videos
    >>> folder = tempfile.mkdtemp()
    >>> videos = make_distorted_videos(
    ...     folder, families=["freeze", "x264"], n_levels=2, n_references=1
    ... )
    >>> [path.replace(folder, "")[1:] for path in videos.data][:2]
    ['procedural000_freeze_1.mp4', 'procedural000_freeze_2.mp4']
    >>> videos.target.tolist()
    [-1.0, -2.0, -1.0, -2.0]
    """
    names = check_families(families, _SETS, "make_distorted_videos")
    if image_size % 2:
        raise ValueError(
            "The 'image_size' parameter of make_distorted_videos must be even, as "
            f"video has one colour per 2 x 2 pixels. Got {image_size} instead."
        )
    seed = check_random_state(random_state).randint(2**31 - 1)
    folder = local_path(folder, "The 'folder' parameter")
    measure = "jod" in (target, full_reference)
    if measure and image_size < _SMALLEST_JOD:
        raise ValueError(
            "The 'image_size' parameter of make_distorted_videos must be at least "
            f"{_SMALLEST_JOD} for JOD. Got {image_size} instead."
        )
    data, facts, jod = [], [], []
    sources = clip_sources(
        references, n_references, n_frames, float(frame_rate), image_size, seed
    )
    for source in sources:
        levels = _levels(names, n_levels, include_references)
        shown = _as_shown(source) if measure else None
        for family, level, severity in levels:
            path = folder / f"{source.name}_{family}_{level}.mp4"
            times = _make(path, source, family, level, severity, seed)
            if times is not None:
                data.append(str(path))
                facts.append((source.name, family, level))
                if measure:
                    jod.append(_jod(path, shown, times, source.frame_rate))
    if not facts:
        raise ValueError(
            "No distortion changes these references: nothing moves in them. Choose "
            "other families or references."
        )
    group, distortion, level = map(np.array, zip(*facts, strict=True))
    columns = {"group": group, "distortion": distortion, "level": level}
    if measure:
        columns["full_reference"] = np.array(jod)
    return graded_set(
        data,
        columns,
        _describe(names, n_levels, len(set(group.tolist())), len(level), target),
        target=np.array(jod) if target == "jod" else None,
        return_X_y=return_X_y,
        as_frame=as_frame,
        distortion_names=names,
    )


def _levels(names, n_levels, include_references) -> Iterator[tuple[str, int, float]]:
    if include_references:
        yield "reference", 0, 0.0
    for family in names:
        for level, severity in enumerate(np.linspace(0, 1, n_levels), start=1):
            yield family, level, float(severity)


def _make(path, source, family, level, severity, seed) -> np.ndarray | None:
    """See to it that the file is there; None where the distortion changes nothing.

    Else the times, in frames of the source, at which the frames of the file are due.
    """
    rng = grade_rng(seed, source.key, family, level)
    words = (_FORMAT, source.key, source.frame_rate, family, level, severity, seed)
    tag = hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()
    frames = source.frames
    crf = None
    if family in TEMPORAL:
        indices, gains = _timing_faults.retime(family, len(frames), severity, rng)
        if _unchanged(frames, indices, gains):
            return None
        shown = (
            frames[i] if gain == 1 else _brighten(frames[i], gain)
            for i, gain in zip(indices, gains, strict=True)
        )
    elif family in _PICTURES:
        indices = range(len(frames))
        shown = (_distortions.distort(f, family, severity, rng) for f in frames)
    else:
        indices, shown = range(len(frames)), iter(frames)
        if family == "x264":
            mild, strong = _CRF
            crf = mild + (strong - mild) * severity
    if not is_intact(path, tag, len(indices)):
        write_video(path, shown, source.frame_rate, tag=tag, crf=crf)
    return np.array(indices if family == "frame_drop" else range(len(indices)))


def _as_shown(source) -> np.ndarray:
    """The frames (T, H, W, 3) of the reference as a file without loss shows them."""
    with tempfile.TemporaryDirectory(prefix="diffqa-") as folder:
        path = Path(folder) / "reference.mp4"
        write_video(path, iter(source.frames), source.frame_rate, tag="")
        return _read(path)


def _read(path) -> np.ndarray:
    (row,) = as_rows([str(path)])
    media = open_media(row)
    return np.stack(list(media.read(range(len(media.times())))))


def _jod(path, reference, times, frame_rate) -> float:
    """JOD of a file; each frame is held until the next one is due."""
    held = np.searchsorted(times, np.arange(len(reference)), side="right") - 1
    return jod_of_clip(reference, _read(path)[held], frame_rate)


def _unchanged(frames, indices, gains) -> bool:
    if len(indices) != len(frames) or (gains != 1).any():
        return False
    moved = np.flatnonzero(indices != np.arange(len(frames)))
    return all(np.array_equal(frames[i], frames[indices[i]]) for i in moved)


def _brighten(frame: np.ndarray, gain: float) -> np.ndarray:
    return np.clip(np.rint(frame * gain), 0, 255).astype(np.uint8)


def _describe(names: list[str], n_levels, n_groups, n, target) -> str:
    meaning = "JOD by ColorVideoVDP" if target == "jod" else "minus the level"
    return "\n".join(
        [
            "Distorted videos",
            "================",
            "",
            f"{n} clips from {n_groups} contents, {len(names)} distortion families at "
            f"up to {n_levels} levels: {', '.join(names)}.",
            "",
            f"target: {meaning}, higher is better; no human rated the clips.",
            "groups: name of the content; split by it.",
        ]
    )
