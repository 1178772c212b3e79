"""Count what networks really compute, with hooks on the real modules."""

from contextlib import contextmanager
from dataclasses import dataclass, field

from torch.nn.modules.module import register_module_forward_pre_hook

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
