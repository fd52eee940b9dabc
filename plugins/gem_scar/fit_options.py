"""How routers are fitted."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class FitOptions:
    """How a router is fitted.

    Attributes:
        layer: whose tokens are routed; its weights serve all later layers.
        width: of queries and keys.
        clusters: keys of each expert.
        general_clusters: keys of the general path, where there are examples for it.
        tokens: states of each text that are trained on.
        longest: tokens of a text that are read.
        steps: of training.
        batch: states of each step.
        rate: step size of Adam (arXiv 1412.6980).
        balance: weight of the term that keeps an expert's clusters all in use.
        language_model: weight of the term that lowers the loss of answers, per nat.
        answers: answers of each source that experts are measured on; 0: none, and labels decide alone.
        decay: L2 penalty of the priors.
        prior: `early`, or `encoder` to fit the prior of the sentence encoder as well.
        prior_layers: after how many layers the early prior reads.
        held_out: share of the texts that thresholds are chosen on.
        familiar: share of the texts of each source, and of their tokens, that must count as familiar; a
            larger one loses less of what experts are good for, and more on texts that are none's.
        folds: parts of the texts that the prior is tried on in turn, fitted on the others; and groups of
            benchmarks that are left out in turn, to report what becomes of the unfamiliar.
        penalty: how much worse a loss is than a gain of the same size is good.
        seed: of all that is random.
    """

    layer: int = 8
    width: int = 48
    clusters: int = 6
    general_clusters: int = 8
    tokens: int = 24
    longest: int = 256
    steps: int = 400
    batch: int = 2048
    rate: float = 0.003
    balance: float = 0.02
    language_model: float = 1.0
    answers: int = 6
    decay: float = 0.05
    prior: str = "early"
    prior_layers: int = 2
    held_out: float = 0.15
    familiar: float = 0.8
    folds: int = 4
    penalty: float = 2.0
    seed: int = 0
