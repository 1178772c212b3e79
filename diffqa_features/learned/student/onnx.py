"""A fitted student -> one ONNX file."""

import logging
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

from diffqa_features import __version__
from diffqa_features._utils.files import local_path, write_whole
from diffqa_features.learned.student.network import Scorer

_VIEWS = {
    "stretch": "stretched to {} with antialiasing",
    "crop": "the middle {}, not scaled; a smaller picture is enlarged first",
}


def export(student, path):
    """Write the file atomically."""
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "export_onnx needs the packages onnx and onnxscript: pip install "
            "'diffqa-features[onnx]'."
        ) from error
    path = local_path(path, "The path of export_onnx")
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder; give the name of a file.")
    network = student._trained(torch.device("cpu"))
    scorer = Scorer(network, student.slope_, student.intercept_).eval()
    size = student.image_size_
    # Two pictures: what has a single one would be taken for a constant.
    example = torch.from_numpy(np.zeros((2, size, size, 3), np.uint8))
    with tempfile.TemporaryDirectory(prefix="diffqa-") as folder:
        whole = Path(folder) / "student.onnx"
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                scorer,
                (example,),
                os.fspath(whole),
                dynamo=True,
                input_names=["pixels"],
                output_names=["score"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                external_data=False,
                verbose=False,
            )
        model = onnx.load(whole)
    for key, value in _metadata(student).items():
        model.metadata_props.add(key=key, value=value)
    write_whole(path, model.SerializeToString())


def _metadata(student):
    """What a reader of the file needs beside its graph; all values are text."""
    found = student.target_range_
    size = f"{student.image_size_} x {student.image_size_} pixels"
    trained = "" if found is None else ", {:g} to {:g}".format(*found)
    return {
        "library": f"diffqa_features {__version__}",
        "direction": "that of the scores of its training",
        "range": f"unbounded, in the units of the scores of its training{trained}",
        "preprocessing": (
            f"RGB, {_VIEWS[student.view].format(size)}; uint8 (N, H, W, 3)"
        ),
    }


class _quiet(warnings.catch_warnings):
    """Silence the exporter's warnings about future torch changes and torchvision."""

    def __enter__(self):
        result = super().__enter__()
        warnings.simplefilter("ignore")
        self._log = logging.getLogger("torch.onnx")
        self._level = self._log.level
        self._log.setLevel(logging.ERROR)
        return result

    def __exit__(self, *exception):
        self._log.setLevel(self._level)
        super().__exit__(*exception)
