"""Singular value decompositions that give the same bits wherever a candidate is made.

LAPACK's sums depend on the number of threads, so a decomposition runs in one thread. They depend on
the processor's instruction set too: engine and exporter agree on one machine, and the verification
of an export on another machine would report a difference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mergefront.merging.arithmetic import one_thread


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (m, k), S (k,), V^T (k, n) of a matrix (m, n) in fp64, k = min(m, n)."""
    with one_thread():
        u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u, s, vt


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b in fp64."""
    with one_thread():
        return a @ b


def orthogonalised(columns: Tensor) -> Tensor:
    """Return the matrix with orthonormal columns (rows, if there are fewer) nearest to (m, k).

    Procrustes: P Q^T of the decomposition P D Q^T.
    """
    u, _, vt = svd(columns)
    return matmul(u, vt)
