"""Damaged copies of video files, read one after another in this process.

    python damage.py FOLDER SEED COUNT

Each line of the output is one copy and what came of it. The process must come to its
end by itself: no crash, no endless wait.
"""

import random
import sys
import time
from pathlib import Path

from diffqa_features._media.rows import as_rows, open_media


def damage(data, dice):
    """Flip bits, overwrite, cut, drop or repeat a part."""
    data = bytearray(data)
    kind = dice.choice(["bits", "bits", "head", "noise", "cut", "drop", "repeat"])
    start = dice.randrange(len(data))
    length = dice.randrange(1, 400)
    if kind == "bits":
        for _ in range(dice.choice([1, 3, 30])):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif kind == "head":
        for _ in range(dice.choice([1, 3, 10])):
            data[dice.randrange(min(2000, len(data)))] = dice.randrange(256)
    elif kind == "noise":
        data[start : start + length] = dice.randbytes(length)
    elif kind == "cut":
        del data[start:]
    elif kind == "drop":
        del data[start : start + length]
    else:
        data[start:start] = data[start : start + length]
    return kind, bytes(data)


def main(folder, seed, count):
    dice = random.Random(seed)
    paths = sorted(Path(folder).glob("*.*"))
    for number in range(count):
        path = dice.choice(paths)
        kind, data = damage(path.read_bytes(), dice)
        target = Path(folder) / "damaged" / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
        for reader in ("auto", "imageio"):
            begin = time.perf_counter()
            try:
                media = open_media(as_rows([target])[0], reader)
                count = sum(1 for _ in media.frames(1000))
                outcome = f"{count} frames of {len(media.choose(1000))}"
            except (ValueError, OSError) as error:
                outcome = f"error {error}"
            seconds = time.perf_counter() - begin
            words = number, path.name, kind, reader, f"{seconds:.2f}", outcome
            sys.stdout.write("\t".join(map(str, words)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
