"""Trackers that people already use, told of every trial as it trains. Off by default; records stay the truth.

    wbcbench run --fusion early,independent --track tensorboard,mlflow,wandb

A tracker hears from the process that was started, whichever executor trains, so workers need nothing installed.
One that fails is named once and left out; the trials go on.
"""

from wbcbench.tracking.tracker import TRACKERS, Tracker, start_trackers, tracked

__all__ = ["TRACKERS", "Tracker", "start_trackers", "tracked"]
