"""A backbone in, ratios of wall time out: this library against plain diffusers.

    python benchmarks/speed.py --backbone tiny --images 16
    python benchmarks/speed.py --backbone sd15 --images 8 --size 256
    python benchmarks/speed.py --only compiled    (as with DIFFQA_COMPILE=1)

`sd15` is the full shape of Stable Diffusion 1.5 with random weights: the time is the
same. Only ratios within one run are of use; repetitions alternate between the ways.
Each kind of processor has a table of its own in `results/`. The library lets the C
library keep memory (`DIFFQA_KEEP_MEMORY`), and so the plain loop in the same process
has that advantage, too. The ratio of processor seconds stands beside that of wall time:
with one thread it hardly depends on what else the machine does.
"""

import argparse
import csv
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from plain_diffusers import PlainLoop

from diffqa_features import DiffusionQAFeatures
from diffqa_features._backbone.backbone import load_backbone
from diffqa_features._backbone.compiled import CompiledPasses
from diffqa_features._backbone.info import describe_backbone
from diffqa_features.datasets import make_procedural_images

HERE = Path(__file__).parent
TIMESTEPS = (50,), (20, 50, 200)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tiny", help="tiny, sd15 or a folder")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", type=int, help="pixels; default the native size")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--only", nargs="+", default=["loop1", "loop3", "blocks", "store"]
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        backbone = arguments.backbone
        if backbone == "sd15":
            sys.path.insert(0, str(HERE.parent / "tests"))
            from full_size import write_full_size

            backbone = str(write_full_size(Path(scratch) / "sd15", "sd15"))
        rows = measure(backbone, arguments, Path(scratch))
    name = Path(arguments.backbone).name
    keep([{"backbone": name, **row} for row in rows])


def keep(rows):
    """Put rows into the table of this kind of machine, for those that they repeat."""
    path = HERE / "results" / f"plain-against-ours-{machine()}.csv"
    kept = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            kept = list(csv.DictReader(file))

    def same(row):
        return [str(row[k]) for k in list(row)[: list(row).index("slow_s")]]

    new = [same(row) for row in rows]
    rows = [row for row in kept if same(row) not in new] + rows
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def machine():
    """What sets kinds of processors apart here."""
    if torch.cpu.get_capabilities().get("amx_bf16"):
        return "amx"
    return torch.backends.cpu.get_cpu_capability().lower()


def measure(backbone, arguments, scratch):
    info = describe_backbone(backbone)
    size = arguments.size or info.image_size
    images = list(make_procedural_images(arguments.images, image_size=size))
    common = {"image_size": size, "device": "cpu", "dtype": arguments.dtype}

    def ours(**parameters):
        model = DiffusionQAFeatures(backbone, **common, **parameters)
        return lambda: model.transform(images)

    rows = []

    def report(what, slow, fast, repeat=arguments.repeat):
        (first, first_cpu), (second, second_cpu) = alternate(slow, fast, repeat)
        row = {
            "comparison": what,
            "images": len(images),
            "size": size,
            "dtype": arguments.dtype,
            "threads": torch.get_num_threads(),
            "slow_s": f"{first:.3f}",
            "fast_s": f"{second:.4f}",
            "ratio": f"{first / second:.2f}",
            "cpu_ratio": f"{first_cpu / second_cpu:.2f}",
        }
        rows.append(row)
        sys.stdout.write("  ".join(str(value) for value in row.values()) + "\n")
        sys.stdout.flush()

    sys.stdout.write(
        "comparison  images  size  dtype  threads  slow_s  fast_s  ratio  cpu_ratio\n"
    )
    if {"loop1", "loop3", "compiled"} & set(arguments.only):
        plain = PlainLoop(info.folder, arguments.dtype)
        check_agreement(plain, backbone, common, images[:1])
        if "loop1" in arguments.only:
            report(
                "plain loop / library, 1 timestep",
                lambda: plain.features(images, TIMESTEPS[0]),
                ours(timesteps=TIMESTEPS[0]),
            )
        if "loop3" in arguments.only:
            report(
                "plain loop / library, 3 timesteps, encoding at each",
                lambda: plain.features(images, TIMESTEPS[1], encode_again=True),
                ours(timesteps=TIMESTEPS[1]),
            )
        if "compiled" in arguments.only:
            compiled = compile_passes(backbone, arguments.dtype, ours())
            report("library / library compiled, 1 timestep", ours(), compiled)
            report(
                "plain loop / library compiled, 1 timestep",
                lambda: plain.features(images, TIMESTEPS[0]),
                compiled,
            )
        del plain
    if "blocks" in arguments.only:
        report("all / down*", ours(), ours(blocks="down*", kinds="alignment"))
    if "store" in arguments.only:
        stored = ours(memory=scratch / "store")
        stored_again = ours(memory=scratch / "store")
        ours()()  # the backbone is loaded before the clock starts
        report("first / second transform with memory", stored, stored_again, 1)
    return rows


def compile_passes(backbone, dtype, transform):
    """`transform` with compiled passes; says what compiling costs and changes."""
    loaded = load_backbone(backbone, "cpu", dtype)
    passes = CompiledPasses(loaded.unet)

    def compiled():
        loaded._compiled = passes
        try:
            return transform()
        finally:
            loaded._compiled = None

    expected = transform()
    start = spent()
    found = compiled()
    moved = np.square(found - expected).mean(0) ** 0.5 / expected.std(0)
    sys.stdout.write(
        f"first compiled transform: {spent() - start:.1f} CPU seconds; columns move by "
        f"{np.median(moved):.5f} of their spread (median), {moved.max():.5f} (most)\n"
    )
    return compiled


def spent():
    """Processor seconds of this process and of the compilers that it started."""
    return sum(
        use.ru_utime + use.ru_stime
        for use in map(
            resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
    )


def check_agreement(plain, backbone, common, images):
    """Both ways must give the same columns, up to order, before time counts."""
    model = DiffusionQAFeatures(backbone, **common)
    tolerance = 1e-3 if common["dtype"] == "float32" else 5e-2
    ours, theirs = model.transform(images), plain.features(images, (50,))
    # The UNet registers its middle behind its end; sorting forgives the order.
    np.testing.assert_allclose(
        np.sort(ours, axis=1), np.sort(theirs, axis=1), rtol=tolerance, atol=tolerance
    )


def alternate(first, second, repeat):
    """Median (wall, processor) seconds of both, in turns: drift hits them alike."""
    seconds = [], []
    for _ in range(repeat):
        for work, kept in zip((first, second), seconds, strict=True):
            start, start_cpu = time.perf_counter(), time.process_time()
            work()
            kept.append((time.perf_counter() - start, time.process_time() - start_cpu))
    return [[statistics.median(clock) for clock in zip(*kept)] for kept in seconds]


if __name__ == "__main__":
    main()
