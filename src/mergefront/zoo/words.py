"""The vocabulary that every model of the zoo shares, and the one prompt format.

Word-level: a question is a handful of lower-case words, so that a tokenizer of 250
entries serves the base, the donors and the receiver alike. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Final

PAD: Final = "<pad>"
UNKNOWN: Final = "<unk>"
START: Final = "<s>"
USER: Final = "<user>"
ASSISTANT: Final = "<assistant>"
END: Final = "<end_of_utterance>"
IMAGE: Final = "<image>"
AROUND_IMAGE: Final = "<fake_token_around_image>"
GLOBAL_IMAGE: Final = "<global-img>"

SPECIAL: Final[tuple[str, ...]] = (
    PAD,
    UNKNOWN,
    START,
    USER,
    ASSISTANT,
    END,
    IMAGE,
    AROUND_IMAGE,
    GLOBAL_IMAGE,
)
NUMBERS: Final[tuple[str, ...]] = tuple(str(n) for n in range(19))
TINTS: Final[tuple[str, ...]] = ("red", "green", "blue", "yellow")
PLACES: Final[tuple[str, ...]] = ("top-left", "top-right", "bottom-left", "bottom-right")
_OTHER: Final = (
    "a and are at between colour describe difference digit digits even how is it larger many"
    " no odd of or picture plus small smaller than that the there what where which yes big"
    " true false crimson lime navy gold none ? . ,"
)
OTHER: Final[tuple[str, ...]] = tuple(_OTHER.split())
# A scene told in words has one word a cell, as a picture has one token a cell.
CELLS: Final[tuple[str, ...]] = tuple(
    f"{place}:{tint}:{digit}" for place in PLACES for tint in TINTS for digit in range(10)
)
VOCABULARY: Final[tuple[str, ...]] = (*SPECIAL, *NUMBERS, *TINTS, *PLACES, *OTHER, *CELLS)

# <s><user><image>which digit is at top-left ?<end_of_utterance><assistant>7<end_of_utterance>
CHAT_TEMPLATE: Final = (
    "<s>{% for message in messages %}"
    "{{ '<user>' if message['role'] == 'user' else '<assistant>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
