"""DiffVQA's temporal part (Mamba over all frames) at 8, 64 and 512 frames.

    python benchmarks/diffvqa.py
    python benchmarks/diffvqa.py --frames 8 64 --loop    # transformers' own loop

One clip, one forward pass and one training step, in a process of its own for each
number of frames; the peak is what the process holds beyond its imports. Sizes are the
defaults of `DiffVQARegressor`.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CHILD = """
import json, resource, sys, time
import torch
from transformers.models.mamba.modeling_mamba import MambaMixer
from diffqa_features.learned.diffvqa import selective_scan as _selective_scan
from diffqa_features.learned.diffvqa.mamba import FrameMamba

frames, size, patch, width, layers, state, loop = map(int, sys.argv[1:])
torch.set_num_threads(1)
torch.manual_seed(0)
if loop:
    _selective_scan.LinearMixer.forward = MambaMixer.forward
network = FrameMamba(size, patch, width, layers, state)
clip = torch.randint(0, 256, (1, frames, size, size, 3), dtype=torch.uint8)
counts = torch.tensor([frames])

def peak():
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 2**20 if sys.platform == "darwin" else kib / 2**10

network(clip[:, :1], torch.tensor([1])).sum().backward()  # what loads at first use
before, told = peak(), {}
start = time.process_time()
with torch.inference_mode():
    network(clip, counts)
told["forward_s"] = time.process_time() - start
told["forward_mib"] = peak() - before
start = time.process_time()
network(clip, counts).square().mean().backward()
told["step_s"] = time.process_time() - start
told["step_mib"] = peak() - before
sys.stdout.write(json.dumps(told))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--state", type=int, default=16)
    parser.add_argument("--loop", action="store_true", help="transformers' own scan")
    arguments = parser.parse_args()
    sizes = ("size", "patch", "width", "layers", "state")
    words = [str(getattr(arguments, name)) for name in sizes]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    lines = []
    for frames in arguments.frames:
        output = subprocess.run(
            [sys.executable, "-c", CHILD, str(frames), *words, str(+arguments.loop)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        line = {"frames": frames, **json.loads(output)}
        lines.append({name: round(value, 3) for name, value in line.items()})
        print(
            "{frames} frames: forward {forward_s:.2f} s, {forward_mib:.0f} MiB; "
            "training step {step_s:.2f} s, {step_mib:.0f} MiB".format(**line),
            flush=True,
        )
    path = HERE / "results" / f"diffvqa{'_loop' * arguments.loop}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()
