"""The tables of the papers, as `diffqa study` repeats them.

In: the name of a study and a folder of data sets. Out: a folder with one JSON file per
finished cell, a table, a figure and a log. Open `protocols` first, which says what
trains and what tests; `sets` finds the data, `runs` fits and scores, `folder` keeps
what is finished, `tables` writes ours beside theirs.
"""
