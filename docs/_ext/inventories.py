"""Inventories for links to other projects, written here instead of fetched.

Sphinx would download each project's list of names at every build. The texts use a
handful, whose addresses follow each project's own pattern.
"""

import zlib

# Project -> address, pattern of a page, and the names with their kind.
PROJECTS = {
    "sklearn": (
        "https://scikit-learn.org/stable/",
        "modules/generated/{name}.html#{name}",
        {
            "sklearn.exceptions.UndefinedMetricWarning": "class",
            "sklearn.isotonic.IsotonicRegression": "class",
            "sklearn.metrics.get_scorer_names": "function",
            "sklearn.model_selection.GridSearchCV": "class",
            "sklearn.model_selection.GroupKFold": "class",
            "sklearn.model_selection.cross_val_score": "function",
            "sklearn.pipeline.FeatureUnion": "class",
            "sklearn.pipeline.Pipeline": "class",
            "sklearn.pipeline.make_pipeline": "function",
            "sklearn.preprocessing.StandardScaler": "class",
            "sklearn.svm.SVR": "class",
            "sklearn.utils.Bunch": "class",
        },
    ),
    "joblib": (
        "https://joblib.readthedocs.io/en/stable/",
        "generated/{name}.html#{name}",
        {"joblib.parallel_config": "class"},
    ),
    "pandas": (
        "https://pandas.pydata.org/docs/",
        "reference/api/{name}.html#{name}",
        {"pandas.DataFrame": "class"},
    ),
}


def write_all(folder):
    """Write one inventory per project; return Sphinx's ``intersphinx_mapping``."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for project, (address, page, names) in PROJECTS.items():
        lines = [
            f"{name} py:{kind} 1 {page.format(name=name)} -\n"
            for name, kind in names.items()
        ]
        header = (
            "# Sphinx inventory version 2\n"
            f"# Project: {project}\n# Version: \n"
            "# The remainder of this file is compressed using zlib.\n"
        )
        path = folder / f"{project}.inv"
        path.write_bytes(header.encode() + zlib.compress("".join(lines).encode()))
        mapping[project] = (address, str(path))
    return mapping
