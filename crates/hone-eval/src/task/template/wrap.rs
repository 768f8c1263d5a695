//! Lines of at most so many characters, as Python's `textwrap` breaks them.

use std::sync::LazyLock;

use minijinja::Error;

use super::methods::failed;
use crate::python::is_space;
use crate::python::regex::PythonRegex;

/// Where Python's `textwrap` may break a line: `TextWrapper.wordsep_re`, its pieces spelt out.
static BREAKS: LazyLock<[String; 2]> = LazyLock::new(|| {
    let (space, word, solid, letter) = (r"[\t\n\x0b\x0c\r ]", r#"[\w!"'&.,?]"#, r"[^\t\n\x0b\x0c\r ]", r"[^\d\W]");
    let hyphenated = format!(
        "{space}+|(?<={word})-{{2,}}(?=\\w)|{solid}+?(?:-(?:(?<={letter}{{2}}-)|(?<={letter}-{letter}-))(?={letter}-?{letter})|\
         (?={space}|\\Z)|(?<={word})(?=-{{2,}}\\w))"
    );
    [hyphenated, format!("{space}+|{solid}+")]
});

/// `textwrap.TextWrapper`, with tabs and white space left as they are.
pub(super) struct Wrap {
    /// Characters a line may have.
    pub width: usize,
    /// Whether words that are too long are broken.
    pub long: bool,
    /// Whether lines may end after a hyphen.
    pub hyphens: bool,
}

impl Wrap {
    /// The lines of a text without line ends.
    pub fn lines(&self, text: &str) -> Result<Vec<String>, Error> {
        if self.width == 0 {
            return Err(failed("wordwrap to a width of 0"));
        }
        let pattern = &BREAKS[usize::from(!self.hyphens)];
        let found =
            PythonRegex::new(pattern).and_then(|breaks| breaks.find_all(text)).map_err(|e| failed(e.to_string()))?;
        let mut left: Vec<Vec<char>> = found
            .into_iter()
            .flatten()
            .filter(|chunk| !chunk.is_empty())
            .map(|chunk| chunk.chars().collect())
            .collect();
        left.reverse();
        let blank = |chunk: &[char]| chunk.iter().all(|c| is_space(*c));
        let mut lines: Vec<String> = Vec::new();
        while let Some(next) = left.last() {
            let mut line: Vec<Vec<char>> = Vec::new();
            let mut length = 0;
            if blank(next) && !lines.is_empty() {
                left.pop();
            }
            while let Some(next) = left.pop_if(|next| length + next.len() <= self.width) {
                length += next.len();
                line.push(next);
            }
            if let Some(next) = left.pop_if(|next| next.len() > self.width) {
                let space = self.width - length;
                if self.long {
                    let mut end = space;
                    if self.hyphens {
                        let hyphen = next[..space.min(next.len())].iter().rposition(|c| *c == '-');
                        if let Some(hyphen) = hyphen.filter(|at| next[..*at].iter().any(|c| *c != '-')) {
                            end = hyphen + 1;
                        }
                    }
                    let (head, tail) = next.split_at(end);
                    line.push(head.to_vec());
                    left.push(tail.to_vec());
                } else if line.is_empty() {
                    line.push(next);
                } else {
                    left.push(next);
                }
            }
            line.pop_if(|last| blank(last));
            if !line.is_empty() {
                lines.push(line.into_iter().flatten().collect());
            }
        }
        Ok(lines)
    }
}
