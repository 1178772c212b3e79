"""Miniature copies of published datasets, in their official layouts and with their
quirks: real label files and real, tiny pictures and videos."""

import io
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import av
import numpy as np
import openpyxl
import xlwt
from PIL import Image
from scipy.io import savemat


@dataclass
class Copy:
    """What a loader has to find, in the order of its rows."""

    root: Path
    labels: list[str]  # label files without which nothing works
    files: list[str]
    target: list[float]
    groups: list[str]
    target_range: tuple[float, float]
    higher_is_better: bool = True
    split: list[str] | None = None
    parts: dict[str, list[int]] = field(default_factory=dict)  # rows of each subset
    columns: tuple[str, ...] = ()  # what data has besides the path

    def paths(self, rows=None):
        rows = range(len(self.files)) if rows is None else rows
        return [str(self.root / self.files[row]) for row in rows]


def by_parts(split):
    return {part: [k for k, p in enumerate(split) if p == part] for part in set(split)}


# -- photographs --


def koniq10k(root):
    names = ["10004473376.jpg", "10007357496.jpg", "10015648.jpg"]
    write(root / "koniq10k_scores_and_distributions.csv", koniq_scores(names))
    write(
        root / "koniq10k_distributions_sets.csv",
        "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set\n"
        f"{names[0]},0,0,0.25,0.7,0.05,105,77.384,0.5,training\n"
        f"{names[1]},0,0.1,0.5,0.4,0,102,50.25,0.6,validation\n"
        f"{names[2]},0.5,0.4,0.1,0,0,99,3.912,0.7,test\n",
    )
    files = media(root, [f"1024x768/{name}" for name in names])
    media(root, ["1024x768/not_rated.jpg", *(f"512x384/{name}" for name in names)])
    split = ["train", "validation", "test"]
    return Copy(
        root,
        ["koniq10k_distributions_sets.csv"],
        files,
        [77.384, 50.25, 3.912],
        names,
        (0, 100),
        split=split,
        parts=by_parts(split),
    )


def koniq_scores(names):
    lines = [f"{name},1,1,1,1,1,5,3.8,0.5,{60 + k}" for k, name in enumerate(names)]
    header = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore"
    return "\n".join([header, *lines, ""])


def clive(root):
    practice = [f"t{k}.bmp" for k in range(1, 8)]
    names = ["3.bmp", "4.JPG", "100.bmp"]
    folder = root / "Data"
    folder.mkdir(parents=True)
    cells = np.array(practice + names, dtype=object)[:, None]
    savemat(folder / "AllImages_release.mat", {"AllImages_release": cells})
    scores = np.array([[50.0] * 7 + [3.42, 63.9634, 92.432]])
    savemat(folder / "AllMOS_release.mat", {"AllMOS_release": scores})
    savemat(folder / "AllStdDev_release.mat", {"AllStdDev_release": scores / 4})
    media(root, [f"Images/trainingImages/{name}" for name in practice])
    # On the disk, the second one has another case than in the list.
    files = media(root, ["Images/3.bmp", "Images/4.jpg", "Images/100.bmp"])
    return Copy(
        root,
        [f"Data/All{part}_release.mat" for part in ("Images", "MOS", "StdDev")],
        files,
        [3.42, 63.9634, 92.432],
        names,
        (0, 100),
    )


def flive(root):
    names = [
        "voc_emotic_ava/AVA__100.jpg",
        "voc_emotic_ava/EMOTIC__a.b.JPG",
        "blur_dataset/motion0035.jpg",
        "EE371R/cj23478+019.jpg",
    ]
    lines = [f"{name},{70 + k}.5" for k, name in enumerate(names)]
    labels = "\n".join(["name,mos", *lines, ""])
    write(root / "labels_image.csv", labels)
    write(root / "database/labels_image.csv", labels)
    write(
        root / "database/labels640.csv",
        f"name_image,mos_image\n{names[1]},71.5\n",
    )
    write(
        root / "database/labels=640_padded.csv",
        f"name_image,is_valid\n{names[0]},False\n{names[2]},True\n{names[3]},False\n",
    )
    files = media(root, [f"database/{name}" for name in names])
    split = ["train", "test", "validation", "train"]
    return Copy(
        root,
        ["labels_image.csv"],
        files,
        [70.5, 71.5, 72.5, 73.5],
        ["AVA__100", "EMOTIC__a.b", "motion0035", "cj23478+019"],
        (0, 100),
        split=split,
        parts=by_parts(split),
    )


def spaq(root):
    names = ["00001.jpg", "00002.jpg", "11125.jpg"]
    rows = [("Image name", "MOS", "Brightness", "Noisiness")]
    rows += [(n, 2 + 47 * k, 50, 60) for k, n in enumerate(names)]
    label = "Annotations/MOS and Image attribute scores.xlsx"
    workbook(root / label, {"Sheet1": rows})
    files = media(root, [f"TestImage/{name}" for name in names])
    return Copy(root, [label], files, [2, 49, 96], names, (0, 100))


def bid(root):
    numbers = [1, 12, 640]
    rows = [("Image Number", "Average Subjective Grade", "", "Grade 1", "Grade 2")]
    rows += [(n, 1.25 * k, "", 1.5, "") for k, n in enumerate(numbers)]
    old_workbook(root / "DatabaseGrades.xls", {"Plan1": rows})
    names = [f"DatabaseImage{n:04d}.JPG" for n in numbers]
    files = media(root, [f"ImageDatabase/{name}" for name in names])
    return Copy(root, ["DatabaseGrades.xls"], files, [0, 1.25, 2.5], names, (0, 5))


# -- degraded pictures --


def kadid10k(root):
    # A mild blur has the larger "dmos".
    write(
        root / "dmos.csv",
        "dist_img,ref_img,dmos,var\n"
        "I01_01_01.png,I01.png,4.57,0.496\n"
        "I01_01_05.png,I01.png,1.2,0.5\n"
        "I81_25_05.png,I81.png,2.13,0.8\n",
    )
    names = ["I01_01_01.png", "I01_01_05.png", "I81_25_05.png"]
    files = media(root, [f"images/{name}" for name in names])
    media(root, ["images/I01.png", "images/I81.png"])
    groups = ["I01.png", "I01.png", "I81.png"]
    return Copy(root, ["dmos.csv"], files, [4.57, 1.2, 2.13], groups, (1, 5))


LIVE = {
    "jp2k": (227, 169),
    "jpeg": (233, 175),
    "wn": (174, 145),
    "gblur": (174, 145),
    "fastfading": (174, 145),
}


def live(root):
    """The full number of entries, as their position is all that names them."""
    orgs, scores, references, files = [], [], [], []
    for kind, (count, distorted) in LIVE.items():
        for k in range(count):
            original = k < count - distorted  # so that img10 is not the tenth kept
            orgs.append(float(original))
            scores.append(0.0 if original else len(scores) / 10 - 2.64)
            references.append(("Bikes.bmp", "sailing1.bmp", "bikes.bmp")[k % 3])
            files.append(f"{kind}/img{k + 1}.bmp")
    media(root, files)
    savemat(
        root / "dmos_realigned.mat",
        {"dmos_new": [scores], "dmos_std": [[1.0] * 982], "orgs": [orgs]},
    )
    plain = np.arange(982.0) / 20
    savemat(root / "dmos.mat", {"dmos": [plain], "orgs": [orgs]})
    cells = np.array([references], dtype=object)
    savemat(root / "refnames_all.mat", {"refnames_all": cells})
    kept = [k for k, org in enumerate(orgs) if not org]
    return Copy(
        root,
        ["dmos_realigned.mat", "refnames_all.mat"],
        [files[k] for k in kept],
        [scores[k] for k in kept],
        [references[k].lower() for k in kept],
        (0, 100),
        higher_is_better=False,
    )


def csiq(root):
    rows = [()] * 3
    header = ("image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")
    rows.append(("", "", "", *header))
    rows.append(("", "", "", 1600, 1, "noise", 1, 0.06, 0.062))
    rows.append(("", "", "", 1600, 3, "jpeg 2000", 5, 0.05, 1.0))
    rows.append(("", "", "", "sunset_color", 6, "contrast", 4, 0.1, 0.0))
    sheets = {"overview": [("#REF!", "=1/0")], "all_by_image": rows}
    workbook(root / "csiq.DMOS.xlsx", sheets)
    files = media(
        root,
        [
            "dst_imgs/awgn/1600.AWGN.1.png",
            "dst_imgs/jpeg2000/1600.jpeg2000.5.png",
            "dst_imgs/contrast/sunset_color.contrast.4.png",
        ],
    )
    return Copy(
        root,
        ["csiq.DMOS.xlsx"],
        files,
        [0.062, 1.0, 0.0],
        ["1600", "1600", "sunset_color"],
        (0, 1),
        higher_is_better=False,
    )


def tid2013(root):
    lines = ["5.51429 I01_01_1.bmp", "0.242 i01_24_5.bmp", "7.214 i25_03_2.bmp"]
    write(root / "mos_with_names.txt", "\n".join([*lines, ""]))
    write(root / "mos_std.txt", "0.13\n0.14\n0.15\n")
    files = media(
        root,
        [
            "distorted_images/i01_01_1.bmp",
            "distorted_images/I01_24_5.BMP",
            "distorted_images/i25_03_2.bmp",
        ],
    )
    media(root, ["reference_images/I01.BMP", "reference_images/i25.bmp"])
    return Copy(
        root,
        ["mos_with_names.txt"],
        files,
        [5.51429, 0.242, 7.214],
        ["01", "01", "25"],
        (0, 9),
    )


def pipal(root):
    names = {
        "A0001": ["A0001_00_00.bmp", "A0001_06_26.bmp"],
        "A0185": ["A0185_03_11.bmp"],
    }
    write(root / "Train_Label/A0001.txt", "A0001_00_00.bmp,1520.0648\n"
          "A0001_06_26.bmp,916.7\n")  # fmt: skip
    write(root / "Train_Label/A0185.txt", "A0185_03_11.bmp,1836.0\n")
    files = media(root, [f"Distortion_1/{name}" for name in names["A0001"]])
    files += media(root, [f"Distortion_4/{name}" for name in names["A0185"]])
    media(root, ["Train_Ref/A0001.bmp", "Train_Ref/A0185.bmp"])
    infinity = float("inf")
    return Copy(
        root,
        ["Train_Label/A0001.txt"],
        files,
        [1520.0648, 916.7, 1836.0],
        ["A0001", "A0001", "A0185"],
        (-infinity, infinity),
        split=["train"] * 3,
        parts={"train": [0, 1, 2]},
    )


def agiqa3k(root):
    rows = [
        "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align",
        'sd1.5_normal_012.jpg,"a cat, sitting",sharp,,,4.489,0.3,0.021,0.4',
        'AttnGAN_normal_012.jpg,"a cat, sitting",sharp,,,0.0,0.3,1.5,0.4',
        "midjourney_lowcorr_299.jpg,a dog,,,anime style,2.5,0.3,4.286,0.4",
    ]
    (root / "data.csv").parent.mkdir(parents=True, exist_ok=True)
    (root / "data.csv").write_bytes("\r\n".join([*rows, ""]).encode())
    names = [line.partition(",")[0] for line in rows[1:]]
    return Copy(
        root,
        ["data.csv"],
        media(root, names),
        [4.489, 0.0, 2.5],
        ["012", "012", "299"],
        (0, 5),
        columns=("prompt",),
    )


# -- videos --


def lsvq(root):
    header = "name,p1,height,width,mos_p1,mos,frame_number,top_vid,is_test,is_valid"
    lines = [
        'yfcc-batch1/725,"[1, 2]",10,10,70,76.84375,240,0,False,True',
        'ia-batch2/Some name & more (1)+x,"[1, 2]",10,10,70,2.45,240,0,True,False',
        'backup/747,"[1, 2]",10,10,70,91.42,240,0,False,True',
        'backup2/broken,"[1, 2]",10,10,70,50,1,0,False,True',
    ]
    content = "\n".join([header, *lines, ""])
    (root / "labels_train_test.csv").parent.mkdir(parents=True, exist_ok=True)
    (root / "labels_train_test.csv").write_bytes(content.encode("utf-8-sig"))
    header = header.replace(",is_test", "")
    line = 'yfcc-batch11/9,"[1, 2]",1080,1920,70,66.5,240,0,True'
    write(root / "labels_test_1080p.csv", f"{header}\n{line}\n")
    names = [line.split(',"')[0] for line in (*lines[:3], line)]
    split = ["train", "test", "train", "1080p"]
    return Copy(
        root,
        ["labels_train_test.csv", "labels_test_1080p.csv"],
        media(root, [f"{name}.mp4" for name in names]),
        [76.84375, 2.45, 91.42, 66.5],
        names,
        (0, 100),
        split=split,
        parts=by_parts(split),
    )


def konvid1k(root):
    ids = ["3339962845", "12262452854", "2999049224"]
    lines = [f"{name},{1.22 + k}" for k, name in enumerate(ids)]
    label = "KoNViD_1k_metadata/KoNViD_1k_mos.csv"
    write(root / label, "\n".join(["flickr_id,mos", *lines, ""]))
    files = media(root, [f"KoNViD_1k_videos/{name}.mp4" for name in ids])
    return Copy(root, [label], files, [1.22, 2.22, 3.22], ids, (1, 5))


def live_vqc(root):
    names = ["A001.mp4", "A002.mp4", "R003.mp4"]
    scores = [80.2, 6.224, 94.287]
    root.mkdir(parents=True)
    cells = np.array(names, dtype=object)[:, None]
    variables = {"video_list": cells, "mos": np.array(scores)[:, None]}
    savemat(root / "data.mat", variables)
    files = media(root, [f"Video/{name}" for name in names])
    return Copy(root, ["data.mat"], files, scores, names, (0, 100))


def youtube_ugc(root):
    ids = ["Animation_1080P-05f8", "Sports_2160P-1733", "HDR_480P-0a1b"]
    header = ("vid", "category", "resolution", "#subjects", "MOS full", "MOS chunk00")
    rows = [header]
    rows += [(v, "x", 1080, 40, 1.242 + k, "") for k, v in enumerate(ids)]
    label = "original_videos/MOS_for_YouTube_UGC_dataset.xlsx"
    workbook(root / label, {"diff2": [header, ("no", "", 1, 1, 9, 9)], "MOS": rows})
    files = [f"original_videos_h264/{v}_crf_10_ss_00_t_20.0.mp4" for v in ids]
    return Copy(root, [label], media(root, files), [1.242, 2.242, 3.242], ids, (1, 5))


def cvd2014(root):
    lines = [
        "Content;File_name;Original MOS;Realignment MOS;;;;",
        "City;Test01_City_D01;71,85;67,29;;;;",
        "Talking head;Test01_Talking_Head_D02;4,44;-6,5;;;;",
        "City;Test04_City_D05;93,33;93,38;;;;",
        *[";;;;;;;"] * 168,
        "",
    ]
    label = root / "CVD2014_ratings/Realignment_MOS.csv"
    label.parent.mkdir(parents=True)
    label.write_bytes("\r\n".join(lines).encode())
    files = [
        "Test1/City/Test01_City_D01.avi",
        "Test1/Talking_head/Test01_Talking_Head_D02.avi",
        "Test4/City/Test04_City_D05.avi",
    ]
    return Copy(
        root,
        ["CVD2014_ratings/Realignment_MOS.csv"],
        media(root, files),
        [67.29, -6.5, 93.38],
        ["city", "talking head", "city"],
        (0, 100),
    )


QUALCOMM_FRAME = 1920 * 1080 * 3 // 2


def live_qualcomm(root, suffix=".yuv"):
    names = [
        "0723_ManUnderTree_GS5_00.yuv",
        "0912_Cheerleader1_Note4_05.yuv",
        "0912_CheerLeader1_LGG2_02.yuv",
        "0911nightScene_5s_07.yuv",
    ]
    kinds = ["Artifacts", "Color", "Exposure", "Focus", "Sharpness", "Stabilization"]
    index = [1, 6, 6, 3]
    scores = np.array([16.562, 40.0, 50.0, 73.643])[:, None]
    root.mkdir(parents=True)
    savemat(
        root / "qualcommSubjectiveData.mat",
        {
            "qualcommVideoData": {
                "vidNames": np.array(names, dtype=object)[:, None],
                "distortionType": np.array(index, dtype=float)[:, None],
                "distortionNames": np.array(kinds, dtype=object)[:, None],
                "phoneID": np.array([1.0, 7, 5, 4])[:, None],
                "phoneType": np.array(["GS5"] * 8, dtype=object)[:, None],
            },
            "qualcommSubjectiveData": {
                "unBiasedMOS": scores,
                "biasedMOS": scores - 3,
            },
        },
    )
    files = [f"{kinds[k - 1]}/{Path(n).stem}{suffix}" for k, n in zip(index, names)]
    if suffix == ".yuv":
        for count, name in enumerate(files, start=1):
            path = root / name
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:  # a sparse file: black, and no disk used
                file.truncate(count * QUALCOMM_FRAME)
    else:
        media(root, files)
    return Copy(
        root,
        ["qualcommSubjectiveData.mat"],
        files,
        scores.ravel().tolist(),
        [
            "0723_manundertree",
            "0912_cheerleader1",
            "0912_cheerleader1",
            "0911nightscene",
        ],
        (0, 100),
        columns=("width", "height", "frame_rate", "pixel_format"),
    )


def live_yt_hfr(root):
    names = ["books_crf_0_120fps", "books_crf_43_24fps", "1Runner_crf_51_98fps"]
    write(
        root / "subjective_scores/subject_MOS.csv",
        f"File Names,{','.join(names)}\nMOS,73.936,10.358,40.5\nstd,5.63,17.71,8\n",
    )
    write(
        root / "subjective_scores/subject_DMOS.csv",
        f",File Names,DMOS\n0,{names[1]},63.578\n1,{names[2]},-2.17\n",
    )
    return Copy(
        root,
        ["subjective_scores/subject_MOS.csv"],
        media(
            root,
            [
                f"books/{names[0]}.webm",
                f"books/{names[1]}.webm",
                f"1Runner/deeper/{names[2]}.webm",
            ],
        ),
        [73.936, 10.358, 40.5],
        ["books", "books", "1Runner"],
        (0, 100),
    )


def avt_vqdb_uhd_1(root):
    shared = "water_netflix_200kbps_360p_59.94fps_h264.mp4"
    rated = {
        "test_1": [("bigbuck_bunny_8bit", "bigbuck_bunny_8bit_2000kbps_vp9.mkv")],
        "test_2": [("water_netflix", shared), ("venice", "venice_hevc.mp4")],
        "test_3": [("water_netflix", shared)],
        "test_4": [("bigbuck_bunny_8bit_8s", "bigbuck_8s_15.0fps_h264.mp4")],
    }
    files, target, tests = [], [], []
    for number, (test, rows) in enumerate(rated.items()):
        lines = [f"{s},{v},{1 + number + k / 4},0.3" for k, (s, v) in enumerate(rows)]
        write(
            root / test / "mos_ci.csv", "\n".join(["src,video_name,MOS,CI", *lines, ""])
        )
        found = [f"{test}/segments/{rows[0][1]}"]  # venice was never shared
        write(root / f"{test}.json", json.dumps(found))
        files += found
        target.append(1.0 + number)
        tests.append(test)
    return Copy(
        root,
        ["test_1/mos_ci.csv"],
        media(root, files),
        target,
        [
            "bigbuck_bunny_8bit",
            "water_netflix",
            "water_netflix",
            "bigbuck_bunny_8bit",
        ],
        (1, 5),
        parts=by_parts(tests),
    )


def live_yt_gaming(root):
    names = [f"ARKSuvivalEvolved-{k:03d}" for k in range(300)]
    names += [f"World-Of-Tanks-{k:03d}" for k in range(300)]
    scores = np.linspace(4.53, 95.954, 600)
    root.mkdir(parents=True)
    savemat(
        root / "whatever.mat",
        {
            "video_list": np.array(names, dtype=object)[:, None],
            "MOS": scores[:, None],
            "index": np.zeros((4, 4)),
        },
    )
    return Copy(
        root,
        ["whatever.mat"],
        media(root, [f"mp4/{name}.mp4" for name in names]),
        scores.tolist(),
        ["ARKSuvivalEvolved"] * 300 + ["World-Of-Tanks"] * 300,
        (0, 100),
    )


def live_nflx_2(root):
    contents = ["AirShow", "AirShow", "Chimera1102353"]
    scores = [-1.25, 0.5, 1.75]
    files = []
    for k, (content, score) in enumerate(zip(contents, scores)):
        path = root / f"Dataset_Information/Mat_Files/{content}_{k}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = {
            "distorted_mp4_video": f"{content}_{k}.mp4",
            "content_name": content,
            "retrospective_zscored_mos": score,
            "continuous_zscored_mos": np.zeros(5),
        }
        savemat(path, fields)
        files.append(f"assets_mp4_individual/{content}_{k}.mp4")
    infinity = float("inf")
    return Copy(
        root,
        [f"Dataset_Information/Mat_Files/{c}_{k}.mat" for k, c in enumerate(contents)],
        media(root, files),
        scores,
        contents,
        (-infinity, infinity),
    )


COPIES = {
    f"load_{build.__name__}": build
    for build in (
        koniq10k,
        clive,
        flive,
        spaq,
        bid,
        kadid10k,
        live,
        csiq,
        tid2013,
        pipal,
        agiqa3k,
        lsvq,
        konvid1k,
        live_vqc,
        youtube_ugc,
        live_yt_gaming,
        cvd2014,
        live_qualcomm,
        live_yt_hfr,
        avt_vqdb_uhd_1,
        live_nflx_2,
    )
}


# -- files --


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


def media(root, names):
    """Write a tiny picture or video for each name; the names."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_content(path.suffix.lower()))
    return list(names)


@cache
def _content(suffix):
    buffer = io.BytesIO()
    if suffix in (".mp4", ".mkv", ".avi", ".webm"):
        form = {".mkv": "matroska"}.get(suffix, suffix[1:])
        with av.open(buffer, "w", format=form) as container:
            stream = container.add_stream("vp8" if suffix == ".webm" else "mpeg4", 25)
            stream.width = stream.height = 16
            stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)
    else:
        form = {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP"}[suffix]
        Image.new("RGB", (2, 2), (200, 100, 50)).save(buffer, form)
    return buffer.getvalue()


def workbook(path, sheets):
    """An .xlsx file; the values of each sheet by rows."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for y, row in enumerate(rows, start=1):
            for x, value in enumerate(row, start=1):
                if value != "":
                    sheet.cell(y, x, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)


def old_workbook(path, sheets):
    """The same as .xls."""
    book = xlwt.Workbook()
    for name, rows in sheets.items():
        sheet = book.add_sheet(name)
        for y, row in enumerate(rows):
            for x, value in enumerate(row):
                if value != "":
                    sheet.write(y, x, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(str(path))
