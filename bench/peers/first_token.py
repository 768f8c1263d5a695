"""From a cold process to the first token with transformers: the peer of `hone generate --max-new-tokens 1`.

    python first_token.py --model DIR --prompt TEXT
"""

import argparse

arguments = argparse.ArgumentParser()
arguments.add_argument("--model", required=True)
arguments.add_argument("--prompt", default="The capital of France is")
a = arguments.parse_args()

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(a.model)
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.bfloat16)
ids = tokenizer(a.prompt, return_tensors="pt")
with torch.inference_mode():
    out = model.generate(**ids, max_new_tokens=1, do_sample=False)
print(tokenizer.decode(out[0, ids.input_ids.shape[1] :]))
print(f"torch {torch.__version__}, transformers {transformers.__version__}")
