"""One record, explained: intervals of its metrics, and a page of curves, mistakes and provenance."""
