"""Figures: `data` and `heat_map` compute what is shown, `paper` and `page` draw it.

There are two plotting libraries, because neither does both. matplotlib writes vector files that are equal for
equal records, as papers and repositories need. plotly draws in the browser: readers can hover over a mark to see
which method it is, switch the axis, and hide a curve.
"""
