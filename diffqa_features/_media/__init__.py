"""From what users pass as `X` to pixels.

In: paths, PIL images, arrays, tables. Out: rows, and for each row a content key and
frames (H, W, 3), uint8 sRGB, one at a time. Open `rows` first; `images`, `animations`
and `video/` decode, `views` resizes frames to the backbone's input.
"""
