"""Files in, blocks of a page out: one file at a time, so that memory stays flat."""

import heapq
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from diffqa_features._commands._report.page import name_and_folder, shown
from diffqa_features._commands._report.pictures import (
    LARGE,
    STRIP,
    THUMB,
    encode,
    encode_detail,
    encode_map,
    find_worst,
)
from diffqa_features._media.rows import as_rows, open_media
from diffqa_features._utils.urls import is_url

_MAX_FRAMES = 12  # of a video; they stand side by side
_FRAME_RATE = 4.0  # per second, of short ones
_LIKELY = 0.5  # from this probability on a fault is named
_SPREADS = 2  # standard deviations to either side: the interval


class ReportRows:
    """The blocks of a report on files; afterwards it knows the bad ones.

    Parameters
    ----------
    files : DataFrame
        Of `collect_files`.
    judge : ScorerJudge or ModelJudge
        What scores.
    large_views : int
        How many pictures, those of the lowest scores, can be seen large.
    chunk_size : int
        Files that a model scores together.
    reader : str
        Of videos.
    stop : bool
        Whether a bad file ends it with RuntimeError.
    quiet : bool
        Whether there is no progress bar.
    """

    def __init__(
        self,
        files,
        judge,
        *,
        large_views,
        chunk_size=64,
        reader="auto",
        stop=False,
        quiet=False,
    ):
        self.bad = []
        self.count = 0
        names = [shown(name) for name in files.index]
        self._files = files.set_axis(pd.Index(names, dtype=object))
        self.judge = judge
        self._large_views = large_views
        self._chunk_size = chunk_size
        self._reader = reader
        self._stop = stop
        self._quiet = quiet
        self._seen = {}  # content key -> index and facts of its first file
        # In a heap: (minus the score, index, row, frame) of what is seen large.
        self._lowest = []

    def __iter__(self):
        at_once = len(self._files) <= self._large_views
        for name, row, score, reason in self._scored():
            try:
                if reason is None:
                    # All of them first: a file that fails leaves nothing behind.
                    yield from self._row(name, row, score, at_once)
                    continue
            except (ValueError, OSError, TypeError) as error:
                reason = shown(getattr(error, "cause", error))
            if self._stop:
                raise RuntimeError(f"{name or '(no path)'}: {reason}")
            self.bad.append((name, reason))
        if not at_once:
            yield from self._open_again()

    def _scored(self):
        """Yield (name, row, score if known, reason if bad)."""
        size = self._chunk_size
        with tqdm(total=len(self._files), unit="file", disable=self._quiet) as progress:
            for start in range(0, len(self._files), size):
                rows = self._files.iloc[start : start + size]
                scores, reasons = self.judge.whole(rows)
                for place, row in enumerate(as_rows(rows)):
                    name = rows.index[place]
                    yield name, row, scores.get(place), reasons.get(place)
                    progress.update()

    def _row(self, name, row, score, large):
        """The blocks of one file."""
        media = open_media(row, self._reader)
        index = self.count
        said = name_and_folder(name)
        if not is_url(row.source):
            said["bytes"] = Path(row.source).stat().st_size
        said["pictures"], facts = self._seen.get(media.key, (index, None))
        blocks = []
        if facts is None:
            worst, strip, facts = self._look(media, score)
            blocks.append((f"thumb-{index}", encode(worst, THUMB)))
            if strip:
                blocks.append((f"strip-{index}", strip))
            if large:
                blocks += self._large(index, worst)
            elif self._large_views:
                self._remember((-facts["score"], index, row, facts["shown"]))
            self._seen[media.key] = index, facts
        elif score is not None:
            facts = facts | {"score": score}  # prompts filled from a table differ
        self.count += 1
        return [*blocks, (f"row-{index}", said | facts)]

    def _look(self, media, score):
        """The lowest frame, thumbnails if there are several, and what is known."""
        numbers = media.choose(_FRAME_RATE, _MAX_FRAMES)
        several = len(numbers) > 1
        clip = self.judge.clip(media)
        verdicts, strip, worst, lowest = [], [], None, 0.0
        for pixels, at in zip(media.read(numbers), numbers):
            if clip is not None:
                # What is said of the burst that the frame is in, or next to.
                _, middles, scores = clip
                verdict = {"score": float(scores[np.abs(middles - at).argmin()])}
            elif score is not None and not several:
                verdict = {"score": score}
            else:
                verdict = self.judge.frame(pixels)
            verdicts.append(verdict)
            reached = verdict.get("score", 0.0)
            if worst is None or reached < lowest:
                worst, worst_at, lowest = pixels, int(at), reached
            if several:
                strip.append(encode(pixels, STRIP))
        table = pd.DataFrame(verdicts)
        facts = self._describe(table.mean() if clip is None else clip[0], score)
        facts |= {"size": [worst.shape[1], worst.shape[0]], "shown": worst_at}
        if several:
            times = media.times()
            facts["times"] = None if times is None else _rounded(times[numbers])
            facts["scores"] = _rounded(table["score"]) if "score" in table else None
        return worst, strip, facts

    def _describe(self, verdict, score):
        """Score, interval and faults; the errors of frames are no independent ones."""
        score = float(verdict["score"] if score is None else score)
        facts = {"score": round(score, 4)}
        if "std" in verdict:
            reach = _SPREADS * float(verdict["std"])
            high = min(score + reach, self.judge.best)
            facts |= {"low": round(score - reach, 4), "high": round(high, 4)}
        chances = verdict.drop(["score", "std"], errors="ignore")
        chances = chances.sort_values(ascending=False, kind="stable")
        facts["faults"] = chances.index[chances >= _LIKELY].to_list()
        facts["chances"] = [[name, round(float(p), 3)] for name, p in chances.items()]
        return facts

    def _remember(self, entry):
        """Keep the files of the lowest scores, as many as are to be seen large."""
        if len(self._lowest) < self._large_views:
            heapq.heappush(self._lowest, entry)
        else:
            heapq.heappushpop(self._lowest, entry)

    def _open_again(self):
        """Open the files of the lowest scores once more: only now they are known."""
        for _, index, row, at in tqdm(
            sorted(self._lowest, key=lambda entry: entry[1]),
            desc="large views",
            unit="file",
            disable=self._quiet,
        ):
            try:
                (pixels,) = open_media(row, self._reader).read([at])
            except (ValueError, OSError):
                continue  # it changed meanwhile; its thumbnail stands for it
            yield from self._large(index, pixels)

    def _large(self, index, pixels):
        """Yield a picture to look at, its map, and a part at full resolution."""
        yield f"large-{index}", encode(pixels, LARGE)
        loss = self.judge.loss_map(pixels)
        if loss is not None:
            yield f"map-{index}", encode_map(loss)
            if max(pixels.shape) > LARGE:
                yield f"detail-{index}", encode_detail(pixels, find_worst(loss))


def _rounded(values):
    return [round(float(value), 4) for value in values]
