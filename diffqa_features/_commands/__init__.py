"""The commands of `diffqa`, one per file: parsed arguments in, an exit code out."""
