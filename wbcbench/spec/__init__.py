"""Identity: frozen descriptions of protocol, method and trial, and their canonical hash. No torch."""

from wbcbench.spec.canonical import HASH_VERSION, canonical_json, digest
from wbcbench.spec.trial import (
    METRICS_VERSION,
    Augmentation,
    Budget,
    Component,
    Method,
    Protocol,
    Recipe,
    Selection,
    SplitSpec,
    Trial,
)

__all__ = [
    "HASH_VERSION",
    "METRICS_VERSION",
    "Augmentation",
    "Budget",
    "Component",
    "Method",
    "Protocol",
    "Recipe",
    "Selection",
    "SplitSpec",
    "Trial",
    "canonical_json",
    "digest",
]
