"""Identity: frozen descriptions of protocol, method and trial, and their canonical hash. No torch."""

from wbcbench.spec.trial import (
    HASH_VERSION,
    METRICS_VERSION,
    Augmentation,
    Budget,
    ComponentSpec,
    Method,
    Protocol,
    Recipe,
    Selection,
    SplitSpec,
    Trial,
    canonical_json,
    digest,
)

__all__ = [
    "HASH_VERSION",
    "METRICS_VERSION",
    "Augmentation",
    "Budget",
    "ComponentSpec",
    "Method",
    "Protocol",
    "Recipe",
    "Selection",
    "SplitSpec",
    "Trial",
    "canonical_json",
    "digest",
]
