"""Checkpoints on disk: what they are, what their tensors are, how two of them belong together.

Reading order: `refs` (names of models, and where they lie), `safetensors` and `checkpoint` (files),
`writer`, `anatomy` (tensors into groups by layer and part), `tower`, `vocabulary`, `pairing` (a
donor's tensors for the receiver's), `adapter` and `exact_product` (LoRA and DoRA as donors),
`sources` (all models of a merge, opened and paired), `lineage` (whether they are related).
"""
