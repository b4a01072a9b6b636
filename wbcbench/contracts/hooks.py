"""The hooks that a plugin may implement.

A plugin is a module (or object) whose functions carry `@hookimpl`:

    from wbcbench.contracts import hookimpl

    @hookimpl
    def wbcbench_register_fusions(register):
        register("gated", "my_plugin.gated:Gated", summary="Weigh each modality by its confidence")

It is found through an entry point of the group `wbcbench`, or as a file in a plugin folder. It may
state `wbcbench_api = 1`; it is then loaded only where `HOOK_API` is the same number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pluggy

if TYPE_CHECKING:
    from wbcbench.spec import Trial

PROJECT = "wbcbench"
HOOK_API = 1
"""Increased when a hook changes in a way that breaks plugins written for the previous number."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Register(Protocol):
    """The argument of a registration hook."""

    def __call__(
        self,
        name: str,
        target: str | type,
        *,
        summary: str = "",
        aliases: tuple[str, ...] = (),
        origin: str = "",
    ) -> None:
        """Offer one component.

        Args:
            name: what users type; letters, digits, `_`, `-` and `.`.
            target: `"package.module:Class"`, imported when first used (prefer this: `wbcbench list`
                must not import torch), or the class itself.
            summary: one line; left out, the class docstring's first line is used.
            aliases: other names for it.
            origin: `file:line` shown to users; left out, the line of this call.
        """
        ...


@hookspec
def wbcbench_register_datasets(register: Register) -> None:
    """Offer data sets by name. Called once, before any name is resolved."""


@hookspec
def wbcbench_register_backbones(register: Register) -> None:
    """Offer backbones, or families of backbones, by name."""


@hookspec
def wbcbench_register_fusions(register: Register) -> None:
    """Offer fusions by name."""


@hookspec
def wbcbench_register_policies(register: Register) -> None:
    """Offer training policies by name."""


@hookspec
def wbcbench_register_distillers(register: Register) -> None:
    """Offer distillation losses by name."""


@hookspec
def wbcbench_register_routings(register: Register) -> None:
    """Offer routings by name."""


@hookspec
def wbcbench_register_metrics(register: Register) -> None:
    """Offer metrics by name."""


@hookspec
def wbcbench_register_corruptions(register: Register) -> None:
    """Offer corruptions by name."""


@hookspec
def wbcbench_trial_started(trial: Trial) -> None:
    """A trial is about to train. What this raises is logged and changes nothing."""


@hookspec
def wbcbench_trial_finished(trial: Trial, record: object) -> None:
    """A trial's record has been stored. What this raises is logged and changes nothing."""
