"""`diffqa study`: a paper's protocol and a folder of data sets in, its table out."""

import textwrap

from sklearn.utils._optional_dependencies import check_matplotlib_support

from diffqa_features._backbone.info import describe_backbone
from diffqa_features._commands._outputs import note
from diffqa_features._commands._study.folder import LOG, StudyFolder
from diffqa_features._commands._study.protocols import MARKS, STUDIES, find_study
from diffqa_features._commands._study.runs import (
    ERRORS,
    Options,
    list_fits,
    reason_of,
    run_fit,
    settings_of,
)
from diffqa_features._commands._study.sets import find_sets, load, title_of
from diffqa_features._commands._study.tables import WRITTEN, write_tables
from diffqa_features._utils.files import local_path, one_writer


def run(args):
    """Run the command."""
    if args.list or args.name is None:
        _list_studies()
        return 0
    study = find_study(args.name)
    if args.data is None:
        raise ValueError(
            f"--data is missing: the folder that holds {', '.join(study.names)}, or "
            "some of them."
        )
    root = local_path(args.data, "--data")
    places = find_sets(study, root, args.only)
    if args.dry_run:
        _show_plan(study, args.quick, places)
        return 0
    if args.out is None:
        raise ValueError("--out is missing: the folder for the results.")
    check_matplotlib_support("diffqa study")
    out = local_path(args.out, "--out")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {args.out!r} is a file; give the name of a folder.")
    options = Options(
        backbone=args.backbone,
        image_size=args.image_size,
        seed=args.seed,
        quick=args.quick,
        device=args.device,
        memory=args.memory,
        verbose=0 if args.quiet else 1,
        debug=args.debug,
    )
    identity = describe_backbone(args.backbone).identity
    with one_writer(out / LOG):
        folder = StudyFolder(out, settings_of(study, options, identity))
        return _run(study, places, folder, options, args.drop_missing)


def _run(study, places, folder, options, drop_missing):
    loaded, missing, broken = _load_all(study, places, folder, options, drop_missing)
    folder.write_log()
    try:
        _run_fits(study, loaded, broken, folder, options)
    finally:  # also of a run that is interrupted
        table = write_tables(study, folder, missing)
        folder.write_log()
    _show(table)
    note(f"wrote {', '.join((*WRITTEN, LOG))} to {folder.path}")
    failed = folder.log["failed"]
    if not folder.log["cells"]:
        if failed:
            raise RuntimeError(
                "no line of the table could be computed; the reasons are above."
            )
        raise FileNotFoundError(
            "no line of the table has its data sets; 'diffqa study "
            f"{study.name} --data ROOT --dry-run' says where they go."
        )
    return 3 if failed else 0


def _load_all(study, places, folder, options, drop_missing):
    """(parts by key, why parts are not there, those of them that are damaged)."""
    loaded, missing, broken = {}, {}, {}
    for part in study.parts:
        place = places.get(part.name)
        if place is None:
            missing[part.key] = "left out by --only"
        elif not place.found:
            missing[part.key] = f"missing: {part.name}"
    for place in places.values():
        if not place.found:
            note(f"{place.description.title} is missing; it belongs in {place.folder}")
    for part in study.parts:
        if part.key in missing:
            continue
        try:
            found = load(
                part,
                places[part.name],
                drop_missing=drop_missing,
                quick=options.quick,
                seed=options.seed,
            )
            folder.check_data(part.key, found.facts)
        except ERRORS as error:
            if options.debug:
                raise
            broken[part.key] = reason_of(error)
            note(f"{title_of(part)} cannot be used: {error}")
        else:
            loaded[part.key] = found
            note(f"{title_of(part)}: {found.facts['rows']:,} rows")
    return loaded, missing, broken


def _run_fits(study, loaded, broken, folder, options):
    fits = list_fits(study, options.quick)
    for number, fit in enumerate(fits, start=1):
        todo = []
        for line in fit.lines:
            cell = fit.cell(line)
            bad = [broken[p.key] for p in line.parts if p.key in broken]
            if folder.finished(cell) is not None:
                continue
            if bad:
                folder.fail(cell, bad[0])
            elif all(part.key in loaded for part in line.parts):
                todo.append(line)
        if not todo:
            continue

        def say(text, number=number):
            note(f"[{number}/{len(fits)}] {text}")

        for line, reason in run_fit(study, fit, todo, loaded, folder, options, say):
            cell = fit.cell(line)
            if reason is not None:
                folder.fail(cell, reason)
                say(f"{cell}: {reason}")
            else:
                say(f"{cell}: {_figures(folder.finished(cell))}")
            folder.write_log()


def _show(table):
    # The rest is in table.md.
    shown = table.frame.drop(columns=["published by", "pair"])
    print(textwrap.fill(table.facts["caption"], 88))
    print(f"\n{shown.to_string(index=False)}")


def _figures(cell):
    return ", ".join(
        f"{name.upper()} {figure['value']:.3f}"
        for name, figure in cell["metrics"].items()
    )


def _list_studies():
    for study in STUDIES.values():
        print(f"{study.name}\n    {study.title}; {study.backbone_text}")
        print(textwrap.fill(study.reference, 84, **_INDENT))
        for line in study.lines:
            print(f"    - {_said(line)}")
        print(f"    data sets: {', '.join(study.names)}\n")
    print("The word in parentheses says how sure it is that the paper has this pair:")
    for mark, text in MARKS.items():
        print(f"    {mark}: {text}")
    print("\n'diffqa study NAME --data ROOT --dry-run' says what is missing.")


def _said(line):
    tested = title_of(line.test) if line.test else "its held-out rows"
    theirs = line.published
    published = (
        f"; published SRCC {theirs.srcc:.3f}, PLCC {theirs.plcc:.3f} ({theirs.mark})"
        if theirs
        else ""
    )
    return f"{title_of(line.train)} -> {tested} ({line.mark}){published}"


def _show_plan(study, quick, places):
    """What would run, and where the missing data sets go."""
    there = {name for name, place in places.items() if place.found}
    print(f"{study.title}: the data sets\n")
    for name, place in places.items():
        print(f"  {'found' if place.found else 'MISSING':<9}{name:<17}{place.folder}")
    print("\nWhat would be trained, and tested on:\n")
    can_run = False
    for fit in list_fits(study, quick):
        tests = [line for line in fit.lines if {p.name for p in line.parts} <= there]
        if tests:
            can_run = True
            split = "" if fit.split is None else f", split {fit.split}"
            names = [title_of(x.test) if x.test else "held-out rows" for x in tests]
            print(f"  {title_of(fit.train)}{split} -> {', '.join(names)}")
    if not can_run:
        print("  nothing: no training set is there with one to test on")
    for place in places.values():
        if not place.found:
            description = place.description
            print(
                f"\n{description.title}\n"
                f"  put it, or a link to it, in {place.folder}\n"
                f"  from {description.source}\n"
                f"  with this layout (the outer folder may be there or not):\n"
                f"{description.tree_text}"
            )


_INDENT = {"initial_indent": "    ", "subsequent_indent": "    "}
