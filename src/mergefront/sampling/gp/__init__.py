"""A Gaussian process of one objective over all candidates, with each candidate's own noise known.

A score is the mean of some hundred marked items, so its standard error is known before any model
is fitted. The model is

    y_i = c + f(x_i) + e_i,  f ~ GP(0, a^2 k),  e_i ~ N(0, p_i^2 + r (s_i^2 - p_i^2)),
    c ~ N(mean of y, 1),

with k Matern 5/2 of the scaled distance between points, a lengthscale for each feature (knob), and
s_i the standard error. p_i is the part of it that comes of items which a candidate that left
early has not answered, all its own. Of the rest r is the candidate's own share: candidates that
answer the same items share what is left, which the constant takes up. Lengthscales, amplitude and r
are fitted (`fitting`). Everything is dense algebra in float64, in one thread
(`process.one_thread`): up to about 1,000 candidates. The same kind of processor repeats every bit;
another one may differ in the last digits.

A merge can also collapse, and babble. A cliff is no Gaussian surface, so collapsed candidates are
told apart (`stats.pareto.collapsed`), and their scores are kept from the model.

Not here: which point to try next (`sampling.noisy_gp`), fronts (`stats.pareto`).

Reference: Rasmussen and Williams, Gaussian Processes for Machine Learning, MIT Press 2006:
equations 2.23-2.24 (posterior), 2.30 (marginal likelihood), 2.40 (constant mean with a normal
prior), 4.17 (Matern 5/2), 5.1 (a lengthscale for each feature), 5.9 (gradient), 5.12 (leave one
out).

Reading order: `kernel`, `process` (`fit`, `GaussianProcess`), `fitting`, `posterior`
(all objectives together). Shapes: N candidates, F features, P points, M objectives.
"""

from __future__ import annotations

from mergefront.sampling.gp.process import GaussianProcess, fit

__all__ = ["GaussianProcess", "fit"]
