"""Video files in; what sampling by frame rate saves, and how much memory it takes, out.

    python benchmarks/video.py

Clips are encoded from a photograph that the camera pans over. Decoding only the chosen
frames is compared with decoding the whole file in the same run, reader by reader, for
key frames one second and ten seconds apart, in CPU seconds of all threads; everything
else is in seconds of the clock. The 4K clip is read in a process of its
own: its peak less what it held before, when the backbone had seen one small picture.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import av
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

HERE = Path(__file__).parent
CHILD = """
import json, sys, time
import numpy as np
from diffqa_features import DiffusionQAFeatures
from diffqa_features._media.rows import as_rows, open_media
path, reader = sys.argv[1:]

def held(what):
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) for l in status if l.startswith(what)) / 1024

features = DiffusionQAFeatures(reader=reader, view="stretch", device="cpu")
features.transform([np.zeros((64, 64, 3), np.uint8)])
before = held("VmRSS")
begin = time.perf_counter()
features.transform([path])
seconds = time.perf_counter() - begin
peak = held("VmHWM")
frames = len(open_media(as_rows([path])[0], reader).choose())
sys.stdout.write(json.dumps([frames, before, peak, seconds]))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=20, help="of the 720p clips")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-4k", action="store_true", help="leave the 4K clip out")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for interval in (1, 10):
            path = Path(folder) / f"{interval}.mp4"
            encode(path, 720, 1280, arguments.seconds, interval)
            results += throughput(path, interval, arguments.repeat)
        if not arguments.no_4k:
            path = Path(folder) / "4k.mp4"
            encode(path, 2160, 3840, 10, 10)
            results += memory(path)
    target = HERE / "results" / "video.csv"
    target.parent.mkdir(exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["what", "reader", "value", "unit"])
        writer.writerows(results)


def encode(path, height, width, seconds, interval, rate=25):
    """H.264 with a key frame each `interval` seconds."""
    photo = Image.fromarray(load_sample_images().images[0])
    photo = np.asarray(photo.resize((width + 200, height + 200)))
    options = {"preset": "veryfast", "g": str(rate * interval), "sc_threshold": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for index in range(seconds * rate):
            top, left = index % 200, 199 - index % 200
            part = np.ascontiguousarray(photo[top : top + height, left : left + width])
            frame = av.VideoFrame.from_ndarray(part, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def throughput(path, interval, repeat):
    """Costs of the chosen frames and of all, in turns; and of the extraction."""
    from diffqa_features import DiffusionQAFeatures
    from diffqa_features._media.rows import as_rows, open_media

    def decode(reader, rate):
        media = open_media(as_rows([path])[0], reader)
        begin = time.process_time()
        count = sum(1 for _ in media.frames(rate))
        return time.process_time() - begin, count

    results = []
    ways = {(r, rate): [] for r in ("decord", "imageio") for rate in (1, 2, 1e6)}
    counts = {}
    for _ in range(repeat):
        for (reader, rate), times in ways.items():
            seconds, count = decode(reader, rate)
            times.append(seconds)
            counts[rate] = count
    for reader in ("decord", "imageio"):
        whole = median(ways[reader, 1e6])
        say(results, f"decode all {counts[1e6]}, key {interval} s", reader, whole, "s")
        for rate in (1, 2):
            chosen = median(ways[reader, rate])
            what = f"decode at {rate} per second, key {interval} s"
            say(results, what, reader, chosen, "s")
            say(results, f"{what}: times faster", reader, whole / chosen, "x")
        features = DiffusionQAFeatures(reader=reader, view="stretch", device="cpu")
        features.transform([np.zeros((64, 64, 3), np.uint8)])
        begin = time.perf_counter()
        features.transform([path])
        seconds = time.perf_counter() - begin
        say(results, f"extract at 1 per second, key {interval} s", reader, seconds, "s")
    with tempfile.TemporaryDirectory() as store:
        features = DiffusionQAFeatures(memory=store, view="stretch", device="cpu")
        times = []
        for _ in range(2):
            begin = time.perf_counter()
            features.transform([path])
            times.append(time.perf_counter() - begin)
    what = "first / second transform with memory"
    say(results, what, "auto", times[0] / times[1], "x")
    return results


def memory(path):
    """Peak of extracting from the clip above what the process held before."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    results = []
    for reader in ("decord", "imageio"):
        output = subprocess.run(
            [sys.executable, "-c", CHILD, str(path), reader],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        frames, before, peak, seconds = json.loads(output)
        what = f"4K, 10 s, {frames} frames"
        say(results, f"{what}: before", reader, before, "MiB")
        say(results, f"{what}: peak above", reader, peak - before, "MiB")
        say(results, f"{what}: extraction", reader, seconds, "s")
    return results


def say(results, what, reader, value, unit):
    results.append([what, reader, f"{value:.3f}", unit])
    sys.stdout.write(f"{what:<48}{reader:<9}{value:>10.3f} {unit}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
