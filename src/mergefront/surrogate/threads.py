"""numpy's and scipy's linear algebra in one thread, from the first model on.

The matrices are small. Threads that share one wait for each other actively, beside an engine that
needs the cores; and the last digits of a factorisation depend on their number, so that a tie
between two points could fall differently where a run is continued on a machine with more cores.
"""

from __future__ import annotations

from functools import lru_cache

from threadpoolctl import ThreadpoolController


@lru_cache(maxsize=1)
def one_thread() -> None:
    """Hold the OpenBLAS that numpy and scipy bring to one thread, for the rest of the process.

    torch's own is left alone, and so is any other linear algebra library: another build of numpy
    may use one that torch shares.
    """
    for library in ThreadpoolController().select(internal_api="openblas").lib_controllers:
        if "torch" not in str(library.filepath):
            library.set_num_threads(1)
