"""Golden combinations of adapters, by Hugging Face PEFT's `add_weighted_adapter`.

    python tools/golden/peft_combine.py

Needs torch, transformers, peft, safetensors. Reads crates/hone-edit/tests/golden/tiny-qwen2; writes
crates/hone-edit/tests/golden/combine/{one,two,three}/ (adapters as PEFT saves them: ranks 3, 2 and 3, targets that only partly
overlap, the third rank-stabilised) and `expected.safetensors`: for each combination the factors PEFT makes, keyed
`NAME.MODULE.lora_A`, scale 1. Combinations of factors need equal ranks, so they take the first and the third adapter; the others
the first and the second. Random drops are not here: PEFT's random numbers are its own.
"""
import shutil
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

warnings.filterwarnings("ignore")
GOLDEN = Path(__file__).resolve().parents[2] / "crates" / "hone-edit" / "tests" / "golden"
OUT = GOLDEN / "combine"
WEIGHTS = [0.7, -0.4]
DENSITY = 0.6
ADAPTERS = {
    "one": dict(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"]),
    "two": dict(r=2, lora_alpha=5, target_modules=["q_proj", "down_proj"]),
    "three": dict(r=3, lora_alpha=4, use_rslora=True, target_modules=["q_proj", "v_proj", "up_proj"]),
}
COMBINATIONS = {
    "cat": ("two", dict(combination_type="cat")),
    "svd": ("two", dict(combination_type="svd")),
    "svd_rank_4": ("two", dict(combination_type="svd", svd_rank=4)),
    "ties_svd": ("two", dict(combination_type="ties_svd", density=DENSITY)),
    "ties_svd_frequency": ("two", dict(combination_type="ties_svd", density=DENSITY, majority_sign_method="frequency")),
    "magnitude_prune_svd": ("two", dict(combination_type="magnitude_prune_svd", density=DENSITY)),
    "linear": ("three", dict(combination_type="linear")),
    "ties": ("three", dict(combination_type="ties", density=DENSITY)),
    "ties_frequency": ("three", dict(combination_type="ties", density=DENSITY, majority_sign_method="frequency")),
    "magnitude_prune": ("three", dict(combination_type="magnitude_prune", density=DENSITY)),
}


def fresh():
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / "tiny-qwen2", dtype=torch.float32)
    model.name_or_path = "tiny-qwen2"
    return model


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    for number, (name, fields) in enumerate(ADAPTERS.items()):
        torch.manual_seed(300 + number)
        model = get_peft_model(fresh(), LoraConfig(task_type="CAUSAL_LM", **fields))
        with torch.no_grad():
            for value in model.parameters():
                if value.requires_grad:
                    value.add_(torch.randn_like(value) * 0.1)
        model.save_pretrained(OUT / name)
        (OUT / name / "README.md").unlink(missing_ok=True)
    expected = {}
    for name, (second, options) in COMBINATIONS.items():
        model = PeftModel.from_pretrained(fresh(), OUT / "one", adapter_name="one")
        model.load_adapter(OUT / second, adapter_name=second)
        model.add_weighted_adapter(["one", second], WEIGHTS, "both", **options)
        for module, layer in model.base_model.model.named_modules():
            if "both" in getattr(layer, "lora_A", {}):
                assert layer.scaling["both"] == 1.0
                expected[f"{name}.{module}.lora_A"] = layer.lora_A["both"].weight.detach().contiguous()
                expected[f"{name}.{module}.lora_B"] = layer.lora_B["both"].weight.detach().contiguous()
    save_file(expected, OUT / "expected.safetensors")
    print(len(expected), "tensors,", (OUT / "expected.safetensors").stat().st_size, "bytes")


main()
