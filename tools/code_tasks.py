#!/usr/bin/env python3
"""Makes four code-comprehension tasks (`assets/code/`) of MBPP's functions (Austin et al. 2021; CC BY 4.0).

    python3 tools/code_tasks.py DATA

- clones: a function beside a copy of it with every name of its own changed, or beside another function: same or not;
- defects: a function as it is, or with one fault put in (an operator, a comparison, a constant or the order of arguments
  changed) that makes one of its tests fail: defective or not;
- assertions: a function and a call of it; the assertion that its test makes;
- summaries: a function; the sentence that asked for it.

Functions of the test part are never in the training part. Everything is by even stride and fixed seeds, and running it again gives
the same bytes. Functions are run here, each test in a process of its own with a time limit: only MBPP's own code and faults of it.
"""

import ast
import copy
import json
import pathlib
import random
import re
import subprocess
import sys

TRAIN, TEST = 300, 60


def main(data):
    rows = [json.loads(line) for line in (data / "mbpp" / "mbpp.jsonl").read_text(encoding="utf-8").splitlines()]
    functions = [function for function in map(read, rows) if function]
    print(f"{len(functions)} of {len(rows)} functions are short and plain enough")
    every = len(functions) // TEST
    test = functions[::every][:TEST]
    chosen = {function["id"] for function in test}
    train = [function for function in functions if function["id"] not in chosen][:TRAIN]
    out = pathlib.Path(__file__).resolve().parent.parent / "assets" / "code"
    out.mkdir(exist_ok=True)
    for name, make in {"clones": clones, "defects": defects, "assertions": assertions, "summaries": summaries}.items():
        for part, own in [("train", train), ("test", test)]:
            made = make(own, random.Random(f"{name} {part}"))
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
            (out / f"{name}_{part}.jsonl").write_text(text, encoding="utf-8")
            print(f"{name}_{part}: {len(made)} rows, {len(text.encode())} bytes")


def read(row):
    """A function with its test, or None where it is long, or is more than one plain function."""
    code = row["code"].replace("\r\n", "\n").replace("\t", "    ").strip()
    try:
        tree = ast.parse(code)
        code = ast.unparse(tree)
        call = ast.parse(row["test_list"][0].strip()).body[0]
    except SyntaxError:
        return None
    plain = len(tree.body) == 1 and isinstance(tree.body[0], ast.FunctionDef) and len(code) < 450
    # `assert call == value`, no more.
    compares = isinstance(call, ast.Assert) and isinstance(call.test, ast.Compare) and isinstance(call.test.left, ast.Call)
    if not plain or not compares or len(call.test.ops) != 1 or not isinstance(call.test.ops[0], ast.Eq) or call.msg:
        return None
    if len(ast.unparse(call)) > 120:
        return None
    summary = re.sub(r"\s+", " ", row["text"]).strip().rstrip(".")
    match = re.match(r"Write a (?:python )?function to (.*)", summary, re.I)
    if not match:
        return None
    return {
        "id": row["task_id"],
        "code": code,
        "tests": [test.strip() for test in row["test_list"]],
        "call": ast.unparse(call.test.left),
        "assertion": ast.unparse(call),
        "summary": match.group(1)[0].upper() + match.group(1)[1:] + ".",
    }


class Renamer(ast.NodeTransformer):
    """Gives the function, its parameters and its variables other names."""

    def __init__(self, names):
        self.names = names

    def visit_Name(self, node):
        node.id = self.names.get(node.id, node.id)
        return node

    def visit_arg(self, node):
        node.arg = self.names.get(node.arg, node.arg)
        return node

    def visit_FunctionDef(self, node):
        node.name = self.names.get(node.name, node.name)
        return self.generic_visit(node)


WORDS = "alpha beta gamma delta item part total left right first second value count index store probe limit bound piece mark".split()


def renamed(code, rng):
    tree = ast.parse(code)
    own = [tree.body[0].name]
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            own.append(node.arg)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.append(node.id)
    own = list(dict.fromkeys(own))
    words = rng.sample(WORDS, min(len(own), len(WORDS)))
    return ast.unparse(Renamer(dict(zip(own, words))).visit(tree))


def clones(functions, rng):
    rows = []
    for i, function in enumerate(functions):
        same = i % 2 == 0
        other = function if same else functions[(i + len(functions) // 2) % len(functions)]
        rows.append({"id": function["id"], "first": function["code"], "second": renamed(other["code"], rng), "label": "yes" if same else "no"})
    return rows


SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}


def faults(code):
    """Every version of the code with one fault."""
    count = sum(1 for _ in ast.walk(ast.parse(code)))
    for at in range(count):
        tree = ast.parse(code)
        node = list(ast.walk(tree))[at]
        if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
            node.op = SWAPS[type(node.op)]()
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            node.ops[0] = SWAPS[type(node.ops[0])]()
        elif isinstance(node, ast.BoolOp):
            node.op = SWAPS[type(node.op)]()
        elif isinstance(node, ast.Constant) and isinstance(node.value, int) and not isinstance(node.value, bool):
            node.value = copy.copy(node.value) + 1
        elif isinstance(node, ast.Call) and len(node.args) == 2:
            node.args.reverse()
        else:
            continue
        yield ast.unparse(tree)


def passes(code, tests):
    program = code + "\n" + "\n".join(tests)
    try:
        done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=2)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def defects(functions, rng):
    rows = []
    for i, function in enumerate(functions):
        code, label = function["code"], "no"
        if i % 2 == 0:
            versions = list(faults(code))
            rng.shuffle(versions)
            broken = next((version for version in versions[:6] if not passes(version, function["tests"])), None)
            if broken is None:
                continue
            code, label = broken, "yes"
        rows.append({"id": function["id"], "code": code, "summary": function["summary"], "label": label})
    return rows


def assertions(functions, _):
    return [{"id": f["id"], "code": f["code"], "call": f["call"], "assertion": f["assertion"]} for f in functions]


def summaries(functions, _):
    return [{"id": f["id"], "code": f["code"], "summary": f["summary"]} for f in functions]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
