"""Logits and greedy continuations of the decoders, by `transformers`.

    python logits.py tiny crates/hone-model/tests/golden/tiny
    python logits.py model HF_DIR crates/hone-model/tests/golden/NAME.safetensors

`tiny` makes a small randomly initialised checkpoint of every family (saved by `transformers`, weights in bf16) with the
logits of two sequences; where a family has sliding windows, the sequences are longer than the window. `model` takes a
real model: logits of three prompts and what greedy decoding makes of each in 64 tokens. HF_DIR is `assets/stories260k`,
or what convert_gguf.py made. Logits of a large vocabulary are kept at the 16 highest and 128 fixed places, with the
log-sum-exp of the whole row.

Needs `torch`, `transformers`, `safetensors`. f32 and bf16 runs are both kept: how far bf16 takes `transformers` from f32
is the measure of how far it may take us.
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

SEQUENCES = (40, 23)
NEW_TOKENS = 64
PROMPTS = [
    "Once upon a time, there was a little girl named Lily. She loved to play",
    "The capital of France is Paris. The capital of Italy is",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
]

SIZES = dict(
    vocab_size=99, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
LLAMA3 = dict(
    rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
YARN = dict(rope_type="yarn", rope_theta=1000.0, factor=4.0, original_max_position_embeddings=16)
GEMMA3 = dict(
    SIZES, head_dim=8, sliding_window=8, num_hidden_layers=7, num_key_value_heads=1, query_pre_attn_scalar=16,
)
CONFIGS = {
    "llama": LlamaConfig(**SIZES, rms_norm_eps=1e-5, attention_bias=True, mlp_bias=True),
    "llama3-rope": LlamaConfig(**SIZES, head_dim=16, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "linear-rope": LlamaConfig(**SIZES, rope_parameters=dict(rope_type="linear", rope_theta=100.0, factor=4.0)),
    "yarn-rope": Qwen2Config(**SIZES, rope_parameters=YARN),
    "mistral": MistralConfig(**SIZES, sliding_window=6),
    "qwen2": Qwen2Config(
        **SIZES, tie_word_embeddings=True, use_sliding_window=True, sliding_window=10, max_window_layers=1,
    ),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "gemma2": Gemma2Config(
        **SIZES, head_dim=16, sliding_window=7, attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
        attn_implementation="eager",
    ),
    "gemma3_text": Gemma3TextConfig(**GEMMA3),
    "gemma3": Gemma3Config(
        text_config=dict(GEMMA3, num_hidden_layers=2, sliding_window_pattern=2),
        vision_config=dict(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=16, patch_size=8,
        ),
        mm_tokens_per_image=4,
    ),
}


def initialise(model, generator):
    """Weights large enough that every part of the model shows in the logits."""
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            around_zero = "Gemma" in type(model).__name__
            values = 0.3 * values + (0.0 if around_zero else 1.0)
        elif parameter.ndim == 1:
            values = 0.3 * values
        elif "embed" not in name:
            values = 1.5 * values / parameter.shape[-1] ** 0.5
        parameter.data = values.to(torch.bfloat16)


@torch.no_grad()
def logits_of(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0].float()


def tiny(out):
    for number, (name, config) in enumerate(CONFIGS.items()):
        generator = torch.Generator().manual_seed(number)
        multimodal = name == "gemma3"
        kind = Gemma3ForConditionalGeneration if multimodal else AutoModelForCausalLM
        implementation = dict(attn_implementation="eager") if name == "gemma2" else {}
        model = kind._from_config(config) if multimodal else kind.from_config(config, **implementation)
        initialise(model, generator)
        model.to(torch.bfloat16).save_pretrained(out / name)
        (out / name / "generation_config.json").unlink(missing_ok=True)

        # Loaded again: a cast of the whole model would round the rotary frequencies as well.
        load = lambda dtype: kind.from_pretrained(out / name, dtype=dtype, **implementation).eval()
        exact, rounded = load(torch.float32), load(torch.bfloat16)
        golden = {}
        for i, length in enumerate(SEQUENCES):
            ids = torch.randint(3, SIZES["vocab_size"], (length,), generator=generator)
            golden[f"ids.{i}"] = ids.to(torch.int32)
            golden[f"f32.{i}"] = logits_of(exact, ids.tolist())
            golden[f"bf16.{i}"] = logits_of(rounded, ids.tolist()).to(torch.bfloat16)
        save_file(golden, out / name / "golden.safetensors")
        spread, error = golden["f32.0"].std(dim=-1).mean(), (golden["f32.0"] - golden["bf16.0"].float()).abs().mean()
        print(f"{name}: spread of logits {spread:.2f}, mean distance of bf16 {error:.4f}")


def greedy(model, ids):
    """Greedy continuation, and the smallest margin by which a token won."""
    out = model.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=NEW_TOKENS, output_logits=True,
        return_dict_in_generate=True, repetition_penalty=1.0, attention_mask=torch.ones(1, len(ids), dtype=torch.long),
    )
    highest = torch.stack(out.logits)[:, 0].topk(2).values
    return out.sequences[0, len(ids) :], (highest[:, 0] - highest[:, 1]).min().item()


def real(directory, out):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    vocabulary = model.get_input_embeddings().num_embeddings
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError):
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(pathlib.Path(directory) / "tokenizer.json"))
    columns = torch.randint(vocabulary, (128,), generator=torch.Generator().manual_seed(0))
    whole = vocabulary <= 1024

    golden, exact = {}, []
    for i, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt)["input_ids"]
        new, margin = greedy(model, ids)
        print(f"{prompt!r}: {len(ids)} tokens, closest call {margin:.4f}\n{tokenizer.decode(new)!r}")
        assert margin > 1e-3, "a tie would make the comparison a matter of luck: take another prompt"
        golden[f"prompt.{i}"] = torch.tensor(ids, dtype=torch.int32)
        golden[f"greedy.{i}"] = new.to(torch.int32)
        ids = torch.cat([torch.tensor(ids), new[:24]])
        golden[f"ids.{i}"] = ids.to(torch.int32)
        logits = logits_of(model, ids.tolist())
        exact.append(logits)
        if whole:
            golden[f"f32.{i}"] = logits
            continue
        golden[f"columns.{i}"] = torch.cat([columns.expand(len(ids), -1), logits.topk(16).indices], dim=-1).int()
        golden[f"f32.{i}"] = logits.gather(1, golden[f"columns.{i}"].long())
        golden[f"logsumexp.{i}"] = logits.logsumexp(-1)
        golden[f"largest.{i}"] = logits.abs().max()
    del model
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
    for i, logits in enumerate(exact):
        rounded = logits_of(model, golden[f"ids.{i}"].tolist())
        if not whole:
            rounded = rounded.gather(1, golden[f"columns.{i}"].long())
        golden[f"bf16.{i}"] = rounded.to(torch.bfloat16)
    save_file({name: value.contiguous() for name, value in golden.items()}, out)


if __name__ == "__main__":
    torch.set_num_threads(2)
    if sys.argv[1] == "tiny":
        tiny(pathlib.Path(sys.argv[2]))
    else:
        real(sys.argv[2], sys.argv[3])
