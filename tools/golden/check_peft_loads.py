"""Loads adapters that Hone wrote into Hugging Face PEFT and compares logits.

    python tools/golden/check_peft_loads.py MODEL_DIR ADAPTER_DIR EXPECTED.safetensors [OUT.safetensors]
    python tools/golden/check_peft_loads.py --all FOLDER

EXPECTED holds `ids` and Hone's f32 `logits`, and where they are called for `lengths` (of several sequences, one after
another) and `task_ids` (one per sequence). Prints one JSON line; exits 1 if max |difference| exceeds 1e-4 of the largest
logit, or if PEFT misses or does not know a tensor. With OUT, PEFT's logits are kept there.

With --all the adapters are the directories of FOLDER, each with its `expected.safetensors` in it; the base model is the one
their configuration names, a path or a directory of crates/hone-edit/tests/golden. One JSON line an adapter; exits 1 if one
fails. PEFT's own directories pass it too: `--all crates/hone-edit/tests/golden/peft`.

`cargo test -p hone-edit` runs both over adapters it writes when HONE_PEERS_PYTHON names a Python that has torch, transformers
and peft:

    HONE_PEERS_PYTHON=python cargo test -p hone-edit --test parity --test peft_family in_peft -- --nocapture

With HONE_WRITE_GOLDEN=1 besides, `parity` keeps PEFT's logits under `tests/golden/peft/written`, each beside the SHA-256 of
the adapter that PEFT read.
"""
import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[2]
logging.disable_progress_bar()
torch.set_num_threads(2)


def stored_keys(model, config):
    """The tensors that PEFT would save of this adapter."""
    if config.peft_type == "XLORA":  # PEFT 0.21.2 leaves some of them out when it saves
        return {key for key in model.state_dict() if "internal_xlora_classifier" in key}
    if config.peft_type == "MULTITASK_PROMPT_TUNING":
        return {"prompt_embeddings", "prefix_task_cols", "prefix_task_rows"}
    if config.is_prompt_learning:  # the encoders of some are gone once they are loaded
        return {"prompt_embeddings"}
    return set(get_peft_model_state_dict(model))


def check(model_dir, adapter_dir, expected_file):
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    model.config.use_cache = False
    config = PeftConfig.from_pretrained(adapter_dir)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(model, adapter_dir).eval()
    complaints = [str(w.message) for w in caught if "adapter keys" in str(w.message).lower()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = stored_keys(model, config)
    found = set(load_file(Path(adapter_dir) / "adapter_model.safetensors"))
    # PEFT writes the bias of a module that is trained whole twice more beside the one it reads.
    never_read = (".modules_to_save.bias", ".original_module.bias")
    complaints += [f"PEFT misses {key}" for key in sorted(wanted - found) if not key.endswith(never_read)]
    complaints += [f"PEFT does not know {key}" for key in sorted(found - wanted)]

    expected = load_file(expected_file)
    ids = expected["ids"].long()
    lengths = [int(n) for n in expected.get("lengths", [len(ids)])]
    tasks = expected.get("task_ids")
    rows = []
    with torch.no_grad():
        for number, sequence in enumerate(ids.split(lengths)):
            more = {} if tasks is None else {"task_ids": tasks[number : number + 1].long()}
            # Prompts come before the sequence, and their logits too.
            rows.append(model(input_ids=sequence[None], use_cache=False, **more).logits[0, -len(sequence):])
    logits = torch.cat(rows)
    difference = (logits - expected["logits"]).abs().max().item()
    largest = expected["logits"].abs().max().item()
    said = {"max_difference": difference, "largest_logit": largest, "complaints": complaints}
    return said, logits, difference <= 1e-4 * largest and not complaints


def base_of(adapter_dir):
    name = json.loads((adapter_dir / "adapter_config.json").read_text())["base_model_name_or_path"]
    places = [Path(name), ROOT / "crates" / "hone-edit" / "tests" / "golden" / name, ROOT / "assets" / name]
    return next(place.resolve() for place in places if (place / "config.json").exists())


def check_all(folder):
    adapters = sorted(path.parent for path in folder.glob("*/adapter_config.json"))
    passed = 0
    for adapter in adapters:
        model_dir = base_of(adapter)
        os.chdir(adapter)  # PEFT looks for a mixture's experts from where it runs
        try:
            said, _, good = check(model_dir, adapter, adapter / "expected.safetensors")
        except Exception as error:
            said, good = {"complaints": [f"{type(error).__name__}: {error}"]}, False
        print(json.dumps({"adapter": adapter.name, **said}), flush=True)
        passed += good
    print(f"{passed} of {len(adapters)} adapters load in PEFT and give the same logits")
    return bool(adapters) and passed == len(adapters)


if sys.argv[1] == "--all":
    sys.exit(0 if check_all(Path(sys.argv[2]).resolve()) else 1)
said, logits, good = check(*sys.argv[1:4])
print(json.dumps(said))
if len(sys.argv) > 4:
    save_file({"logits": logits.contiguous()}, sys.argv[4])
sys.exit(0 if good else 1)
