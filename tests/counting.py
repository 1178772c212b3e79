"""Count the work: rows of networks, by hooks on the real modules; files; store."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from PIL import ImageFile
from torch.nn.modules.module import register_module_forward_pre_hook

from diffqa_features import FeatureStore
from diffqa_features._backbone.backbone import load_backbone


@dataclass
class Count:
    unet_rows: int = 0
    unet_passes: int = 0
    vae_rows: int = 0
    last_stage: int = 0
    text_rows: list[int] = field(default_factory=list)  # of each pass


@contextmanager
def counting(folder, dtype="float32"):
    """Count UNet rows and passes, VAE rows, text rows, and passes to the last stage."""
    backbone = load_backbone(str(folder), "cpu", dtype)
    count = Count()

    def see_unet(module, args, kwargs):
        count.unet_rows += len(args[0])
        count.unet_passes += 1

    def see_vae(module, args):
        count.vae_rows += len(args[0])

    def see_text(module, args):
        count.text_rows.append(len(args[0]))

    def see_end(module, args):
        count.last_stage += 1

    handles = [
        backbone.unet.register_forward_pre_hook(see_unet, with_kwargs=True),
        backbone._vae.encoder.register_forward_pre_hook(see_vae),
        backbone._text_encoder.register_forward_pre_hook(see_text),
        backbone.unet.conv_out.register_forward_pre_hook(see_end),
    ]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def counting_calls(kind):
    """A list of the first inputs of all modules of this class, wherever they are."""
    inputs = []

    def see(module, args):
        if isinstance(module, kind):
            inputs.append(args[0])

    handle = register_module_forward_pre_hook(see)
    try:
        yield inputs
    finally:
        handle.remove()


@contextmanager
def counting_decodes():
    """Pixels of stills that Pillow decodes, and how often a video is opened."""
    import av

    work = Counter(pixels=0, videos=0)
    load, open_container = ImageFile.ImageFile.load, av.open

    def load_and_count(image):
        if image.tile:  # none is left once the picture is decoded
            work["pixels"] += image.width * image.height
        return load(image)

    def open_and_count(*args, **kwargs):
        work["videos"] += 1
        return open_container(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", load_and_count)
        patch.setattr(av, "open", open_and_count)
        yield work


class CountingStore(FeatureStore):
    """A store that counts keys asked for, values found and values put, over copies."""

    work = Counter()

    def get(self, keys):
        keys = list(keys)
        found = super().get(keys)
        self.work.update(asked=len(keys), found=len(found))
        return found

    def put(self, items):
        self.work["put"] += len(items)
        super().put(items)
