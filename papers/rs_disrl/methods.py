"""The methods of RS-DisRL's comparison: one table for training, claims, tables and figures."""

from __future__ import annotations

from dataclasses import dataclass

from common.methods import Method, Methods
from papers.rs_disrl.method import LSR, MLE
from papers.rs_disrl.method_v import LSR_WIDTH


@dataclass(frozen=True)
class Learner(Method):
    """How a method is run.

    Attributes:
        kinds: of tasks that it exists for (``task.Size.kind``).
        proved: one of the paper's four estimators, with the width that is valid.
        estimator: MLE, LSR or LSR_WIDTH.
        values: RS-DisRL-V: value distributions instead of models.
        tuned: a narrower width than the valid one.
        greedy: no confidence set.
        objective: "risk" or "mean": what is planned for.
        markov: policies of s alone.
        known: "optimal", "markov" or "random": a fixed policy, nothing is learnt.
    """

    kinds: tuple[str, ...] = ("finite", "tabular")
    proved: bool = False
    estimator: int = MLE
    values: bool = False
    tuned: bool = False
    greedy: bool = False
    objective: str = "risk"
    markov: bool = False
    known: str = ""

    @property
    def best(self) -> str:
        """The best that it could play if it knew the model: a name of ``config.VALUES``, or ""."""
        if self.known in ("random", "markov"):
            return "markov" if self.known == "markov" else ""
        return "neutral" if self.objective == "mean" else "markov" if self.markov else "optimal"


ALL = ("finite", "tabular", "mixture")

METHODS = Methods(
    Learner("m_mle", "M-MLE", "method", proved=True),
    Learner("m_lsr", "M-LSR", "variant", kinds=ALL, proved=True, estimator=LSR),
    Learner("v_mle", "V-MLE", "variant", kinds=("finite",), proved=True, values=True),
    Learner("v_lsr", "V-LSR", "variant", ("finite",), True, LSR, values=True),
    Learner("v_lsr_width", "V-LSR (one x)", "variant", ("finite",), False, LSR_WIDTH, True),
    Learner("m_mle_tuned", "M-MLE (tuned)", "variant", kinds=("tabular",), tuned=True),
    Learner("m_lsr_tuned", "M-LSR (tuned)", "variant", estimator=LSR, tuned=True),
    Learner("neutral", "risk-neutral optimism", "ablation", kinds=ALL, objective="mean"),
    Learner("greedy", "greedy", "ablation", kinds=ALL, greedy=True),
    Learner("markov", "Markov-in-s optimism", "ablation", kinds=("finite",), markov=True),
    Learner("markov_known", "best Markov in s", "reference", kinds=(*ALL, "fixed"), known="markov"),
    Learner("random", "random", "baseline", kinds=(*ALL, "fixed"), known="random"),
    Learner("oracle", "optimum", "reference", kinds=(*ALL, "fixed"), known="optimal"),
)

OURS = tuple(name for name in METHODS if METHODS[name].proved)
