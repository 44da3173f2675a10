"""How the built-in zoo was trained, and the quality bar that it meets. Not part of the package.

Reading order: `scenes` (the little world), `build` (questions and scans), `lessons`, `networks`,
`fit`, `donors`, `sight` (training), `measure`, `quick_search`, `bar` (what is measured), `train`.
"""
