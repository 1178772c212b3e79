"""Videos as people put them on the net: one content per video, or one game."""

import numpy as np
import pandas as pd

from diffqa_features.datasets._description import Dataset, Score, documented
from diffqa_features.datasets._labels import (
    blame,
    columns_of,
    floats,
    read_csv,
    read_mat,
    read_workbook,
    same_length,
    texts,
)
from diffqa_features.datasets._loader import read

_OWN_GROUP = "Each video is its own group: its name."


# -- LSVQ --


def _lsvq_table(folder) -> pd.DataFrame:
    tables = []
    if folder.subset != "1080p":
        path = folder.label("labels_train_test.csv")
        table = read_csv(
            path, ["name", "mos", "frame_number", "is_test"], text=["name"]
        )
        with blame(path):
            is_test = table["is_test"].astype(str).str.strip().str.lower()
            if not is_test.isin(["true", "false"]).all():
                raise ValueError("its column 'is_test' must hold True or False.")
        tables.append(table.assign(split=np.where(is_test == "true", "test", "train")))
    if folder.subset in ("all", "1080p"):
        path = folder.label("labels_test_1080p.csv")
        table = read_csv(path, ["name", "mos", "frame_number"], text=["name"])
        tables.append(table.assign(split="1080p"))
    table = pd.concat(tables, ignore_index=True)
    broken = table["frame_number"] < 2
    if broken.any():
        folder.notes.append(
            f"{broken.sum():,} rows with a frame_number below 2, which an older "
            "release has at its end, are left out"
        )
    table = table[~broken].reset_index(drop=True)
    counts = table["split"].value_counts()
    folder.notes.append(", ".join(f"{part} {n:,}" for part, n in counts.items()))
    return table.assign(group=table["name"])


_LSVQ = Dataset(
    loader="load_lsvq",
    title="LSVQ (LIVE-FB Large-Scale Social Video Quality)",
    about="""38,811 videos from the Internet Archive and YFCC100M, rated by
    crowdsourcing. Patches are not loaded.""",
    tree="""
    LSVQ/
        labels_train_test.csv (name, mos, frame_number, is_test)
        labels_test_1080p.csv (not needed for subset="train" or "test")
        yfcc-batch1/725.mp4 ...
        ia-batch1/... (and about 50 folders more)
    """,
    scores={"mos": Score("mos", 0, 100)},
    groups=_OWN_GROUP + " No source is published.",
    parts={
        "train": "`is_test` is false, 28,056 videos",
        "test": "`is_test` is true, about 7,200",
        "1080p": "the second label file, about 3,570",
    },
    notes="""Published copies of the label files differ by a few rows, so the number of
    rows is not checked. `is_valid` is not part of the split. Many videos are no longer
    available: see `on_missing`.""",
    licence="notice of UT Austin, 2020: free use with the notice kept.",
    access="request form",
    url="https://github.com/baidut/PatchVQ",
    cite="""Ying, Z., Mandal, M., Ghadiyaram, D. and Bovik, A. C. (2021). Patch-VQ:
    'Patching up' the video quality problem. CVPR.""",
    media="videos",
    table=_lsvq_table,
    layouts=(("{name}.mp4",),),
)


@documented(_LSVQ)
def load_lsvq(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_LSVQ, root, subset, return_X_y, as_frame, on_missing)


# -- KoNViD-1k --


def _konvid1k_table(folder) -> pd.DataFrame:
    path = folder.label("KoNViD_1k_mos.csv", "KoNViD_1k_attributes.csv")
    # Numbers beyond 32 bits, which some tools have turned into "3339962845.0".
    table = read_csv(path, ["flickr_id", "mos"], text=["flickr_id"])
    ids = table["flickr_id"].str.strip().str.replace(r"\.0$", "", regex=True)
    return table.assign(flickr_id=ids, group=ids)


_CROPPED = "centercrop_960x540_8s.mp4"
_KONVID1K = Dataset(
    loader="load_konvid1k",
    title="KoNViD-1k",
    about="""1,200 videos from YFCC100M, 8 s each at 960 x 540 pixels, rated by
    crowdsourcing.""",
    tree="""
    KoNViD-1k/
        KoNViD_1k_metadata/KoNViD_1k_mos.csv
            (flickr_id, mos; or KoNViD_1k_attributes.csv)
        KoNViD_1k_videos/3339962845.mp4 ...
            (older: 3339962845_original_centercrop_960x540_8s.mp4)
    """,
    scores={"mos": Score("mos", 1, 5)},
    groups="Each video is its own group: its `flickr_id`.",
    licence="Creative Commons videos from Flickr; the dataset itself has no licence.",
    access="direct download, no form",
    url="http://database.mmsp-kn.de/konvid-1k-database.html",
    cite="""Hosu, V., Hahn, F., Jenadeleh, M., Lin, H., Men, H., Szirányi, T., Li, S.
    and Saupe, D. (2017). The Konstanz natural video database (KoNViD-1k). QoMEX.""",
    unsure="the licence.",
    n_rows=1_200,
    media="videos",
    table=_konvid1k_table,
    layouts=tuple(
        tuple(prefix + name for name in names)
        for names in (
            ("{flickr_id}.mp4",),
            (f"{{flickr_id}}_original_{_CROPPED}", f"{{flickr_id}}_cut_{_CROPPED}"),
        )
        for prefix in ("KoNViD_1k_videos/", "")
    ),
)


@documented(_KONVID1K)
def load_konvid1k(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_KONVID1K, root, subset, return_X_y, as_frame, on_missing)


# -- LIVE-VQC --


def _live_vqc_table(folder) -> pd.DataFrame:
    path = folder.label("data.mat")
    found = read_mat(path, ["video_list", "mos"])
    table = same_length(path, name=texts(found["video_list"]), mos=floats(found["mos"]))
    return table.assign(group=table["name"])


_LIVE_VQC = Dataset(
    loader="load_live_vqc",
    title="LIVE-VQC",
    about="585 videos of about 10 s, taken by volunteers and rated by a crowd.",
    tree="""
    LIVE-VQC/
        data.mat (video_list, mos)
        Video/A001.mp4 ...
    """,
    scores={"mos": Score("mos", 0, 100)},
    groups=_OWN_GROUP,
    unsure="licence and access.",
    licence="notice of UT Austin.",
    access="form and password",
    url="http://live.ece.utexas.edu/research/LIVEVQC/index.html",
    cite="""Sinno, Z. and Bovik, A. C. (2019). Large-scale study of perceptual video
    quality. IEEE Transactions on Image Processing 28(2), 612-627.""",
    n_rows=585,
    media="videos",
    table=_live_vqc_table,
    layouts=(("Video/{name}",), ("VideoDatabase/{name}",), ("{name}",)),
)


@documented(_LIVE_VQC)
def load_live_vqc(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_LIVE_VQC, root, subset, return_X_y, as_frame, on_missing)


# -- YouTube-UGC --


def _youtube_ugc_table(folder) -> pd.DataFrame:
    name = "MOS_for_YouTube_UGC_dataset.xlsx"
    path = folder.label(name, f"original_videos_{name}")
    table = read_workbook(path, ["vid", "MOS full"], sheet="MOS", text=["vid"])
    parts = table["vid"].str.extract(r"^(?P<kind>.+)_(?P<lines>\d+)P-[0-9a-f]+$")
    with blame(path):
        odd = table["vid"][parts["kind"].isna()]
        if len(odd):
            raise ValueError(
                f"its 'vid' must be as Animation_1080P-05f8. Got '{odd.iloc[0]}'."
            )
    return table.assign(**parts, group=table["vid"])


_YOUTUBE_UGC = Dataset(
    loader="load_youtube_ugc",
    title="YouTube-UGC",
    about="""About 1,380 user-uploaded YouTube videos of 20 s with 360 to 2160 lines,
    rated by crowdsourcing.""",
    tree="""
    ugc-dataset/
        original_videos/MOS_for_YouTube_UGC_dataset.xlsx (sheet MOS: vid, MOS full)
        original_videos_h264/Animation_1080P-05f8_crf_10_ss_00_t_20.0.mp4 ...
            (or the raw original_videos/Animation/1080P/Animation_1080P-05f8.mkv ...)
    """,
    scores={"mos": Score("MOS full", 1, 5)},
    score_text="Scores of single 10 s chunks are in `frame` but not used.",
    groups="Each video: its `vid`, which its compressed versions share.",
    notes="""Clips are withdrawn from this dataset every month and must then be deleted.
    The number of rows is therefore not checked, rows without a file are dropped by
    default, and `DESCR` lists files and rows that do not match. If both versions are
    present, the H.264 files are used rather than the raw ones.""",
    unsure="the name of the sheet; it is identified by its columns.",
    licence="Creative Commons Attribution, with a list of attributions.",
    access="no form",
    url="https://media.withyoutube.com/ugc-dataset",
    cite="""Wang, Y., Inguva, S. and Adsumilli, B. (2019). YouTube UGC dataset for video
    compression research. MMSP.""",
    media="videos",
    on_missing="drop",
    table=_youtube_ugc_table,
    layouts=(
        ("original_videos_h264/{vid}_crf_10_ss_00_t_20.0.mp4",),
        ("original_videos/{kind}/{lines}P/{vid}.mkv",),
        ("{kind}/{lines}P/{vid}.mkv",),
        ("{vid}_crf_10_ss_00_t_20.0.mp4",),
    ),
)


@documented(_YOUTUBE_UGC)
def load_youtube_ugc(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="drop"
):
    return read(_YOUTUBE_UGC, root, subset, return_X_y, as_frame, on_missing)


# -- LIVE-YT-Gaming --


def _live_yt_gaming_table(folder) -> pd.DataFrame:
    # No official name of the label file is known, so its columns have to tell.
    forms = {".mat": ("video_list", "MOS"), ".csv": ("File", "MOS")}
    paths = folder.suffixed(*forms)
    fitting = [p for p in paths if set(forms[p.suffix.lower()]) <= set(columns_of(p))]
    if len(fitting) != 1:
        looked = ", ".join(p.name for p in fitting or paths) or "none"
        raise FileNotFoundError(
            f"{folder.dataset.title}: one label file is needed, a .mat with the "
            "variables 'video_list' and 'MOS' or a .csv with the columns 'File' and "
            f"'MOS', 600 rows. Found {len(fitting)} of that kind in '{folder.root}', "
            f"looking at: {looked}. {folder.dataset.way_out}"
        )
    path = fitting[0]
    folder.labels.append(path)
    if path.suffix.lower() == ".csv":
        table = read_csv(path, ["File", "MOS"], text=["File"])
        names = table["File"].str.replace(r"\.mp4$", "", regex=True)
    else:
        found = read_mat(path, ["video_list", "MOS"])
        names = texts(found["video_list"])
        table = same_length(path, name=names, MOS=floats(found["MOS"]))
    with blame(path):
        if len(table) != 600:
            raise ValueError(f"it has {len(table):,} rows and not 600.")
        table["name"] = names
        games, dash, _ = zip(*table["name"].str.rpartition("-").to_numpy(), strict=True)
        if "" in dash:
            odd = table["name"][dash.index("")]
            raise ValueError(
                f"its names must be as ARKSuvivalEvolved-001. Got '{odd}'."
            )
    return table.assign(group=games)


_LIVE_YT_GAMING = Dataset(
    loader="load_live_yt_gaming",
    title="LIVE-YT-Gaming",
    about="600 videos of people playing 59 games.",
    tree="""
    LIVE-YT-Gaming/
        any name.mat (video_list, MOS), or any name.csv (File, MOS); 600 rows
        mp4/ARKSuvivalEvolved-001.mp4 ...
    """,
    scores={"mos": Score("MOS", 0, 100)},
    groups="Name of the game, the part before the last `-` (59).",
    unsure="""the name of the official label file. Any file with these columns is taken
    if it is the only one and has 600 rows.""",
    licence="notice of UT Austin, 2021.",
    access="form",
    url="https://live.ece.utexas.edu/research/LIVE-YT-Gaming/index.html",
    cite="""Yu, X., Ying, Z., Birkbeck, N., Wang, Y., Adsumilli, B. and Bovik, A. C.
    (2023). Subjective and objective analysis of streamed gaming videos. IEEE
    Transactions on Games.""",
    n_rows=600,
    media="videos",
    table=_live_yt_gaming_table,
    layouts=(("mp4/{name}.mp4",), ("{name}.mp4",)),
)


@documented(_LIVE_YT_GAMING)
def load_live_yt_gaming(
    root, *, subset="all", return_X_y=False, as_frame=False, on_missing="raise"
):
    return read(_LIVE_YT_GAMING, root, subset, return_X_y, as_frame, on_missing)
