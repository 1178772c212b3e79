"""Videos made to compare cameras: few scenes, each taken with many of them."""

import re
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils._param_validation import Interval

from diffqa_features._media.video.raw import RawVideo
from diffqa_features.datasets._description import Dataset, Option, Score, documented
from diffqa_features.datasets._folder import some
from diffqa_features.datasets._labels import (
    blame,
    floats,
    read_csv,
    read_mat,
    same_length,
    texts,
)
from diffqa_features.datasets._loader import read

# -- CVD2014 --


def _cvd2014_table(folder, score) -> pd.DataFrame:
    path = folder.label("Realignment_MOS.csv")
    columns = ["Content", "File_name", "Original MOS", "Realignment MOS"]
    table = read_csv(path, columns, text=columns[:2], sep=";", decimal=",")
    # Four columns without a name, and 168 lines without anything, end the file.
    table = table[columns].dropna(subset=["File_name"]).reset_index(drop=True)
    with blame(path):
        names = table["File_name"] = table["File_name"].str.strip()
        odd = names[~names.str.fullmatch(r"Test0[1-6]_.+")]
        if len(odd):
            raise ValueError(
                f"its 'File_name' must be as Test01_City_D01. Got '{odd.iloc[0]}'."
            )
    contents = table["Content"].str.strip()
    return table.assign(
        test=names.str[5],
        scene=contents.str.replace(" ", "_"),
        group=contents.str.lower(),
    )


_CVD2014 = Dataset(
    loader="load_cvd2014",
    title="CVD2014",
    about="""234 videos of 5 scenes, recorded with 78 cameras in six tests: authentic
    capture distortions.""",
    tree="""
    CVD2014/
        CVD2014_ratings/Realignment_MOS.csv
            (Content;File_name;Original MOS;Realignment MOS)
        Test1/City/Test01_City_D01.avi ...
        Test2/ ... Test6/ (likewise)
    """,
    scores={
        "realigned": Score("Realignment MOS", 0, 100, strict=False),
        "original": Score("Original MOS", 0, 100),
    },
    score_text="The original scores cannot be compared between the six tests.",
    groups="""Scene (`Content`, 5): all cameras of a test filmed the same one. Combined
    with the column ``test`` of `frame`, it gives 18 groups, a less strict rule.""",
    notes="The file uses decimal commas, which are read correctly.",
    unsure="that the original scores of different tests cannot be compared.",
    licence="""notice of the University of Helsinki: free use with the notice and an
    acknowledgement; single frames not for marketing.""",
    access="open download",
    url="https://zenodo.org/records/2646315",
    cite="""Nuutinen, M., Virtanen, T., Vaahteranoksa, M., Vuori, T., Oittinen, P. and
    Häkkinen, J. (2016). CVD2014 - A database for evaluating no-reference video quality
    assessment algorithms. IEEE Transactions on Image Processing 25(7), 3073-3086.""",
    n_rows=234,
    media="videos",
    table=_cvd2014_table,
    layouts=(
        ("Test{test}/{scene}/{File_name}.avi",),
        ("Test{test}/{File_name}.avi",),
        ("{File_name}.avi",),
    ),
)


@documented(_CVD2014)
def load_cvd2014(
    root,
    *,
    score="realigned",
    subset="all",
    return_X_y=False,
    as_frame=False,
    on_missing="raise",
):
    return read(_CVD2014, root, subset, return_X_y, as_frame, on_missing, score=score)


# -- LIVE-Qualcomm --

_SCENE = re.compile(r"(\d{4}_?[a-z0-9]+?)_", re.IGNORECASE)


def _live_qualcomm_table(folder, score, frame_rate) -> pd.DataFrame:
    path = folder.label("qualcommSubjectiveData.mat")
    found = read_mat(path, ["qualcommVideoData", "qualcommSubjectiveData"])
    with blame(path):
        videos, scores = found.values()
        kinds = texts(videos["distortionNames"])
        index = floats(videos["distortionType"]).astype(int)
        if not np.isin(index, range(1, len(kinds) + 1)).all():
            raise ValueError(f"its 'distortionType' must be 1 to {len(kinds)}.")
        table = same_length(
            path,
            name=texts(videos["vidNames"]),
            distortion=[kinds[k - 1] for k in index],
            phone=floats(videos["phoneID"]).astype(int),
            unBiasedMOS=floats(scores["unBiasedMOS"]),
            biasedMOS=floats(scores["biasedMOS"]),
        )
        stems = [Path(name).stem for name in table["name"]]
        scenes = [_SCENE.match(stem) for stem in stems]
        if None in scenes:
            odd = stems[scenes.index(None)]
            raise ValueError(
                f"its names must begin as 0723_ManUnderTree_. Got '{odd}'."
            )
    return table.assign(
        stem=stems, group=[scene[1].lower() for scene in scenes], frame_rate=frame_rate
    )


def _live_qualcomm_media(table: pd.DataFrame) -> pd.DataFrame:
    """Facts that a raw file lacks; a converted one has its own."""
    if not table["path"].str.lower().str.endswith(".yuv").any():
        return table.drop(columns="frame_rate")
    table = table.assign(width=1920, height=1080, pixel_format="yuv420p")
    broken = []
    for row in table[["path", *_RAW]].to_dict("records"):
        try:
            RawVideo.from_columns(row["path"], row).count()
        except ValueError as error:
            broken.append(f"'{row['path']}': {error}")
    if broken:
        raise ValueError(
            f"LIVE-Qualcomm: {len(broken)} of {len(table)} raw files cannot be read. "
            f"{some(broken, 2)}. Download them again, or remove them and pass "
            "on_missing='drop'."
        )
    return table


_RAW = ("width", "height", "frame_rate", "pixel_format")
_LIVE_QUALCOMM = Dataset(
    loader="load_live_qualcomm",
    title="LIVE-Qualcomm mobile in-capture",
    about="""208 videos of 54 scenes with distortions of six kinds, taken with eight
    phones; raw, 1920 x 1080 pixels.""",
    tree="""
    LIVE-Qualcomm/
        qualcommSubjectiveData.mat
            (the structs qualcommVideoData and qualcommSubjectiveData)
        Artifacts/0723_ManUnderTree_GS5_00.yuv ... (or all of them as .mp4)
        Color/, Exposure/, Focus/, Sharpness/, Stabilization/ (likewise)
    """,
    scores={
        "unbiased": Score("unBiasedMOS", 0, 100),
        "biased": Score("biasedMOS", 0, 100),
    },
    groups="Scene, four digits and a word at the beginning of the name (54).",
    options={
        "frame_rate": Option(
            [Interval(Real, 0, None, closed="neither")],
            "float",
            30.0,
            """Frames per second of the raw files, which do not say it. Files converted
            to .mp4 have a rate of their own, and it is 25 where the converter was not
            told.""",
        )
    },
    columns=_RAW,
    columns_text="""As a DataFrame, whatever `as_frame` says, with the columns ``path``,
    ``width``, ``height``, ``frame_rate`` and ``pixel_format``, which a reader of raw
    video needs; as a list of paths if the files were converted to .mp4.""",
    notes="""Frames are YUV 4:2:0 of 8 bits. A raw file whose length is not a multiple
    of a frame is an error.""",
    unsure="the frame rate of 30, licence, and access.",
    licence="notice of UT Austin.",
    access="form and password",
    url="https://live.ece.utexas.edu/research/incaptureDatabase/index.html",
    cite="""Ghadiyaram, D., Pan, J., Bovik, A. C., Moorthy, A. K., Panda, P. and Yang,
    K.-C. (2018). In-capture mobile video distortions: A study of subjective behavior
    and objective algorithms. IEEE Transactions on Circuits and Systems for Video
    Technology 28(9), 2061-2077.""",
    n_rows=208,
    media="videos",
    table=_live_qualcomm_table,
    finish=_live_qualcomm_media,
    layouts=(("{distortion}/{stem}.yuv",), ("{distortion}/{stem}.mp4",)),
)


@documented(_LIVE_QUALCOMM)
def load_live_qualcomm(
    root,
    *,
    score="unbiased",
    frame_rate=30.0,
    subset="all",
    return_X_y=False,
    as_frame=False,
    on_missing="raise",
):
    return read(
        _LIVE_QUALCOMM,
        root,
        subset,
        return_X_y,
        as_frame,
        on_missing,
        score=score,
        frame_rate=frame_rate,
    )
