"""The former place of `wbcbench.contracts.hooks`; plugins that import from here keep working."""

from __future__ import annotations

from wbcbench.contracts.hooks import HOOK_API, PROJECT, Register, hookimpl, hookspec

__all__ = ["HOOK_API", "PROJECT", "Register", "hookimpl", "hookspec"]
