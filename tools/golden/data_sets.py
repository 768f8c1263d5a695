"""Which files of a data set's directory are which split, as Hugging Face's `datasets` finds them.

    python tools/golden/data_sets.py crates/hone-eval/tests/golden/data_sets.json crates/hone/tests/fixtures/ai2_arc

Needs datasets (5.2 here) and pyarrow. The second argument is a directory for a small data set in the columns of `allenai/ai2_arc`. Each layout is a list of files (empty ones: only names decide) and a README.md; asked are the
configurations named, `null` being none. A file that `datasets` lists twice for a split is written once, and the order is that of
the paths' first mention.
"""

import json
import logging
import pathlib
import sys
import tempfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

logging.disable(logging.WARNING)

ARC = """---
license: cc-by-sa-4.0
configs:
- config_name: ARC-Challenge
  data_files:
  - split: train
    path: ARC-Challenge/train-*
  - split: test
    path: ARC-Challenge/test-*
- config_name: ARC-Easy
  data_files:
  - split: train
    path: ARC-Easy/train-*
  - split: validation
    path: ARC-Easy/validation-*
  - split: test
    path:
    - ARC-Easy/test-00000*
    - ARC-Easy/test-00001*
---
# ARC
"""

LAYOUTS = [
    {
        "name": "configurations with shards",
        "readme": ARC,
        "files": [
            "ARC-Challenge/train-00000-of-00001.parquet",
            "ARC-Challenge/test-00000-of-00001.parquet",
            "ARC-Easy/train-00000-of-00002.parquet",
            "ARC-Easy/train-00001-of-00002.parquet",
            "ARC-Easy/validation-00000-of-00001.parquet",
            "ARC-Easy/test-00001-of-00002.parquet",
            "ARC-Easy/test-00000-of-00002.parquet",
        ],
        "ask": ["ARC-Easy", "ARC-Challenge", None, "ARC-Hard"],
    },
    {
        "name": "shards under data",
        "readme": "# No front matter\n",
        "files": [
            "data/train-00001-of-00002-abc.parquet",
            "data/train-00000-of-00002-abc.parquet",
            "data/test-00000-of-00001.parquet",
            "data/human.eval-00000-of-00001.parquet",
            "other/validation.parquet",
        ],
        "ask": [None],
    },
    {
        "name": "splits by file names",
        "readme": "---\nlicense: mit\n---\n",
        "files": [
            "train.jsonl",
            "train_extra.jsonl",
            "my-dev.jsonl",
            "deep/er/a b test 2.jsonl",
            "contest.jsonl",
            "latest.jsonl",
            "evaluation.v2.jsonl",
            "dataset_infos.json",
            ".gitattributes",
        ],
        "ask": [None],
    },
    {
        "name": "splits by directories",
        "readme": "",
        "files": ["train/x.csv", "sub/valid-1/y.csv", "a_test/deep/z.csv", "testing.csv", "attest/w.csv"],
        "ask": [None],
    },
    {"name": "no splits", "readme": "", "files": ["b.jsonl", "a/c.jsonl", "notes.pdf"], "ask": [None]},
    {
        "name": "what is passed over",
        "readme": "",
        "files": [".cache/train.jsonl", "__old__/test.jsonl", "test.jsonl", "config.json", "README.md.bak"],
        "ask": [None],
    },
    {
        "name": "a default configuration",
        "readme": "---\nconfigs:\n- config_name: one\n  data_files: \"*.csv\"\n- config_name: two\n  default: true\n"
        "  data_files:\n  - part0/*\n  - part1/*.jsonl\n- config_name: three\n  data_dir: part1\n---\n",
        "files": ["a.csv", "b.csv", "part0/x.jsonl", "part1/train.jsonl", "part1/val.jsonl", "part1/n.txt"],
        "ask": [None, "one", "two", "three"],
    },
    {
        "name": "the most common kind",
        "readme": "",
        "files": ["train.csv", "test.csv", "train.jsonl", "more_train.csv"],
        "ask": [None],
    },
    {
        "name": "a draw of kinds",
        "readme": "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: \"**\"\n---\n",
        "files": ["a/x.jsonl", "a/y.parquet", "z.txt"],
        "ask": [None, "default"],
    },
]


def splits(directory, name):
    try:
        builder = datasets.load_dataset_builder(str(directory), name)
    except (ValueError, FileNotFoundError) as error:
        return {"error": str(error).splitlines()[0].replace(str(directory), "DIR")}
    found = {}
    for split, files in builder.config.data_files.items():
        relative = [str(pathlib.Path(file).relative_to(directory)) for file in files]
        found[str(split)] = list(dict.fromkeys(relative))
    return {"splits": found}


QUESTIONS = [
    ("Which of these is a source of light?", ["the Sun", "a stone", "a spoon"], "A"),
    ("What do plants take from the air?", ["iron", "carbon dioxide", "salt", "sand"], "B"),
    ("Which animal lays eggs?", ["a cow", "a dog", "a hen"], "C"),
    ("What is ice made of?", ["water", "glass", "air", "wood"], "1"),
    ("Which of these is a planet?", ["the Moon", "Mars"], "B"),
]


def small_arc(directory):
    """Five questions in two shards, with the card's configurations."""
    directory = pathlib.Path(directory)
    (directory / "ARC-Easy").mkdir(parents=True, exist_ok=True)
    (directory / "README.md").write_text(ARC)
    rows = []
    for number, (question, texts, key) in enumerate(QUESTIONS):
        labels = [str(i + 1) for i in range(len(texts))] if key.isdigit() else list("ABCD")[: len(texts)]
        choices = {"text": texts, "label": labels}
        rows.append({"id": f"q{number}", "question": question, "choices": choices, "answerKey": key})
    for shard, part in enumerate([rows[:3], rows[3:]]):
        path = directory / f"ARC-Easy/test-{shard:05}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(part), path)


def main(out, fixture):
    small_arc(fixture)
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as directory:
            directory = pathlib.Path(directory).resolve()
            for file in layout["files"]:
                (directory / file).parent.mkdir(parents=True, exist_ok=True)
                (directory / file).write_text("{}" if file == "dataset_infos.json" else "")
            if layout["readme"]:
                (directory / "README.md").write_text(layout["readme"])
            layout["answers"] = [splits(directory, name) for name in layout["ask"]]
    text = json.dumps({"datasets": datasets.__version__, "layouts": LAYOUTS}, indent=1)
    pathlib.Path(out).write_text(text + "\n")


main(sys.argv[1], sys.argv[2])
