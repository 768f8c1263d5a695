"""Turns a GGUF model into the Hugging Face directory the other golden scripts use as their reference.

    python convert_gguf.py SmolLM2-135M-Instruct.Q4_1.gguf            OUT/smollm2
    python convert_gguf.py gemma-3-270m-q4_k_m.gguf                   OUT/gemma3
    python convert_gguf.py qwen2.5-coder-0.5b-instruct-q4_k_m.gguf    OUT/qwen25

Needs `torch`, `transformers`, `gguf`. Weights come out as f32 safetensors. Every tensor is compared with a second
reading (dequantised by the `gguf` package, names and layout by the rules of this file), so that neither this script nor
the loader of `transformers` is believed alone. What that loader is known to get wrong is mended here: rope settings that
are only written as `rope_parameters`, SmolLM2's splitting of digits, and Qwen2's composing of characters (NFC), which
the tokenizer.json that comes with each of these models has.
"""

import json
import pathlib
import sys

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

source, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
reader = gguf.GGUFReader(str(source))
field = lambda name, default=None: reader.fields[name].contents() if name in reader.fields else default
architecture = field("general.architecture")

model = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.float32)
# Expanded to f32, the model is no longer quantised: say so, or it refuses to be saved.
model.config.__dict__.pop("quantization_config", None)
model.hf_quantizer, model.is_quantized = None, False
tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)


# --- the second witness ------------------------------------------------------------------------------------------
def hf_name(name):
    plain = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    if name in plain:
        return plain[name]
    _, layer, rest = name.split(".", 2)
    part, kind = rest.rsplit(".", 1)
    parts = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
        "ffn_norm": "pre_feedforward_layernorm" if architecture == "gemma3" else "post_attention_layernorm",
    }
    return f"model.layers.{layer}.{parts[part]}.{kind}"


def hf_layout(name, values):
    heads = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}
    for part, key in heads.items():
        if architecture == "llama" and f".{part}." in name:
            n = field(f"llama.{key}")
            rows = values.shape[0]
            values = values.reshape(n, rows // n // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
    if architecture == "gemma3" and name.endswith("norm.weight"):
        values = values - 1
    return values


state = model.state_dict()
for tensor in reader.tensors:
    values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(list(reversed(tensor.shape.tolist())))
    name = hf_name(tensor.name)
    ours, theirs = hf_layout(tensor.name, values), state.pop(name).numpy()
    assert ours.shape == theirs.shape, (name, ours.shape, theirs.shape)
    difference = np.abs(ours - theirs).max()
    assert difference <= 1e-6, (name, difference)
tied = "output.weight" not in {tensor.name for tensor in reader.tensors}
assert set(state) <= ({"lm_head.weight"} if tied else set()), list(state)
assert bool(model.config.tie_word_embeddings) == tied

# --- write, then mend --------------------------------------------------------------------------------------------
target.mkdir(parents=True, exist_ok=True)
model.save_pretrained(target)
tokenizer.save_pretrained(target)


def mend(name, change):
    path = target / name
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def config(value):
    value.pop("quantization_config", None)
    value["rope_theta"] = field(f"{architecture}.rope.freq_base")
    if architecture == "gemma3":
        value.setdefault("rope_local_base_freq", 10000.0)


mend("config.json", config)
if field("tokenizer.ggml.pre") == "smollm":

    def digits(value):
        value["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        }

    mend("tokenizer.json", digits)
if field("tokenizer.ggml.pre") == "qwen2":
    mend("tokenizer.json", lambda value: value.update(normalizer={"type": "NFC"}))
print("written", target)
