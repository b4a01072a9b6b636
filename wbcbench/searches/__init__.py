"""Hyperparameter searches with Optuna, whose scores are in records; and studies with several parts.

The package is not named `search`, since `wbcbench.search` is the function.
"""
