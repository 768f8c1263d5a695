"""Rewards of a reward model, by `transformers`.

    python rewards.py assets/stories260k crates/hone-eval/tests/golden/rewards.json crates/hone/tests/golden/reward_adapter

The decoder of DIR with a fixed random head of one label (`AutoModelForSequenceClassification`): its reward of a few texts, each
alone in its batch, in f32 and in bf16. Kept are the head, the token ids and the rewards, and the names of the tensors that
`save_pretrained` writes, so that the test puts together the same directory. The last argument is a directory for the same as a LoRA
adapter with a head (`task_type: SEQ_CLS`), as PEFT saves it, and its rewards. Needs `torch`, `transformers`, `tokenizers`, `peft`.
"""

import json
import pathlib
import sys
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.",
    "Tom had a red ball.",
    "The",
]


def rewards(directory, dtype, head, ids):
    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1, dtype=dtype).eval()
    model.config.pad_token_id = 0
    model.score.weight.data = head.to(dtype)
    with torch.no_grad():
        return model, [model(input_ids=torch.tensor([own])).logits.float().item() for own in ids]


def adapter(directory, place, ids):
    """A LoRA with disturbed numbers and a head beside it."""
    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = 0
    config = LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(11)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    with torch.no_grad():
        values = [model(input_ids=torch.tensor([own])).logits.item() for own in ids]
    model.save_pretrained(place)
    (pathlib.Path(place) / "README.md").unlink(missing_ok=True)
    golden = {"texts": TEXTS, "rewards": values}
    (pathlib.Path(place) / "expected.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(values)


def main(directory, target, adapter_place):
    tokenizer = Tokenizer.from_file(str(pathlib.Path(directory) / "tokenizer.json"))
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    width = json.loads((pathlib.Path(directory) / "config.json").read_text())["hidden_size"]
    # Numbers that bf16 holds exactly, so that both types have the same head.
    head = torch.randn(1, width, generator=torch.Generator().manual_seed(7)).to(torch.bfloat16).float()
    model, exact = rewards(directory, torch.float32, head, ids)
    _, rounded = rewards(directory, torch.bfloat16, head, ids)
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        with safe_open(pathlib.Path(place) / "model.safetensors", "pt") as file:
            beside = [[name, list(file.get_tensor(name).shape)] for name in file.keys() if "layers" not in name]
    golden = {"head": head[0].tolist(), "tensors": sorted(beside), "texts": TEXTS, "ids": ids, "f32": exact, "bf16": rounded}
    pathlib.Path(target).write_text(json.dumps(golden, indent=1) + "\n")
    print(beside, exact, rounded)
    adapter(directory, adapter_place, ids)


if __name__ == "__main__":
    main(*sys.argv[1:])
