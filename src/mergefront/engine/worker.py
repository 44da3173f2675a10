"""The only code that runs inside vLLM's worker: reads sources, builds candidates, hashes.

`MergeWorker` is mixed into vLLM's worker class (`worker_extension_cls`) and called through
`collective_rpc` with plain values. It returns only str, int, float, list and dict, because vLLM
hangs for ever on a reply that msgpack cannot encode.

Importing this module changes vLLM on a CPU, on purpose and before the model is built: see
`_keep_weights_unpacked`. vLLM imports it in every worker process; the driver never does.

The model's own `load_weights` brings sources into the layout of the live model. It writes into
staging tensors, which replace the parameters' data for that time. So vLLM does the fusing, sharding
and padding, and pointers never change.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.platforms import current_platform

from mergefront.engine.inplace import (
    STAGING_ROOM,
    InPlace,
    PrepareTerm,
    Target,
    as_rows,
    tensor_hash,
)
from mergefront.engine.layout import refuse_repacked, same_modules, swapped, uniform_rows
from mergefront.engine.watchdog import die_with_driver
from mergefront.errors import CandidateError, EngineError
from mergefront.merging.methods import method_of
from mergefront.merging.plan import GroupContent
from mergefront.models.locate import ModelFolders
from mergefront.models.sources import Sources
from mergefront.records import Group

logger = logging.getLogger(__name__)


def _keep_weights_unpacked() -> None:
    """Make vLLM's CPU layers compute from their live `.weight`.

    By default linear layers pack their weights into oneDNN's (or sgl's) own memory and drop
    `.weight`, and the head keeps a packed copy: writes in place would be ignored in silence. With
    both switched off, vLLM falls back to `F.linear(x, weight)`. `_refuse_packed` checks that it
    did, after the model is built.
    """
    import vllm._custom_ops as ops
    from vllm.model_executor.layers import utils

    def unsupported(n: int, k: int, dtype: torch.dtype) -> bool:
        del n, k, dtype
        return False

    # vLLM looks both up while it builds each layer, so they must be off before the model is made.
    ops._supports_onednn = False
    utils.check_cpu_sgl_kernel = unsupported


if current_platform.is_cpu():
    _keep_weights_unpacked()
die_with_driver()


class MergeWorker:
    """Methods added to vLLM's worker; attribute names are prefixed so as not to collide."""

    if TYPE_CHECKING:
        get_model: Any
        mergefront_model: LiveModel
        mergefront_encoded: int

    def mergefront_watch(self) -> None:
        """Start counting the images that the vision tower encodes."""
        model = self.get_model()
        self.mergefront_encoded = 0
        embed = model.embed_multimodal

        def counted(*args: Any, **kwargs: Any) -> Any:
            outputs = embed(*args, **kwargs)
            self.mergefront_encoded += len(outputs)
            return outputs

        model.embed_multimodal = counted

    def mergefront_passes(self) -> int:
        return self.mergefront_encoded

    def mergefront_open(self, folders: dict[str, Any], device: str) -> None:
        """Open the sources and learn where the receiver's tensors live in this model."""
        sources = Sources.open(ModelFolders.from_dict(folders))
        self.mergefront_model = LiveModel(self.get_model(), sources, device)

    def mergefront_load(
        self, contents: dict[str, GroupContent], method: str, parameters: dict[str, Any]
    ) -> list[str]:
        """Build a candidate; return an empty list, or why no engine can build it, and a hint.

        An error is returned and not raised, because the other process would get only its text.
        """
        try:
            self.mergefront_model.inplace.build(contents, method_of(method, parameters))
        except CandidateError as error:
            return [error.message, error.hint]
        # So far kernels are only queued. The reply says that the weights are written, and ends the
        # measured time of the build.
        if current_platform.is_cuda_alike():
            torch.cuda.synchronize()
        return []

    def mergefront_hashes(self) -> dict[str, str]:
        """SHA-256 of every parameter's bytes; tied parameters appear once."""
        model: nn.Module = self.get_model()
        return {name: tensor_hash(p.data) for name, p in _parameters(model).items()}


class LiveModel:
    """vLLM's model, the sources, and the in-place builder that connects them."""

    def __init__(
        self,
        model: nn.Module,
        sources: Sources,
        device: str,
    ) -> None:
        self._model = model
        self._sources = sources
        self._device = device
        self._parameters = _parameters(model)
        self._targets: list[Target] = []
        _refuse_packed(model)
        self._locate()
        receiver = partial(sources.tensor, "receiver")
        refuse_repacked(self._targets, lambda groups: self._stage(receiver, groups))
        self.inplace = InPlace(self._targets, sources, self._stage)

    def _locate(self) -> None:
        """Find every tensor's elements by loading tensors filled with the tensor's number."""
        # The loader copies into tensors of any type. Integers stay exact; in bf16, numbers above
        # 256 would be rounded and could coincide.
        tensors = [(name, group) for group in self._sources.groups for name in group.tensors]
        kind = torch.int16 if len(tensors) < 1 << 15 else torch.int32
        codes = {
            name: torch.zeros(parameter.shape, dtype=kind)
            for name, parameter in self._parameters.items()
        }
        headers = self._sources.receiver.headers

        def numbered() -> Iterator[tuple[str, Tensor]]:
            for number, (name, _) in enumerate(tensors, start=1):
                yield name, torch.full(headers[name].shape, number, dtype=kind)

        self._load_into(codes, numbered())
        for name, code in codes.items():
            for rows, number in uniform_rows(name, code):
                live = self._parameters[name].data
                whole = rows == (0, len(as_rows(live)))
                target = live if whole else as_rows(live)[rows[0] : rows[1]]
                self._targets.append(
                    Target(name, *tensors[number - 1], None if whole else rows, target)
                )
        self._drop_shared_head()
        self._refuse_unplaced()
        _refuse_quantized(self._targets)

    def _refuse_unplaced(self) -> None:
        """Raise EngineError if the loader leaves out a tensor, since no candidate would change it.

        A rank of a tensor-parallel engine has a part of each tensor, so there only the absence of
        a whole group is visible. Embedding and head may be one matrix stored twice.
        """
        placed: dict[str, int] = {}
        for target in self._targets:
            name = target.group.name
            placed[name] = placed.get(name, 0) + target.live.numel()
        headers = self._sources.receiver.headers
        alone = get_tensor_model_parallel_world_size() == 1
        for group in self._sources.groups:
            if group.part in ("embedding", "head"):
                continue
            values = placed.get(group.name, 0)
            expected = sum(math.prod(headers[name].shape) for name in group.tensors)
            if values == 0 or (alone and values != expected):
                raise EngineError(
                    f"vLLM's loader places {values} of the {expected} values of group {group.name}",
                    hint="use the transformers engine for this model",
                )

    def _drop_shared_head(self) -> None:
        """Make no target of the embedding if the head that the checkpoint holds shares it."""
        targeted = {target.group.name for target in self._targets}
        untargeted = [group for group in self._sources.groups if group.name not in targeted]
        if any(group.part == "head" for group in untargeted):
            logger.warning("the engine ties head and embedding: neither can be rewritten")
            self._targets = [t for t in self._targets if t.group.part not in ("head", "embedding")]

    def _stage(self, prepare: PrepareTerm, groups: Sequence[Group]) -> dict[str, Tensor]:
        """Bring a term of some groups into fresh tensors of the live parameters' layout.

        They have the term's dtype if all its tensors share one; else fp32, which represents every
        smaller float exactly.
        """
        first = groups[0].tensors[0]
        peeked = {first: prepare(first)}  # a decomposition is not made twice
        dtype = peeked[first].dtype

        def once(name: str) -> Tensor:
            return peeked.pop(name) if name in peeked else prepare(name)

        try:
            return self._stage_as(once, groups, dtype)
        except _MixedDtypesError:
            return self._stage_as(prepare, groups, torch.float32)

    def _stage_as(
        self, prepare: PrepareTerm, groups: Sequence[Group], dtype: torch.dtype
    ) -> dict[str, Tensor]:
        group_names = {group.name for group in groups}
        names = {t.parameter for t in self._targets if t.group.name in group_names}
        device, pin = self._place(names, dtype)
        # Zeros, not empty: a loader may leave out padding, which must not hold NaN.
        staged = {
            name: torch.zeros(
                self._parameters[name].shape, dtype=dtype, device=device, pin_memory=pin
            )
            for name in names
        }

        def prepared() -> Iterator[tuple[str, Tensor]]:
            for group in groups:
                for name in group.tensors:
                    tensor = prepare(name)
                    if dtype != torch.float32 and tensor.dtype != dtype:
                        raise _MixedDtypesError
                    yield name, tensor

        self._load_into(staged, prepared())
        return staged

    def _place(self, names: set[str], dtype: torch.dtype) -> tuple[torch.device, bool]:
        """Return the device that new terms go to, and whether they are pinned in host memory."""
        live = next(iter(self._parameters.values())).device
        if live.type == "cpu":
            return live, False
        host = torch.device("cpu"), True
        if self._device == "cpu":
            return host
        needed = sum(self._parameters[name].numel() for name in names) * dtype.itemsize
        free, _ = torch.cuda.mem_get_info(live)
        if self._device == "device" or free > STAGING_ROOM * needed:
            return live, False
        return host

    def _load_into(self, data: Mapping[str, Tensor], tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Run the model's own loader with `data` instead of the parameters' data."""
        with swapped(self._parameters, data), same_modules(self._model), torch.no_grad():
            self._model.load_weights(tensors)  # type: ignore[operator]


class _MixedDtypesError(Exception):
    """Tensors of one term have several dtypes."""


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The model's parameters; a tower that an engine without images leaves out has none."""
    return {name: p for name, p in model.named_parameters() if not p.is_meta}


def _refuse_packed(model: nn.Module) -> None:
    """Raise EngineError if a layer has moved its weight elsewhere, out of our reach."""
    packed = [name for name, parameter in model.named_parameters() if parameter.numel() == 0]
    if packed:
        raise EngineError(
            f"vLLM has packed the weights of {len(packed)} layers ({packed[0]}, ...): "
            "what is written into them would be ignored",
            hint="use an unquantized checkpoint, and no zentorch on a CPU",
        )


def _refuse_quantized(targets: Sequence[Target]) -> None:
    """Raise EngineError if a live tensor is not plain floating point."""
    plain = (torch.float32, torch.bfloat16, torch.float16)
    for target in targets:
        if target.live.dtype not in plain:
            raise EngineError(
                f"parameter {target.parameter} is {target.live.dtype}: quantized weights cannot "
                "be rewritten in place",
                hint="use an unquantized receiver",
            )
