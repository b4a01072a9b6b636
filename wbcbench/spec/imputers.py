"""How a fusion that cannot leave a modality out is chosen its stand-in: `--fusion early:impute=token`.

Every fusion that declares `missing = "impute"` has this parameter; it belongs to the method's identity and
name unless it is the default. Imports no torch.
"""

from __future__ import annotations

from typing import Any

from wbcbench.errors import UsageError, did_you_mean

IMPUTE = "impute"
MEAN = "mean"
IMPUTERS = {
    MEAN: "the training mean, which is zero after normalisation",
    "zero": "black pixels",
    "token": "an image per modality, learned from training cells that lack it",
}


def chosen_imputer(given: dict[str, Any], fusion: str, missing: str) -> dict[str, str]:
    """Take `impute` out of the given parameters; what of it belongs to the identity: nothing for the mean.

    Raises:
        UsageError: no such imputer, or a fusion that does not impute.
    """
    how = given.pop(IMPUTE, MEAN)
    if not isinstance(how, str) or how not in IMPUTERS:
        known = "; ".join(f"{name}: {what}" for name, what in IMPUTERS.items())
        raise UsageError(
            f"fusion {fusion}: no imputer is called '{how}'.{did_you_mean(str(how), IMPUTERS)} {known}."
        )
    if how != MEAN and missing != "impute":
        does = "leaves absent modalities out by itself" if missing == "native" else "takes complete cells only"
        raise UsageError(f"fusion {fusion}: impute={how} was asked for, but it {does}. Leave impute out.")
    return {} if how == MEAN else {IMPUTE: how}
