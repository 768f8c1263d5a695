"""Golden adapters made by Hugging Face PEFT, with the logits they give.

    python tools/golden/peft_lora.py

Needs torch, transformers, peft, safetensors. Reads assets/stories260k; writes
crates/hone-edit/tests/golden/peft/<variant>/ (an adapter directory as PEFT saves it, and `expected.safetensors` with
the token ids and their f32 logits) and crates/hone-edit/tests/golden/tiny-qwen2 (a random model with biases, which
stories260k lacks).
"""
import shutil
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

warnings.filterwarnings("ignore")
ROOT = Path(__file__).resolve().parents[2]
STORIES = ROOT / "assets" / "stories260k"
GOLDEN = ROOT / "crates" / "hone-edit" / "tests" / "golden"
IDS = torch.tensor([[1, 403, 407, 261, 378, 432, 403, 286, 410, 17, 480, 2]])

STORIES_VARIANTS = {
    "plain": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    "rslora": dict(r=4, lora_alpha=8, use_rslora=True, target_modules="all-linear"),
    "patterns": dict(
        r=4, lora_alpha=6, target_modules=["q_proj", "k_proj", "down_proj"], exclude_modules=["layers.2.mlp.down_proj"],
        layers_to_transform=[0, 2, 4], layers_pattern="layers",
        rank_pattern={"k_proj": 2, r"layers\.4\.self_attn\.q_proj": 3}, alpha_pattern={"down_proj": 16},
    ),
    "regex": dict(r=2, lora_alpha=2, target_modules=r".*\.[13]\.self_attn\.(q|o)_proj"),
    "saved_head": dict(r=2, lora_alpha=4, target_modules=["o_proj"], modules_to_save=["lm_head", "norm"]),
    "saved_table": dict(r=2, lora_alpha=4, target_modules=["up_proj"], modules_to_save=["embed_tokens"]),
}
QWEN_VARIANTS = {
    "bias_lora_only": dict(r=2, lora_alpha=4, target_modules=["q_proj", "o_proj"], bias="lora_only"),
    "bias_all": dict(r=2, lora_alpha=4, target_modules=["q_proj", "o_proj"], bias="all"),
}


def tiny_qwen2():
    """A random Qwen2 with q, k, v biases that are not zero."""
    torch.manual_seed(7)
    config = Qwen2Config(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=512, max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.normal_(std=0.3)
    path = GOLDEN / "tiny-qwen2"
    model.save_pretrained(path)
    shutil.copy(STORIES / "tokenizer.json", path)
    (path / "generation_config.json").unlink(missing_ok=True)
    return path


def make(model_dir, variants):
    for number, (name, fields) in enumerate(variants.items()):
        torch.manual_seed(100 + number)
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        model.name_or_path = model_dir.name
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **fields))
        with torch.no_grad():
            for value in model.parameters():
                if value.requires_grad:
                    value.add_(torch.randn_like(value) * 0.1)
        model.eval()
        out = GOLDEN / "peft" / name
        shutil.rmtree(out, ignore_errors=True)
        model.save_pretrained(out)
        (out / "README.md").unlink(missing_ok=True)
        with torch.no_grad():
            logits = model(IDS).logits[0]
            with model.disable_adapter():
                base = model(IDS).logits[0]
        moved = (logits - base).abs().max().item()
        save_file({"ids": IDS[0].int(), "logits": logits.float().contiguous()}, out / "expected.safetensors")
        print(f"{name}: largest |logit| {logits.abs().max().item():.3f}, moved by {moved:.3f}")


make(STORIES, STORIES_VARIANTS)
make(tiny_qwen2(), QWEN_VARIANTS)
