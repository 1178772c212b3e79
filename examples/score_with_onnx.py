"""
Scoring without torch
=====================

A student exported by ``export_onnx`` scores pictures using only onnxruntime, NumPy and
Pillow: ``python score_with_onnx.py student.onnx photo.jpg``.
"""

import sys

import numpy as np
from PIL import Image

if len(sys.argv) == 3:
    import onnxruntime

    session = onnxruntime.InferenceSession(sys.argv[1])
    size = session.get_inputs()[0].shape[1]
    picture = Image.open(sys.argv[2]).convert("RGB")
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
    print(session.run(None, {"pixels": pixels[None]})[0][0])
