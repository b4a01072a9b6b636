"""Searches: Optuna proposes parameters, an executor trains, records hold the scores; and studies of many parts.

The package is not called `search`, since `wbcbench.search` is the function.
"""
