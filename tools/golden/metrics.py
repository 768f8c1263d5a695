"""Golden values of the text metrics, computed by the reference packages.

Run:  pip install rouge-score sacrebleu nltk
      python tools/golden/metrics.py > crates/hone-eval/tests/golden/metrics.json

Texts are random (seeded) mixtures of words, numbers, punctuation, markup and other scripts; the prediction is the
reference with words dropped, swapped, replaced and re-cased. Stems cover every suffix rule on roots of several shapes.
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
from sacrebleu.metrics import BLEU
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

print(json.dumps({"pairs": rows, "corpus_bleu": corpus, "stems": stems}, ensure_ascii=False, separators=(",", ":")))
