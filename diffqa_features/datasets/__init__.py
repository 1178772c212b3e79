"""Data to start with: ``load_*`` reads what is at hand, ``make_*`` computes it."""

from diffqa_features.datasets._distorted_images import make_distorted_images
from diffqa_features.datasets._distorted_videos import make_distorted_videos
from diffqa_features.datasets._procedural import make_procedural_images
from diffqa_features.datasets._sample_photos import load_sample_photos

__all__ = [
    "load_sample_photos",
    "make_distorted_images",
    "make_distorted_videos",
    "make_procedural_images",
]
