"""Evaluation of trained networks: predictions, metrics, calibration, robustness and cost."""

EXAMINATION_VERSION = 2
"""Version of the results of `--evaluate full`; increased when their meaning changes. Boards show one version."""
