"""Figures: `data` and `heat_map` compute what is shown, `paper` and `page` draw it.

Two plotting libraries, because no one does both jobs. matplotlib writes vector files that are equal for equal
records, as a paper and its repository need. plotly draws in the browser: a reader can point at a mark to see which
method it is, switch the axis, and hide a curve.
"""
