"""Golden values of the text metrics, computed by the reference packages.

Run:  pip install rouge-score sacrebleu nltk
      python tools/golden/metrics.py > crates/hone-eval/tests/golden/metrics.json

Texts are random (seeded) mixtures of words, numbers, punctuation, markup and other scripts; the prediction is the
reference with words dropped, swapped, replaced and re-cased. Stems cover every suffix rule on roots of several shapes.
Translations (chrF, TER) are sentences of few or many different words, with blocks of them moved.
"""

import collections
import json
import logging
import random
import re
import string

import sacrebleu
from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

logging.disable(logging.WARNING)
rnd = random.Random(20260)


# The three functions below are those of the official SQuAD 2.0 evaluation script (evaluate-v2.0.py).
def normalize_answer(s):
    s = s.lower()
    s = "".join(ch for ch in s if ch not in set(string.punctuation))
    s = re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", s)
    return " ".join(s.split())


def get_tokens(s):
    return normalize_answer(s).split() if s else []


def compute_f1(a_gold, a_pred):
    gold_toks, pred_toks = get_tokens(a_gold), get_tokens(a_pred)
    common = collections.Counter(gold_toks) & collections.Counter(pred_toks)
    num_same = sum(common.values())
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return int(gold_toks == pred_toks)
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(pred_toks)
    recall = 1.0 * num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


WORDS = """the a an quick brown foxes jumped running lazily dogs over house relational conditional happy happily naïve
café Überprüfung data 数据 модели 3.14 1,000 $5 2-3 well-known it's don't U.S. e.g. &amp; &quot;quoted&quot; <b> flies dying
generalizations controlling hopefulness agreed feed plastered motoring sing I.B.M. x=y a/b [1] {k} 100% #tag @user co-op
end-to-end 5- -5 -- ... ?! (see below) newspapers sky skies news İstanbul K ﬁne yyyy""".split()
ENDS = [".", "!", "?", " .", "...", ""]


def sentence():
    words = rnd.choices(WORDS, k=rnd.randint(1, 14))
    text = " ".join(words)
    if rnd.random() < 0.3:
        text = text.replace(" ", ", ", 1)
    return text + rnd.choice(ENDS)


def reference():
    return "\n".join(sentence() for _ in range(rnd.choice([1, 1, 2, 3])))


def perturb(text):
    words = text.split(" ")
    for _ in range(rnd.randint(0, 4)):
        if not words:
            break
        at = rnd.randrange(len(words))
        action = rnd.random()
        if action < 0.3:
            del words[at]
        elif action < 0.5:
            words[at] = rnd.choice(WORDS)
        elif action < 0.7:
            words.insert(at, rnd.choice(WORDS))
        elif action < 0.85:
            words[at] = words[at].upper()
        else:
            other = rnd.randrange(len(words))
            words[at], words[other] = words[other], words[at]
    return " ".join(words) + rnd.choice(["", "", "\n", " "])


pairs = [(reference(), reference()) for _ in range(140)]
pairs = [(first, perturb(second), perturb(first)) for first, second in pairs]
pairs += [("", "", ""), ("", "x", "y"), ("the", "an", "a"), ("one", "", "one"), ("a\n\nb c", "b", "b c\n\n\na")]

types = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
stemmed, plain = (rouge_scorer.RougeScorer(types, use_stemmer=s) for s in (True, False))
rows = []
for first, second, prediction in pairs:
    row = {"references": [first, second], "prediction": prediction}
    for key, scorer in (("stemmed", stemmed), ("plain", plain)):
        scores = scorer.score(first, prediction)
        row[key] = [[float(x) for x in scores[t]] for t in types]
    row["tokens"] = Tokenizer13a()(prediction.rstrip()).split()
    row["bleu"] = [
        BLEU(smooth_method=s, effective_order=e).sentence_score(prediction, [first, second]).score
        for s in ("exp", "floor", "add-k", "none")
        for e in (False, True)
    ]
    row["squad_normalized"] = normalize_answer(prediction)
    row["squad_f1"] = float(compute_f1(first, prediction))
    row["squad_exact"] = int(normalize_answer(first) == normalize_answer(prediction))
    rows.append(row)

predictions = [p for _, _, p in pairs]
corpus = {
    s: [
        sacrebleu.corpus_bleu(predictions, [[f for f, _, _ in pairs]], smooth_method=s).score,
        sacrebleu.corpus_bleu(
            predictions, [[f for f, _, _ in pairs], [s2 for _, s2, _ in pairs]], smooth_method=s
        ).score,
    ]
    for s in ("exp", "floor", "add-k", "none")
}

roots = "abc cat tr oat troubl fall fail hop siz conflat try y yy fly ski gener oper vile geo archaeo ally radic s ab ex".split()
suffixes = """ sses ies ss s eed ed ing ied y ational tional enci anci izer bli abli alli entli eli ousli ization ation ator
alism iveness fulness ousness aliti iviti biliti fulli logi logies icate ative alize iciti ical ful ness al ance ence er ic
able ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize e ll lling bled ating izing ally""".split(" ")
words = sorted({root + suffix.strip() for root in roots for part in suffixes for suffix in part.split("\n")})
words += "sky skies die dying lie lying tie tying news innings outings cannings howe proceed exceed succeed a1s 2nd 1990s".split()
stemmer = PorterStemmer()
stems = [[w, stemmer.stem(w)] for w in words if w]

# Translations: several scripts, empty sides, blocks moved about, and texts long enough for TER's limits on shifts and beam.
MORE = """Der die das große Straße ΣΊΣΥΦΟΣ λόγος ΟΔΥΣΣΕΎΣ мир труд Ёлка 東京 は 日本 の 首都 です 。 中国 人民 的 生活 한국어 문장 입니다
हिन्दी वाक्य है العربية جملة، שלום עולם ฉัน รัก เธอ voilà l'été ﬁn İzmir ıslak (hi) "quoted" end. ... - a,b x　y 👍🏽 éclair
""".split()


def shifted(words):
    words = list(words)
    for _ in range(rnd.randint(1, 3)):
        if len(words) < 3:
            break
        start = rnd.randrange(len(words))
        block = words[start : start + rnd.randint(1, 12)]
        del words[start : start + len(block)]
        at = rnd.randint(0, len(words))
        words[at:at] = block
    return words


def noisy(words, rate):
    out = []
    for word in words:
        draw = rnd.random()
        if draw < rate / 3:
            continue
        out.append(rnd.choice(vocabulary) if draw < rate * 2 / 3 else word)
        if rate * 2 / 3 <= draw < rate:
            out.append(rnd.choice(vocabulary))
    return [word.upper() if rnd.random() < 0.05 else word for word in out]


cases = []
for number in range(90):
    # Few different words make many blocks that could be shifted.
    vocabulary = rnd.sample(WORDS + MORE, rnd.choice([4, 12, 60]))
    length = rnd.choice([0, 1, 3, 8, 8, 20, 20, 45]) if number < 80 else rnd.randint(90, 130)
    words = rnd.choices(vocabulary, k=length)
    hypothesis = noisy(shifted(words), rnd.choice([0, 0.1, 0.4]))
    references = [words] + [noisy(shifted(words), 0.5) for _ in range(rnd.choice([0, 0, 1, 2]))]
    separators = [" ", " ", "  ", "\n", "\u3000"]
    join = lambda ws: "".join(w + rnd.choice(separators) for w in ws)
    cases.append((join(hypothesis), [join(r) for r in references]))
spread = [f"w{i}" for i in range(160)]
cases += [
    ("", [""]),
    ("", ["one two"]),
    ("one two", [""]),
    ("one two", ["", "one three"]),
    ("d e f a b c", ["a b c d e f"]),
    ("a a a a b", ["b a a a a"]),
    ("x", [" ".join(spread)]),
    ("w99 x", [" ".join(spread)]),
    (" ".join(spread), ["w80"]),
    (" ".join(spread[70:] + spread[:70]), [" ".join(spread)]),
    (" ".join(spread[45:60] + spread[:45] + spread[60:]), [" ".join(spread)]),
    (" ".join(spread[:40] + spread[90:]), [" ".join(spread)]),
    ("ΟΔΥΣΣΕΎΣ ΣΑΣ İSTANBUL", ["οδυσσεύς σας i̇stanbul"]),
]
# So many blocks could be shifted that a thousand candidates are soon tried.
for _ in range(6):
    length = rnd.randint(50, 80)
    cases.append((" ".join(rnd.choices("abcd", k=length)), [" ".join(rnd.choices("abcd", k=length))]))
rows_of_translations = []
for hypothesis, references in cases:
    ter = TER().sentence_score(hypothesis, references)
    rows_of_translations.append(
        {
            "hypothesis": hypothesis,
            "references": references,
            "chrf": CHRF().sentence_score(hypothesis, references).score,
            "chrf++": CHRF(word_order=2).sentence_score(hypothesis, references).score,
            "ter": ter.score,
            "edits": ter.num_edits,
            "words": float(ter.ref_length),
        }
    )
corpora = []
# All with their first reference, and those that have three with all of them.
for some, count in ((cases, 1), ([c for c in cases if len(c[1]) == 3], 3)):
    hypotheses = [h for h, _ in some]
    streams = [[references[i] for _, references in some] for i in range(count)]
    corpora.append(
        {
            "references": count,
            "chrf": sacrebleu.corpus_chrf(hypotheses, streams).score,
            "chrf++": sacrebleu.corpus_chrf(hypotheses, streams, word_order=2).score,
            "ter": sacrebleu.corpus_ter(hypotheses, streams).score,
        }
    )

golden = {
    "pairs": rows,
    "corpus_bleu": corpus,
    "stems": stems,
    "translations": rows_of_translations,
    "corpora": corpora,
}
print(json.dumps(golden, ensure_ascii=False, separators=(",", ":")))
