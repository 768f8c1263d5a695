"""The assistant's turns as Hugging Face finds them: chat templates with `{% generation %}` tags set by hand.

    python tools/golden/data_spans.py crates/hone-data/tests/fixtures/templates crates/hone-data/tests/golden/spans.json

Needs transformers and jinja2. For each template the part the assistant writes (its text and its end-of-turn marker) is put
between tags, and `transformers` reports where it lies in the rendered text. Hone has to find the same places in the
template without the tags.
"""

import json
import pathlib
import sys

from transformers.utils.chat_template_utils import render_jinja_template

# Template: (old text, new text), replaced once. Tags work on blocks, so expressions are cut in two where they must be.
TAGS = {
    "smollm2": (
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
        "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
        "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}"
        "{% endif %}{{ '\n' }}",
    ),
    "qwen2.5": (
        "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}",
        "{{- '<|im_start|>' + message.role + '\\n' }}{% if message.role == 'assistant' %}{% generation %}"
        "{{- message.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{- message.content + '<|im_end|>' }}{% endif %}"
        "{{- '\\n' }}",
    ),
    "llama3": (
        "{{ content }}",
        "{% if message['role'] == 'assistant' %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% generation %}"
        "{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}{% else %}{{ content }}{% endif %}",
    ),
    "llama2": (
        "{{ ' '  + content.strip() + ' ' + eos_token }}",
        "{% generation %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endgeneration %}",
    ),
    "gemma": (
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}",
        "{{ '<start_of_turn>' + role + '\n' }}{% if role == 'model' %}{% generation %}"
        "{{ message['content'] | trim + '<end_of_turn>' }}{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ message['content'] | trim + '<end_of_turn>\n' }}{% endif %}",
    ),
    "zephyr": (
        "{{ '<|assistant|>\n'  + message['content'] + eos_token }}",
        "{{ '<|assistant|>\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '' }}",
    ),
    "deepseek-r1": (
        "{{ '<|Assistant|>' + content + '<|end_of_sentence|>' }}",
        "{{ '<|Assistant|>' }}{% generation %}{{ content + '<|end_of_sentence|>' }}{% endgeneration %}",
    ),
}

CONVERSATIONS = [
    [("user", "One?"), ("assistant", "First.")],
    [("user", "One?"), ("assistant", "First."), ("user", "Two?"), ("assistant", "Second\n\nanswer, 日本 🌍.")],
    [("user", "yes"), ("assistant", "yes"), ("user", "yes"), ("assistant", "yes"), ("user", "no"), ("assistant", "yes")],
    [("user", "  spaced  "), ("assistant", "tabs\tand\nlines: 1 < 2 && <b>"), ("user", "{{ x }}"), ("assistant", "{% y %}")],
]


def main(templates: pathlib.Path, out: pathlib.Path) -> None:
    golden = []
    for name, (old, new) in TAGS.items():
        plain = (templates / f"{name}.jinja").read_text()
        assert plain.count(old) == 1, f"{name}: {plain.count(old)} places for the tags"
        tagged = plain.replace(old, new)
        for turns in CONVERSATIONS:
            messages = [{"role": role, "content": content} for role, content in turns]
            tokens = {"bos_token": "<s>", "eos_token": "</s>"}
            (text,), _ = render_jinja_template([messages], chat_template=plain, **tokens)
            (same,), (spans,) = render_jinja_template(
                [messages], chat_template=tagged, return_assistant_tokens_mask=True, **tokens
            )
            assert same == text, f"{name}: the tags change the text\n{same!r}\n{text!r}"
            golden.append({"template": name, "messages": messages, "text": text, "turns": [text[a:b] for a, b in spans]})
    out.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
