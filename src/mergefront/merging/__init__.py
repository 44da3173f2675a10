"""From a recipe to tensors: what is merged, by which arithmetic, in which order.

Reading order: `recipe` (method, coefficients, overrides), `plan` (what each group is made of),
`method` (the contract), `methods/` (one file a method), `arithmetic` (fp32, one rounding), `slots`
(one tensor, as a method sees it), `build` (a merged checkpoint). The same inside a live engine is
`engine.inplace`.
"""
