"""Rows in, one float32 matrix out: stored results are read, the rest is computed.

In: rows of media and a `Request` with everything that determines the values. Out: the
matrix in the order of the rows, and a list of failed rows. Open `engine` first;
`views` says what the backbone is shown of a frame, `request` holds store keys and
columns, `kinds` what each feature kind observes and `pooling` its formula, `passes`
runs the backbone in batches that fit into memory, `latents` encodes each picture once
for training, and `parallel` distributes rows over processes and reads ahead.
"""
