"""Makes `assets/needle/needle.jsonl`: sentences that say something made up, hidden in text about other things.

    python3 tools/needle.py path/to/wikitext2_test.txt assets/needle/needle.jsonl

Five lengths by five depths by eight needles, 200 rows; nothing is drawn. The text is WikiText-2 with its spaces as in print,
sentences with unknown words (`<unk>`) left out; each length of each needle begins at another article. A needle goes between
two sentences at 0, 25, 50, 75 and 100 % of the text's words, without a line break around it. The test of Kamradt ("Needle In A
Haystack", 2023) in small, as in Wang et al. 2025 (arXiv 2411.02688).
"""

import json
import re
import sys

WORDS = [50, 100, 200, 300, 400]
DEPTHS = [0.0, 0.25, 0.5, 0.75, 1.0]

# Sentence, question, answer: names and numbers that no text has, so that nothing is known beforehand.
NEEDLES = [
    ("The keeper of the lighthouse at Harrow Point is called Ottoline Vane.",
     "What is the keeper of the lighthouse at Harrow Point called?", "Ottoline Vane"),
    ("The code that opens the blue gate in Merrow is 4817.",
     "Which code opens the blue gate in Merrow?", "4817"),
    ("The best thing to eat in Tessaly Bay is smoked pear with salt.",
     "What is the best thing to eat in Tessaly Bay?", "smoked pear with salt"),
    ("Professor Aldous Quimby keeps his spare key under a copper kettle.",
     "Where does Professor Aldous Quimby keep his spare key?", "under a copper kettle"),
    ("The ferry to Sorrel Island leaves at nine minutes past six.",
     "When does the ferry to Sorrel Island leave?", "nine minutes past six"),
    ("The last king of Varrenmark was buried in a boat of glass.",
     "In what was the last king of Varrenmark buried?", "a boat of glass"),
    ("The password of the Thornbury chess club is marmalade.",
     "What is the password of the Thornbury chess club?", "marmalade"),
    ("Old Mrs Pell of Wexcombe feeds her geese with chestnuts.",
     "With what does old Mrs Pell of Wexcombe feed her geese?", "chestnuts"),
]


def as_printed(line):
    """A line of WikiText with its spaces as in print."""
    line = re.sub(r" @([-,.])@ ", r"\1", line)
    line = re.sub(r" ([,.;:?!%)\]])", r"\1", line)
    line = re.sub(r"([(\[$]) ", r"\1", line)
    line = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m|')(?=[ ,.;:?!]|$)", r"\1", line)
    # Quotation marks stand alone in WikiText, opening and closing by turns.
    pieces = line.split('"')
    for i in range(1, len(pieces), 2):
        pieces[i] = pieces[i].strip()
    return re.sub(r"\s+", " ", '"'.join(pieces)).strip()


def articles(text):
    """The sentences of each article, in order."""
    found = []
    for line in text.split("\n"):
        if re.fullmatch(r" = [^=].* = ", line):
            found.append([])
        elif found and line.strip() and not line.startswith(" ="):
            for sentence in re.split(r"(?<=[.?!]) (?=[A-Z])", as_printed(line)):
                if "<unk>" not in sentence and len(sentence.split()) > 3 and sentence[-1] in ".?!":
                    found[-1].append(sentence)
    return found


def haystack(sentences, words):
    """The first sentences with about so many words, cut at a sentence's end."""
    taken, count = [], 0
    for sentence in sentences:
        length = len(sentence.split())
        if count and abs(count + length - words) > abs(count - words):
            break
        taken.append(sentence)
        count += length
    return taken, count


def hidden(sentences, needle, depth):
    """The sentences with the needle at the border that lies nearest to the depth."""
    lengths = [len(sentence.split()) for sentence in sentences]
    borders = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    at = min(range(len(borders)), key=lambda i: abs(borders[i] - depth * borders[-1]))
    return " ".join(sentences[:at] + [needle] + sentences[at:])


def main(source, target):
    with open(source, encoding="utf-8") as file:
        long_enough = [a for a in articles(file.read()) if sum(len(s.split()) for s in a) > 1.2 * WORDS[-1]]
    rows = []
    for length_index, words in enumerate(WORDS):
        for needle_index, (needle, question, answer) in enumerate(NEEDLES):
            article = long_enough[(length_index * len(NEEDLES) + needle_index) % len(long_enough)]
            sentences, count = haystack(article, words)
            for depth in DEPTHS:
                rows.append({
                    "context": hidden(sentences, needle, depth),
                    "question": question,
                    "answer": answer,
                    "needle": needle,
                    "length": words,
                    "words": count,
                    "depth": depth,
                })
    # In strides that share no factor with 200, so that the first rows of the file have every length, depth and needle.
    with open(target, "w", encoding="utf-8") as file:
        for i in range(len(rows)):
            file.write(json.dumps(rows[i * 61 % len(rows)], ensure_ascii=False) + "\n")
    print(f"{len(rows)} rows of {len(long_enough)} articles")


if __name__ == "__main__":
    main(*sys.argv[1:])
