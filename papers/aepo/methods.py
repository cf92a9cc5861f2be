"""The methods that are compared: how the intermediate energy, or the policy, is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.methods import Method, Methods
from papers.aepo.method import BETA

Learns = Literal["analytic", "local", "mean", "clean", "contrast", "policy", "clone", "nothing"]
Acts = Literal["network", "predicted-q", "noisy-q", "behaviour", "policy", "exact"]


@dataclass(frozen=True)
class Guided(Method):
    """A way to sample mu exp(beta Q) / Z.

    Attributes:
        learns: what a network is trained on: Eq. 7 with the isotropic ("analytic") or local
            variance or without ("mean"), Q of the clean action, the contrastive loss, the weighted
            regression of a Gaussian policy, the plain one ("clone"), or nothing.
        acts: what guides: the network, beta Q at the predicted clean action differentiated through
            eps_phi, beta Q at the noisy action, nothing; a Gaussian policy acts by itself; "exact"
            is the known answer.
        critic: whose stage of pretraining: "prior" (implicit Q-learning, or Q itself) or "support".
        keep_norm: see ``method.guided_epsilon``.
        by_norm: the posterior's variance is Eq. 4's in the place of Eq. 5's.
        beta: inverse temperature in control that the tuning has chosen; CEP's until then.
        w: guidance scale (of a policy: factor of its temperature) that the tuning has chosen; 1,
            the theory's, until then.
    """

    learns: Learns = "nothing"
    acts: Acts = "network"
    critic: str = "prior"
    keep_norm: bool = False
    by_norm: bool = False
    beta: float = BETA
    w: float = 1.0


METHODS = Methods(
    Guided("aepo", "AEPO", "method", "analytic"),
    Guided("aepo-local", "AEPO, local variance", "variant", "local"),
    Guided("aepo-norm", "AEPO, norm kept", "variant", "analytic", keep_norm=True),
    Guided("aepo-eq4", "AEPO, variance by Eq. 4", "variant", "analytic", by_norm=True),
    Guided("no-variance", "AEPO without variance", "ablation", "mean"),
    Guided("mse", "Q of the clean action", "baseline", "clean"),
    Guided("cep", "CEP, same critic", "baseline", "contrast"),
    Guided("qgpo", "QGPO, own critic", "baseline", "contrast", critic="support"),
    Guided("direct", "Q of the predicted action", "baseline", acts="predicted-q"),
    Guided("naive", "Q of the noisy action", "baseline", acts="noisy-q"),
    Guided("iql", "IQL", "baseline", "policy", "policy"),
    Guided("bc", "behaviour", "baseline", acts="behaviour"),
    Guided("bc-mean", "behaviour's mean action", "baseline", "clone", "policy"),
    Guided("exact", "exact energy", "reference", acts="exact"),
)

__all__ = ["METHODS", "Acts", "Guided", "Learns"]
