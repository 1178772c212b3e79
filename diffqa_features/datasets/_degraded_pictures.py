"""Artificially distorted or generated pictures: many versions of each content."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from diffqa_features._utils import tables
from diffqa_features.datasets._description import Dataset, Score, documented
from diffqa_features.datasets._labels import (
    blame,
    floats,
    read_csv,
    read_mat,
    read_workbook,
    same_length,
    texts,
)
from diffqa_features.datasets._loader import read

_OPEN = "open download"


# -- KADID-10k --


def _kadid10k_table(folder) -> pd.DataFrame:
    columns = ["dist_img", "ref_img", "dmos"]
    table = read_csv(folder.label("dmos.csv"), columns, text=columns[:2])
    return table.assign(group=table["ref_img"])


_KADID10K = Dataset(
    loader="load_kadid10k",
    title="KADID-10k",
    about="""10,125 pictures: 81 photographs with 25 distortions at 5 levels, rated by
    crowdsourcing.""",
    tree="""
    kadid10k/
        dmos.csv (dist_img, ref_img, dmos, var)
        images/I01_01_01.png ... (and the references I01.png ...)
    """,
    scores={"dmos": Score("dmos", 1, 5)},
    score_text="""The owners call the column `dmos`, but it is a mean opinion score:
    higher is better. Do not invert it. `var` in `frame` is the variance of the
    ratings.""",
    groups="Name of the reference (`ref_img`, 81).",
    licence="free for research according to the owners' page; no formal licence.",
    access="direct download",
    url="http://database.mmsp-kn.de/kadid-10k-database.html",
    cite="""Lin, H., Hosu, V. and Saupe, D. (2019). KADID-10k: A large-scale
    artificially distorted IQA database. QoMEX.""",
    n_rows=10_125,
    table=_kadid10k_table,
    layouts=(("images/{dist_img}",),),
)


@documented(_KADID10K)
def load_kadid10k(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_KADID10K, root, subset, return_X_y, as_frame, on_missing)


# -- LIVE, release 2 --

_LIVE_COUNTS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}


def _live_table(folder, score) -> pd.DataFrame:
    if score == "realigned":
        path = folder.label("dmos_realigned.mat")
        names = ["dmos_new", "dmos_std", "orgs"]
    else:
        path = folder.label("dmos.mat")
        names = ["dmos", "orgs"]
    columns = {name: floats(v) for name, v in read_mat(path, names).items()}
    path = folder.label("refnames_all.mat")
    columns["reference"] = texts(read_mat(path, ["refnames_all"])["refnames_all"])
    table = same_length(path, **columns)
    with blame(path):
        # Entries have no names: their place in the list is all that says which file.
        if len(table) != sum(_LIVE_COUNTS.values()):
            raise ValueError(f"it has {len(table):,} entries and not 982.")
    table["distortion"] = np.repeat(list(_LIVE_COUNTS), list(_LIVE_COUNTS.values()))
    table["number"] = table.groupby("distortion").cumcount() + 1
    table = table[table["orgs"] == 0].reset_index(drop=True)
    return table.assign(group=table["reference"].str.lower())


_LIVE = Dataset(
    loader="load_live",
    title="LIVE Image Quality Assessment Database, release 2",
    about="""779 pictures: 29 photographs with JPEG 2000, JPEG, white noise, blur and
    fast fading.""",
    tree="""
    databaserelease2/
        dmos_realigned.mat (dmos_new, dmos_std, orgs; a separate download)
        dmos.mat (for score="original"; dmos, orgs)
        refnames_all.mat
        jp2k/img1.bmp ...
        jpeg/, wn/, gblur/, fastfading/ (likewise)
    """,
    scores={
        "realigned": Score("dmos_new", 0, 100, higher_is_better=False, strict=False),
        "original": Score("dmos", 0, 100, higher_is_better=False),
    },
    score_text="""Most papers use the realigned scores. Only these come with
    `dmos_std`.""",
    groups="Name of the reference (29), in lower case.",
    notes="""The label files list 982 entries by position, jp2k first; the 203 copies of
    references (`orgs` is 1) are left out.""",
    unsure="that dmos_realigned.mat is a separate download.",
    licence="""notice of UT Austin, 2005. Nine of the photographs belong to Visual
    Delights Inc. and may not be used outside this database without permission.""",
    access="form and password",
    url="https://live.ece.utexas.edu/research/quality/subjective.htm",
    cite="""Sheikh, H. R., Sabir, M. F. and Bovik, A. C. (2006). IEEE Transactions on
    Image Processing 15(11), 3440-3451; Wang, Z. et al. (2004), 13(4), 600-612; and
    Sheikh, H. R., Wang, Z., Cormack, L. and Bovik, A. C. LIVE image quality assessment
    database release 2.""",
    n_rows=779,
    table=_live_table,
    layouts=(("{distortion}/img{number}.bmp",),),
)


@documented(_LIVE)
def load_live(
    root,
    *,
    score="realigned",
    subset="all",
    return_X_y=False,
    as_frame=False,
    on_missing="raise",
):
    return read(_LIVE, root, subset, return_X_y, as_frame, on_missing, score=score)


# -- CSIQ --

# dst_idx -> folder, and the word in the names of its files.
_CSIQ_DISTORTIONS = {
    1: ("awgn", "AWGN"),
    2: ("jpeg", "JPEG"),
    3: ("jpeg2000", "jpeg2000"),
    4: ("fnoise", "fnoise"),
    5: ("blur", "BLUR"),
    6: ("contrast", "contrast"),
}


def _csiq_table(folder) -> pd.DataFrame:
    path = folder.label("csiq.DMOS.xlsx")
    columns = ["image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]
    table = read_workbook(path, columns, sheet="all_by_image", text=["image"])
    with blame(path):
        table["dst_idx"] = pd.to_numeric(table["dst_idx"]).astype(int)
        table["dst_lev"] = pd.to_numeric(table["dst_lev"]).astype(int)
        unknown = set(table["dst_idx"]) - set(_CSIQ_DISTORTIONS)
        if unknown:
            raise ValueError(f"its 'dst_idx' must be 1 to 6. Got {sorted(unknown)}.")
    places = [_CSIQ_DISTORTIONS[index] for index in table["dst_idx"]]
    table["folder"], table["token"] = zip(*places, strict=True)
    return table.assign(group=table["image"])


_CSIQ = Dataset(
    loader="load_csiq",
    title="CSIQ",
    about="866 pictures: 30 photographs with 6 distortions at 4 or 5 levels.",
    tree="""
    CSIQ/
        csiq.DMOS.xlsx (sheet all_by_image: image, dst_idx, dst_lev, dmos_std, dmos)
        dst_imgs/awgn/1600.AWGN.1.png ...
        dst_imgs/blur/, contrast/, fnoise/, jpeg/, jpeg2000/ (likewise)
    """,
    scores={"dmos": Score("dmos", 0, 1, higher_is_better=False)},
    score_text="`dmos_std` in `frame` is the standard deviation of the ratings.",
    groups="Name of the reference (`image`, 30).",
    licence="not seen.",
    access=_OPEN,
    url="https://s2.smu.edu/~eclarson/csiq.html",
    cite="""Larson, E. C. and Chandler, D. M. (2010). Most apparent distortion:
    full-reference image quality assessment and the role of strategy. Journal of
    Electronic Imaging 19(1).""",
    n_rows=866,
    table=_csiq_table,
    layouts=(("dst_imgs/{folder}/{image}.{token}.{dst_lev}.png",),),
)


@documented(_CSIQ)
def load_csiq(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_CSIQ, root, subset, return_X_y, as_frame, on_missing)


# -- TID2013 --


def _tid2013_table(folder) -> pd.DataFrame:
    path = folder.label("mos_with_names.txt")
    with blame(path):
        table = pd.read_csv(path, sep=r"\s+", header=None, dtype=str)
        # Names would make an index of the first column where there are three.
        if table.shape[1] != 2:
            raise ValueError(
                f"it has {table.shape[1]} columns, not a score and a name."
            )
        table = table.set_axis(["mos", "name"], axis=1)
        odd = table[~table["name"].astype(str).str.fullmatch(_TID2013_NAME)]
        if len(odd):
            raise ValueError(
                "its lines must be a score and a name as i01_02_3.bmp. Got "
                f"'{' '.join(odd.iloc[0].astype(str))}'."
            )
    deviations = folder.optional_label("mos_std.txt")
    if deviations is not None:
        with blame(deviations):
            std = tables.read_csv(deviations, names=["std"])["std"]
        table = same_length(deviations, **table, mos_std=std)
    return table.assign(group=table["name"].str[1:3])


_TID2013_NAME = re.compile(r"i\d\d_\d\d_\d\.bmp", re.IGNORECASE)

_TID2013 = Dataset(
    loader="load_tid2013",
    title="TID2013",
    about="3,000 pictures: 25 photographs with 24 distortions at 5 levels.",
    tree="""
    tid2013/
        mos_with_names.txt (a score and a name on each line)
        mos_std.txt (optional)
        distorted_images/i01_01_1.bmp ...
    """,
    scores={"mos": Score("mos", 0, 9)},
    score_text="`mos_std` in `frame` comes from mos_std.txt, if present.",
    groups="Number of the reference, two digits in the file name (25).",
    notes="""File names differ in case between the list and the disk; case is
    ignored.""",
    unsure="that reference 25 is an artificial picture.",
    licence="not stated by the owners.",
    access=_OPEN,
    url="http://www.ponomarenko.info/tid2013.htm",
    cite="""Ponomarenko, N. et al. (2013). Color image database TID2013: Peculiarities
    and preliminary results. EUVIP, 106-111; and Ponomarenko, N. et al. (2015). Image
    database TID2013. Signal Processing: Image Communication 30, 57-77.""",
    n_rows=3_000,
    table=_tid2013_table,
    layouts=(("distorted_images/{name}",),),
)


@documented(_TID2013)
def load_tid2013(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_TID2013, root, subset, return_X_y, as_frame, on_missing)


# -- PIPAL --


def _pipal_table(folder) -> pd.DataFrame:
    labels = []
    for path in folder.label_folder("Train_Label", "MOS_Scores_train", suffix=".txt"):
        with blame(path):
            table = tables.read_csv(path, names=["name", "elo"])
            if not table["name"].str.startswith(f"{path.stem}_").all():
                raise ValueError(f"its names do not all begin with '{path.stem}_'.")
        labels.append(table)
    table = pd.concat(labels, ignore_index=True)
    return table.assign(group=table["name"].str.partition("_")[0], split="train")


_PIPAL = Dataset(
    loader="load_pipal",
    title="PIPAL (training part)",
    about="""23,200 pictures: 200 references with 116 distortions, many of them outputs
    of restoration networks.""",
    tree="""
    PIPAL/
        Train_Label/A0001.txt ... (one for each of 200 references: name, Elo score)
        Distortion_1/A0001_00_00.bmp ...
        Distortion_2/, Distortion_3/, Distortion_4/ (other references)
    """,
    scores={"elo": Score("elo")},
    score_text="Elo ratings from pairwise comparisons; values range from 917 to 1836.",
    groups="Name of the reference, the part before the first `_` (200).",
    parts={"train": "everything; scores of the other parts were not released with it"},
    notes="""Two other layouts are read too: that of the owners' own code
    (MOS_Scores_train, Distortion/), and all pictures in one folder Train_Dist or
    Dist_Imgs.""",
    licence="not seen.",
    access="Google Drive",
    url="https://www.jasongt.com/projectpages/pipal.html",
    cite="""Gu, J., Cai, H., Chen, H., Ye, X., Ren, J. and Dong, C. (2020). PIPAL: a
    large-scale image quality assessment dataset for perceptual image restoration.
    ECCV.""",
    n_rows=23_200,
    table=_pipal_table,
    layouts=(
        tuple(f"Distortion_{k}/{{name}}" for k in range(1, 5)),
        tuple(f"Distortion/Distortion_{k}/{{name}}" for k in range(1, 5)),
        ("Train_Dist/{name}",),
        ("Dist_Imgs/{name}",),
    ),
)


@documented(_PIPAL)
def load_pipal(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_PIPAL, root, subset, return_X_y, as_frame, on_missing)


# -- AGIQA-3K --


def _agiqa3k_table(folder, score) -> pd.DataFrame:
    path = folder.label("data.csv")
    table = read_csv(
        path, ["name", "prompt", "mos_quality", "mos_align"], text=["name", "prompt"]
    )
    # The dot in "sd1.5_..._012.jpg" is not that of the suffix.
    numbers = [Path(name).stem.rpartition("_")[2] for name in table["name"]]
    with blame(path):
        per_number = table["prompt"].groupby(numbers).nunique(dropna=False)
        if (per_number > 1).any():
            raise ValueError(
                "pictures of one number have several prompts: number "
                f"'{per_number.idxmax()}'."
            )
    return table.assign(group=numbers)


_AGIQA3K = Dataset(
    loader="load_agiqa3k",
    title="AGIQA-3K",
    about="""2,982 pictures generated by six models from 300 prompts, rated for quality
    and for alignment with their prompts.""",
    tree="""
    AGIQA-3K/
        data.csv (name, prompt, mos_quality, std_quality, mos_align, std_align)
        images/AttnGAN_normal_000.jpg ... (or beside data.csv)
    """,
    scores={
        "quality": Score("mos_quality", 0, 5),
        "alignment": Score("mos_align", 0, 5),
    },
    score_text="Standard deviations of both scores are in `frame`.",
    groups="Number of the prompt, three digits at the end of the file name (300).",
    columns=("prompt",),
    columns_text="""A DataFrame with the columns ``path`` and ``prompt``; the latter
    fills ``"{prompt}"`` in the `prompts` of a feature extractor.""",
    unsure="the picture folder inside the archive; it is searched for.",
    licence="MIT.",
    access=_OPEN,
    url="https://github.com/lcysyzxdxc/AGIQA-3k-Database",
    cite="""Li, C., Zhang, Z., Wu, H., Sun, W., Min, X., Liu, X., Zhai, G. and Lin, W.
    (2023). AGIQA-3K: An open database for AI-generated image quality assessment. IEEE
    Transactions on Circuits and Systems for Video Technology.""",
    n_rows=2_982,
    table=_agiqa3k_table,
    layouts=(("images/{name}",), ("{name}",), ("**/{name}",)),
)


@documented(_AGIQA3K)
def load_agiqa3k(
    root,
    *,
    score="quality",
    subset="all",
    return_X_y=False,
    as_frame=False,
    on_missing="raise",
):
    return read(_AGIQA3K, root, subset, return_X_y, as_frame, on_missing, score=score)
