"""Is what a pack says to be wbcbench's code the code that is installed here?

A digest is a claim, as the provider is, and whoever wants to pass for wbcbench can copy it. But who changed a
component, or made one up, is pointed out, and so is another release, whose files differ for honest reasons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from wbcbench.publishing.verdict import Problem
from wbcbench.records.schema import Used
from wbcbench.records.store import Record
from wbcbench.registry import BUILTIN_PROVIDER, Registry
from wbcbench.spec import Trial

Installed = Mapping[tuple[str, str], str]
"""Kind and name of wbcbench's own components -> SHA-256 of the file that holds each."""


def installed_by(registry: Registry) -> Installed:
    """Those of this machine, former names included."""
    own = [c for c in registry.components(provider=BUILTIN_PROVIDER) if c.builtin]
    return {(c.kind, name): c.sha256 for c in own for name in c.names}


def strange_code(records: Sequence[Record], installed: Installed) -> Iterator[Problem]:
    """Components under wbcbench's name that it does not have, has otherwise, or that the trial does not name."""
    found: Counter[str] = Counter()
    for record in records:
        named = set(_named(record.trial))
        for part in record.result.components:
            if part.provider == BUILTIN_PROVIDER and (text := _strange(part, named, installed)):
                found[text] += 1
    for text, count in found.items():
        yield "look", f"{text} ({count} record{'s' * (count > 1)})"


def _strange(part: Used, named: set[tuple[str, str]], installed: Installed) -> str:
    what = f"{part.kind} {part.name} is said to be wbcbench's"
    known = installed.get((part.kind, part.name))
    if known is None:
        return f"{what}, but the wbcbench that is installed here has none of that name: ask for its code"
    if (part.kind, part.name) not in named:
        return f"{what}, but the trial does not name it so"
    if part.sha256 != known:
        said = part.sha256[:12] if part.sha256 else "none"
        return f"{what}, with SHA-256 {said}; here it is {known[:12]}: another release, or changed code"
    return ""


def _named(trial: Trial) -> Iterator[tuple[str, str]]:
    """Kind and name of every component of a trial; foreign ones have their provider before a slash."""
    method = trial.method
    yield "dataset", trial.protocol.dataset.name
    yield "fusion", method.fusion.name
    yield "backbone", method.backbone.name
    yield from (("policy", p.name) for p in method.policies)
    yield from (("distiller", d.name) for d in method.distillers)
    if method.routing is not None:
        yield "routing", method.routing.name


__all__ = ["Installed", "installed_by", "strange_code"]
