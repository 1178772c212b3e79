"""Video files: presentation times, sampled frames, and completeness checks.

In: the path of a video. Out: its times and the frames at chosen indices, or an error
that says how many frames were readable. Open `video` first; `containers` identifies
formats, `structure` checks them for missing parts, `opening`, `packets` and `units`
look at the stream with PyAV, `demux` gives its times, `decoders` are the two readers,
`raw` reads headerless YUV.
"""
