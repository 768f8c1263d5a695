//! HTML out of texts, as `markupsafe` and Python's `html.unescape` have it: tags, comments and entities.

use crate::python::text;

/// `Markup.striptags`: tags and comments out, white space to single spaces, entities to characters.
pub(super) fn strip_tags(text: &str) -> String {
    let mut kept = String::new();
    let mut from = 0;
    while let Some(start) = text[from..].find('<').map(|at| from + at) {
        let (after, close) = if text[start..].starts_with("<!--") { (start + 4, "-->") } else { (start, ">") };
        let Some(end) = text[after..].find(close) else { break };
        kept.push_str(&text[from..start]);
        from = after + end + close.len();
    }
    kept.push_str(&text[from..]);
    unescape(&text::split(&kept, None, None, false).join(" "))
}

/// Entities that HTML reads without their semicolon.
const BARE: &str = "AElig AMP Aacute Acirc Agrave Aring Atilde Auml COPY Ccedil ETH Eacute Ecirc Egrave Euml GT Iacute Icirc Igrave Iuml LT \
    Ntilde Oacute Ocirc Ograve Oslash Otilde Ouml QUOT REG THORN Uacute Ucirc Ugrave Uuml Yacute aacute acirc acute aelig agrave amp aring atilde \
    auml brvbar ccedil cedil cent copy curren deg divide eacute ecirc egrave eth euml frac12 frac14 frac34 gt iacute icirc iexcl igrave iquest \
    iuml laquo lt macr micro middot nbsp not ntilde oacute ocirc ograve ordf ordm oslash otilde ouml para plusmn pound quot raquo reg sect shy \
    sup1 sup2 sup3 szlig thorn times uacute ucirc ugrave uml uuml yacute yen yuml";

/// Entities that are white space.
const SPACES: [(&str, &str); 16] = [
    ("nbsp", "\u{a0}"),
    ("NonBreakingSpace", "\u{a0}"),
    ("Tab", "\t"),
    ("NewLine", "\n"),
    ("ensp", "\u{2002}"),
    ("emsp", "\u{2003}"),
    ("emsp13", "\u{2004}"),
    ("emsp14", "\u{2005}"),
    ("numsp", "\u{2007}"),
    ("puncsp", "\u{2008}"),
    ("thinsp", "\u{2009}"),
    ("ThinSpace", "\u{2009}"),
    ("hairsp", "\u{200a}"),
    ("VeryThinSpace", "\u{200a}"),
    ("MediumSpace", "\u{205f}"),
    ("ThickSpace", "\u{205f}\u{200a}"),
];

/// What the numbers 0x80 to 0x9f mean in HTML, which reads them as Windows-1252 does.
const WINDOWS: &str = "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ";

/// The text of an entity by its name without the semicolon.
fn entity(name: &str) -> Option<String> {
    if let Some((_, text)) = SPACES.iter().find(|(known, _)| *known == name) {
        return Some((*text).to_owned());
    }
    if name.starts_with('#') || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let written = format!("&{name};");
    // The table is the library's; it hands back what it does not know.
    let text = minijinja_contrib::filters::striptags(written.clone());
    (text != written).then_some(text)
}

/// `html.unescape`.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (text, taken) = reference(rest).unwrap_or_else(|| ("&".into(), 0));
        out.push_str(&text);
        rest = &rest[taken..];
    }
    out + rest
}

/// What `&` and the start of `rest` stand for, and how many bytes of it belong to that.
fn reference(rest: &str) -> Option<(String, usize)> {
    if let Some(number) = rest.strip_prefix('#') {
        let (skip, radix) = if number.starts_with(['x', 'X']) { (1, 16) } else { (0, 10) };
        let digits = &number[skip..];
        let end = digits.find(|c: char| !c.is_ascii() || !c.is_digit(radix)).unwrap_or(digits.len());
        if end == 0 {
            return None;
        }
        let code = u32::from_str_radix(&digits[..end], radix).unwrap_or(u32::MAX);
        let semicolon = usize::from(digits[end..].starts_with(';'));
        return Some((of_number(code), 1 + skip + end + semicolon));
    }
    let ends = |c: char| matches!(c, '\t' | '\n' | '\x0c' | ' ' | '<' | '&' | '#' | ';');
    let name: String = rest.chars().take_while(|c| !ends(*c)).take(32).collect();
    if rest[name.len()..].starts_with(';')
        && let Some(text) = entity(&name)
    {
        return Some((text, name.len() + 1));
    }
    // The longest beginning that needs no semicolon.
    let bare = BARE.split_whitespace().filter(|known| name.starts_with(known)).max_by_key(|known| known.len())?;
    Some((entity(bare)?, bare.len()))
}

fn of_number(code: u32) -> String {
    match code {
        0 | 0xd800..=0xdfff | 0x11_0000.. => "\u{fffd}".into(),
        0x0d => "\r".into(),
        0x80..=0x9f => WINDOWS.chars().nth(code as usize - 0x80).map_or_else(String::new, String::from),
        0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => String::new(),
        _ if code & 0xfffe == 0xfffe => String::new(),
        _ => char::from_u32(code).map_or_else(String::new, String::from),
    }
}
