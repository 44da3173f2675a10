"""Checkpoints on disk: what they are, what their tensors are, how two of them belong together.

Reading order: `locate` (names of models, and where they lie), `safetensors` and `checkpoint`
(files), `writer`, `tower` and `anatomy` (tensors into groups by layer and part), `pairing` (a
donor's tensors for the receiver's), `vocabulary`, `adapter` and `exact_product` (LoRA and DoRA as
donors), `sources` (all models of a merge, opened and paired), `lineage` (whether they are related).
"""
