"""Video files: presentation times, chosen frames, and whether the file is whole.

In: the path of a video. Out: its times and the frames at chosen indices, or an error
that says how many frames were readable. Open `video` first; `containers` tells formats
apart, `demux` reads packets and times, `decoders` are the two readers, `raw` reads
headerless YUV.
"""
