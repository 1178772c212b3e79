"""A backbone in, what attempts to make its passes faster gain at most out.

    python benchmarks/attempts.py tiny --rows 4 --size 192
    python benchmarks/attempts.py sd15/ --dtype bfloat16    (of tests/full_size.py)

``packed``: weights in oneDNN's own layout. ``texts``: without the keys and values of
prompts, as if they were known from a pass before. ``start``: with half of the time up
to the first cross-attention, as if two prompts shared it. ``vae``: channels last. Each
is a ratio of processor seconds in one thread, in one run and in turns; 1.10 is what an
attempt has to reach.
"""

import argparse
import copy
import statistics
import sys
import time

import torch

from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.packing import pack_weights


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbone")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone(arguments.backbone, "cpu", arguments.dtype)
    plain = copy.deepcopy(backbone.unet)  # copies are never packed
    pack_weights(backbone.unet, smallest=0)
    prompts = ["Good photo.", "Bad photo."] * (arguments.rows // 2)
    conditioning = backbone.condition(prompts)
    side = arguments.size // backbone.info.latent_factor
    noisy = torch.randn(len(prompts), backbone.info.latent_channels, side, side)
    pixels = torch.rand(1, 3, arguments.size, arguments.size)
    watch = Watch(plain)

    def encode(layout):
        backbone._vae.to(memory_format=layout)
        start = time.process_time()
        backbone._vae.encode(pixels.to(backbone.dtype, memory_format=layout))
        return time.process_time() - start

    gains = {"packed": [], "texts": [], "start": [], "vae": []}
    with torch.inference_mode():
        for turn in range(arguments.rounds + 1):
            whole = watch.seconds(
                lambda: backbone.run(noisy, 50, conditioning, unet=plain)
            )
            start = time.process_time()
            backbone.run(noisy, 50, conditioning)
            packed = time.process_time() - start
            layouts = [
                encode(layout)
                for layout in (torch.contiguous_format, torch.channels_last)
            ]
            if not turn:
                continue
            gains["packed"].append(whole / packed)
            gains["texts"].append(whole / (whole - watch.texts))
            gains["start"].append(whole / (whole - watch.start / 2))
            gains["vae"].append(layouts[0] / layouts[1])
    for name, ratios in gains.items():
        sys.stdout.write(
            f"{name:8s} {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})\n"
        )


class Watch:
    """Seconds of a pass spent on keys and values, and up to the first of them."""

    def __init__(self, unet):
        for name, module in unet.named_modules():
            if name.endswith(("attn2.to_k", "attn2.to_v")):
                module.register_forward_pre_hook(self._enter)
                module.register_forward_hook(self._leave)

    def seconds(self, run):
        self.texts, self.start = 0.0, None
        self._began = time.process_time()
        run()
        return time.process_time() - self._began

    def _enter(self, module, args):
        self._entered = time.process_time()
        if self.start is None:
            self.start = self._entered - self._began

    def _leave(self, module, args, output):
        self.texts += time.process_time() - self._entered


if __name__ == "__main__":
    main()
