"""Varied lines, and hashes of their token ids by `transformers`, for `crates/hone-model/tests/tokenizers.rs`.

    python tokens.py lines OUT DATA                       writes OUT/token_lines.jsonl (2,000 lines, a JSON string each)
    python tokens.py ids OUT REF/smollm2 REF/gemma3 …     writes OUT/token_ids_NAME.txt

DATA has `text/tinyshakespeare.txt` (public domain), `gsm8k/*.jsonl` (MIT) and `humaneval/*.jsonl` (MIT); the rest of
the lines is written here or drawn by a seeded generator. REF is a directory that `convert_gguf.py` wrote, or any other
Hugging Face directory. A line of the ids file holds, each 8 hexadecimal digits of a SHA-256: the ids (u32, little-endian)
with special tokens added, the text that they decode to, and that text without special tokens. Needs `transformers`.
"""

import hashlib
import json
import pathlib
import random
import struct
import sys

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Portez ce vieux whisky au juge blond qui fume, là-bas, où l'été naît.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío, ¿verdad?",
    "Luís argüia à Júlia que brações, fé, chá, óxido, pôr, zângão eram palavras.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Pchnąć w tę łódź jeża lub ośm skrzyń fig.",
    "Árvíztűrő tükörfúrógép.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Чуєш їх, доцю, га? Кумедна ж ти, прощайся без ґольфів!",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה.",
    "صِف خَلقَ خَودِ كَمِثلِ الشَمسِ إِذ بَزَغَت.",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले।",
    "আমি বাংলায় গান গাই, আমি বাংলার গান গাই।",
    "நான் தமிழ் பேசுகிறேன்; நீங்கள்?",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน",
    "Con sói nâu nhảy qua con chó lười; trời đẹp quá!",
    "天地玄黃,宇宙洪荒。日月盈昃,辰宿列張。",
    "我能吞下玻璃而不伤身体。今天是2024年7月15日,星期一。",
    "いろはにほへと ちりぬるを わかよたれそ つねならむ。",
    "カタカナとひらがなと漢字、そして ASCII が混ざった文です。",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.",
    "აბგდევზთ იკლმნოპჟ რსტუფქღყ.",
    "Հայերեն լեզուն շատ հին է։",
    "ኣማርኛ ቋንቋ ነው።",
    "ᚠᛇᚻ᛫ᛒᛦᚦ᛫ᚠᚱᚩᚠᚢᚱ᛫ᚠᛁᚱᚪ᛫ᚷᛖᚻᚹᛦᛚᚳᚢᛗ",
    "İstanbul'da ığdır, çilek, şöför ve ğ harfi.",
    "Ég get etið gler án þess að meiða mig.",
    "I'll, we've, don't, they'RE, it'S, I'M, you'd — “quotes”, ‘single’, «guillemets» … and — dashes.",
]
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "❤️", "☃", "🫠", "🧑🏿‍🚀", "1️⃣", "©️", "™"]
ODD = [
    "", " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n\n", " \n \n ", "\u00a0", "\u2003\u2009", "\u3000", "\ufeff", "\u200b\u200d",
    "\u0000", "\u0007\u001b[31mred\u001b[0m", "e\u0301 vs \u00e9", "\uac00 vs \u1100\u1161", "ﬁ ﬂ Ⅷ ½ ² ㎏", "\U0001d54f\U0001d550",
    "a" * 300, "-" * 120, "=" * 79, " " * 40 + "x", "\t" * 12 + "y", "word " * 60, "\n" * 45, "ab" * 150,
    "<|im_start|>user\nhello<|im_end|>\n", "<bos>text<eos>", "<start_of_turn>model\nhi<end_of_turn>", "<|endoftext|>", "</s><s>",
    "<tool_call>{}</tool_call>", "a<|im_end|>b", "▁under▁score▁", "▁", "Ġ", "<0x0A>", "[PAD151665]", "<unused7>", "\ud7ff\ue000\ufffd",
    "3.14159265358979", "1,234,567.89", "0x1F 0b1010 1e-10", "2024-02-29T23:59:59Z", "١٢٣٤٥", "१२३", "12345678901234567890", "½¾", "①②③",
]


def generated(random):
    ranges = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x400), (0x400, 0x500), (0x590, 0x600), (0x600, 0x700), (0x900, 0x980)]
    ranges += [(0xE00, 0xE80), (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A0), (0x2000, 0x2070), (0x2190, 0x2600)]
    ranges += [(0x300, 0x370), (0x1F300, 0x1F700), (0x10000, 0x10100)]
    while True:
        kind = random.randrange(7)
        if kind == 0:  # letters of one script
            low, high = random.choice(ranges)
            yield "".join(chr(random.randrange(low, high)) for _ in range(random.randrange(1, 40)))
        elif kind == 1:  # letters of all scripts
            yield "".join(chr(random.randrange(*random.choice(ranges))) for _ in range(random.randrange(1, 40)))
        elif kind == 2:  # numbers and signs
            parts = [str(random.randrange(10 ** random.randrange(1, 12))) for _ in range(random.randrange(1, 8))]
            yield random.choice([" ", ", ", ".", "-", "/", " + ", " = ", "\t", "x"]).join(parts)
        elif kind == 3:  # white space between words
            spaces = [" ", "  ", "    ", "\t", "\n", "\n\n", " \n", "\r\n", "\u00a0", "        "]
            words = random.choice(SENTENCES).split()
            yield "".join(word + random.choice(spaces) for word in words[: random.randrange(2, 9)])
        elif kind == 4:  # emoji in sentences
            words = random.choice(SENTENCES).split()
            words.insert(random.randrange(len(words) + 1), "".join(random.choices(EMOJI, k=random.randrange(1, 4))))
            yield random.choice(["", " "]).join(words[:12])
        elif kind == 5:  # pieces of sentences and odd things run together
            parts = random.choices(SENTENCES, k=2) + random.choices(ODD, k=2)
            random.shuffle(parts)
            yield "".join(part[: random.randrange(1, 30)] for part in parts)
        else:  # words in any letter case with marks
            words = random.choice(SENTENCES).split()[:8]
            change = [str.upper, str.lower, str.title, str.swapcase]
            yield random.choice(["_", "", "-", "...", "::", "(", "\\"]).join(random.choice(change)(word) for word in words)


def lines(out, data):
    draw = random.Random(20240607)
    shakespeare = [line for line in (data / "text/tinyshakespeare.txt").read_text().splitlines() if line]
    problems = [json.loads(line) for path in sorted((data / "gsm8k").glob("*.jsonl")) for line in path.open()]
    solutions = [json.loads(line) for path in sorted((data / "humaneval").glob("*.jsonl")) for line in path.open()]
    code = [solution["prompt"] + solution["canonical_solution"] for solution in solutions]
    chosen = draw.sample(shakespeare, 350) + ["\n".join(shakespeare[i : i + 3]) for i in draw.sample(range(2000), 50)]
    chosen += [draw.choice([p["question"], p["answer"]])[:200] for p in draw.sample(problems, 250)]
    for text in draw.sample(code, 150):
        start = draw.randrange(max(1, len(text) - 200))
        chosen += [text[start : start + 160], text[start:].split("\n", 2)[1] if "\n" in text[start:] else text]
    chosen += SENTENCES + ODD
    more = generated(draw)
    chosen = [text.encode("utf-8", "ignore").decode() for text in chosen]
    while len(chosen) < 2000:
        chosen.append(next(more).encode("utf-8", "ignore").decode())
    with open(out / "token_lines.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in chosen)


def ids(out, directories):
    from transformers import AutoTokenizer

    texts = [json.loads(line) for line in open(out / "token_lines.jsonl", encoding="utf-8")]
    short = lambda value: hashlib.sha256(value).hexdigest()[:8]
    for directory in directories:
        tokenizer = AutoTokenizer.from_pretrained(directory)
        with open(out / f"token_ids_{directory.name}.txt", "w") as file:
            for text in texts:
                ids = tokenizer(text).input_ids
                decoded = [tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False) for skip in (False, True)]
                hashes = [short(struct.pack(f"<{len(ids)}I", *ids))] + [short(text.encode()) for text in decoded]
                file.write(" ".join(hashes) + "\n")


if __name__ == "__main__":
    out, rest = pathlib.Path(sys.argv[2]), [pathlib.Path(argument) for argument in sys.argv[3:]]
    lines(out, rest[0]) if sys.argv[1] == "lines" else ids(out, rest)
