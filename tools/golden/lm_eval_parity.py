"""Golden scores: lm-evaluation-harness itself on the tasks of crates/hone-eval/tests/parity.

Run:  pip install lm-eval
      python tools/golden/lm_eval_parity.py HF_DIR crates/hone-eval/tests/golden/lm_eval_NAME.json

HF_DIR is `assets/stories260k` (NAME stories260k), or a Hugging Face directory of SmolLM2-135M-Instruct in f32
(`tools/golden/convert_gguf.py` makes one; NAME smollm2). Every task is run as its file says, and through the chat template as
well where the model has one. For each example the requests and the harness' answers to them are kept.
"""

import hashlib
import json
import os
import pathlib
import sys

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).resolve().parents[2]
TASKS = ROOT / "crates/hone-eval/tests/parity"


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    config = directory / "tokenizer_config.json"
    if config.exists():
        given = json.loads(config.read_text())
        settings = {key: given[key] for key in settings}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"), **settings)
    template = directory / "chat_template.jinja"
    if template.exists():
        tokenizer.chat_template = template.read_text()
    return model, tokenizer


def example(sample):
    texts = [[part for part in request if isinstance(part, str)] for request in sample["arguments"]]
    answers = [r[0] for r in sample["resps"]]
    return {
        "id": sample["doc_id"],
        "requests_sha256": hashlib.sha256("\x1f".join(sum(texts, [])).encode()).hexdigest(),
        "first_request": texts[0],
        "answers": answers,
        "filtered": sample["filtered_resps"] if isinstance(answers[0], str) else None,
        "filter": sample["filter"],
        "metrics": {m: sample[m] for m in sample["metrics"]},
    }


def main():
    directory, output = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    os.chdir(TASKS)  # data files are named relative to the task files
    model, tokenizer = load(directory)
    names = sorted(path.stem for path in TASKS.glob("*.yaml"))
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    golden = {}
    for chat in [False, True] if tokenizer.chat_template else [False]:
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=512)
        out = lm_eval.simple_evaluate(
            model=lm,
            tasks=names,
            task_manager=manager,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            bootstrap_iters=2000,
            log_samples=True,
        )
        for name in names:
            results = {k: v for k, v in out["results"][name].items() if "," in k}
            golden[f"{name}{'+chat' if chat else ''}"] = {
                "results": results,
                "examples": [example(s) for s in out["samples"][name]],
            }
    golden = {"versions": {"lm_eval": lm_eval.__version__, "torch": torch.__version__}, "tasks": golden}
    output.write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":"), default=lambda array: array.tolist()))


main()
