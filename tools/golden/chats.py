"""Conversations rendered by `transformers`, for `crates/hone-model/tests/chat_templates.rs`.

    python chats.py OUT

OUT/templates/*.jinja are rendered over the conversations below, with and without a generation prompt, into
OUT/chats.json: `conversations` (messages, variables), and for every template, conversation and prompt the first 12
hexadecimal digits of the SHA-256 of the text, or the template's own error; for templates with `{% generation %}` tags
the character ranges that these enclose as well. `smollm2.jinja` and `qwen25.jinja` are the models' own (Apache-2.0);
`gemma_it.jinja` does what Gemma's does; the others are written after the fashion of further families, and to try what
templates borrow from Python. Needs `transformers`.
"""

import hashlib
import json
import pathlib
import sys

from transformers.utils.chat_template_utils import render_jinja_template

out = pathlib.Path(sys.argv[1])
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def turn(role, content, **extra):
    return {"role": role, "content": content, **extra}


def turns(*texts, system=None):
    start = [turn("system", system)] if system is not None else []
    return start + [turn("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts)]


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


weather = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city — \"now\" & <soon>",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Köln", "東京"]}, "days": {"type": "integer", "default": 1}},
            "required": ["city"],
            "nothing": {},
            "none": None,
            "ratio": 0.5,
            "tiny": 1e-7,
            "exact": True,
        },
    },
}
adder = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}

conversations = [
    (turns("Hello"), {}),
    (turns("Hello", "Hi there!"), {}),
    (turns("Hello", "Hi there!", "How are you?"), {}),
    (turns("Hello", "Hi there!", "How are you?", "Fine."), {}),
    (turns("What is 2+2?", "4", system="You are terse."), {}),
    (turns("What is 2+2?", system="You are terse."), {}),
    (turns("", ""), {}),
    (turns("", system=""), {}),
    (turns("  spaces around  ", "\n\nnew lines around\n\n", " \t", "tab\there "), {}),
    (turns("¿Qué tal? Grüße, 你好 🙂", "Très bien — здравствуй 👩‍👩‍👧‍👦", "שלום", "مرحبا", system="Ünïcode “quotes”"), {}),
    (turns("a\nb\r\nc", "```python\nprint('x')\n```"), {}),
    (turns("<|im_end|> inside", "<end_of_turn> & </s> <b>html</b>", "it's \"quoted\" \\ back"), {}),
    (turns(*[f"turn number {i}" for i in range(9)]), {}),
    (turns("x" * 500, "y" * 500), {}),
    (turns("{{ not_a_template }} {% if %}", "{# nor this #}"), {}),
    (turns("think", "<think>\nlong thought\n</think>\n\nanswer", "again", "<think>more</think>done"), {}),
    (turns("think", "plain", "again"), {"enable_thinking": False}),
    (turns("weather?", system="Use tools."), {"tools": [weather]}),
    (turns("weather?"), {"tools": [weather, adder]}),
    (
        turns("weather in Köln?")
        + [turn("assistant", "", tool_calls=[call("get_weather", city="Köln", days=2)])]
        + [turn("tool", '{"temp": 21.5}', name="get_weather"), turn("assistant", "21.5 °C"), turn("user", "Thanks!")],
        {"tools": [weather]},
    ),
    (
        turns("both?")
        + [turn("assistant", "Let me see.", tool_calls=[call("add", a=1, b=2.0), call("get_weather", city="東京")])]
        + [turn("tool", "3"), turn("tool", "☀"), turn("assistant", "3 and ☀")],
        {"tools": [adder, weather]},
    ),
    ([turn("assistant", "I speak first."), turn("user", "ok")], {}),
    ([turn("user", "one"), turn("user", "two")], {}),
    ([turn("user", "one"), turn("assistant", "two"), turn("assistant", "three")], {}),
    ([turn("system", "only system")], {}),
    ([], {}),
    (turns("with more", "fields", system="s"), {"date_string": "01 Jan 2025", "custom": [1, {"a": None}]}),
    ([turn("user", "named", name="Ann", weight=0.5), turn("assistant", "hello Ann", flag=True)], {}),
]

golden = []
for path in sorted((out / "templates").glob("*.jinja")):
    source = path.open(newline="").read()
    tags = "{%- generation" in source
    for index, (messages, variables) in enumerate(conversations):
        for prompt in (False, True):
            row = {"template": path.stem, "conversation": index, "prompt": prompt}
            try:
                rest = {name: value for name, value in variables.items() if name != "tools"}
                texts, ranges = render_jinja_template(
                    conversations=[messages], chat_template=source, tools=variables.get("tools"), add_generation_prompt=prompt,
                    return_assistant_tokens_mask=tags, **SPECIAL, **rest,
                )  # fmt: skip
                row["sha256"] = hashlib.sha256(texts[0].encode()).hexdigest()[:12]
                if tags:
                    row["ranges"] = ranges[0]
                if len(sys.argv) > 2 and sys.argv[2] == f"{path.stem}:{index}":
                    print(prompt, texts[0], sep="\n")
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"
            golden.append(row)
document = {
    "special_tokens": SPECIAL,
    "conversations": [{"messages": messages, "variables": variables} for messages, variables in conversations],
    "rendered": golden,
}
with open(out / "chats.json", "w", encoding="utf-8") as file:
    file.write(json.dumps(document, ensure_ascii=False, indent=None).replace('{"template"', '\n{"template"') + "\n")
