"""What plugin authors import into their tests: a contract class per kind, and made-up inputs.

Subclass the contract of your component's kind, name the component, run pytest:

    from wbcbench.testing import FusionContract

    class TestGated(FusionContract):
        fusion = "gated"
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wbcbench.testing.backbones import BackboneContract
    from wbcbench.testing.corruptions import CorruptionContract
    from wbcbench.testing.datasets import DatasetContract
    from wbcbench.testing.distillers import DistillerContract
    from wbcbench.testing.fusions import FusionContract
    from wbcbench.testing.losses import closed_forms, evaluate_distiller
    from wbcbench.testing.metrics import MetricContract
    from wbcbench.testing.policies import PolicyContract
    from wbcbench.testing.records import fake_record
    from wbcbench.testing.routings import RoutingContract

_WHERE = {
    "BackboneContract": "backbones",
    "CorruptionContract": "corruptions",
    "DatasetContract": "datasets",
    "DistillerContract": "distillers",
    "FusionContract": "fusions",
    "MetricContract": "metrics",
    "PolicyContract": "policies",
    "RoutingContract": "routings",
    "closed_forms": "losses",
    "evaluate_distiller": "losses",
    "fake_record": "records",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


__all__ = [
    "BackboneContract",
    "CorruptionContract",
    "DatasetContract",
    "DistillerContract",
    "FusionContract",
    "MetricContract",
    "PolicyContract",
    "RoutingContract",
    "closed_forms",
    "evaluate_distiller",
    "fake_record",
]
