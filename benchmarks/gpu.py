"""One GPU, a quarter of an hour: every figure that this project wants of it, as JSON.

    python benchmarks/gpu.py --minutes 10
    python benchmarks/gpu.py --device cpu --quick      # the same steps, tiny, anywhere

Steps are written to benchmarks/results/gpu-CARD.json as they finish and are not
repeated, so the command goes on where it was stopped; --again NAME repeats one. A step
that does not fit the time that is left is not begun. --then runs a command, such as a
training, for what remains.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from plain_diffusers import PlainLoop
from torch.utils.flop_counter import FlopCounterMode

from diffqa_features import DiffusionQAFeatures, evaluation
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features.datasets import load_sample_photos, make_procedural_images

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
STEPS = {  # seconds that a step is likely to take on a card, and on a CPU with --quick
    "machine": 20, "tests": 60, "agreement": 90, "throughput": 150, "unet": 120,
    "files": 60,
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny, few pictures")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--again", nargs="+", choices=STEPS, default=[])
    parser.add_argument("--then", help="command for the minutes that are left")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    ends = time.monotonic() + 60 * arguments.minutes
    card = card_name(arguments.device)
    path = arguments.out / f"gpu-{card}{'-quick' * arguments.quick}.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.only:
            left = ends - time.monotonic()
            if name in results and name not in arguments.again:
                say(f"{name}: there already")
            elif left < STEPS[name]:
                say(f"{name}: not begun, {left:.0f} s are left")
            else:
                begin = time.monotonic()
                try:
                    found = globals()[f"step_{name}"](arguments, Path(scratch))
                except Exception as error:  # the other figures are wanted all the same
                    found = {"failed": f"{type(error).__name__}: {error}"[:2000]}
                found["took_s"] = round(time.monotonic() - begin, 1)
                results[name] = found
                path.parent.mkdir(exist_ok=True, parents=True)
                path.write_text(json.dumps(results, indent=1) + "\n")
                say(f"{name}: {json.dumps(found)[:400]}")
    if arguments.then:
        left = max(ends - time.monotonic(), 1)
        subprocess.run(["timeout", f"{left:.0f}", *shlex.split(arguments.then)])


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def card_name(device):
    name = "cpu"
    if device != "cpu":
        name = torch.cuda.get_device_name(device)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


# -- steps: arguments and a scratch folder in, a dict out ------------------------------


def step_machine(arguments, scratch):
    """What the figures belong to, and the peak of one matrix product."""
    on_card = arguments.device != "cpu"
    driver = ""
    if on_card:
        words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(words, capture_output=True, text=True).stdout.strip()
    side, repeat = (512, 3) if arguments.quick else (8192, 10)
    peaks = {}
    for dtype in ("float32", "float16", "bfloat16"):
        a = torch.randn(side, side, device=arguments.device).to(getattr(torch, dtype))
        seconds = clock(arguments.device, repeat, torch.matmul, a, a)
        peaks[dtype] = round(2 * side**3 / seconds / 1e12, 2)
    return {
        "driver": driver, "torch": torch.__version__, "cuda": torch.version.cuda,
        "diffusers": diffusers.__version__, "transformers": transformers.__version__,
        "threads": torch.get_num_threads(), "matmul_tflops": peaks,
    }  # fmt: skip


def step_tests(arguments, scratch):
    """Tests marked `gpu`: they skip themselves without a card."""
    words = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "gpu", "tests"]
    done = subprocess.run(words, cwd=HERE.parent, capture_output=True, text=True)
    return {"exit": done.returncode, "output": done.stdout.splitlines()[-12:]}


def step_agreement(arguments, scratch):
    """The card's columns against the processor's in float32."""
    found = {}
    for name, backbone, size in shapes(arguments, scratch, ("tiny", "sd15", "sdxl")):
        images = make_procedural_images(2, image_size=size)
        common = {"image_size": size, "kinds": ("alignment", "query", "error")}
        exact = DiffusionQAFeatures(
            backbone, device="cpu", dtype="float32", **common
        ).transform(images)
        scale = np.maximum(np.abs(exact), 1)
        for dtype in ("float32", "float16", "bfloat16"):
            model = DiffusionQAFeatures(
                backbone, device=arguments.device, dtype=dtype, **common
            )
            error = np.abs(model.transform(images) - exact) / scale
            found[f"{name} {dtype}"] = {
                "largest": float(error.max()), "mean": float(error.mean())
            }  # fmt: skip
    return found


def step_throughput(arguments, scratch):
    """Pictures per second at the native size, two prompts, against a plain loop."""
    found = {}
    dtype = "float32" if arguments.device == "cpu" else "float16"
    batches = (1, 4) if arguments.quick else (2, 8, 16, 32, 64, 128)
    count = 2 if arguments.quick else 16
    for name, backbone, size in shapes(arguments, scratch, ("sd15", "sd21-base"), 512):
        few = list(make_procedural_images(count, image_size=size))
        plain = PlainLoop(Path(backbone), dtype, arguments.device)
        plain.features(few[:1], (50,))
        seconds = clock(arguments.device, 1, plain.features, few, (50,))
        rates = {"plain": len(few) / seconds}
        del plain
        for rows in batches:
            images = (few * max(rows // len(few), 1))[: max(2 * rows, len(few))]
            model = DiffusionQAFeatures(
                backbone, image_size=size, device=arguments.device, dtype=dtype,
                batch_size=rows,
            )  # fmt: skip
            model.transform(few[:1])
            seconds = clock(arguments.device, 1, model.transform, images)
            rates[f"{rows} rows"] = len(images) / seconds
        best = max(rate for key, rate in rates.items() if key != "plain")
        found[name] = {
            "pictures_per_s": {key: round(rate, 2) for key, rate in rates.items()},
            "ratio": round(best / rates["plain"], 2),
        }
    return found


def step_unet(arguments, scratch):
    """The UNet alone: its share of the matmul peak, layouts, compiled."""
    found = {}
    dtype = torch.float32 if arguments.device == "cpu" else torch.float16
    rows = 2 if arguments.quick else 32
    for name, backbone, size in shapes(arguments, scratch, ("sd15",), 512):
        loaded = load_backbone(backbone, arguments.device, dtype)
        side = size // loaded.info.latent_factor
        shape = rows, loaded.info.latent_channels, side, side
        noisy = torch.randn(shape, device=arguments.device, dtype=dtype)
        states = loaded.condition(["Good photo."]).states.expand(rows, -1, -1)
        unet = loaded.unet

        def run(module, noisy=noisy, states=states):
            with torch.inference_mode():
                return module(noisy, 50, states).sample

        with FlopCounterMode(display=False) as counter:
            run(unet)
        flops = counter.get_total_flops()
        ways = {
            "contiguous": torch.contiguous_format,
            "channels last": torch.channels_last,
        }
        for way, layout in ways.items():
            unet.to(memory_format=layout)
            seconds = clock(arguments.device, 3, run, unet)
            found[f"{name} {way}"] = {
                "rows_per_s": round(rows / seconds, 2),
                "tflops": round(flops / seconds / 1e12, 2),
            }
        if not arguments.quick:
            compiled = torch.compile(unet, mode="reduce-overhead", fullgraph=False)
            begin = time.monotonic()
            run(compiled)
            first = time.monotonic() - begin
            seconds = clock(arguments.device, 3, run, compiled)
            found[f"{name} compiled"] = {
                "rows_per_s": round(rows / seconds, 2), "first_s": round(first, 1)
            }  # fmt: skip
    return found


def step_files(arguments, scratch):
    """From JPEG files of 12 megapixels to columns, stage by stage."""
    count, sides = (4, (640, 480)) if arguments.quick else (128, (4000, 3000))
    photo = Image.fromarray(load_sample_photos().data[0]).resize(sides)
    paths = [str(scratch / f"{number}.jpg") for number in range(count)]
    for path in paths:
        photo.save(path, quality=92)
    found = {}
    for name, backbone, size in shapes(arguments, scratch, ("sd15",), 512):
        model = DiffusionQAFeatures(
            backbone, image_size=size, view="stretch", device=arguments.device
        )
        table = evaluation.efficiency(model, paths)
        found[name] = table.to_csv().splitlines()
    return found


def shapes(arguments, scratch, names, size=256):
    """(name, folder, side) of full shapes with random weights; `tiny` if --quick."""
    if arguments.quick:
        from diffqa_features._backbone.info import describe_backbone

        yield "tiny", str(describe_backbone("tiny").folder), 64
        return
    from full_size import write_full_size

    for name in names:
        if name == "tiny":
            yield name, name, 192
            continue
        folder = scratch / name
        if not folder.exists():
            write_full_size(folder, name, torch.float16)
        yield name, str(folder), size


def clock(device, repeat, work, *inputs):
    """Median seconds, the card's queue included; the first call does not count."""
    times = []
    for _ in range(repeat + 1):
        begin = time.perf_counter()
        work(*inputs)
        if device != "cpu":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return float(np.median(times[1:]))


if __name__ == "__main__":
    main()
