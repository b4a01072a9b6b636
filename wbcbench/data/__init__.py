"""Cells from files to device-resident tensors: decoding, splits, counter-based views, batches."""
