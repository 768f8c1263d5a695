"""Loads an adapter that Hone wrote into Hugging Face PEFT and compares logits.

    python tools/golden/check_peft_loads.py MODEL_DIR ADAPTER_DIR EXPECTED.safetensors [OUT.safetensors]

EXPECTED holds `ids` and Hone's f32 `logits`. Prints one JSON line; exits 1 if max |difference| exceeds 1e-4 of the
largest logit, or if PEFT misses or does not know a tensor. `cargo test -p hone-edit` runs it over adapters it writes when
HONE_PEERS_PYTHON names a Python that has torch, transformers and peft. With OUT, PEFT's logits are kept there: with
HONE_WRITE_GOLDEN=1 besides, that test keeps them under `tests/golden/peft/written`, each beside the SHA-256 of the adapter
that PEFT read.
"""
import json
import sys
import warnings

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

model_dir, adapter_dir, expected_file = sys.argv[1:4]
model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = PeftModel.from_pretrained(model, adapter_dir).eval()
complaints = [str(w.message) for w in caught if "key" in str(w.message).lower()]
expected = load_file(expected_file)
with torch.no_grad():
    logits = model(expected["ids"].long()[None]).logits[0]
difference = (logits - expected["logits"]).abs().max().item()
largest = expected["logits"].abs().max().item()
print(json.dumps({"max_difference": difference, "largest_logit": largest, "complaints": complaints}))
if len(sys.argv) > 4:
    save_file({"logits": logits.contiguous()}, sys.argv[4])
sys.exit(0 if difference <= 1e-4 * largest and not complaints else 1)
