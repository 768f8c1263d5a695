"""Attention weights of small checkpoints, by `transformers`.

    python attention.py crates/hone-model/tests/golden/attention.json

Two rows of one sequence: every layer, every head, every key. The checkpoints are those of logits.py (`tiny`) and
`assets/stories260k`; run it from the root of the repository. Needs `torch`, `transformers`.
"""

import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM

IDS = [5, 90, 17, 33, 8, 61, 44, 3, 29, 70, 12, 55, 21, 2]
ROWS = [13, 4]
TINY = pathlib.Path("crates/hone-model/tests/golden/tiny")
MODELS = {name: TINY / name for name in ["llama", "qwen3", "gemma2", "gemma3_text"]}
MODELS["stories260k"] = pathlib.Path("assets/stories260k")


def weights(path):
    """`[rows][layers][heads][keys]`."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        layers = model(torch.tensor([IDS]), output_attentions=True).attentions
    assert all(layer.shape[-2:] == (len(IDS), len(IDS)) for layer in layers)
    of_row = lambda layer, row: [[round(p, 7) for p in head[row].tolist()] for head in layer[0]]
    return [[of_row(layer, row) for layer in layers] for row in ROWS]


def main(target):
    golden = {"ids": IDS, "rows": ROWS, "models": {name: weights(path) for name, path in MODELS.items()}}
    pathlib.Path(target).write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
