"""What `transformers` writes under a repetition penalty, which goes over the tokens of the prompt and of the answer so far.

    python tools/golden/penalty.py assets/stories260k crates/hone-model/tests/golden/penalty.json

Each row is a penalty, the prompt's ids and the tokens that greedy decoding makes of it, 40 or up to an end-of-text token. Needs `torch` and `transformers`.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [
    "Once upon a time, there was a little girl named Lily. She loved to play",
    "The dog ran and ran and ran and",
    "One day",
]
PENALTIES = [0.8, 1.0, 1.1, 1.5, 3.0]

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
rows = []
for prompt in PROMPTS:
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    for penalty in PENALTIES:
        written = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, repetition_penalty=penalty, max_new_tokens=40,
            pad_token_id=0,
        )
        rows.append({"penalty": penalty, "prompt": ids[0].tolist(), "written": written[0, ids.shape[1] :].tolist()})
with open(sys.argv[2], "w") as out:
    json.dump(rows, out, separators=(",", ":"))
