"""The commands of `diffqa`, one per file; they call the public API only.

In: parsed arguments. Out: an exit code, and files. Open `extract` first; `_parser` and
`_options` say what can be asked, `_inputs` finds files, `_estimator` turns arguments
into features, `_outputs` writes files and lists bad ones.
"""
