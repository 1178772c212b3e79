"""Datasets: ``load_*`` reads local copies, ``make_*`` generates data.

In: the folder of a published dataset, a table, or nothing. Out: a ``Bunch`` with data,
target and groups. Published datasets are read from local copies in their official
layout; nothing is downloaded. Open `_loader` first for a dataset, `_distorted_images`
for a graded set. :func:`from_table` reads your own table.
"""

from diffqa_features.datasets._camera_videos import load_cvd2014, load_live_qualcomm
from diffqa_features.datasets._degraded_pictures import (
    load_agiqa3k,
    load_csiq,
    load_kadid10k,
    load_live,
    load_pipal,
    load_tid2013,
)
from diffqa_features.datasets._distorted_images import make_distorted_images
from diffqa_features.datasets._distorted_videos import make_distorted_videos
from diffqa_features.datasets._photos import (
    load_bid,
    load_clive,
    load_flive,
    load_koniq10k,
    load_spaq,
)
from diffqa_features.datasets._procedural import make_procedural_images
from diffqa_features.datasets._sample_photos import load_sample_photos
from diffqa_features.datasets._streamed_videos import (
    load_avt_vqdb_uhd_1,
    load_live_nflx_2,
    load_live_yt_hfr,
)
from diffqa_features.datasets._table import from_table
from diffqa_features.datasets._user_videos import (
    load_konvid1k,
    load_live_vqc,
    load_live_yt_gaming,
    load_lsvq,
    load_youtube_ugc,
)

__all__ = [
    "from_table",
    "load_agiqa3k",
    "load_avt_vqdb_uhd_1",
    "load_bid",
    "load_clive",
    "load_csiq",
    "load_cvd2014",
    "load_flive",
    "load_kadid10k",
    "load_koniq10k",
    "load_konvid1k",
    "load_live",
    "load_live_nflx_2",
    "load_live_qualcomm",
    "load_live_vqc",
    "load_live_yt_gaming",
    "load_live_yt_hfr",
    "load_lsvq",
    "load_pipal",
    "load_sample_photos",
    "load_spaq",
    "load_tid2013",
    "load_youtube_ugc",
    "make_distorted_images",
    "make_distorted_videos",
    "make_procedural_images",
]
