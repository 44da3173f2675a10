"""Search spaces: a point in [0, 1]^D becomes a table of coefficients.

Reading order: `file` (the YAML), `layers` (curves over depth), `lines` (one line of the file),
`space` (the whole), `profiles` (coefficients over depth, for pictures), `budget` (how many
candidates suit a space).
"""
