//! The line of a key in YAML text, for messages. It reads indentation only: block style, one key a line, which is how
//! recipes and studies are written; inside `{…}` and `[…]` the line is that of the key they belong to.

/// The line (from 1) of the key `path` leads to, or of the nearest key above it that was found.
pub fn line_of(text: &str, path: &[String]) -> Option<usize> {
    let mut open: Vec<(usize, String)> = Vec::new(); // keys whose blocks we are in, with their indentation
    let mut counts: Vec<usize> = Vec::new(); // list entries seen in each of them
    let mut best: Option<(usize, usize)> = None; // keys matched, line
    for (number, line) in text.lines().enumerate() {
        let mut indent = line.len() - line.trim_start_matches(' ').len();
        let mut content = line.trim_start_matches(' ');
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        // An entry of a list may stand at the indentation of the key that holds the list.
        let entry = content.strip_prefix("- ");
        let closes = |at: usize| at > indent || (at == indent && entry.is_none());
        while open.last().is_some_and(|(at, _)| closes(*at)) {
            open.pop();
            counts.pop();
        }
        if let Some(rest) = entry {
            let is_entry = |k: &(usize, String)| k.1.parse::<usize>().is_ok() && k.0 == indent;
            if open.last().is_some_and(is_entry) {
                open.pop();
                counts.pop();
            }
            let index = counts.last().copied().unwrap_or(0);
            if let Some(count) = counts.last_mut() {
                *count += 1;
            }
            open.push((indent, index.to_string()));
            counts.push(0);
            indent += 2;
            content = rest;
        }
        let Some(key) = key_of(content) else { continue };
        let matched = open.iter().map(|(_, k)| k.as_str()).chain([key]).zip(path).take_while(|(a, b)| a == b).count();
        let inside = matched == open.len() + 1;
        if inside && best.is_none_or(|(most, _)| matched > most) {
            best = Some((matched, number + 1));
        }
        open.push((indent, key.to_string()));
        counts.push(0);
    }
    best.map(|(_, line)| line)
}

fn key_of(content: &str) -> Option<&str> {
    let (key, rest) = content.split_once(':')?;
    let plain = rest.is_empty() || rest.starts_with(' ');
    plain.then(|| key.trim().trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, path: &[&str]) -> Option<usize> {
        line_of(text, &path.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn keys_are_found_on_their_lines() {
        let text = "# a recipe\nmodel: x\ndata:\n  mix:\n    - path: a\n      weight: 1\n    - path: b\n      weigth: 2\n\
                    train:\n  steps: 3\n  betas: [0.9, 0.99]\neval: {limit: 3}\n";
        assert_eq!(line(text, &["model"]), Some(2));
        assert_eq!(line(text, &["data", "mix", "0", "path"]), Some(5));
        assert_eq!(line(text, &["data", "mix", "1", "weigth"]), Some(8));
        assert_eq!(line(text, &["train", "steps"]), Some(10));
        assert_eq!(line(text, &["eval", "limit"]), Some(12));
        assert_eq!(line(text, &["missing"]), None);
    }
}
