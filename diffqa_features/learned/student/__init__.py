"""Distillation: a small network that learns from any fitted model.

In: a teacher and media. Out: `DistilledStudentRegressor`, which scores without a
diffusion model. Open `regressor` first; `data` and `teacher` provide the training
targets, `loss` compares with them, `predict` scores, `network`, `tiny_network` and
`efficientnet` are the bodies, `onnx` exports, `released` reads the authors' files.
"""

from diffqa_features.learned.student.regressor import DistilledStudentRegressor

__all__ = ["DistilledStudentRegressor"]
