"""TRL's SFTTrainer with a LoRA adapter on conversations, loss on the assistant's turns: the peer of `hone tune`.

    python chat.py --model DIR --data FILE.jsonl --mode padded|packed --batch-size 8 [--examples 100]

FILE has `messages`. `padded` batches rows of about the same length (`group_by_length`); `packed` packs them ("bfd", which keeps
examples apart by their positions). `--examples` draws so many of them, with the same seed always; 0 takes all. `--count` only
tokenises all and counts. `--steps 1` with `--sequential` is the first step, of the first examples. Prints one JSON line.
"""

import argparse
import json
import tempfile
import time

from common import cpu_seconds, peak_rss_mib, settle

arguments = argparse.ArgumentParser()
arguments.add_argument("--model", required=True)
arguments.add_argument("--data", required=True)
arguments.add_argument("--mode", choices=["padded", "packed"], default="padded")
arguments.add_argument("--batch-size", type=int, default=8)
arguments.add_argument("--max-length", type=int, default=512)
arguments.add_argument("--examples", type=int, default=0)
arguments.add_argument("--steps", type=int, default=-1)
arguments.add_argument("--sequential", action="store_true")
arguments.add_argument("--count", action="store_true")
arguments.add_argument("--learning-rate", type=float, default=2e-4)
arguments.add_argument("--warmup", type=int, default=1)
arguments.add_argument("--threads", type=int, default=2)
a = arguments.parse_args()
settle(a.threads)

import datasets
import torch
import transformers
import trl
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

torch.set_num_threads(a.threads)
transformers.utils.logging.set_verbosity_error()
datasets.disable_progress_bars()
IGNORED = -100

# The model's own template with the assistant's turn, and the marker that ends it, between the tags that TRL needs.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

rows = [json.loads(line) for line in open(a.data, encoding="utf-8")]
tokenizer = AutoTokenizer.from_pretrained(a.model)
for row in rows[:50]:
    own = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    assert own == tokenizer.apply_chat_template(row["messages"], tokenize=False, chat_template=TEMPLATE), own
tokenizer.chat_template = TEMPLATE
dataset = datasets.Dataset.from_list([{"messages": row["messages"]} for row in rows])
if a.examples:
    dataset = dataset.select(range(a.examples)) if a.sequential else dataset.shuffle(seed=0).select(range(a.examples))


class Clock(TrainerCallback):
    def __init__(self):
        self.began, self.seconds, self.losses = 0.0, [], []

    def on_step_begin(self, args, state, control, **more):
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **more):
        self.seconds.append(time.perf_counter() - self.began)

    def on_log(self, args, state, control, logs=None, **more):
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


clock = Clock()
out = tempfile.TemporaryDirectory()
trainer = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.bfloat16, attn_implementation="sdpa"),
    args=SFTConfig(
        output_dir=out.name,
        max_length=a.max_length,
        packing=a.mode == "packed",
        assistant_only_loss=True,
        per_device_train_batch_size=a.batch_size,
        train_sampling_strategy="sequential" if a.sequential else "group_by_length" if a.mode == "padded" else "random",
        num_train_epochs=1,
        max_steps=a.steps,
        learning_rate=a.learning_rate,
        lr_scheduler_type="cosine",
        gradient_checkpointing=False,
        bf16=True,
        use_cpu=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=0,
    ),
    train_dataset=dataset,
    processing_class=tokenizer,
    peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
    callbacks=[clock],
)
trainer.remove_callback(transformers.PrinterCallback)
counts = {"tokens": 0, "trained_tokens": 0, "rows": len(trainer.train_dataset)}
for at in range(0, len(trainer.train_dataset), 8):
    # The collator makes the labels, so what is trained is counted from what it gives.
    part = trainer.train_dataset.select(range(at, min(at + 8, len(trainer.train_dataset))))
    batch = trainer.data_collator([dict(row) for row in part])
    counts["trained_tokens"] += int((batch["labels"] != IGNORED).sum())
    mask = batch.get("attention_mask")
    counts["tokens"] += int(mask.sum()) if mask is not None else batch["input_ids"].numel()
result = {"examples": len(dataset), **counts, "version": f"trl {trl.__version__}, torch {torch.__version__}"}
if not a.count:
    # Tokens that each step really computes for, padding aside.
    seen, step = [], trainer.training_step

    def counted(model, inputs, *more, **named):
        mask = inputs.get("attention_mask")
        seen.append(int(mask.sum()) if mask is not None else inputs["input_ids"].numel())
        return step(model, inputs, *more, **named)

    trainer.training_step = counted
    before = cpu_seconds()
    trainer.train()
    skipped = a.warmup if len(clock.seconds) > a.warmup else 0
    result |= {
        "steps": len(clock.seconds),
        "tokens_per_second": sum(seen[skipped:]) / sum(clock.seconds[skipped:]),
        "work_cpu_seconds": cpu_seconds() - before,
        "loss_first": clock.losses[0],
        "peak_rss_mib": peak_rss_mib(),
    }
    # Examples differ in length, so a part of them is timed by its tokens.
    result["examples_per_second"] = result["tokens_per_second"] * len(dataset) / counts["tokens"]
print(json.dumps(result))
