"""Logistic regression, distilled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from .head import Head, Labels, Queries, Scores, Vectors, spread


@dataclass(frozen=True)
class DistilledLogistic(Head):
    """Logistic regression that is trained again on its own softened predictions, `generations` times (born-again
    distillation, which Tian et al., ECCV 2020, section 3.4, apply to the embedding).

    A generation minimizes  C sum_i [ CE(y_i, q_i) + KL(p_i^T || q_i^T) ] + |W|^2 / 2,  where q are its own
    probabilities, p its predecessor's and ^T means logits divided by the temperature.  At an infinite temperature
    nothing is distilled: the second term vanishes.
    """

    C: float = 100.0
    temperature: float = 2.0
    generations: int = 1

    def scores(self, support: Vectors, labels: Labels, queries: Queries, classes: int) -> Scores:
        seen, targets = np.unique(labels, return_inverse=True)
        x = np.hstack([support, np.ones((len(support), 1))]).astype(np.float64)
        y, heat = np.eye(len(seen))[targets], 1 / self.temperature
        C = self.C / 2 if len(seen) == 2 else self.C  # scikit-learn has one vector for two classes, here it is two
        weights, teacher = np.zeros((x.shape[1], len(seen))), y[:0]  # no teacher yet

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            w = flat.reshape(weights.shape)
            logits = x @ w
            value, residual = -(y * log_softmax(logits, axis=1)).sum(), np.exp(log_softmax(logits, axis=1)) - y
            if len(teacher):
                soft = log_softmax(heat * logits, axis=1)
                value += (np.exp(teacher) * (teacher - soft)).sum()
                residual = residual + heat * (np.exp(soft) - np.exp(teacher))
            penalized = np.vstack([w[:-1], np.zeros((1, w.shape[1]))])  # not the intercept
            return C * value + (penalized**2).sum() / 2, (C * x.T @ residual + penalized).ravel()

        for _ in range(1 + self.generations):
            found = minimize(loss, weights.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 1000})
            weights = found.x.reshape(weights.shape)
            teacher = log_softmax(heat * (x @ weights), axis=1)
        logits = queries @ weights[:-1] + weights[-1]
        return spread(log_softmax(logits, axis=1), seen, classes)
