"""The memory budget: one limit, Pillow's own number, for stills and videos."""

import pytest
from PIL import Image

from diffqa_features._media.budget import check_budget


def test_a_still_is_held_to_pillows_number():
    check_budget(9459, 9459)  # 89,472,681 of 89,478,485
    with pytest.raises(ValueError, match=r"13000 x 13000 pixels and takes about 3\.8 "):
        check_budget(13000, 13000)


def test_frames_held_at_once_count():
    check_budget(7680, 4320, frames=18, bytes_per_pixel=3)
    with pytest.raises(ValueError, match="MAX_IMAGE_PIXELS = None"):
        check_budget(16384, 16384, frames=18, bytes_per_pixel=1.5)


def test_pillows_setting_is_followed(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    check_budget(10, 10)
    with pytest.raises(ValueError, match="10 x 11"):
        check_budget(10, 11)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    check_budget(10**6, 10**6)
