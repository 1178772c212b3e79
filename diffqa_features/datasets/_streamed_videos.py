"""Videos made to compare codecs, frame rates and networks, out of few sources."""

import json
from pathlib import Path

import pandas as pd

from diffqa_features.datasets._description import Dataset, Score, documented
from diffqa_features.datasets._labels import (
    blame,
    columns_of,
    floats,
    read_csv,
    read_mat,
    texts,
)
from diffqa_features.datasets._loader import read

# -- LIVE-YT-HFR --


def _live_yt_hfr_table(folder, score) -> pd.DataFrame:
    if score == "mos":
        # Three long lines: names, scores, standard deviations.
        path = folder.label("subject_MOS.csv")
        with blame(path):
            wide = pd.read_csv(path, header=None, index_col=0, dtype=str)
            lines = {str(label).strip(): wide.loc[label] for label in wide.index}
            if not {"File Names", "MOS", "std"} <= set(lines):
                raise ValueError(
                    "its lines must begin with 'File Names', 'MOS' and 'std'. Got "
                    f"{', '.join(lines)}."
                )
        table = pd.DataFrame(lines).dropna(subset=["File Names"])
        table["std"] = pd.to_numeric(table["std"])
        table = table.reset_index(drop=True)
    else:
        path = folder.label("subject_DMOS.csv")
        table = read_csv(path, ["File Names", "DMOS"], text=["File Names"])
    names = table["File Names"].str.strip()
    parts = names.str.extract(r"^(?P<source>.+)_crf_(?P<crf>\d+)_(?P<fps>\d+)fps$")
    with blame(path):
        if parts["source"].isna().any():
            odd = names[parts["source"].isna()].iloc[0]
            raise ValueError(f"its names must be as books_crf_0_120fps. Got '{odd}'.")
    return table.assign(
        name=names,
        crf=parts["crf"].astype(int),
        fps=parts["fps"].astype(int),
        group=parts["source"],
    )


_LIVE_YT_HFR = Dataset(
    loader="load_live_yt_hfr",
    title="LIVE-YT-HFR",
    about="""480 videos: 16 sources at 24, 30, 60, 82, 98 and 120 frames per second and
    five strengths of VP9 compression; some of them 4K with 10 bits.""",
    tree="""
    LIVE-YT-HFR/
        subjective_scores/subject_MOS.csv (three long lines: File Names, MOS, std)
        subjective_scores/subject_DMOS.csv (for score="dmos")
        books/books_crf_0_24fps.webm ... (in any folder)
    """,
    scores={
        "mos": Score("MOS", 0, 100),
        "dmos": Score("DMOS", higher_is_better=False),
    },
    score_text="""DMOS is MOS of the reference minus MOS of the video, for the 464
    videos that are no references.""",
    groups="Name of the source, the part before `_crf_` (16).",
    notes="""The frame rate of the name is the column `fps` of `frame`; containers may
    say another.""",
    unsure="the folders of the videos, which are searched for; licence.",
    licence="notice of UT Austin.",
    access="password by mail",
    url="https://live.ece.utexas.edu/research/LIVE_YT_HFR/LIVE_YT_HFR/index.html",
    cite="""Madhusudana, P. C., Yu, X., Birkbeck, N., Wang, Y., Adsumilli, B. and Bovik,
    A. C. (2021). Subjective and objective quality assessment of high frame rate videos.
    IEEE Access 9, 108069-108082.""",
    media="videos",
    table=_live_yt_hfr_table,
    layouts=(("**/{name}.webm",), ("**/{name}.mp4",)),
)


@documented(_LIVE_YT_HFR)
def load_live_yt_hfr(
    root,
    *,
    score="mos",
    subset="all",
    return_X_y=False,
    as_frame=False,
    on_missing="raise",
):
    return read(
        _LIVE_YT_HFR, root, subset, return_X_y, as_frame, on_missing, score=score
    )


# -- AVT-VQDB-UHD-1 --


def _avt_table(folder) -> pd.DataFrame:
    tests = list(_AVT.parts) if folder.subset == "all" else [folder.subset]
    tables = []
    for test in tests:
        path = folder.label(f"{test}/mos_ci.csv")
        table = read_csv(
            path, ["src", "video_name", "MOS", "CI"], text=["src", "video_name"]
        )
        tables.append(table.assign(test=test))
        shared = folder.optional_label(f"{test}.json")
        if shared is None:
            continue
        with blame(shared):
            listed = {Path(name).name for name in json.loads(shared.read_text("utf-8"))}
        kept = table["video_name"].isin(listed)
        tables[-1] = tables[-1][kept]
        folder.notes.append(
            f"{test}: {kept.sum()} of {len(kept)} rated videos are shared by the owners"
        )
    table = pd.concat(tables, ignore_index=True)
    return table.assign(group=table["src"].str.removesuffix("_8s"))


_AVT = Dataset(
    loader="load_avt_vqdb_uhd_1",
    title="AVT-VQDB-UHD-1",
    about="""756 ratings in four tests of 17 contents, encoded by H.264, HEVC and VP9 at
    360 to 2160 lines; 432 of these videos are published.""",
    tree="""
    AVT-VQDB-UHD-1/
        test_1/mos_ci.csv (src, video_name, MOS, CI)
        test_1.json (list of the published videos)
        test_1/segments/bigbuck_bunny_8bit_200kbps_360p_60.0fps_h264.mp4 ...
        test_2/, test_3/, test_4/, test_2.json ... (likewise)
    """,
    scores={"mos": Score("MOS", 1, 5)},
    score_text="""`CI` in `frame` is a confidence value, not a standard deviation. The
    scores are for playback at 3840 x 2160 pixels and 60 frames per second.""",
    groups="""Content: `src` without a final `_8s` (17). Sparks_cut_13 and Sparks_cut_15
    are two cuts of the same film.""",
    parts={f"test_{k}": f"subjective test {k}" for k in range(1, 5)},
    part_column="test",
    notes="""The four tests are not a training and test split: they share contents, so
    split by `groups`. 96 names occur in both test 2 and test 3, with different files
    and scores. Rows that test_k.json does not list were never published and are left
    out; without that file all rows are used.""",
    licence="""CC BY-NC 4.0; Big Buck Bunny CC BY 3.0; Netflix's own licence for Sparks
    and water_netflix.""",
    access="no form",
    url="https://github.com/Telecommunication-Telemedia-Assessment/AVT-VQDB-UHD-1",
    cite="""Ramachandra Rao, R. R., Göring, S., Robitza, W., Feiten, B. and Raake, A.
    (2019). AVT-VQDB-UHD-1: A large scale video quality database for UHD-1. IEEE
    International Symposium on Multimedia.""",
    media="videos",
    table=_avt_table,
    layouts=(("{test}/segments/{video_name}",),),
)


@documented(_AVT)
def load_avt_vqdb_uhd_1(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_AVT, root, subset, return_X_y, as_frame, on_missing)


# -- LIVE-NFLX-II --

_NFLX = ("distorted_mp4_video", "content_name", "retrospective_zscored_mos")


def _live_nflx_2_table(folder) -> pd.DataFrame:
    paths = [p for p in folder.suffixed(".mat") if set(_NFLX) <= set(columns_of(p))]
    if not paths:
        others, pickles = (len(folder.suffixed(kind)) for kind in (".mat", ".pkl"))
        raise FileNotFoundError(
            f"{folder.dataset.title}: there is no .mat file with the variables "
            f"{', '.join(_NFLX)} in '{folder.root}' or below, only {others} other .mat "
            f"and {pickles} .pkl files. Pickles are not read, because reading them can "
            "run code; the .mat files of the same archive hold the same. "
            f"{folder.dataset.way_out}"
        )
    folder.labels += paths
    rows = [read_mat(path, _NFLX) for path in paths]
    table = pd.DataFrame(
        {
            "distorted_mp4_video": [texts(row[_NFLX[0]])[0] for row in rows],
            "content_name": [texts(row[_NFLX[1]])[0] for row in rows],
            "retrospective_zscored_mos": [floats(row[_NFLX[2]])[0] for row in rows],
        }
    )
    return table.assign(group=table["content_name"])


_LIVE_NFLX_2 = Dataset(
    loader="load_live_nflx_2",
    title="LIVE-NFLX-II",
    about="""420 streamed videos: 15 contents over 7 networks with 4 ways to adapt to
    them, so with stalls and changes of rate.""",
    tree="""
    LIVE-NFLX-II/
        Dataset_Information/....mat (one per video, in any folder)
        assets_mp4_individual/....mp4 (in any folder)
    """,
    scores={"mos": Score("retrospective_zscored_mos")},
    score_text="""The score is an average of standardised ratings: only its order and
    its differences have a meaning.""",
    groups="Name of the content (`content_name`, 15).",
    notes="""The .pkl files of the same archive hold the same and are not read, because
    reading them can run code.""",
    unsure="the folders of both kinds of files, which are searched for; access.",
    licence="notice of UT Austin, 2018.",
    access="form and password",
    url="http://live.ece.utexas.edu/research/LIVE_NFLX_II/live_nflx_plus.html",
    cite="""Bampis, C. G., Li, Z., Katsavounidis, I., Huang, T.-Y., Ekanadham, C. and
    Bovik, A. C. (2018). Towards perceptually optimized end-to-end adaptive video
    streaming. arXiv 1808.03898.""",
    n_rows=420,
    media="videos",
    table=_live_nflx_2_table,
    layouts=(("**/{distorted_mp4_video}",),),
)


@documented(_LIVE_NFLX_2)
def load_live_nflx_2(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_LIVE_NFLX_2, root, subset, return_X_y, as_frame, on_missing)
