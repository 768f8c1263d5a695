#!/usr/bin/env python3
"""Cuts the data of the forgetting battery (`assets/battery/`) and of `passages` (`assets/passages/`) out of public data sets.

    python3 tools/battery.py DATA

DATA is the data root, whose README names every set's source and licence. Rows are taken by even stride and never by result;
wrong choices that are made here (translations, values) come from other rows, by a stride too. Running it again gives the same
bytes. The battery is versioned: another cut is another version (`metadata.version` of `tasks/battery_*.yaml`).
"""

import json
import pathlib
import re
import sys

ROWS = 64


def main(data):
    out = pathlib.Path(__file__).resolve().parent.parent / "assets" / "battery"
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in BATTERY.items():
        write(out / f"{name}.jsonl", rows(data))
    write(out.parent / "passages" / "nq.jsonl", passages(data))


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    print(f"{path.name}: {len(rows)} rows, {len(text.encode())} bytes")


def stride(rows, n):
    """`n` of the rows, evenly."""
    return [rows[i * len(rows) // n] for i in range(min(n, len(rows)))]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def choice(question, choices, gold):
    return {"question": question, "choices": choices, "gold": gold}


def knowledge(data):
    rows = lines(data / "mmlu" / "mmlu_test_20_per_subject.jsonl")
    short = [row for row in rows if len(row["question"]) < 400]
    first = {}
    for i, row in enumerate(short):
        first.setdefault(row["subject"], []).append(row)
    # One question a subject, not always its first one.
    picked = [own[i % len(own)] for i, own in enumerate(first.values())]
    return [choice(row["question"], row["choices"], "ABCD".index(row["answer"])) for row in picked]


def options(instruction):
    """The question and the options of an instruction of LLM-Adapters, `Answer1: … Answer2: …`."""
    question = re.search(r"(?s)question: (.*?)\n\n(?:Answer|Solution)1: ", instruction).group(1)
    rest = re.search(r"(?s)((?:Answer|Solution)1: .*)\n\nAnswer format:", instruction).group(1)
    parts = re.split(r"\s*(?:Answer|Solution)\d: ", rest)
    return question, [part.strip() for part in parts[1:]]


def adapters(path, n):
    rows = []
    for row in stride(lines(path), n):
        question, choices = options(row["instruction"])
        rows.append(choice(question, choices, int(re.search(r"\d", row["answer"]).group()) - 1))
    return rows


def science(data):
    return adapters(data / "commonsense" / "arc_easy_test.jsonl", ROWS)


def physical(data):
    return adapters(data / "commonsense" / "piqa_test.jsonl", ROWS)


def coreference(data):
    rows = []
    for row in stride(lines(data / "commonsense" / "winogrande_test.jsonl"), ROWS):
        text = row["instruction"]
        sentence = re.search(r"(?s)given sentence: (.*?)\n\nOption1: ", text).group(1)
        one = re.search(r"(?s)\n\nOption1: (.*?) Option2: ", text).group(1)
        two = re.search(r"(?s) Option2: (.*?) Answer format:", text).group(1)
        before, after = sentence.split("_", 1)
        gold = int(re.search(r"\d", row["answer"]).group()) - 1
        rows.append({"contexts": [before + one, before + two], "after": after.strip(), "gold": gold})
    return rows


def plausibility(data):
    rows = []
    for row in lines(data / "flan_cot" / "sensemaking.jsonl"):
        found = re.findall(r'Sentence [AB]: "(.*?)"\n', row["question"])
        if len(found) == 2 and row["answer"] in ("Sentence A", "Sentence B"):
            # The right one is the one that makes sense.
            rows.append(choice("", found, 1 if row["answer"] == "Sentence A" else 0))
    return stride(rows, ROWS)


def logic(data):
    task = json.loads((data / "bbh" / "boolean_expressions.json").read_text())
    return [choice(row["input"], ["False", "True"], int(row["target"] == "True")) for row in stride(task["examples"], ROWS)]


def induction(data, name, split):
    task = json.loads((data / "instruction_induction" / f"{name}.json").read_text(encoding="utf-8"))
    return [row for row in task["examples"] if row["split"] == split]


def arithmetic(data):
    return [{"input": row["input"].replace(" ", " + "), "output": row["output"]} for row in stride(induction(data, "sum", "test"), ROWS)]


def instructions(data):
    kinds = [
        ("singular_to_plural", "Write the plural form of the word."),
        ("first_word_letter", "Write the first letter of the word."),
        ("larger_animal", "Write the bigger animal of the two."),
        ("negation", "Write the negation of the sentence."),
    ]
    rows = []
    for name, instruction in kinds:
        own = stride(induction(data, name, "test"), ROWS // len(kinds))
        rows += [{"instruction": instruction, "input": row["input"], "output": row["output"]} for row in own]
    return rows


def translation(data):
    own = [row for row in induction(data, "translation_en-es", "test")]
    rows = []
    for i, row in enumerate(stride(own, ROWS)):
        others = [own[(own.index(row) + step) % len(own)]["output"] for step in (17, 41, 67)]
        right = row["output"]
        others = [other for other in others if other != right and other not in row["possible_translations"]]
        choices = others[: i % 4] + [right] + others[i % 4 :]
        rows.append(choice(row["input"], choices, choices.index(right)))
    return rows


def reading(data):
    squad = json.loads((data / "qa_context" / "xquad.en.json").read_text(encoding="utf-8"))
    rows = []
    for article in squad["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"][:1]:
                if len(paragraph["context"]) < 900:
                    answers = [answer["text"] for answer in qa["answers"]]
                    rows.append({"passage": paragraph["context"], "question": qa["question"], "answers": answers})
    return stride(rows, 48)


def key_value(data):
    rows = []
    for row in lines(data / "long_context" / "kv_retrieval_75.jsonl")[:48]:
        records = row["ordered_kv_records"]
        at = next(i for i, (key, _) in enumerate(records) if key == row["key"])
        start = max(0, min(at - 5, len(records) - 12))
        own = records[start : start + 12]
        rows.append({"records": own, "key": row["key"], "choices": [value for _, value in own], "gold": at - start})
    return rows


def code(data):
    rows = [row for row in lines(data / "humaneval" / "HumanEval.jsonl") if len(row["prompt"]) < 800]
    return [{"prompt": row["prompt"], "solution": row["canonical_solution"].rstrip("\n")} for row in stride(rows, 48)]


def word_prediction(data):
    rows = []
    for row in stride(lines(data / "text" / "lambada_test.jsonl"), ROWS):
        context, _, word = row["text"].rpartition(" ")
        rows.append({"context": context, "word": word})
    return rows


def text(data):
    whole = (data / "text" / "wikitext2_test.txt").read_text(encoding="utf-8")
    paragraphs = [p.strip() for p in whole.split("\n") if len(p.split()) > 120 and not p.strip().startswith("=")]
    tidy = lambda p: re.sub(r" @(.)@ ", r"\1", p).replace(" , ", ", ").replace(" . ", ". ").replace(" 's", "'s").removesuffix(" .")
    return [{"text": tidy(p)} for p in stride(paragraphs, 24)]


def passages(data):
    """Questions with the paragraph that has the answer, and with another question's paragraph, which has not."""
    rows = [row for row in lines(data / "qa_context" / "nq_open_oracle.jsonl") if len(row["context"]) < 1200]
    picked = stride(rows, 120)
    out = []
    for i, row in enumerate(picked):
        # The next paragraph, half around the list, that has none of the answers.
        others = (picked[(i + len(picked) // 2 + step) % len(picked)] for step in range(len(picked)))
        has = lambda other: any(answer.lower() in other["context"].lower() for answer in row["answers"])
        other = next(other for other in others if other is not row and not has(other))
        out.append({
            "question": row["question"],
            "answers": row["answers"],
            "title": row["title"],
            "passage": row["context"],
            "other_title": other["title"],
            "other_passage": other["context"],
        })
    return out


BATTERY = {
    "knowledge": knowledge,
    "science": science,
    "physical": physical,
    "plausibility": plausibility,
    "coreference": coreference,
    "logic": logic,
    "arithmetic": arithmetic,
    "reading": reading,
    "instructions": instructions,
    "translation": translation,
    "code": code,
    "key_value": key_value,
    "word_prediction": word_prediction,
    "text": text,
}

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
