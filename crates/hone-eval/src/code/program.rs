//! From a model's answer to a program that tests it.
//!
//! The task's target (`doc_to_target`) is the program, with [`PLACE`] where the answer's code goes. HumanEval's (Chen et al. 2021,
//! arXiv 2107.03374) is `{{prompt}}<<answer>>\n{{test}}\ncheck({{entry_point}})`: the model went on with the prompt's function.
//! MBPP's (Austin et al. 2021, arXiv 2108.07732) is `<<answer>>`, then the set-up code and the asserts, a line each. A target
//! without the place is a test that stands behind the answer, on a line of its own.

use std::borrow::Cow;

/// Where the answer's code goes in a target. In Python it would be two shifts by a variable named `answer`, which no test has.
pub const PLACE: &str = "<<answer>>";

/// Where a bare continuation of a function ends: HumanEval's stop texts. Something at the margin begins that is not the
/// function's.
pub const STOPS: [&str; 5] = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"];

/// Which part of an answer is code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// All of it.
    #[default]
    Text,
    /// The continuation of a function, up to the first of [`STOPS`].
    Completion,
    /// The first fenced block that says it is Python, else the first fenced block, else all of it: how chat models answer.
    Fenced,
}

impl Answer {
    /// Every way with its name in a task file.
    pub const NAMES: [(Answer, &'static str); 3] =
        [(Answer::Text, "text"), (Answer::Completion, "completion"), (Answer::Fenced, "fenced")];

    /// By its name in a task file.
    pub fn from_name(name: &str) -> Option<Answer> {
        Answer::NAMES.iter().find(|(_, known)| *known == name).map(|(answer, _)| *answer)
    }

    /// The code of an answer.
    pub fn code(self, answer: &str) -> Cow<'_, str> {
        match self {
            Answer::Text => answer.into(),
            Answer::Completion => completion(answer).into(),
            Answer::Fenced => fenced(answer).map_or(Cow::Borrowed(answer), Cow::Owned),
        }
    }
}

/// The program: the code at its place in the target, else before it.
pub fn program(code: &str, target: &str) -> String {
    match target.split_once(PLACE) {
        Some((before, after)) => [before, code, after].concat(),
        None => [code, "\n", target].concat(),
    }
}

fn completion(answer: &str) -> &str {
    let end = STOPS.iter().filter_map(|stop| answer.find(stop)).min().unwrap_or(answer.len());
    &answer[..end]
}

/// A fenced block (CommonMark, section 4.5): its info string and its lines. A block that nothing closes ends with the text.
fn fenced(answer: &str) -> Option<String> {
    let mut blocks: Vec<(&str, String)> = Vec::new();
    let mut open: Option<Fence<'_>> = None;
    for line in answer.lines() {
        let here = Fence::of(line);
        match (&open, here) {
            (None, Some(fence)) => {
                blocks.push((fence.info, String::new()));
                open = Some(fence);
            }
            (Some(fence), Some(here)) if here.closes(fence) => open = None,
            (Some(fence), _) => {
                if let Some((_, code)) = blocks.last_mut() {
                    code.push_str(fence.unindented(line));
                    code.push('\n');
                }
            }
            (None, None) => {}
        }
    }
    let is_python = |info: &str| {
        let language = info.split_whitespace().next().unwrap_or("").to_lowercase();
        matches!(language.as_str(), "python" | "python3" | "py")
    };
    let chosen = blocks.iter().position(|(info, _)| is_python(info)).unwrap_or(0);
    blocks.into_iter().nth(chosen).map(|(_, code)| code)
}

/// A line of three or more backticks or tildes.
struct Fence<'a> {
    indent: usize,
    mark: char,
    length: usize,
    info: &'a str,
}

impl<'a> Fence<'a> {
    fn of(line: &'a str) -> Option<Fence<'a>> {
        let rest = line.trim_start_matches(' ');
        let mark = rest.chars().next().filter(|mark| ['`', '~'].contains(mark))?;
        let info = rest.trim_start_matches(mark);
        let length = rest.len() - info.len();
        // Backticks in the info string make it code within a line.
        let is_fence = length >= 3 && !(mark == '`' && info.contains('`'));
        is_fence.then_some(Fence { indent: line.len() - rest.len(), mark, length, info: info.trim() })
    }

    fn closes(&self, open: &Fence<'_>) -> bool {
        self.mark == open.mark && self.length >= open.length && self.info.is_empty()
    }

    /// A line of the block without the indentation of its fence, as of blocks in lists.
    fn unindented<'l>(&self, line: &'l str) -> &'l str {
        let spaces = line.len() - line.trim_start_matches(' ').len();
        &line[spaces.min(self.indent)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_goes_to_its_place_or_before_the_test() {
        let target = "def one():\n<<answer>>\ncheck(one)";
        assert_eq!(program("    return 1\n", target), "def one():\n    return 1\n\ncheck(one)");
        assert_eq!(program("a = 1", "assert a == 1"), "a = 1\nassert a == 1");
        // What an answer says is never a place itself.
        assert_eq!(program("'<<answer>>'", "x = <<answer>>"), "x = '<<answer>>'");
    }

    #[test]
    fn a_completion_ends_where_the_function_does() {
        let of = |text| Answer::Completion.code(text).into_owned();
        assert_eq!(of("    return 1\n\ndef two():\n    return 2\n"), "    return 1\n");
        assert_eq!(of("    if a:\n        print(a)\n    # within\n"), "    if a:\n        print(a)\n    # within\n");
        assert_eq!(of("    return 1\nprint(one())\nclass A: pass"), "    return 1");
        assert_eq!(of("    return 1\n# end\nif True: pass"), "    return 1");
        assert_eq!(of(""), "");
    }

    #[test]
    fn the_code_of_a_chat_answer_is_its_python() {
        let of = |text| Answer::Fenced.code(text).into_owned();
        assert_eq!(
            of("Here:\n```python\ndef f():\n    return 1\n```\nIt returns 1.\n```\nf()\n```"),
            "def f():\n    return 1\n"
        );
        assert_eq!(of("```sh\npip install x\n```\nthen\n```py\nimport x\n```"), "import x\n");
        assert_eq!(of("```\na = 1\n```"), "a = 1\n");
        // Cut off by the length limit, indented in a list, longer fences, tildes.
        assert_eq!(of("```python\na = 1\nb ="), "a = 1\nb =\n");
        assert_eq!(of("1. so\n   ```python\n   if a:\n       b()\n   ```"), "if a:\n    b()\n");
        assert_eq!(of("````\n```\n````"), "```\n");
        assert_eq!(of("~~~ python\na\n```\n~~~"), "a\n```\n");
        assert_eq!(of("def f():\n    return 1"), "def f():\n    return 1");
        assert_eq!(of("say ```a``` twice"), "say ```a``` twice");
        assert_eq!(of("```python\n```"), "");
    }

    #[test]
    fn names_lead_back() {
        for (answer, name) in Answer::NAMES {
            assert_eq!(Answer::from_name(name), Some(answer));
        }
        assert_eq!(Answer::from_name("code"), None);
    }
}
