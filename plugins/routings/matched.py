"""Matched routing: teacher m teaches the head of modality m; the joint head learns from all of them."""

from __future__ import annotations

from wbcbench.contracts import Parameters, Routing, param


class Matched(Routing):
    """Each modality's head is taught by that modality's teacher.

    A joint route, and a head without a teacher of its own modality, is taught by all teachers as one (the
    mean of their softened probabilities), or by the one that `fallback` names.
    """

    name = "matched"
    source = "Yang et al., arXiv 2208.08331 (abstract): one independent teacher per subnetwork"
    pairing = "own"

    class Params(Parameters):
        fallback: str = param("", "Modality whose teacher serves routes without one; empty: the mean of all.")
