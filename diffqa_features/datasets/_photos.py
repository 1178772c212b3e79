"""Photographs with authentic distortions: one content per picture."""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils._param_validation import StrOptions

from diffqa_features.datasets._description import Dataset, Option, Score, documented
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

_OWN_GROUP = "Each picture is its own group: its name."
_NO_FORM = "free download, no form"


# -- KonIQ-10k --


def _koniq10k_table(folder, size) -> pd.DataFrame:
    path = folder.optional_label("koniq10k_distributions_sets.csv")
    if path is None:
        path = folder.label("koniq10k_scores_and_distributions.csv")
        table = read_csv(path, ["image_name", "MOS_zscore"], text=["image_name"])
        folder.notes.append(
            "no split: it is in koniq10k_distributions_sets.csv, which is not there"
        )
        table["score"] = table["MOS_zscore"]
    else:
        table = read_csv(path, ["image_name", "MOS", "set"], text=["image_name"])
        with blame(path):
            if table["MOS"].max() <= 5:
                raise ValueError(
                    "its 'MOS' ends at 5 or below, but in this file that column is on "
                    "the scale of 0 to 100."
                )
            words = {"training": "train", "validation": "validation", "test": "test"}
            table["split"] = _mapped(table["set"], words)
        table["score"] = table["MOS"]
    return table.assign(group=table["image_name"], size=size)


_KONIQ10K = Dataset(
    loader="load_koniq10k",
    title="KonIQ-10k",
    about="""10,073 photographs with authentic distortions, each with 93 to 157
    crowdsourced ratings.""",
    tree="""
    koniq10k/
        koniq10k_distributions_sets.csv (with the official split; image_name, MOS, set)
        koniq10k_scores_and_distributions.csv (read if the other is missing; image_name,
            MOS_zscore)
        1024x768/10004473376.jpg ...
        512x384/10004473376.jpg ... (a version for size="512x384")
    """,
    scores={"mos": Score("score", 0, 100)},
    score_text="""Both label files have a column `MOS`, on different scales. The score
    loaded here is the one from 0 to 100 that papers use: `MOS` of
    koniq10k_distributions_sets.csv, or `MOS_zscore` of the other file, whose `MOS` is
    on the scale 1 to 5.""",
    groups=_OWN_GROUP,
    parts={
        "train": "7,058 photographs, called `training` in the file",
        "validation": "1,000",
        "test": "2,015",
    },
    options={
        "size": Option(
            [StrOptions({"1024x768", "512x384", "224x224"})],
            '{"1024x768", "512x384", "224x224"}',
            "1024x768",
            """Folder of pictures, named by width and height in pixels. The label files
            are the same for all.""",
        )
    },
    notes="`SD`, if present, is on the scale 1 to 5.",
    unsure="the licence of the photographs.",
    licence="Creative Commons, as chosen by the Flickr users who took the photographs.",
    access=_NO_FORM,
    url="http://database.mmsp-kn.de/koniq-10k-database.html, https://osf.io/hcsdy/",
    cite="""Hosu, V., Lin, H., Szirányi, T. and Saupe, D. (2020). KonIQ-10k: An
    ecologically valid database for deep learning of blind image quality assessment.
    IEEE Transactions on Image Processing 29, 4041-4056.""",
    n_rows=10_073,
    table=_koniq10k_table,
    layouts=(("{size}/{image_name}",),),
)


@documented(_KONIQ10K)
def load_koniq10k(
    root,
    *,
    size="1024x768",
    subset="all",
    return_X_y=False,
    as_frame=False,
    on_missing="raise",
):
    return read(_KONIQ10K, root, subset, return_X_y, as_frame, on_missing, size=size)


# -- CLIVE --


def _clive_table(folder) -> pd.DataFrame:
    columns = {}
    for part in ("Images", "MOS", "StdDev"):
        name = f"All{part}_release"
        path = folder.label(f"{name}.mat")
        columns[name] = read_mat(path, [name])[name]
    table = same_length(
        path,
        name=texts(columns["AllImages_release"]),
        mos=floats(columns["AllMOS_release"]),
        std=floats(columns["AllStdDev_release"]),
    )
    # The training pictures of the study lead the list; they are not rated ones.
    practice = table["name"].str.fullmatch(r"t[1-7]\.bmp", case=False)
    folder.notes.append(f"{practice.sum()} practice pictures left out")
    table = table[~practice].reset_index(drop=True)
    return table.assign(group=table["name"])


_CLIVE = Dataset(
    loader="load_clive",
    title="LIVE In the Wild Image Quality Challenge (CLIVE)",
    about="""1,162 photographs with authentic distortions of mobile cameras, rated by
    crowdsourcing.""",
    tree="""
    ChallengeDB_release/
        Data/AllImages_release.mat (a cell of 1,169 names)
        Data/AllMOS_release.mat
        Data/AllStdDev_release.mat
        Images/3.bmp ...
    """,
    scores={"mos": Score("mos", 0, 100)},
    score_text="`std` in `frame` is the standard deviation of the ratings.",
    groups=_OWN_GROUP,
    notes="""The label files start with the study's seven training pictures, t1.bmp to
    t7.bmp; they are left out.""",
    unsure="that a form must be filled in.",
    licence="""notice of UT Austin, 2015: free use, copying and modification, provided
    that the notice is kept and the source named.""",
    access="form and password",
    url="https://live.ece.utexas.edu/research/ChallengeDB/index.html",
    cite="""Ghadiyaram, D. and Bovik, A. C. (2016). Massive online crowdsourced study of
    subjective and objective picture quality. IEEE Transactions on Image Processing
    25(1), 372-387.""",
    n_rows=1_162,
    table=_clive_table,
    layouts=(("Images/{name}",),),
)


@documented(_CLIVE)
def load_clive(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_CLIVE, root, subset, return_X_y, as_frame, on_missing)


# -- FLIVE --


def _flive_table(folder) -> pd.DataFrame:
    path = folder.label("labels_image.csv")
    table = read_csv(path, ["name", "mos"], text=["name"])
    table["group"] = [Path(name).stem for name in table["name"]]
    test = folder.optional_label("labels640.csv", "labels>640.csv")
    rest = folder.optional_label("labels=640_padded.csv", "labels<=640_padded.csv")
    if test is None or rest is None:
        folder.notes.append(
            "no split: labels640.csv and labels=640_padded.csv of the repository "
            "PaQ-2-PiQ, which make it, are not both there"
        )
        return table
    test_names = set(read_csv(test, ["name_image"])["name_image"])
    padded = read_csv(rest, ["name_image", "is_valid"])
    with blame(rest):
        valid = _mapped(padded["is_valid"], {"true": True, "false": False})
    valid_names = set(padded["name_image"][valid.astype(bool)]) - test_names
    table["split"] = np.select(
        [table["name"].isin(test_names), table["name"].isin(valid_names)],
        ["test", "validation"],
        "train",
    )
    return table


_FLIVE = Dataset(
    loader="load_flive",
    title="FLIVE (LIVE-FB, PaQ-2-PiQ)",
    about="""39,810 photographs from four older collections, rated by crowdsourcing.
    Patches are not loaded.""",
    tree="""
    FLIVE_Database/
        labels_image.csv (name, mos)
        labels640.csv (of the repository PaQ-2-PiQ: the test part; name_image)
        labels=640_padded.csv (likewise: is_valid marks the validation part)
        database/voc_emotic_ava/AVA__100.jpg ...
        database/blur_dataset/...
        database/EE371R/...
    """,
    scores={"mos": Score("mos", 0, 100)},
    groups="Picture name without its extension; give its patches the same group.",
    parts={
        "train": "everything that is in neither of the other parts",
        "validation": "pictures marked by `is_valid`",
        "test": "1,827 pictures with a side above 640 pixels",
    },
    notes="""The split needs two more label files. The photographs come from AVA,
    VOC2012, EMOTIC and the CUHK blur set; the owners' database_prep.ipynb renames them.
    Some of these sources are no longer available: see `on_missing`.""",
    licence="""labels CC BY-NC-SA according to the repository PaQ-2-PiQ; each photograph
    keeps the licence of its source.""",
    access="labels without a form; photographs from their four sources",
    url="""https://github.com/niu-haoran/FLIVE_Database,
    https://baidut.github.io/PaQ-2-PiQ/""",
    cite="""Ying, Z., Niu, H., Gupta, P., Mahajan, D., Ghadiyaram, D. and Bovik, A. C.
    (2020). From patches to pictures (PaQ-2-PiQ): Mapping the perceptual space of
    picture quality. CVPR.""",
    n_rows=39_810,
    table=_flive_table,
    layouts=(("database/{name}",), ("{name}",)),
)


@documented(_FLIVE)
def load_flive(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_FLIVE, root, subset, return_X_y, as_frame, on_missing)


# -- SPAQ --


def _spaq_table(folder) -> pd.DataFrame:
    path = folder.label(
        "MOS and Image attribute scores.xlsx", "MOS_and_Image_attribute_scores.xlsx"
    )
    table = read_workbook(path, ["Image name", "MOS"], text=["Image name"])
    return table.assign(group=table["Image name"])


_SPAQ = Dataset(
    loader="load_spaq",
    title="SPAQ",
    about="""11,125 photographs from 66 smartphones, with scores for quality,
    brightness, colourfulness, contrast, noise and sharpness.""",
    tree="""
    SPAQ/
        Annotations/MOS and Image attribute scores.xlsx (Image name, MOS)
        TestImage/00001.jpg ...
    """,
    scores={"mos": Score("MOS", 0, 100)},
    groups="""Each picture is its own group: its name. Scenes are not published, so
    pictures of one scene cannot be kept together.""",
    notes="""The photographs have the cameras' full resolution; papers downscale the
    shorter side to 512 pixels. Whether a high `Noisiness` means a clean or a noisy
    picture is not stated.""",
    licence="not stated by the owners.",
    access=_NO_FORM,
    url="https://github.com/h4nwei/SPAQ",
    cite="""Fang, Y., Zhu, H., Zeng, Y., Ma, K. and Wang, Z. (2020). Perceptual quality
    assessment of smartphone photography. CVPR, 3677-3686.""",
    n_rows=11_125,
    table=_spaq_table,
    layouts=(
        ("TestImage/{Image name}",),
        ("Dataset/TestImage/{Image name}",),
        ("**/{Image name}",),
    ),
)


@documented(_SPAQ)
def load_spaq(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_SPAQ, root, subset, return_X_y, as_frame, on_missing)


# -- BID --


def _bid_table(folder) -> pd.DataFrame:
    path = folder.label("DatabaseGrades.xlsx", "DatabaseGrades.xls")
    number, grade = "Image Number", "Average Subjective Grade"
    try:
        table = read_workbook(path, [number, grade], sheet="Plan1")
    except ValueError:
        table = _bid_by_position(read_workbook(path, None), number, grade, path)
        folder.notes.append(
            f"no columns '{number}' and '{grade}': the first two columns were taken, "
            "whole numbers and grades of 0 to 5"
        )
    with blame(path):
        names = [f"DatabaseImage{int(k):04d}.JPG" for k in table[number]]
    return table.assign(name=names, group=names)


def _bid_by_position(cells, number, grade, path) -> pd.DataFrame:
    numbers = cells.iloc[:, :2].apply(pd.to_numeric, errors="coerce")
    numbers = numbers.set_axis([number, grade], axis=1).dropna()
    with blame(path):
        ids, grades = numbers[number], numbers[grade]
        if ids.empty or (ids % 1).any() or ids.duplicated().any():
            raise ValueError("its first column does not number the pictures.")
        if not grades.between(0, 5).all():
            raise ValueError("its second column does not hold grades of 0 to 5.")
    return numbers.reset_index(drop=True)


_BID = Dataset(
    loader="load_bid",
    title="BID (UFRJ Blurred Image Database)",
    about="About 586 photographs, many of them with authentic blur.",
    tree="""
    BID/
        DatabaseGrades.xls (or .xlsx; Image Number, Average Subjective Grade)
        ImageDatabase/DatabaseImage0001.JPG ...
    """,
    scores={"mos": Score("Average Subjective Grade", 0, 5)},
    groups="""Each picture is its own group: its name. Some scenes were photographed
    more than once, but which ones is not published.""",
    notes="Sources state 582, 585 and 586 pictures, so the number is not checked.",
    unsure="""the column names. If they differ, the first two columns are used, after a
    check that they hold whole numbers and grades from 0 to 5, and this text says
    so.""",
    licence="not stated by the owners.",
    access="formerly open; the link is reported to be broken",
    url="http://www02.smt.ufrj.br/~eduardo/ImageDatabase.htm",
    cite="""Ciancio, A., da Costa, A. L. N. T., da Silva, E. A. B., Said, A., Samadani,
    R. and Obrador, P. (2011). No-reference blur assessment of digital pictures based on
    multi-feature classifiers. IEEE Transactions on Image Processing 20(1), 64-75.""",
    table=_bid_table,
    layouts=(("ImageDatabase/{name}",), ("{name}",)),
)


@documented(_BID)
def load_bid(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_BID, root, subset, return_X_y, as_frame, on_missing)


def _mapped(column: pd.Series, words: dict) -> pd.Series:
    """Map the words of a column to ours; any other word is an error."""
    found = column.astype(str).str.strip().str.lower()
    unknown = sorted(set(found) - set(words))
    if unknown:
        raise ValueError(
            f"its column '{column.name}' must hold {', '.join(words)}. Got "
            f"{', '.join(unknown[:5])}."
        )
    return found.map(words)
