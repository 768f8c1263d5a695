"""What Jinja templates of task files print, as lm-evaluation-harness renders them.

    python tools/golden/jinja.py crates/hone-eval/tests/golden/jinja.json

Needs lm_eval (0.4.13 here) and jinja2 (3.1). Writes the row and, for every template, the text that the harness' own `apply_template` gives;
`null` where it raises an error. Python's generators print their address, so templates here make lists of them.
"""

import json
import sys

from lm_eval.utils import apply_template

ROW = {
    "q": "Tim saw 2 dogs.", "t": "the QUICK brown-fox\tjumped over\n it's  lazy_dog", "v": 2.5, "n": 7, "neg": -3, "big": 10**12, "f": 2e-07,
    "l": [1, 2, 2], "w": ["a", "b's", "ç"], "s": {"b": 1, "a": None, "B": "x"}, "b": False, "y": True, "opt": None, "empty": "",
    "rows": [{"k": 2, "m": "x"}, {"k": 1, "m": "y"}, {"k": 2, "m": "z"}], "u": "straße ΣΑΣ ǆ ﬁ İ é ½ ² ٣ 三", "sp": "\x1c a\u00a0b \u200b\x1f",
    "h": "<p>Fish &amp; <b>chips</b>\n &lt;now&gt; &eacute;&nbsp;&euro;5 &copy 1 &#8364; &#x80; &bogus; <!-- no <i> --> end < 3",
    "long": "The quick-brown fox -- jumped over antidisestablishmentarianism and well-known so-called dogs; e.g. x-ray--like.",
    "lines": "a\r\nb\vc\u2028d\n\ne\n",
}

METHODS = """
zfill(30) zfill(2) partition('w') partition('zz') rpartition(' ') rpartition('zz') rsplit(' ',1) rsplit() rsplit('s') rsplit(maxsplit=1)
ljust(20) ljust(20,'.') rjust(20,'é') center(20) center(21,'*') center(3) swapcase() casefold() expandtabs() expandtabs(4) expandtabs(0)
removeprefix('Tim') removeprefix('x') removesuffix('.') isdigit() isdecimal() isnumeric() isalpha() isalnum() islower() isupper() isspace()
istitle() isascii() title() capitalize() upper() lower() strip() lstrip() rstrip() strip('.T') lstrip('T') rstrip('.') split() split(' ',1)
split(None,2) split('s',-1) split(maxsplit=1) splitlines() splitlines(true) find('w') find('s',5) find('zz') rfind('s') rfind('s',0,5)
index('saw') index('zz') rindex('s') count('s') count('') count('s',5) startswith('Tim') startswith(('x','Ti')) startswith(['x','Ti'])
startswith('saw',4) endswith('.') endswith('saw',0,7) replace('s','_') replace('s','_',1) replace('','-') replace('','-',2) replace('s','_',0)
replace('s','_',-1) join(['a','b']) join([1,2]) join('ab') join(w) zfill() zfill('a') center('a') split('') partition('') ljust(9,'ab')
"""
TEXTS = ["q", "t", "u", "sp", "lines", "empty", "'-7'", "'٣²'", "'Ab Cd'"]

FILTERS = """
truncate(9) truncate(12) truncate truncate(9,true) truncate(9,false,'..',0) truncate(9,end='',leeway=0) truncate(length=5,killwords=true,end='!')
truncate(2) wordcount center(40) center center(width=21) wordwrap(8) wordwrap(20) wordwrap(20,false) wordwrap(width=12,wrapstring='|')
wordwrap(9,break_on_hyphens=false) wordwrap(7,break_long_words=false,break_on_hyphens=false) wordwrap(0) striptags title capitalize upper lower trim
trim('.T') replace('s','_') replace('s','_',1) replace('s','_',count=2) replace('',"-",2) length reverse first last string list indent indent(2,true)
e urlencode default('z') join('-') pprint tojson unique|list int float escape lower|title replace('a',1) replace(2,3)
"""
PERCENT = """
'%s'%l|'%s'%w|'%r'%q|'%s and %s'%(q,n)|'%s'%(l,)|'%05.2f'%v|'%d'%v|'%d'%n|'%5d|'%n|'%-5d|'%n|'%+d'%n|'% d'%n|'%05d'%neg|'%.3d'%n|'%x'%255|'%#x'%255|'%#o'%8
'%X'%255|'%e'%v|'%.0e'%v|'%g'%v|'%g'%f|'%G'%f|'%.3g'%big|'%#.3g'%n|'%f'%n|'%.0f'%0.5|'%.0f'%1.5|'%#.0f'%v|'%c'%65|'%c'%'x'|'%c'%'xy'|'%%'%()|'100%%'%()
'%s%%'%n|'%(a)s'%s|'%(b)05d %(B)r'%s|'%(zz)s'%s|'%5s|'%'é'|'%-5s|'%'é'|'%.2s'%q|'%5.1s|'%q|'%*d'%(5,n)|'%-*d|'%(5,n)|'%.*f'%(1,v)|'%s'%none|'%s'%true|'%d'%true
'%a'%'é'|'%r'%'é'|'%s'%s|'%s'%v|'%s'%1e20|'%s %s'%n|'%s'%(1,2)|'abc'%n|'abc'%l|'%d'%q|'%x'%v|'%i'%n|'%u'%n|'%ld'%n|'%y'%n|'%'%n|'%05s|'%q[0]|'%s'%q|'%s'%q|upper
'%s' % n + 1|'%s' % n ~ 1|'%s %%s' % n % v|'a%s' % n * 2|'%s' % n == '7'|'%d' % neg|'%s' % -n|'%d' % n ** 2|'%s' % n is string|'%s' % (n if y else v)
'%s' % n if y else 'z'|['%s' % n, '%s' % v]|{'a': '%s' % n}|('%s' % n)|length|('%s' % n).zfill(3)|'%s' % w[0]|'%s' % s.b|'%s' % q.split(' ')|first|'a' ~ '%s' % n
w|map('format')|list|w|map('upper')|list|"%s" % n|'it''s %s' % n|n % 4|-n % 4|neg % 4|n % -4|v % 2|'%s' % n % 4|q ~ n % 4|10 - n % 4 * 2|'%.1f%%' % v|'%5.1f|%-8s|' % (v, q[:3])
'%s'|format(l)|'%05.2f'|format(v)|'%s %s'|format(q,n)|'%(a)s-%(b)s'|format(a=1,b=v)|'%s'|format(none)|'%d%%'|format(n)|'%s'|format|'%s'|format(1,2)|'%r'|format(q)
"%s" % 'a' 'b'|'a' 'b%s' % n|'\\\\%s' % n|'%s' % '}}'|'%s' % "%}"|'{{ %s' % n
"""
FORMAT = """
'{0} {1}'.format(1,'x')|'{x:>5}|'.format(x=3)|'{}'.format(l)|'{}'.format(none)|'{!r}'.format(q)|'{!s:>20}'.format(l)|'{!a}'.format('é')|'{:5}|'.format('é')|'{:5}|'.format(n)
'{:^7}|'.format('ab')|'{:*^7}'.format('ab')|'{:é<4}'.format('ab')|'{:05}'.format('a')|'{:05}'.format(neg)|'{:+}'.format(n)|'{: }'.format(n)|'{:,}'.format(big)|'{:_}'.format(big)
'{:012,}'.format(1234)|'{:08,}'.format(1234)|'{:010,.1f}'.format(1234.56)|'{:x}'.format(255)|'{:#x}'.format(255)|'{:#010x}'.format(255)|'{:_b}'.format(255)|'{:,b}'.format(255)|'{:o}'.format(8)
'{:.2f}'.format(v)|'{:8.2f}|'.format(v)|'{:<8.2f}|'.format(v)|'{:=+8.2f}'.format(v)|'{:%}'.format(0.25)|'{:.1%}'.format(0.255)|'{:e}'.format(v)|'{:g}'.format(v)|'{:.3}'.format(v)|'{:.3}'.format(123.0)
'{:.3}'.format(q)|'{:.2}'.format(n)|'{:d}'.format(v)|'{:d}'.format(n)|'{:d}'.format(q)|'{:s}'.format(n)|'{:s}'.format(q)|'{:c}'.format(65)|'{}'.format(y)|'{:5}|'.format(y)|'{:d}'.format(y)
'{:>5}'.format(none)|'{:>5}'.format(l)|'{{}}'.format()|'{{{}}}'.format(n)|'{} {}'.format(n)|'{} {0}'.format(n)|'{1}'.format(n)|'{0[a]}'.format(s)|'{0[1]}'.format(w)|'{0.a}'.format(s)|'{a}'.format(a=v)
'{a}'.format(n)|'{:{}}|'.format(n,5)|'{:{w}.{p}f}'.format(v,w=8,p=1)|'{'.format(n)|'}'.format(n)|'{:.0f}'.format(0.5)|'{:.0f}'.format(1.5)|'{:#.0f}'.format(2)|'{:G}'.format(f)|'{}'.format(f)
'{}'.format(1e16)|'{:,}'.format(1234567.891)|'{:10}|'.format(v)|'{:z>5}'.format(n)|'{:n}'.format(n)|'{:y}'.format(n)|'{:+}'.format(q)|'{:=5}'.format(q)|'{!x}'.format(q)|'{:<05}'.format(n)
"""
OTHERS = """
(1,2)|(1,)|()|((1,2),[3,(4,)])|('a',"b's")|s.items()|list|s|items|list|s|dictsort|s|dictsort(true)|s|dictsort(false,'value')|s|dictsort(by='key',reverse=true)|{'z':1,'A':2}|dictsort
rows|groupby('k')|list|(rows|groupby('k')|list)[0].grouper|(rows|groupby('k')|list)[0].list|(rows|groupby('k')|list)[0][1]|(1,2)+(3,)|(1,2)[0]|(1,2)*2|(1,2)[::-1]|(1,2)|list|(1,2)|length
(1,2)|join('-')|(1,2)|string|(1,2)~''|[(1,2)]~''|(1,2)==[1,2]|(1,2)==(1,2)|1 in (1,2)|(1,2,1).count(1)|(1,2).index(2)|(1,2)|first|(2,1)|sort|(1,2)|reverse|list|(1,2) is sequence|{(1,2): 3}
q.partition(' ')[2]|(n, v)|[l, (l,)]|(none, true, 1.0)|s.keys()|list|s.values()|list|[1,2]|zip|dict(a=1).items()|list|[('a',1)]|dict if false else 1|range(3)|list|l|slice(2)|list|l|batch(2)|list
' ' if b|' ' if y|q if q is defined|zz if zz is defined|(zz if b)|length|(1 if b) ~ 'x'|(1 if b)|default('d')|[1 if b]|[(1 if b)]|join|'x' if b else ''|((1 if b) if y)|(1 if b) is defined|(1 if b)|list
(1 if b)|string|(1 if b)|upper|(1 if b) + 1|(1 if b).a|(1 if b) == ''|not (1 if b)|zz|[zz]|zz is defined|zz|default('z')|s.zz|s.zz|default('z')|s['zz'] is defined|rows[9]|l[9] is defined|zz ~ 'a'
l|string|w|string|none|string|s|string|true|string|1.0|string|'a'~none|'a'~true|'a'~1.0|'a'~1e20|'a'~l|'a'~w|'a'~s|'a'~{'x': none}|l|join(', ')|[none,true,1.5]|join(',')|w|join|[w,none]|join
l|sum|l|max|l|min|l|unique|list|v|round|v|round(1)|3.14159|round(2)|n|round|2.675|round(2)|v|round(0,'floor')|v|round(method='ceil')|n/2|n//2|neg//2|n**2|2**-1|7.0//2|1e20|1e-5|0.1+0.2|10/5|big*big
l|tojson|s|tojson|q|tojson|"<a href='x'>&é</a>"|tojson|{'b':1,'a':[1.0,none]}|tojson|l|tojson(2)|"<a href='x'>\\"&/</a>"|e|l|pprint|s|pprint|q|pprint|"they're bill's friends (from-x)"|title|"they're x2y"|capitalize
w|map('upper')|list|w|map('length')|list|l|map('string')|join|rows|map(attribute='k')|list|rows|selectattr('k','ge',2)|list|rows|selectattr('m','in',['x'])|map(attribute='k')|list|l|select('odd')|list
l|reject('equalto',2)|list|rows|rejectattr('k')|list|rows|sort(attribute='m',reverse=true)|list|w|sort|['b','A','c']|sort|['b','A','c']|sort(true)|'bAc'|sort|l|reverse|list|q|list|q|reverse|q[::-1]|q[3:]|q[-5:-1]|l[::2]
l.index(2)|l.count(2)|l.index(9)|s.get('b')|s.get('zz')|s.get('zz',3)|n is odd|n is divisibleby 7|n is number|v is float|y is boolean|q is string|l is iterable|s is mapping|none is none|v.is_integer()|2.0.is_integer()
'3'|int+1|'3.5'|int|'0x1f'|int(0,16)|'1_0'|int|'x'|int(5)|v|int|none|int|true|int|'3.5'|float|'x'|float|'x'|float(2.5)|none|float|'1e3'|float|l|length|s|length|q|wordcount|v|abs|neg|abs|n|wordcount|none|wordcount|l|truncate(9)
loop is defined|1 < 2 < 3|'a' < 'b'|1 if y else 2|not b|b or 'x'|'' or none|l and w|'a' in q|9 not in l|q == q|1 == 1.0|true == 1|l == [1,2,2]|s == {'a': none,'b': 1,'B': 'x'}|'a' 'b'|'a' * 3|l * 2|l + w|[] is defined
n|center(9)|none|center(9)|l|center(15)|n|striptags|none|title|5|replace(5,6)|n|string|length|'<b>x</b>'|striptags|upper|'a  b'|striptags|'<a'|striptags|'a\\u200bb'|list|['a\\u200b\\x7f\\xad\\n']|sp|list|[u]
q.format_map|q.translate('a')|q.encode('utf-8')|n.bit_length()|'a'.zfill(3)|'+5'.zfill(4)|'ab'.center(5)|'abc'.center(6)|''.join(w)|w|join|upper|'%s' % (1,2)[0]|{'a':(1,)}|[s.items()|list, 1]|q.split()[-1].strip('.')
"""
PIECES = [line for block in (PERCENT, FORMAT, OTHERS) for line in block.strip().splitlines()]


def parts(line):
    """Expressions of a line, at bars outside brackets and texts; a bar before a filter's name does not end one."""
    found, depth, mark, start = [], 0, "", 0
    names = {"list", "items", "dictsort", "groupby", "length", "string", "first", "last", "join", "default", "upper", "sort", "reverse", "map", "tojson"}
    names |= {"sum", "max", "min", "unique", "round", "e", "pprint", "title", "capitalize", "select", "reject", "selectattr", "rejectattr", "int", "float"}
    names |= {"wordcount", "abs", "truncate", "center", "striptags", "replace", "format", "slice", "batch", "zip"}
    for i, c in enumerate(line):
        if mark:
            mark = "" if c == mark and line[i - 1] != "\\" else mark
        elif c in "'\"":
            mark = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "|" and depth == 0:
            word = ""
            for d in line[i + 1:]:
                if not d.isalpha():
                    break
                word += d
            if word not in names:
                found.append(line[start:i])
                start = i + 1
    return [piece for piece in found + [line[start:]] if piece.strip()]


def main(path):
    expressions = [f"{text}.{call}" for text in TEXTS for call in METHODS.split()]
    expressions += [f"{text}|{call}" for text in ["q", "t", "u", "h", "long", "lines", "empty", "sp"] for call in FILTERS.split()]
    expressions += [piece for line in PIECES for piece in parts(line)]
    templates = ["{{ " + expression + " }}" for expression in dict.fromkeys(expressions)]
    templates += [
        "{% for k, v in s.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, g in rows|groupby('k') %}{{ k }}:{{ g|length }};{% endfor %}",
        "{% set x = '%d' % n %}{{ x }}", "{% if '%s' % n == '7' %}yes{% endif %}", "{# '%s' % n #}a", "{% raw %}{{ '%s' % n }}{% endraw %}", "'%s' % n",
        "{{'%s'%n}}{{'%s'%v}}", "{{- ' %s ' % n -}} x", "{%- set t = ('a%s' % n, 1) -%} {{ t }}", "{% for i in l if '%s' % i == '2' %}{{ i }}{% endfor %}",
        "{{ ' ' if b }}{{ q if q is defined }}", "{% for x in (1 if b) %}{{ x }}{% endfor %}!", "{% if (1 if b) %}a{% else %}b{% endif %}",
    ]
    cases = []
    for template in templates:
        try:
            text = apply_template(template, ROW)
        except Exception:
            text = None
        if text is None or " at 0x" not in text:
            cases.append([template, text])
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"row": ' + json.dumps(ROW, ensure_ascii=False) + ',\n"cases": [\n')
        file.write(",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]}\n")


main(sys.argv[1])
