"""`wbcbench.check`: the contract tests of a plugin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbcbench.api.records import Shown
from wbcbench.api.requests import Paths, Settings, plugin_options
from wbcbench.isolation import guest

if TYPE_CHECKING:
    import pandas as pd

    from wbcbench.registry import Component
    from wbcbench.registry.loading import PluginOptions
    from wbcbench.testing.check import Verdict
    from wbcbench.testing.subjects import Subject


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """The arguments of `wbcbench.check` and `wbcbench check`."""

    plugin: str | Path
    kind: str | None = None
    settings: Settings = ()
    only: str = ""
    plugins: PluginOptions = field(default_factory=plugin_options)

    def check(
        self,
        begins: Callable[[Component], None] = lambda _: None,
        stands: Callable[[Verdict], None] = lambda _: None,
        ended: Callable[[CheckedComponent], None] = lambda _: None,
    ) -> Checked:
        """Run the contract tests. Raises what `wbcbench.check` raises.

        Args:
            begins: called with each component when its tests begin.
            stands: called with each verdict as soon as it is known.
            ended: called with each component's result.
        """
        from importlib.util import find_spec

        from wbcbench.errors import UsageError
        from wbcbench.registry import kind_of

        if find_spec("pytest") is None:
            raise UsageError(
                "Expected pytest, which runs the contract tests, but it is not installed. Run: pip install pytest"
            )
        from wbcbench.testing.subjects import find_subjects

        found = []
        for subject in find_subjects(str(self.plugin), self.plugins, kind_of(self.kind) if self.kind else ""):
            cls = _load(subject)
            begins(subject.resolved.component)
            found.append(self._one(subject, cls, stands))
            ended(found[-1])
        return Checked(found)

    def _one(self, subject: Subject, cls: Any, stands: Callable[[Verdict], None]) -> CheckedComponent:
        from wbcbench.spec.load import component_params
        from wbcbench.testing.check import Verdict, check_component

        component = subject.resolved.component
        params = component_params(cls, subject.resolved.params, self.settings).model_dump(exclude_unset=True)
        verdicts = [
            Verdict("name", "Its name is unique.", False, clash, "Choose another `name`.", component.origin)
            for clash in subject.clashes
        ] or [Verdict("name", "Its name is unique.", True)]
        for verdict in verdicts:
            stands(verdict)
        findings = check_component(component.kind, cls, params, stands, self.only, tuple(verdicts))
        return CheckedComponent(component, [*verdicts, *findings.verdicts], list(findings.waiting))


def _load(subject: Subject) -> Any:
    from wbcbench.errors import PluginError

    try:
        return subject.registry.load(subject.resolved.component)
    except SystemExit as error:
        raise PluginError(
            f"Expected to import {subject.resolved.component.origin}, but its code called sys.exit({error.code})."
        ) from error


@dataclass
class CheckedComponent:
    """One component, and the verdict on every promise of its contract."""

    component: Component
    verdicts: list[Verdict]
    waiting: list[str]
    """Promises that were not checked, because a promise that they depend on is broken."""

    @property
    def kept(self) -> int:
        """How many promises are kept."""
        return sum(v.ok for v in self.verdicts)

    @property
    def ok(self) -> bool:
        """Whether all promises are kept."""
        return self.kept == len(self.verdicts)


@dataclass(repr=False)
class Checked(Shown):
    """The components of a plugin, checked."""

    components: list[CheckedComponent]

    @property
    def ok(self) -> bool:
        """Whether every promise is kept."""
        return all(c.ok for c in self.components)

    def frame(self) -> pd.DataFrame:
        """One row per promise: `kind`, `name`, `promise`, `ok`, what was found, how to fix it, and where it is."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "kind": c.component.kind, "name": c.component.name, "promise": v.promise, "ok": v.ok,
                    "found": v.found, "fix": v.fix, "where": v.where, "test": v.test,
                }
                for c in self.components
                for v in c.verdicts
            ]
        )  # fmt: skip

    def summary(self) -> pd.DataFrame:
        """How many promises each component keeps."""
        import pandas as pd

        columns = ["kind", "name", "kept", "of"]
        rows = [[c.component.kind, c.component.name, c.kept, len(c.verdicts)] for c in self.components]
        return pd.DataFrame(rows, columns=columns)

    def notes(self) -> list[str]:
        """Broken promises, and how many were not checked because of them."""
        lines = []
        for one in self.components:
            for verdict in one.verdicts:
                if not verdict.ok:
                    fix = f" Fix: {verdict.fix}" if verdict.fix else ""
                    where = f" ({verdict.where})" if verdict.where else ""
                    lines.append(f"Broken: {verdict.promise} {verdict.found}{where}{fix}")
            if one.waiting:
                lines.append(f"{one.component.name}: {len(one.waiting)} more not checked because of that.")
        return lines


@guest()
def check(
    plugin: str | Path,
    *,
    kind: str | None = None,
    set: Settings = (),
    only: str = "",
    plugins_dir: Paths = (),
    no_plugins: bool | str | Sequence[str] = False,
) -> Checked:
    """Test a plugin against the contract of its kind: it is imported, built and trained on toy problems.

    Args:
        plugin: the path of a plugin file or package, or a component's name.
        kind: kind of the component, if several have the name: fusion, distiller, ...
        set: parameters to test with, `{"rho": 0.2}`.
        only: check only promises that contain these words.
        plugins_dir, no_plugins: as in `wbcbench.run`.

    Returns:
        Every promise with what was found; `ok` is true if all are kept.

    Raises:
        UsageError: no component matches, several do, or a parameter is wrong.
        PluginError: the plugin cannot be imported.
    """
    wanted = CheckRequest(
        plugin=plugin, kind=kind, settings=set, only=only, plugins=plugin_options(plugins_dir, no_plugins)
    )
    return wanted.check()


__all__ = ["CheckRequest", "Checked", "CheckedComponent", "check"]
