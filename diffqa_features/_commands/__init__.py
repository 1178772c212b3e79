"""The commands of `diffqa`, one per file; they call the public API only.

In: parsed arguments. Out: an exit code, and files. Open `extract` first; `_inputs`
finds files, `_estimator` makes features of arguments, `_outputs` writes whole files and
lists bad ones.
"""
