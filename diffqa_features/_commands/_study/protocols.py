"""The papers' tables as data: what trains, what tests, and what the authors report.

Nothing here is measured by us, and nothing is guessed: a figure that could not be
obtained is None. Each fact has a mark, see `MARKS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

MARKS = {
    "paper": "stated by the paper or its authors' page",
    "code": "stated by the authors' released code",
    "quoted": "quoted from the paper by somebody else",
    "chosen": "our choice; what the paper's table has here could not be obtained",
}


@dataclass(frozen=True)
class Part:
    """The rows of a data set that train or test: those of ``datasets.load_NAME``."""

    name: str
    subset: str = "all"

    @property
    def key(self) -> str:
        return self.name if self.subset == "all" else f"{self.name}-{self.subset}"


@dataclass(frozen=True)
class Published:
    """What others report. It is shown beside our figures and enters none of them."""

    srcc: float
    plcc: float
    mark: str
    source: str


@dataclass(frozen=True)
class Line:
    """One line of a table. Without `test`, the held-out rows of random splits test.

    `mark` is that of the pair of data sets, not of the figures.
    """

    train: Part
    test: Part | None
    mark: str
    published: Published | None = None
    settings: Mapping[str, object] = field(default_factory=dict)  # in prediction

    @property
    def key(self) -> str:
        return f"{self.train.key}--{self.test.key if self.test else 'held-out'}"

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.train,) if self.test is None else (self.train, self.test)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A table of a paper, and the estimator that stands for its system."""

    name: str
    title: str
    system: str
    reference: str
    estimator: str  # name of the class in diffqa_features
    backbone: str  # of the paper, see `backbone_mark`
    backbone_mark: str = "code"
    settings: Mapping[str, object]  # of the paper or its code, on any backbone
    full_settings: Mapping[str, object] = field(default_factory=dict)  # not on tiny
    by_set: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # as above
    quick_settings: Mapping[str, object] = field(
        default_factory=lambda: {"max_epochs": 1}
    )
    lines: tuple[Line, ...]
    n_splits: int = 1
    test_size: float = 0.2
    metrics: tuple[str, ...] = ("srcc", "plcc")
    mapping: str | None = None  # of predictions, before PLCC
    notes: tuple[str, ...] = ()

    @property
    def backbone_text(self) -> str:
        """What is known of the paper's backbone."""
        if self.backbone_mark != "chosen":
            return f"the paper uses {self.backbone}"
        return (
            f"which backbone the paper uses could not be obtained, {self.backbone} is "
            "inferred"
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(dict.fromkeys(p for line in self.lines for p in line.parts))

    @property
    def names(self) -> tuple[str, ...]:
        """Data sets, in order of appearance."""
        return tuple(dict.fromkeys(part.name for part in self.parts))


def find_study(name: str) -> Study:
    """The study of that name."""
    if name not in STUDIES:
        close = get_close_matches(name, STUDIES, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"There is no study {name!r}.{hint} There are: {', '.join(STUDIES)}; "
            "'diffqa study --list' describes them."
        )
    return STUDIES[name]


def _lines(train: Part, mark: str, *tests: Part) -> tuple[Line, ...]:
    return tuple(Line(train, test, mark) for test in tests)


# -- data sets --

_KONIQ, _CLIVE, _FLIVE, _SPAQ = map(Part, ("koniq10k", "clive", "flive", "spaq"))
_FLIVE_TRAIN = Part("flive", "train")
_LIVE, _KADID = Part("live"), Part("kadid10k")
_LSVQ_TRAIN, _LSVQ_TEST, _LSVQ_1080P = (
    Part("lsvq", subset) for subset in ("train", "test", "1080p")
)
_KONVID, _LIVE_VQC, _YOUTUBE = map(Part, ("konvid1k", "live_vqc", "youtube_ugc"))
_HFR, _UHD, _NFLX = map(Part, ("live_yt_hfr", "avt_vqdb_uhd_1", "live_nflx_2"))


# -- GenzIQA and GenzVQA --

_GENZ = (
    "S. Mitra, D. De, S. Rao and R. Soundararajan, Image and Video Quality Assessment "
    "using Prompt-Guided Latent Diffusion Models for Cross-Dataset Generalization, "
    "arXiv 2406.04654"
)
_GENZ_QUICK = {"max_epochs": 1, "n_timesteps": 2}
_GENZ_NOTES = (
    "None of the paper's tables could be obtained: no figure is published here.",
    "PLCC is of raw predictions, as in the released code.",
)

_GENZIQA = Study(
    name="genziqa",
    title="GenzIQA across data sets",
    system="GenzIQA",
    reference=_GENZ,
    estimator="GenzIQARegressor",
    backbone="sd21-base",
    # The released scripts run ten epochs and test the weights after five.
    settings={"context_position": "end", "max_epochs": 5},
    quick_settings=_GENZ_QUICK,
    lines=(
        *_lines(_FLIVE_TRAIN, "code", _CLIVE),
        *_lines(_FLIVE_TRAIN, "chosen", _KONIQ, _SPAQ, _LIVE, _KADID),
        # A caption says that a model trained on CLIVE was tested on four; not on which.
        *_lines(_CLIVE, "chosen", _FLIVE, _KONIQ, _LIVE, _KADID),
    ),
    notes=_GENZ_NOTES,
)

_GENZVQA = Study(
    name="genzvqa",
    title="GenzVQA across data sets",
    system="GenzVQA",
    reference=_GENZ,
    estimator="GenzVQARegressor",
    backbone="sd21-base",
    # Of six epochs, the released scripts test the weights after three.
    settings={"context_position": "end", "max_epochs": 3, "n_frames": 12},
    full_settings={"motion_network": "slowfast_r50"},
    quick_settings=_GENZ_QUICK,
    lines=(
        Line(_LSVQ_TRAIN, _KONVID, "code", settings={"n_frames": 8}),
        # The abstract names the families (user-generated videos, frame rates, UHD,
        # streaming) but not the sets.
        *_lines(
            _LSVQ_TRAIN,
            "chosen",
            _LSVQ_TEST,
            _LSVQ_1080P,
            _LIVE_VQC,
            _YOUTUBE,
            _HFR,
            _UHD,
            _NFLX,
        ),
    ),
    notes=(
        *_GENZ_NOTES,
        "12 frames of each video, 8 of KoNViD-1k, as in the released code; what it "
        "uses on other sets is unknown.",
        "The motion network of the released code is not part of it; SlowFast-R50 is "
        "inferred from the width of its features.",
    ),
)


# -- DP-IQA --

_DPIQA_PAPER = (
    "H. Fu, Y. Wang, W. Yang, A. C. Kot and B. Wen, DP-IQA: Utilizing Diffusion Prior "
    "for Blind Image Quality Assessment in the Wild, arXiv 2405.19996"
)
_QUOTED_BY = "quoted in the README of drkkgy/NR_IQA_AGM (WACV 2026)"
_DPIQA = {
    "system": "DP-IQA",
    "reference": _DPIQA_PAPER,
    "estimator": "DPIQARegressor",
    "backbone": "sd15",
    "settings": {},
    "full_settings": {"text_model": "openai/clip-vit-large-patch14"},
    "by_set": {
        "koniq10k": {"preset": "koniq"},
        "clive": {"preset": "clive"},
        "flive": {"preset": "livefb"},
        "spaq": {"preset": "spaq"},
    },
}
_DPIQA_NOTES = (
    "PLCC is of raw predictions, as in the released code.",
    "The released code reports the best epoch on the test rows; ours is the last "
    "epoch, whatever it scores.",
    "The released code keeps the 7 practice pictures of CLIVE; ours leaves them out.",
)


def _split(train: Part, srcc: float, plcc: float) -> Line:
    return Line(train, None, "code", Published(srcc, plcc, "quoted", _QUOTED_BY))


_DPIQA_SPLITS = Study(
    name="dpiqa-splits",
    title="DP-IQA on ten random splits, 80 % to train",
    **_DPIQA,
    n_splits=10,
    lines=(
        _split(_CLIVE, 0.893, 0.913),
        _split(_KONIQ, 0.942, 0.951),
        _split(_FLIVE, 0.579, 0.683),
        _split(_SPAQ, 0.923, 0.926),
    ),
    notes=(
        *_DPIQA_NOTES,
        "80/20 by picture is the released code's; it makes one split. How many the "
        "paper makes could not be obtained: ten, and their median, is our choice.",
    ),
)

_DPIQA_CROSS = Study(
    name="dpiqa-cross",
    title="DP-IQA across data sets",
    **_DPIQA,
    lines=(
        *_lines(_KONIQ, "code", _CLIVE),
        *_lines(_CLIVE, "chosen", _KONIQ),
        *_lines(_FLIVE, "chosen", _KONIQ, _CLIVE),
    ),
    notes=(
        *_DPIQA_NOTES,
        "The paper's cross-dataset table could not be obtained: no figure is published "
        "here. That KonIQ-10k to CLIVE is tested is known from the authors' "
        "demonstration.",
    ),
)


# -- DiffVQA --

_PAGE = "read from the tables of the authors' page"


def _diffvqa(train: Part, test: Part, srcc: float, plcc: float) -> Line:
    return Line(train, test, "paper", Published(srcc, plcc, "paper", _PAGE))


_DIFFVQA = Study(
    name="diffvqa",
    title="DiffVQA across data sets",
    system="DiffVQA",
    reference="W.-T. Chen, Y.-J. Vong, Y.-T. Lee, S.-Y. Kuo, Q. Gao, S. Ma and "
    "J. Wang, DiffVQA: Video Quality Assessment Using Diffusion Feature Extractor, "
    "arXiv 2505.03261",
    estimator="DiffVQARegressor",
    backbone="sd21-base",
    backbone_mark="chosen",
    settings={"representation": "paper", "frames": "spread", "n_crops": 20},
    quick_settings={"max_epochs": 1, "n_crops": 1, "control": False},
    lines=(
        _diffvqa(_LSVQ_TRAIN, _LSVQ_TEST, 0.915, 0.907),
        _diffvqa(_LSVQ_TRAIN, _LSVQ_1080P, 0.818, 0.860),
        _diffvqa(_LSVQ_TRAIN, _KONVID, 0.905, 0.906),
        _diffvqa(_LSVQ_TRAIN, _LIVE_VQC, 0.861, 0.868),
        _diffvqa(_LIVE_VQC, _KONVID, 0.861, 0.858),
        _diffvqa(_LIVE_VQC, _YOUTUBE, 0.871, 0.844),
        _diffvqa(_YOUTUBE, _LIVE_VQC, 0.829, 0.846),
        _diffvqa(_YOUTUBE, _KONVID, 0.883, 0.865),
    ),
    notes=(
        "Which Stable Diffusion, how many frames, losses and training settings could "
        "not be obtained. Stable Diffusion 2.1 is inferred from related work, one "
        "frame per second is our choice, and the rest are this library's defaults. "
        "The 20 crops are those of the authors' README.",
        "Stage 1, the control module, is trained on the training videos.",
        "PLCC is of raw predictions; whether the paper maps them is unknown.",
    ),
)

STUDIES = {
    study.name: study
    for study in (_GENZIQA, _GENZVQA, _DPIQA_SPLITS, _DPIQA_CROSS, _DIFFVQA)
}
