"""What a trained network is worth and what it costs: predictions, metrics, calibration, complexity."""

EXAMINATION_VERSION = 2
"""Of what `--evaluate full` finds; raised when a question changes. Boards show one version only."""
