"""Names of parameters that belong to a machine rather than to a result."""

LOCAL = frozenset({"memory", "checkpoint_dir", "device", "n_jobs", "verbose"})
"""Where to compute and to keep what: no model file says that of another machine."""

MACHINE = LOCAL | {"batch_size", "on_error", "reader"}
"""How to compute and not what: changing one changes no value beyond rounding."""
