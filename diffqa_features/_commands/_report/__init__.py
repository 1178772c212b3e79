"""The page of `diffqa report`.

In: files and what judges them, or two tables of scores. Out: blocks, pairs of a name
and JSON, which `page` streams into one HTML file together with `page.html`, `style.css`
and `script.js`. Open `page` first; `rows` makes the blocks of files, `comparison` those
of two tables, `judges` scores, `pictures` turns pixels into data URIs.
"""
