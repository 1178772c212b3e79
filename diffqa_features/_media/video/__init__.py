"""Video files: presentation times, chosen frames, and whether the file is whole.

In: the path of a video. Out: its times and the frames at chosen indices, or an error
that says how many frames were readable. Open `video` first; `containers` tells formats
apart, `structure` walks through them for what is missing, `opening`, `packets` and
`units` look at the stream with PyAV, `demux` gives its times, `decoders` are the two
readers, `raw` reads headerless YUV.
"""
