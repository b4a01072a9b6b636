"""Leave cells out of a study's cross product."""

from __future__ import annotations

from collections.abc import Sequence

from wbcbench.errors import UsageError, did_you_mean
from wbcbench.registry import Registry, qualified_name
from wbcbench.spec import Component
from wbcbench.spec.request import Choice, Exclude


class Excluder:
    """Tells which cells are left out, and remembers which rules ever applied.

    A rule applies where everything that it names does: `{fusion: early, kd: dkd}` is every cell of `early`
    with `dkd` alone, whatever its backbone and seed. A list means any of its items. Parameters that a
    name is given with must be equal; others do not count. A distiller's name means itself alone, not a
    combination that holds it: write `kd: lskd+dkd` for that.
    """

    def __init__(self, rules: Sequence[Exclude], registry: Registry) -> None:
        self._rules, self._registry = rules, registry
        self._applied: set[int] = set()
        self._seen: dict[str, set[str]] = {"fusion": set(), "backbone": set(), "kd": set(), "seeds": set()}

    def drops(self, fusion: Component, backbone: Component, kd: tuple[Component, ...], seed: int) -> bool:
        """Whether a rule leaves this cell out."""
        self._seen["fusion"].add(fusion.name)
        self._seen["backbone"].add(backbone.name)
        self._seen["kd"].add("+".join(d.name for d in kd))
        self._seen["seeds"].add(str(seed))
        applying = {
            i
            for i, rule in enumerate(self._rules)
            if (not rule.fusion or any(self._is("fusion", c, fusion) for c in rule.fusion))
            and (not rule.backbone or any(self._is("backbone", c, backbone) for c in rule.backbone))
            and (not rule.kd or any(self._same(c, kd) for c in rule.kd))
            and (not rule.seeds or seed in rule.seeds)
        }
        self._applied |= applying
        return bool(applying)

    def check(self) -> None:
        """Raises `UsageError` for a rule that left nothing out: it is a slip of the pen."""
        for i, rule in enumerate(self._rules):
            if i in self._applied:
                continue
            for key, names in rule.names().items():
                for name in names:
                    known = sorted(self._seen[key])
                    if name.partition(":")[0] not in known:
                        raise UsageError(
                            f"exclude {i + 1}: expected a {key} of this study, but got '{name}'."
                            f"{did_you_mean(name, known)} It has: {', '.join(known)}."
                        )
            raise UsageError(
                f"exclude {i + 1}: expected to leave something out, but no cell of this study is all of "
                f"{rule.names()}. Correct it or take it out."
            )

    def _is(self, kind: str, choice: Choice, component: Component) -> bool:
        resolved = self._registry.resolve(kind, choice.name)
        wanted = {**resolved.params, **choice.params}
        return qualified_name(resolved.component) == component.name and all(
            k in component.params and component.params[k] == v for k, v in wanted.items()
        )

    def _same(self, choices: tuple[Choice, ...], kd: tuple[Component, ...]) -> bool:
        left = list(kd)
        for choice in choices:
            found = next((d for d in left if self._is("distiller", choice, d)), None)
            if found is None:
                return False
            left.remove(found)
        return not left
