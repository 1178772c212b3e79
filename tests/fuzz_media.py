"""Damaged copies of media, read one after another in this process.

    python fuzz_media.py FOLDER SEED COUNT

Each line of the output is a JSON object: one copy and what came of it. The process ends
with a traceback if one copy takes more than 20 s.
"""

import faulthandler
import json
import random
import sys
from pathlib import Path

from damage import damage

from diffqa_features._media.rows import as_rows, open_media

LIMIT = 20  # seconds per file


def break_copy(data, dice):
    """One more kind than `damage` has: a range of zeros, as a lost sector leaves it."""
    if dice.random() < 0.3:
        start = dice.randrange(len(data))
        length = min(200, len(data) - start)
        return "zero", data[:start] + bytes(length) + data[start + length :]
    return damage(data, dice)


def frames_of(path, reader):
    """How many frames come out, and their sizes."""
    media = open_media(as_rows([path])[0], reader)
    shapes = {frame.shape for frame in media.frames(1000)}
    return len(media.choose(1000)), sorted(shapes)


def main(folder, seed, count):
    dice = random.Random(seed)
    paths = sorted(path for path in Path(folder).iterdir() if path.is_file())
    for number in range(count):
        path = paths[number % len(paths)]
        kind, data = break_copy(path.read_bytes(), dice)
        target = Path(folder) / "damaged" / f"{number:03}_{path.name}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        line = {"name": path.name, "copy": target.name, "kind": kind}
        try:
            line["got"] = frames_of(target, ("auto", "imageio")[number % 2])
        except (ValueError, OSError) as error:
            line["error"] = str(error)
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
