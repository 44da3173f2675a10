"""From an item to a model's input: chat template, decoded images, and bounded memories.

Shared by all engines, so that both ask the same. Images are upright (EXIF), without alpha (on
white) and RGB.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from PIL import Image, ImageOps, UnidentifiedImageError

from mergefront.errors import EngineError
from mergefront.models.checkpoint import Checkpoint
from mergefront.records import Item

if TYPE_CHECKING:
    from transformers import ProcessorMixin

T = TypeVar("T")

MAX_CONTEXT = 4096
"""Default for models that allow more: questions are short, and memory is not free."""
MEMORY_BYTES = 2 << 30
"""Memory for values that are made from items once and serve all candidates."""


class BoundedMemory(Generic[T]):
    """Remembers values until `budget` bytes are spent, and makes all others anew each time.

    Nothing is evicted. Every candidate asks the same items in the same order, and in a cyclic order
    a least-recently-used cache that is too small would never hit.
    """

    def __init__(self, size: Callable[[T], int], budget: int = MEMORY_BYTES) -> None:
        self._size = size
        self._budget = budget
        self._values: dict[Hashable, T] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        value = self._values.get(key)
        if value is not None:
            return value
        value = make()
        size = self._size(value)
        if size <= self._budget:
            self._budget -= size
            self._values[key] = value
        return value


def load_processor(folder: Path, trust_remote_code: bool = False) -> ProcessorMixin:
    """The receiver's processor (tokenizer, image processor, chat template).

    Raises:
        EngineError: it does not load, or has no chat template.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        hint = "engine.trust_remote_code: true, if you trust it" if "remote" in str(error) else ""
        raise EngineError(f"{folder}: the processor does not load: {error}", hint=hint) from error
    if getattr(processor, "chat_template", None) is None:
        raise EngineError(
            f"{folder}: the processor has no chat template",
            hint="put a chat_template.jinja beside the receiver's config",
        )
    return processor


def chat_prompt(processor: ProcessorMixin, item: Item) -> str:
    """The item as one user turn, images first, up to where the assistant begins.

    The template writes all special tokens itself: tokenize without adding any.
    """
    content: list[dict[str, str]] = [{"type": "image"} for _ in item.images]
    content.append({"type": "text", "text": item.question})
    conversation = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    return str(text)


def image_key(data: bytes) -> str:
    """The name under which an image is cached everywhere: a hash of its encoded bytes."""
    return hashlib.sha256(data).hexdigest()


def item_key(item: Item) -> Hashable:
    """The name under which an item's prompt is kept; cheap, for Python keeps the bytes' hash."""
    return item.question, item.images


def decode_image(item: Item, index: int) -> Image.Image:
    """Decode an item's image: upright, alpha on white, RGB.

    Raises:
        EngineError: the bytes are no readable image; names the item.
    """
    try:
        with Image.open(io.BytesIO(item.images[index])) as file:
            image = ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "its bytes are in no known image format" if unknown else str(error)
        raise EngineError(
            f"item {item.id}: image {index + 1} of {len(item.images)} cannot be read: {reason}"
        ) from error


def image_size(image: Image.Image) -> int:
    """Bytes of a decoded RGB image."""
    return 3 * image.width * image.height


def context_error(item: Item, prompt: int, limit: int) -> EngineError:
    """The error of a prompt that leaves no room for the answer."""
    return EngineError(
        f"item {item.id}: a prompt of {prompt} tokens and an answer of {item.max_tokens} do not "
        f"fit into {limit} tokens",
        hint="raise engine.max_model_len, shorten the question or lower its max_tokens",
    )


def context_length(folder: Path) -> int | None:
    """The model's own context length, at most MAX_CONTEXT; None if its config has none."""
    config = Checkpoint.open(folder).config
    text = config.get("text_config") or config
    longest = text.get("max_position_embeddings")
    return min(int(longest), MAX_CONTEXT) if longest else None


def rendered_size(prompt: Mapping[str, Any]) -> int:
    """Bytes of the processed images of a prompt that vLLM has rendered."""
    import torch

    items = (
        item for row in prompt.get("mm_kwargs", {}).values() for item in row if item is not None
    )
    elements = (element for item in items for element in item.get_data().values())
    return sum(element.nbytes for element in elements if isinstance(element, torch.Tensor))
