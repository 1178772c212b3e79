"""`diffqa extract -o FOLDER/`: files in, Parquet parts out; shards share the work."""

import os
import signal
import subprocess
import sys

import numpy as np

from diffqa_features._commands._estimator import check_name
from diffqa_features._commands._inputs import collect_files
from diffqa_features._commands._outputs import check_listing, note, report_bad
from diffqa_features._media.remote import redact_url
from diffqa_features._utils.files import local_path
from diffqa_features.distributed import BatchExtractor, extract
from diffqa_features.distributed._parts import Parts


def is_folder(out):
    """Whether an --out names a folder: it has no ending, or ends in a slash."""
    return out.endswith(("/", os.sep)) or not local_path(out, "--out").suffix


def extract_to_folder(args, features, columns):
    """Compute what `args.out` lacks; returns the exit code."""
    out = local_path(args.out, "--out")
    if out.name in ("", ".."):
        out = out.resolve()
    check_listing(out, args.inputs)
    files = collect_files(
        args.inputs,
        path_column=args.path_column,
        recursive=args.recursive,
        columns=columns,
    )
    bad = []
    good = np.ones(len(files), bool)
    for place, name in enumerate(files.index):
        try:
            check_name(name)
        except ValueError as error:
            bad.append((name, str(error)))
            good[place] = False
    table = files[good].rename(columns={"path": "file"}).reset_index(names="path")
    # Of one file with two texts for its prompts, neither is left out unsaid.
    table = table.drop_duplicates()
    if bad and args.on_error == "raise":
        _raise(*bad[0])
    table = table.reset_index(drop=True)
    try:
        report = extract(
            table,
            BatchExtractor(features, media="file", keep=["path"]),
            out,
            key="path",
            batch_size=args.chunk_size,
            shard=args.shard or (0, 1),
            prune=args.prune,
            on_error="raise" if args.on_error == "raise" else "nan",
            verbose=not args.quiet,
        )
    except ValueError as error:
        if not hasattr(error, "row_index"):
            raise
        _raise(table["path"][error.row_index], error.cause)
    parts = Parts(out, "path")
    with parts.alone():  # another shard may be writing
        found = parts.read_done()
    found = found[(found["reason"] != "") & found["path"].isin(table["path"])]
    bad += list(zip(found["path"], found["reason"], strict=True))
    code = report_bad(bad, len(files), out, args.quote_formulas)
    removed = f", {report['removed']} removed" if report["removed"] else ""
    note(
        f"{out}: {report['rows']} files, {report['computed']} computed now, "
        f"{report['found']} were there{removed}"
    )
    return code


def _raise(name, reason):
    raise RuntimeError(f"{redact_url(name) or '(no path)'}: {reason}")


def extract_on_gpus(args):
    """Run this command once per GPU, each with its share of the files."""
    place = next(i for i, word in enumerate(args.argv) if word.startswith("--gpus"))
    taken = 1 if "=" in args.argv[place] else 2
    before, after = args.argv[:place], args.argv[place + taken :]
    gpus = args.gpus
    if args.shard:
        raise ValueError("--gpus divides the files itself; leave out --shard.")
    if gpus == "all":
        from torch.cuda import device_count

        gpus = device_count()
        if not gpus:
            raise ValueError("--gpus all: there is no CUDA device. Leave it out.")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else range(gpus)
    if gpus > len(names):
        raise ValueError(
            f"--gpus {gpus}: CUDA_VISIBLE_DEVICES={visible} leaves only {len(names)}."
        )
    return _run_all(
        [
            # In its place, which may be before a "--".
            ([*before, "--shard", f"{index}/{gpus}", *after], name)
            for index, name in zip(range(gpus), names)
        ]
    )


def _run_all(commands):
    """Run commands of ours at once, each on its GPU; returns the worst exit code."""
    processes, ended = [], []

    def end(number, frame):
        # Raising could lose the process that is being started.
        ended.append(number)
        for process in processes:
            process.terminate()

    before_us = signal.signal(signal.SIGTERM, end)  # as a cluster ends its jobs
    try:
        for words, name in commands:
            if ended:
                break
            words = [sys.executable, "-m", "diffqa_features.cli", *words]
            env = {**os.environ, "CUDA_VISIBLE_DEVICES": str(name)}
            processes.append(subprocess.Popen(words, env=env))
            if ended:  # meanwhile
                processes[-1].terminate()
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.terminate()  # unless it has ended
        signal.signal(signal.SIGTERM, before_us)
    if ended:
        return 128 + ended[0]
    # 3 says that some files are bad; anything else but 0 is worse.
    return max(codes, key=lambda code: (code not in (0, 3), code))
