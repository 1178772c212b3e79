"""Every loader on a miniature copy in the official layout; then their own quirks."""

import os
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from dataset_copies import COPIES, koniq_scores, live_qualcomm, media, workbook, write
from PIL import Image
from scipy.io import loadmat, savemat

from diffqa_features import datasets

# The copies are small, and say so themselves wherever that is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.*documented:UserWarning")


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Copies that are not changed."""
    made = {}

    def copy_of(name):
        if name not in made:
            made[name] = COPIES[name](tmp_path_factory.mktemp(name) / "copy")
        return made[name]

    return copy_of


@pytest.fixture
def fresh(tmp_path):
    """A copy to change."""
    return lambda name: COPIES[name](tmp_path / name)


def close(values):
    """Equal but for the last bit, which is where pandas reads decimals differently."""
    return pytest.approx(values, rel=1e-15)


def load(name, root, **options):
    return getattr(datasets, name)(root, **options)


def test_no_loader_goes_without_a_copy():
    loaders = {name for name in datasets.__all__ if name.startswith("load_")}
    assert loaders - {"load_sample_photos"} == set(COPIES)
    assert len(COPIES) == 21


@pytest.mark.parametrize("name", COPIES)
class TestEveryLoader:
    def test_rows(self, name, copies):
        copy = copies(name)
        found = load(name, copy.root)
        data = found.data
        if "pixel_format" in copy.columns:
            assert list(data) == ["path", *copy.columns]
            data = list(data["path"])
        assert isinstance(data, list)
        assert data == copy.paths()
        assert all(Path(path).is_file() for path in data)
        assert found.target.dtype == np.float64
        np.testing.assert_allclose(found.target, copy.target, rtol=1e-15)
        assert found.higher_is_better is copy.higher_is_better
        assert found.target_range == copy.target_range
        assert found.groups.tolist() == copy.groups
        assert found.groups.dtype.kind == "U"
        if copy.split is None:
            assert found.split is None
        else:
            assert found.split.tolist() == copy.split
        assert found.frame is None
        assert found.missing == []

    def test_files_are_real(self, name, copies):
        path = copies(name).paths()[0]
        if path.endswith((".mp4", ".mkv", ".webm", ".avi")):
            with av.open(path) as container:
                assert len(list(container.decode(video=0))) == 1
        elif not path.endswith(".yuv"):
            assert Image.open(path).size == (2, 2)

    def test_as_frame(self, name, copies):
        copy = copies(name)
        found = load(name, copy.root, as_frame=True)
        assert list(found.data) == ["path", *copy.columns]
        assert found.data["path"].tolist() == copy.paths()
        assert isinstance(found.target, pd.Series)
        assert found.target.tolist() == close(copy.target)
        frame = found.frame
        expected = ["path", "target", "group"] + ["split"] * (copy.split is not None)
        assert list(frame)[: len(expected)] == expected
        assert len(frame.columns) > len(expected)  # what the label file has
        assert frame["group"].tolist() == copy.groups
        for column in copy.columns:
            assert found[column].tolist() == frame[column].tolist()

    def test_return_X_y(self, name, copies):
        copy = copies(name)
        X, y = load(name, copy.root, return_X_y=True)
        assert len(X) == len(y) == len(copy.files)
        np.testing.assert_allclose(y, copy.target, rtol=1e-15)
        X, y = load(name, copy.root, return_X_y=True, as_frame=True)
        assert (type(X), type(y)) == (pd.DataFrame, pd.Series)

    def test_subset(self, name, copies):
        copy = copies(name)
        for part, rows in copy.parts.items():
            found = load(name, copy.root, subset=part)
            assert found.data == copy.paths(rows)
            assert found.target.tolist() == close([copy.target[row] for row in rows])
            if copy.split is not None:
                assert set(found.split) == {part}
        with pytest.raises(ValueError, match=f"'subset' parameter of {name} must be"):
            load(name, copy.root, subset="validate")

    def test_groups_do_not_straddle_the_official_split(self, name, copies):
        found = load(name, copies(name).root)
        if found.split is not None:
            table = pd.DataFrame({"group": found.groups, "split": found.split})
            assert table.groupby("group")["split"].nunique().max() == 1

    def test_one_folder_more_or_less(self, name, copies):
        copy = copies(name)
        above = load(name, str(copy.root.parent))
        pd.testing.assert_series_equal(
            pd.Series(load(name, copy.root).target), pd.Series(above.target)
        )

    def test_description(self, name, copies):
        copy = copies(name)
        text = " ".join(load(name, copy.root).DESCR.split())
        doc = " ".join(getattr(datasets, name).__doc__.split())
        for part in ("Licence: ", "Where to ask for it: http"):
            assert part in text
            assert part in doc
        assert "Please cite: " in text
        assert re.search(r"[\[(](19|20)\d\d[)\]]|\(20\d\d\)", text)
        assert f"{'higher' if copy.higher_is_better else 'lower'} is better" in text
        if np.isfinite(copy.target_range[0]):
            low, high = copy.target_range
            assert f"scale {low:g} to {high:g}" in text
        else:
            assert "no fixed scale" in text
        # What this copy turned out to hold.
        assert f"from {min(copy.target):g} to {max(copy.target):g}" in text
        assert str(copy.root / copy.labels[0]) in text
        assert f"{len(copy.files)} rows with files" in text

    def test_missing_files(self, name, fresh):
        copy = fresh(name)
        (copy.root / copy.files[0]).unlink()
        n = len(copy.files)
        with pytest.raises(FileNotFoundError) as caught:
            load(name, copy.root, on_missing="raise")
        text = str(caught.value)
        assert f"1 of {n} files are missing: " in text
        assert Path(copy.files[0]).stem.lower() in text.lower()
        assert str(copy.root) in text
        assert "The folder should look like this:" in text
        assert "Where to get it: http" in text
        assert "on_missing='drop'" in text

        with pytest.warns(UserWarning, match=f"1 of {n} files are missing"):
            found = load(name, copy.root, on_missing="drop", as_frame=True)
        assert found.data["path"].tolist() == copy.paths()[1:]
        assert found.target.tolist() == close(copy.target[1:])
        assert found.groups.tolist() == copy.groups[1:]
        assert len(found.missing) == 1
        assert "1 files are missing" in found.DESCR

    def test_files_without_content_are_missing(self, name, fresh):
        copy = fresh(name)
        (copy.root / copy.files[-1]).write_bytes(b"")
        with pytest.raises(FileNotFoundError, match="1 of them there, but empty"):
            load(name, copy.root, on_missing="raise")

    def test_nothing_but_labels(self, name, fresh):
        copy = fresh(name)
        for file in copy.files:
            (copy.root / file).unlink()
        n = len(copy.files)
        for on_missing in ("raise", "drop"):
            with pytest.raises(
                FileNotFoundError, match=f"{n} of {n} files are missing"
            ):
                load(name, copy.root, on_missing=on_missing)

    def test_no_labels(self, name, fresh):
        copy = fresh(name)
        shutil.copytree(copy.root, copy.root.with_name("kept"))
        for label in (copy.root / label for label in copy.labels):
            for path in copy.root.rglob(label.name):
                path.unlink()
        if name == "load_pipal":
            shutil.rmtree(copy.root / "Train_Label")
        if name == "load_koniq10k":
            (copy.root / "koniq10k_scores_and_distributions.csv").unlink()
        with pytest.raises(FileNotFoundError) as caught:
            load(name, copy.root)
        assert "The folder should look like this:" in str(caught.value)
        assert "Where to get it: http" in str(caught.value)

    def test_a_broken_label_file_is_named(self, name, fresh):
        copy = fresh(name)
        path = copy.root / copy.labels[0]
        path.write_bytes(b"\x00\x01half a file")
        with pytest.raises(ValueError, match=re.escape(str(path))):
            load(name, copy.root)

    def test_no_such_folder(self, name, tmp_path):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            load(name, tmp_path / "none")
        (tmp_path / "file").write_text("")
        with pytest.raises(FileNotFoundError, match="is not a folder"):
            load(name, tmp_path / "file")
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match="The folder should look like"):
            load(name, tmp_path / "empty")

    def test_wrong_parameters(self, name, copies):
        root = copies(name).root
        for options in ({"as_frame": "yes"}, {"on_missing": "skip"}):
            (parameter,) = options
            with pytest.raises(ValueError, match=f"'{parameter}' parameter of {name}"):
                load(name, root, **options)
        with pytest.raises(ValueError, match=f"'root' parameter of {name}"):
            load(name, None)


def rewrite(path, old, new):
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode()))


class TestWhatLoadersShare:
    def test_several_copies_below_the_root(self, fresh, tmp_path):
        fresh("load_kadid10k")
        shutil.copytree(tmp_path / "load_kadid10k", tmp_path / "another")
        with pytest.raises(ValueError, match=r"has several files 'dmos.csv'"):
            datasets.load_kadid10k(tmp_path)

    def test_links_to_folders(self, fresh, tmp_path):
        copy = fresh("load_kadid10k")
        (copy.root / "images").rename(tmp_path / "elsewhere")
        (copy.root / "images").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere/around").symlink_to(copy.root)
        assert datasets.load_kadid10k(copy.root).data == copy.paths()

    def test_links_that_lead_nowhere_are_missing(self, fresh):
        copy = fresh("load_kadid10k")
        path = copy.root / copy.files[0]
        path.unlink()
        path.symlink_to("none.png")
        with pytest.warns(UserWarning, match=r"1 of \d+ files are missing: "):
            found = datasets.load_kadid10k(copy.root, on_missing="drop")
        assert found.data == copy.paths()[1:]

    def test_a_folder_whose_name_is_not_utf8(self, fresh):
        copy = fresh("load_kadid10k")
        odd = copy.root.rename(os.fsdecode(os.fsencode(copy.root) + b"\xff"))
        names = [path.removeprefix(str(copy.root)) for path in copy.paths()]
        found = datasets.load_kadid10k(odd, as_frame=True).data["path"]
        assert found.tolist() == [f"{odd}{name}" for name in names]

    def test_what_macos_leaves_behind(self, fresh):
        copy = fresh("load_live_nflx_2")
        for name in copy.labels:
            path = copy.root / "__MACOSX" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(copy.root / name, path)
        assert len(datasets.load_live_nflx_2(copy.root).data) == len(copy.files)

    def test_a_row_that_is_there_twice(self, fresh):
        copy = fresh("load_kadid10k")
        rewrite(copy.root / "dmos.csv", "I01_01_05.png", "i01_01_01.PNG")
        with pytest.raises(ValueError, match=r"names 1 files more than once: .*I01_01"):
            datasets.load_kadid10k(copy.root)

    def test_two_cases_of_one_name(self, fresh):
        copy = fresh("load_kadid10k")
        media(copy.root, ["images/i01_01_01.png"])
        if len(list((copy.root / "images").iterdir())) == 5:
            pytest.skip("the file system ignores case")
        assert datasets.load_kadid10k(copy.root).data == copy.paths()
        (copy.root / "images/I01_01_01.png").rename(copy.root / "images/i01_01_01.PNG")
        with pytest.raises(ValueError, match=r"several files 'images/I01_01_01.png'"):
            datasets.load_kadid10k(copy.root)

    def test_a_missing_column_and_a_bad_score(self, fresh):
        copy = fresh("load_kadid10k")
        rewrite(copy.root / "dmos.csv", "4.57", "good")
        with pytest.raises(ValueError, match=r"'dmos' .* numbers. Got 'good' in row 0"):
            datasets.load_kadid10k(copy.root)
        rewrite(copy.root / "dmos.csv", ",dmos,", ",score,")
        message = r"no column 'dmos', only 'dist_img', 'ref_img', 'score', 'var'"
        with pytest.raises(ValueError, match=message):
            datasets.load_kadid10k(copy.root)

    @pytest.mark.filterwarnings("default:.*documented:UserWarning")
    def test_counts_and_ranges_are_checked(self, fresh):
        copy = fresh("load_kadid10k")
        with pytest.warns(UserWarning, match="3 rows where 10,125 are documented"):
            found = datasets.load_kadid10k(copy.root)
        assert "10,125 are documented" in found.DESCR
        rewrite(copy.root / "dmos.csv", "4.57", "45.7")
        with pytest.warns(UserWarning, match=r"1.2 to 45.7, beyond .* of 1 to 5"):
            datasets.load_kadid10k(copy.root)

    def test_files_without_a_score_are_reported(self, copies):
        text = datasets.load_kadid10k(copies("load_kadid10k").root).DESCR
        assert "2 files beside them have no score: I01.png, I81.png" in text
        text = datasets.load_koniq10k(copies("load_koniq10k").root).DESCR
        assert "1 files beside them have no score: not_rated.jpg" in text

    def test_workbooks_need_a_reader(self, copies, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "python_calamine", None)
        with pytest.raises(
            ImportError, match=r"pip install 'diffqa-features\[excel\]'"
        ):
            datasets.load_spaq(copies("load_spaq").root)

    def test_matlab_files_of_version_7_3(self, fresh):
        copy = fresh("load_live_vqc")
        header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
        (copy.root / "data.mat").write_bytes(header + bytes(512))
        with pytest.raises(ValueError, match=r"version 7.3, which is HDF5"):
            datasets.load_live_vqc(copy.root)


class TestKoniq:
    def test_without_the_split(self, fresh):
        copy = fresh("load_koniq10k")
        (copy.root / "koniq10k_distributions_sets.csv").unlink()
        found = datasets.load_koniq10k(copy.root)
        assert found.target.tolist() == [60, 61, 62]  # MOS_zscore, not MOS
        assert found.split is None
        with pytest.raises(ValueError, match="'test' needs label files that are"):
            datasets.load_koniq10k(copy.root, subset="test")

    def test_scores_of_another_scale_are_refused(self, fresh):
        copy = fresh("load_koniq10k")
        path = copy.root / "koniq10k_distributions_sets.csv"
        rewrite(path, "77.384", "3.829")
        rewrite(path, "50.25", "2.9")
        with pytest.raises(ValueError, match="'MOS' ends at 5 or below"):
            datasets.load_koniq10k(copy.root)

    def test_sizes_are_not_mixed(self, fresh):
        copy = fresh("load_koniq10k")
        found = datasets.load_koniq10k(copy.root, size="512x384")
        assert found.data == [p.replace("1024x768", "512x384") for p in copy.paths()]
        (copy.root / copy.files[0]).unlink()
        with pytest.raises(FileNotFoundError, match="missing: 1024x768/10004473376"):
            datasets.load_koniq10k(copy.root)
        with pytest.raises(ValueError, match="'size' parameter of load_koniq10k"):
            datasets.load_koniq10k(copy.root, size="1x1")

    def test_labels_in_a_folder_of_their_own(self, fresh):
        copy = fresh("load_koniq10k")
        (copy.root / "koniq10k_distributions_sets.csv").unlink()
        path = copy.root / "koniq10k_scores_and_distributions.csv"
        path.unlink()
        write(path.with_suffix("") / path.name, koniq_scores(copy.groups))
        assert datasets.load_koniq10k(copy.root).data == copy.paths()


class TestPhotos:
    def test_clive_without_practice_pictures_is_the_same(self, fresh):
        copy = fresh("load_clive")
        for part in ("Images", "MOS", "StdDev"):
            path = copy.root / f"Data/All{part}_release.mat"
            name = path.stem
            values = loadmat(path)[name]
            rest = values[7:] if part == "Images" else values[:, 7:]
            savemat(path, {name: rest})
        assert datasets.load_clive(copy.root).target.tolist() == copy.target

    def test_clive_lists_of_different_lengths(self, fresh):
        copy = fresh("load_clive")
        savemat(
            copy.root / "Data/AllMOS_release.mat", {"AllMOS_release": np.ones((1, 9))}
        )
        with pytest.raises(ValueError, match="'name' 10, 'mos' 9, 'std' 10"):
            datasets.load_clive(copy.root)

    def test_flive_without_the_files_of_the_split(self, fresh):
        copy = fresh("load_flive")
        (copy.root / "database/labels640.csv").unlink()
        found = datasets.load_flive(copy.root)
        assert found.split is None
        assert "no split: labels640.csv" in found.DESCR
        with pytest.raises(ValueError, match=r"subset='test' needs .* labels640.csv"):
            datasets.load_flive(copy.root, subset="test")

    def test_flive_from_its_folder_database(self, fresh):
        copy = fresh("load_flive")
        assert datasets.load_flive(copy.root / "database").data == copy.paths()

    def test_spaq_layouts(self, fresh):
        copy = fresh("load_spaq")
        (copy.root / "Dataset").mkdir()
        (copy.root / "TestImage").rename(copy.root / "Dataset/TestImage")
        folder = copy.root / "Annotations"
        (folder / "MOS and Image attribute scores.xlsx").rename(
            folder / "MOS_and_Image_attribute_scores.xlsx"
        )
        found = datasets.load_spaq(copy.root)
        assert [Path(p).name for p in found.data] == copy.groups

    def test_bid_re_saved_and_with_other_names(self, fresh):
        copy = fresh("load_bid")
        (copy.root / "DatabaseGrades.xls").unlink()
        rows = [("Número", "Média", ""), (1, 0, ""), (12, 1.25, ""), (640, 2.5, "")]
        path = copy.root / "DatabaseGrades.xlsx"
        workbook(path, {"Plan1": rows})
        found = datasets.load_bid(copy.root)
        assert found.data == copy.paths()
        assert found.target.tolist() == close(copy.target)
        assert "the first two columns were taken" in found.DESCR
        workbook(path, {"Plan1": [*rows, (7, 7.5, "")]})
        with pytest.raises(ValueError, match="does not hold grades of 0 to 5"):
            datasets.load_bid(copy.root)
        workbook(path, {"Plan1": [*rows, (7.5, 1, "")]})
        with pytest.raises(ValueError, match="does not number the pictures"):
            datasets.load_bid(copy.root)


class TestDegradedPictures:
    def test_kadid_is_not_inverted(self, copies):
        found = datasets.load_kadid10k(copies("load_kadid10k").root)
        mild, strong = found.target[:2]
        assert mild > strong
        assert found.higher_is_better

    def test_live_original_scores(self, fresh):
        copy = fresh("load_live")
        (copy.root / "dmos_realigned.mat").unlink()
        found = datasets.load_live(copy.root, score="original")
        assert found.data == copy.paths()
        assert found.target[0] == (227 - 169) / 20
        assert not found.higher_is_better
        with pytest.raises(FileNotFoundError, match=r"no 'dmos_realigned.mat'"):
            datasets.load_live(copy.root)

    def test_live_order_and_count(self, fresh):
        copy = fresh("load_live")
        found = datasets.load_live(copy.root)
        assert len(found.data) == 779
        assert found.data[0].endswith("jp2k/img59.bmp")
        assert len(set(found.groups)) == 2  # whatever the case of the name
        savemat(
            copy.root / "dmos_realigned.mat",
            {name: np.zeros((1, 779)) for name in ("dmos_new", "dmos_std", "orgs")},
        )
        savemat(
            copy.root / "refnames_all.mat",
            {"refnames_all": np.array([["a"] * 779], dtype=object)},
        )
        with pytest.raises(ValueError, match="779 entries and not 982"):
            datasets.load_live(copy.root)

    def test_csiq_unknown_distortion_and_repacked_case(self, fresh):
        copy = fresh("load_csiq")
        (copy.root / "dst_imgs/awgn").rename(copy.root / "dst_imgs/AWGN")
        assert "/AWGN/1600.AWGN.1.png" in datasets.load_csiq(copy.root).data[0]
        header = ("image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")
        rows = [header, (1600, 7, "noise", 1, 0.1, 0.2)]
        workbook(copy.root / "csiq.DMOS.xlsx", {"all_by_image": rows})
        with pytest.raises(ValueError, match=r"'dst_idx' must be 1 to 6. Got \[7\]"):
            datasets.load_csiq(copy.root)

    def test_tid_deviations(self, fresh):
        copy = fresh("load_tid2013")
        found = datasets.load_tid2013(copy.root, as_frame=True)
        assert found.frame["mos_std"].tolist() == [0.13, 0.14, 0.15]
        (copy.root / "mos_std.txt").write_text("0.13\n")
        with pytest.raises(ValueError, match="'mos' 3, 'name' 3, 'mos_std' 1"):
            datasets.load_tid2013(copy.root)
        (copy.root / "mos_std.txt").unlink()
        assert datasets.load_tid2013(copy.root).data == copy.paths()
        rewrite(copy.root / "mos_with_names.txt", "i01_24_5.bmp", "readme.txt")
        with pytest.raises(ValueError, match=r"Got '0.242 readme.txt'"):
            datasets.load_tid2013(copy.root)

    def test_pipal_layouts(self, fresh):
        copy = fresh("load_pipal")
        (copy.root / "Train_Label").rename(copy.root / "MOS_Scores_train")
        media(copy.root, [f"Train_Dist/{Path(p).name}" for p in copy.files])
        for k in (1, 4):
            shutil.rmtree(copy.root / f"Distortion_{k}")
        found = datasets.load_pipal(copy.root)
        assert [Path(p).parent.name for p in found.data] == ["Train_Dist"] * 3
        assert found.target.tolist() == close(copy.target)

    def test_agiqa_scores_and_prompts(self, fresh):
        copy = fresh("load_agiqa3k")
        found = datasets.load_agiqa3k(copy.root, score="alignment", as_frame=True)
        assert found.target.tolist() == [0.021, 1.5, 4.286]
        assert found.data["prompt"][0] == "a cat, sitting"
        assert datasets.load_agiqa3k(copy.root).prompt[2] == "a dog"
        rewrite(copy.root / "data.csv", '0.021,0.4\r\nAttnGAN_normal_012.jpg,"a cat',
                '0.021,0.4\r\nAttnGAN_normal_012.jpg,"a bat')  # fmt: skip
        with pytest.raises(ValueError, match="several prompts: number '012'"):
            datasets.load_agiqa3k(copy.root)


class TestVideos:
    def test_lsvq_needs_only_the_label_file_of_its_subset(self, fresh):
        copy = fresh("load_lsvq")
        (copy.root / "labels_test_1080p.csv").unlink()
        assert len(datasets.load_lsvq(copy.root, subset="train").data) == 2
        with pytest.raises(FileNotFoundError, match=r"no 'labels_test_1080p.csv'"):
            datasets.load_lsvq(copy.root)

    def test_lsvq_broken_rows_are_left_out_and_told(self, copies):
        found = datasets.load_lsvq(copies("load_lsvq").root)
        assert "1 rows with a frame_number below 2" in found.DESCR
        assert "train 2" in found.DESCR

    @pytest.mark.parametrize("labels", ["KoNViD_1k_mos.csv", "attributes"])
    def test_konvid_names_of_the_older_release(self, fresh, labels):
        copy = fresh("load_konvid1k")
        tail = "centercrop_960x540_8s.mp4"
        names = [f"{name}_original_{tail}" for name in copy.groups[:2]]
        names.append(f"{copy.groups[2]}_cut_{tail}")
        shutil.rmtree(copy.root / "KoNViD_1k_videos")
        media(copy.root, names)
        if labels == "attributes":
            shutil.rmtree(copy.root / "KoNViD_1k_metadata")
            lines = ["flickr_id,download_id,file_name,MOS,ti"]
            rows = zip(copy.groups, names, copy.target)
            lines += [f"{group},1,{name},{mos},0.5" for group, name, mos in rows]
            write(copy.root / "KoNViD_1k_attributes.csv", "\n".join(lines))
        found = datasets.load_konvid1k(copy.root)
        assert [Path(p).name for p in found.data] == names
        assert found.target.tolist() == close(copy.target)

    def test_konvid_ids_that_became_floats(self, fresh):
        copy = fresh("load_konvid1k")
        rewrite(copy.root / copy.labels[0], "12262452854,", "12262452854.0,")
        assert datasets.load_konvid1k(copy.root).groups.tolist() == copy.groups

    def test_youtube_reports_both_differences(self, fresh):
        copy = fresh("load_youtube_ugc")
        (copy.root / copy.files[1]).unlink()
        media(copy.root, ["original_videos_h264/New_720P-ffff_crf_10_ss_00_t_20.0.mp4"])
        with pytest.warns(UserWarning, match="1 of 3 files are missing"):
            found = datasets.load_youtube_ugc(copy.root)
        assert found.data == copy.paths([0, 2])
        assert "1 files are missing: original_videos_h264/Sports_2160P" in found.DESCR
        assert "1 files beside them have no score: New_720P-ffff" in found.DESCR

    def test_youtube_raw_videos(self, fresh):
        copy = fresh("load_youtube_ugc")
        shutil.rmtree(copy.root / "original_videos_h264")
        raw = ["Animation/1080P", "Sports/2160P", "HDR/480P"]
        names = [f"original_videos/{f}/{v}.mkv" for f, v in zip(raw, copy.groups)]
        media(copy.root, names)
        found = datasets.load_youtube_ugc(copy.root)
        assert found.data == [str(copy.root / name) for name in names]

    def test_gaming_takes_no_file_that_is_not_whole_or_not_alone(self, fresh):
        copy = fresh("load_live_yt_gaming")
        lines = [f"{Path(f).name},{t}" for f, t in zip(copy.files, copy.target)]
        write(copy.root / "scores.csv", "\n".join(["File,MOS", *lines]))
        with pytest.raises(FileNotFoundError, match=r"Found 2 .*: scores.csv, what"):
            datasets.load_live_yt_gaming(copy.root)
        (copy.root / "whatever.mat").unlink()
        found = datasets.load_live_yt_gaming(copy.root)
        assert found.data == copy.paths()
        assert found.groups.tolist() == copy.groups
        write(copy.root / "scores.csv", "\n".join(["File,MOS", *lines[:-1]]))
        with pytest.raises(ValueError, match="599 rows and not 600"):
            datasets.load_live_yt_gaming(copy.root)

    def test_cvd_original_scores_and_flat_layouts(self, fresh):
        copy = fresh("load_cvd2014")
        found = datasets.load_cvd2014(copy.root, score="original")
        assert found.target.tolist() == [71.85, 4.44, 93.33]
        for name in copy.files:
            path = copy.root / name
            path.rename(copy.root / path.name)
        assert [Path(p).name for p in datasets.load_cvd2014(copy.root).data] == [
            Path(name).name for name in copy.files
        ]

    def test_hfr_differences_to_the_reference(self, copies):
        copy = copies("load_live_yt_hfr")
        found = datasets.load_live_yt_hfr(copy.root, score="dmos")
        assert not found.higher_is_better
        assert found.target.tolist() == [63.578, -2.17]
        assert found.data == copy.paths([1, 2])
        found = datasets.load_live_yt_hfr(copy.root, as_frame=True)
        assert found.frame["fps"].tolist() == [120, 24, 98]
        assert found.frame["std"].tolist() == [5.63, 17.71, 8]

    def test_avt_one_name_in_two_tests(self, fresh):
        copy = fresh("load_avt_vqdb_uhd_1")
        found = datasets.load_avt_vqdb_uhd_1(copy.root)
        names = [Path(p).name for p in found.data]
        assert names[1] == names[2]
        assert found.target[1] != found.target[2]
        assert "test_2: 1 of 2 rated videos are shared" in found.DESCR
        (copy.root / "test_2.json").unlink()
        with pytest.raises(FileNotFoundError, match=r"missing: .*venice_hevc.mp4"):
            datasets.load_avt_vqdb_uhd_1(copy.root)

    def test_nflx_pickles_are_not_opened(self, fresh):
        copy = fresh("load_live_nflx_2")
        for name in copy.labels:
            path = copy.root / name
            path.rename(path.with_suffix(".pkl"))
        with pytest.raises(FileNotFoundError, match=r"0 other .mat and 3 .pkl files"):
            datasets.load_live_nflx_2(copy.root)


class TestLiveQualcomm:
    def test_raw_rows_carry_what_the_file_lacks(self, copies):
        copy = copies("load_live_qualcomm")
        data = datasets.load_live_qualcomm(copy.root).data
        assert isinstance(data, pd.DataFrame)
        assert data.iloc[0].tolist() == [
            copy.paths()[0], 1920, 1080, 30.0, "yuv420p",
        ]  # fmt: skip
        data, _ = datasets.load_live_qualcomm(copy.root, frame_rate=25, return_X_y=True)
        assert data["frame_rate"].tolist() == [25] * 4

    def test_the_rows_can_be_read(self, copies):
        from diffqa_features._media.rows import as_rows
        from diffqa_features._media.video.raw import RawVideo

        data = datasets.load_live_qualcomm(copies("load_live_qualcomm").root).data
        row = as_rows(data)[1]
        video = RawVideo.from_columns(row.source, row.columns)
        assert video.count() == 2
        assert next(video.read([1])).shape == (1080, 1920, 3)

    def test_a_download_that_stopped_early(self, fresh):
        copy = fresh("load_live_qualcomm")
        with (copy.root / copy.files[2]).open("r+b") as file:
            file.truncate(7_000_000)
        message = (
            r"1 of 4 raw files .*CheerLeader1_LGG2_02.yuv': 7,000,000 bytes are 2 whole"
        )
        with pytest.raises(ValueError, match=message):
            datasets.load_live_qualcomm(copy.root)

    def test_converted_files_speak_for_themselves(self, tmp_path):
        copy = live_qualcomm(tmp_path / "copy", suffix=".mp4")
        found = datasets.load_live_qualcomm(copy.root, score="biased")
        assert found.data == copy.paths()
        assert found.target[0] == 16.562 - 3
        data, _ = datasets.load_live_qualcomm(copy.root, as_frame=True, return_X_y=True)
        assert list(data) == ["path"]
