"""Rows of token ids from a text, all of one length, and the same rows as JSONL texts that tokenise to them.

    python rows.py --model DIR --text FILE --rows 800 --length 64 --out PREFIX

Takes pieces of the text in its order, keeps those whose decoded text gives the same ids again, and writes PREFIX.json (rows of
ids, each with the end-of-text token that `hone tune` puts behind a text) and PREFIX.jsonl (`text`).
"""

import argparse
import json

arguments = argparse.ArgumentParser()
arguments.add_argument("--model", required=True)
arguments.add_argument("--text", required=True)
arguments.add_argument("--rows", type=int, required=True)
arguments.add_argument("--length", type=int, default=64)
arguments.add_argument("--out", required=True)
a = arguments.parse_args()

from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(f"{a.model}/tokenizer.json")
end = json.load(open(f"{a.model}/config.json"))["eos_token_id"]
rows, texts = [], []
for line in open(a.text, encoding="utf-8"):
    ids = tokenizer.encode(line.strip(), add_special_tokens=False).ids
    for at in range(0, len(ids) - a.length + 1, a.length):
        piece = ids[at : at + a.length]
        text = tokenizer.decode(piece, skip_special_tokens=False)
        if tokenizer.encode(text, add_special_tokens=False).ids == piece:
            rows.append([*piece, end])
            texts.append(text)
    if len(rows) >= a.rows:
        break
rows, texts = rows[: a.rows], texts[: a.rows]
open(a.out + ".json", "w").write(json.dumps(rows))
open(a.out + ".jsonl", "w", encoding="utf-8").writelines(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)
print(json.dumps({"rows": len(rows)}))
