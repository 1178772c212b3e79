"""Count what a backbone really computes, with hooks on the real modules."""

from contextlib import contextmanager
from dataclasses import dataclass

from diffqa_features._backbone.backbone import load_backbone


@dataclass
class Count:
    unet_rows: int = 0
    unet_passes: int = 0
    vae_rows: int = 0
    last_stage: int = 0


@contextmanager
def counting(folder, dtype="float32"):
    """Count UNet rows and passes, VAE rows, and passes that reach the last stage."""
    backbone = load_backbone(str(folder), "cpu", dtype)
    count = Count()

    def see_unet(module, args, kwargs):
        count.unet_rows += len(args[0])
        count.unet_passes += 1

    def see_vae(module, args):
        count.vae_rows += len(args[0])

    def see_end(module, args):
        count.last_stage += 1

    handles = [
        backbone.unet.register_forward_pre_hook(see_unet, with_kwargs=True),
        backbone._vae.encoder.register_forward_pre_hook(see_vae),
        backbone.unet.conv_out.register_forward_pre_hook(see_end),
    ]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()
