"""From a trial to its record: the loop, the optimiser, checkpoints, teachers and their replay."""
