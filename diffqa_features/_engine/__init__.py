"""Rows in, one float32 matrix out: what is stored is read, the rest is computed.

In: rows of media and a `Request` with everything that decides the numbers. Out: the
matrix in the order of the rows, and a list of the rows that failed. Open `engine`
first; `request` holds store keys and columns, `kinds` what each kind of feature looks
at and `pooling` its formula, `passes` runs the backbone in batches that fit, `latents`
encodes each picture once for what is trained, and `parallel` shares rows out among
processes and reads ahead.
"""
