"""Task files of Hone as lm-evaluation-harness wants them.

    python tasks.py --tasks a,b --from tasks --data-root DATA --out DIR

Where a task takes its rows apart with templates (`process_docs` as a mapping, which the harness only has as Python functions),
they are taken apart here, once, and the harness gets the rows it would have made. Data files become absolute paths.
"""

import argparse
import json
import pathlib
import re

import jinja2
import yaml

arguments = argparse.ArgumentParser()
arguments.add_argument("--tasks", required=True)
arguments.add_argument("--from", dest="source", type=pathlib.Path, required=True)
arguments.add_argument("--data-root", type=pathlib.Path, required=True)
arguments.add_argument("--out", type=pathlib.Path, required=True)
a = arguments.parse_args()
a.out.mkdir(parents=True, exist_ok=True)


def regex_find(text, pattern):
    found = re.search(pattern, text)
    if not found:
        return ""
    return found.group(1) if found.re.groups else found.group(0)


environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
environment.filters["regex_find"] = regex_find
environment.filters["regex_split"] = lambda text, pattern: re.split(pattern, text)


def expression(template):
    """`{{ … }}` as a function that keeps lists and numbers as they are."""
    inside = re.fullmatch(r"\s*\{\{(.*)\}\}\s*", template, re.S)
    if inside:
        return environment.compile_expression(inside.group(1), undefined_to_none=False)
    return environment.from_string(template).render


for name in a.tasks.split(","):
    task = yaml.safe_load((a.source / f"{name}.yaml").read_text())
    columns = {key: expression(template) for key, template in (task.pop("process_docs", None) or {}).items()}
    for key in ("main_metric", "chat_template"):
        task.pop(key, None)
    files = task["dataset_kwargs"]["data_files"]
    for split, file in files.items():
        rows = [json.loads(line) for line in open(a.data_root / file, encoding="utf-8") if line.strip()]
        rows = [{**row, **{key: column(**row) for key, column in columns.items()}} for row in rows]
        path = (a.out / f"{name}-{split}.jsonl").absolute()
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        files[split] = str(path)
    (a.out / f"{name}.yaml").write_text(yaml.safe_dump(task, sort_keys=False, allow_unicode=True))
print(json.dumps({"out": str(a.out)}))
