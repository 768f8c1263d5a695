//! Formulas over measures, in claims, tables and plots.
//!
//! ```text
//! accuracy[method=lora, task=sst2] - base[task=sst2]          + - * / and brackets; [variable=value] picks
//! mean(base - accuracy over task)                             mean, min, max, spread over a variable
//! least_step(accuracy over share)                             smallest difference between neighbours: ≥ 0 means it never falls
//! rank_correlation(accuracy over share)                       Spearman's, with the position among the variable's values
//! correlation(loss, accuracy over task)                       Spearman's, of two formulas
//! ```
//!
//! A measure that is there for every value of a variable makes a formula that is, too; where two are combined, those of the
//! same value meet. Nothing is evaluated here, see [`crate::quantity`].

use std::collections::BTreeSet;

use crate::error::did_you_mean;

/// Deepest nesting of brackets: formulas are walked by recursion.
const DEEPEST: usize = 64;

/// A formula.
#[derive(Clone, Debug, PartialEq)]
pub enum Formula {
    /// A number.
    Number(f64),
    /// A measure, with values picked for some of its variables.
    Measure(String, Vec<(String, String)>),
    /// Two formulas combined.
    Binary(Operator, Box<Formula>, Box<Formula>),
    /// A formula for every value of a variable, made one number.
    Over(Reduction, Box<Formula>, String),
    /// The rank correlation of two formulas over a variable.
    Correlation(Box<Formula>, Box<Formula>, String),
}

/// How two numbers are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
}

/// How several numbers, in the order of a variable's values, become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their mean.
    Mean,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// Largest minus smallest.
    Spread,
    /// The smallest difference of one from the one before it.
    LeastStep,
    /// Spearman's correlation with their positions.
    RankCorrelation,
}

const REDUCTIONS: [(&str, Reduction); 6] = [
    ("mean", Reduction::Mean),
    ("min", Reduction::Min),
    ("max", Reduction::Max),
    ("spread", Reduction::Spread),
    ("least_step", Reduction::LeastStep),
    ("rank_correlation", Reduction::RankCorrelation),
];
const CORRELATION: &str = "correlation";

/// Reads a formula; the error says what was found where, and what was expected.
pub fn parse(text: &str) -> Result<Formula, String> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0, depth: 0 };
    let formula = parser.sum()?;
    match parser.tokens.get(parser.at) {
        None => Ok(formula),
        Some(_) => Err(parser.expected("an operator or the end")),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Number(f64),
    Word(String),
    /// The text between square brackets: labels may hold what operators are written with.
    Picks(String),
    Sign(char),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, used) = if first.is_ascii_digit() || first == '.' {
            let exponent = |i: usize, c: char| "+-".contains(c) && matches!(rest.as_bytes()[i - 1], b'e' | b'E');
            let part =
                |(i, c): &(usize, char)| c.is_ascii_digit() || ".eE".contains(*c) || (*i > 0 && exponent(*i, *c));
            let used = rest.char_indices().take_while(part).count();
            let number = rest[..used].parse().map_err(|_| format!("found `{}`, expected a number", &rest[..used]))?;
            (Token::Number(number), used)
        } else if first.is_ascii_alphabetic() || first == '_' {
            let used = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            (Token::Word(rest[..used].to_owned()), used)
        } else if first == '[' {
            let end = rest.find(']').ok_or_else(|| format!("`{rest}`: no `]` closes the bracket"))?;
            (Token::Picks(rest[1..end].to_owned()), end + 1)
        } else if "+-*/(),".contains(first) {
            (Token::Sign(first), 1)
        } else {
            return Err(format!("found `{first}`, expected a measure, a number, an operator or a bracket"));
        };
        tokens.push(token);
        rest = rest[used..].trim_start();
    }
    Ok(tokens)
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn take(&mut self, sign: char) -> bool {
        let found = self.tokens.get(self.at) == Some(&Token::Sign(sign));
        self.at += usize::from(found);
        found
    }

    fn expected(&self, what: &str) -> String {
        let found = match self.tokens.get(self.at) {
            None => "the end".into(),
            Some(Token::Number(number)) => format!("`{number}`"),
            Some(Token::Word(word)) => format!("`{word}`"),
            Some(Token::Picks(picks)) => format!("`[{picks}]`"),
            Some(Token::Sign(sign)) => format!("`{sign}`"),
        };
        format!("found {found}, expected {what}")
    }

    fn need(&mut self, sign: char) -> Result<(), String> {
        if self.take(sign) { Ok(()) } else { Err(self.expected(&format!("`{sign}`"))) }
    }

    fn word(&mut self, what: &str) -> Result<String, String> {
        match self.tokens.get(self.at) {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word.clone())
            }
            _ => Err(self.expected(what)),
        }
    }

    fn sum(&mut self) -> Result<Formula, String> {
        let mut left = self.product()?;
        loop {
            let operator = if self.take('+') {
                Operator::Add
            } else if self.take('-') {
                Operator::Subtract
            } else {
                return Ok(left);
            };
            left = Formula::Binary(operator, Box::new(left), Box::new(self.product()?));
        }
    }

    fn product(&mut self) -> Result<Formula, String> {
        let mut left = self.factor()?;
        loop {
            let operator = if self.take('*') {
                Operator::Multiply
            } else if self.take('/') {
                Operator::Divide
            } else {
                return Ok(left);
            };
            left = Formula::Binary(operator, Box::new(left), Box::new(self.factor()?));
        }
    }

    fn factor(&mut self) -> Result<Formula, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("more than {DEEPEST} brackets one in another"));
        }
        let factor = self.factor_inside();
        self.depth -= 1;
        factor
    }

    fn factor_inside(&mut self) -> Result<Formula, String> {
        if self.take('-') {
            let zero = Box::new(Formula::Number(0.0));
            return Ok(Formula::Binary(Operator::Subtract, zero, Box::new(self.factor()?)));
        }
        if self.take('(') {
            let inside = self.sum()?;
            self.need(')')?;
            return Ok(inside);
        }
        if let Some(Token::Number(number)) = self.tokens.get(self.at) {
            self.at += 1;
            return Ok(Formula::Number(*number));
        }
        let name = self.word("a measure, a number or `(`")?;
        if self.take('(') {
            return self.function(&name);
        }
        let picks = match self.tokens.get(self.at) {
            Some(Token::Picks(text)) => {
                self.at += 1;
                picks(text)?
            }
            _ => Vec::new(),
        };
        Ok(Formula::Measure(name, picks))
    }

    fn function(&mut self, name: &str) -> Result<Formula, String> {
        let known = || REDUCTIONS.iter().map(|(name, _)| *name).chain([CORRELATION]);
        let reduction = REDUCTIONS.iter().find(|(word, _)| *word == name).map(|(_, reduction)| *reduction);
        if reduction.is_none() && name != CORRELATION {
            let list = known().collect::<Vec<_>>().join(", ");
            return Err(format!("no function `{name}`{}; there are {list}", did_you_mean(name, known())));
        }
        let first = Box::new(self.sum()?);
        let second = match reduction {
            Some(_) => None,
            None => {
                self.need(',')?;
                Some(Box::new(self.sum()?))
            }
        };
        if self.word("`over` and a variable")? != "over" {
            self.at -= 1;
            return Err(self.expected("`over` and a variable"));
        }
        let variable = self.word("a variable")?;
        self.need(')')?;
        Ok(match (reduction, second) {
            (Some(reduction), _) => Formula::Over(reduction, first, variable),
            (None, second) => Formula::Correlation(first, second.unwrap_or(Box::new(Formula::Number(0.0))), variable),
        })
    }
}

fn picks(text: &str) -> Result<Vec<(String, String)>, String> {
    let pick = |part: &str| {
        let (variable, value) =
            part.split_once('=').ok_or_else(|| format!("found `[{text}]`, expected `[variable=value]`"))?;
        Ok((variable.trim().to_owned(), value.trim().to_owned()))
    };
    text.split(',').map(pick).collect()
}

impl Formula {
    /// The measures it names.
    pub fn measures(&self) -> BTreeSet<&str> {
        match self {
            Formula::Number(_) => BTreeSet::new(),
            Formula::Measure(name, _) => BTreeSet::from([name.as_str()]),
            Formula::Binary(_, a, b) | Formula::Correlation(a, b, _) => {
                a.measures().into_iter().chain(b.measures()).collect()
            }
            Formula::Over(_, inside, _) => inside.measures(),
        }
    }

    /// The variables for each of whose values it has a number, given those of the measures. Errors: a pick or an `over` of a
    /// variable that is not there.
    pub fn variables(
        &self,
        of_measure: &dyn Fn(&str) -> Result<BTreeSet<String>, String>,
    ) -> Result<BTreeSet<String>, String> {
        let without = |mut variables: BTreeSet<String>, variable: &str, what: &str| {
            if variables.remove(variable) {
                return Ok(variables);
            }
            let list = variables.iter().cloned().collect::<Vec<_>>().join(", ");
            let has = if list.is_empty() { "no variable".into() } else { list };
            Err(format!("{what} has no variable `{variable}`; it has {has}"))
        };
        match self {
            Formula::Number(_) => Ok(BTreeSet::new()),
            Formula::Measure(name, picks) => picks.iter().try_fold(of_measure(name)?, |variables, (variable, _)| {
                without(variables, variable, &format!("measure `{name}`"))
            }),
            Formula::Binary(_, a, b) => {
                Ok(a.variables(of_measure)?.into_iter().chain(b.variables(of_measure)?).collect())
            }
            Formula::Over(_, inside, variable) => {
                without(inside.variables(of_measure)?, variable, "what stands before `over`")
            }
            Formula::Correlation(a, b, variable) => {
                let both = a.variables(of_measure)?.into_iter().chain(b.variables(of_measure)?).collect();
                without(both, variable, "what stands before `over`")
            }
        }
    }

    /// Every pick, of any measure.
    pub fn picks(&self) -> Vec<&(String, String)> {
        match self {
            Formula::Number(_) => Vec::new(),
            Formula::Measure(_, picks) => picks.iter().collect(),
            Formula::Binary(_, a, b) | Formula::Correlation(a, b, _) => {
                a.picks().into_iter().chain(b.picks()).collect()
            }
            Formula::Over(_, inside, _) => inside.picks(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(name: &str) -> Box<Formula> {
        Box::new(Formula::Measure(name.into(), Vec::new()))
    }

    #[test]
    fn products_bind_closer_than_sums_and_both_to_the_left() {
        let minus = |a, b| Formula::Binary(Operator::Subtract, a, b);
        let divide = |a, b| Formula::Binary(Operator::Divide, a, b);
        assert_eq!(parse("a - b - c").unwrap(), minus(Box::new(minus(measure("a"), measure("b"))), measure("c")));
        assert_eq!(parse("a - b / c").unwrap(), minus(measure("a"), Box::new(divide(measure("b"), measure("c")))));
        assert_eq!(parse("(a - b) / c").unwrap(), divide(Box::new(minus(measure("a"), measure("b"))), measure("c")));
        assert_eq!(parse("1.5e-3").unwrap(), Formula::Number(1.5e-3));
        assert_eq!(parse("2-1").unwrap(), minus(Box::new(Formula::Number(2.0)), Box::new(Formula::Number(1.0))));
    }

    #[test]
    fn labels_may_hold_signs() {
        let picked = parse("accuracy[method=lora-r8, rate=2e-4]").unwrap();
        let picks = vec![("method".into(), "lora-r8".into()), ("rate".into(), "2e-4".into())];
        assert_eq!(picked, Formula::Measure("accuracy".into(), picks));
    }

    #[test]
    fn variables_are_those_left() {
        let of = |name: &str| {
            let list: &[&str] = if name == "a" { &["seed", "task"] } else { &["task"] };
            Ok(list.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>())
        };
        let left = |text: &str| parse(text).and_then(|f| f.variables(&of)).map(|v| v.into_iter().collect::<Vec<_>>());
        assert_eq!(left("a[task=x] - b[task=y]").unwrap(), ["seed"]);
        assert_eq!(left("mean(a - b over task)").unwrap(), ["seed"]);
        assert_eq!(left("correlation(a[seed=1], b over task)").unwrap(), Vec::<String>::new());
        assert_eq!(left("b[seed=1]").unwrap_err(), "measure `b` has no variable `seed`; it has task");
        assert!(left("mean(b over seed)").unwrap_err().contains("has no variable `seed`"));
    }

    #[test]
    fn mistakes_say_what_was_found() {
        for (text, part) in [
            ("", "found the end, expected a measure"),
            ("a +", "found the end"),
            ("a b", "found `b`, expected an operator"),
            ("mean(a)", "found `)`, expected `over`"),
            ("meen(a over b)", "did you mean `mean`"),
            ("a[task]", "expected `[variable=value]`"),
            ("a[task=1", "no `]`"),
            ("a ? b", "found `?`"),
            ("1.2.3", "expected a number"),
        ] {
            let wrong = parse(text).unwrap_err();
            assert!(wrong.contains(part), "{text}: {wrong}");
        }
        assert!(parse(&"(".repeat(10_000)).unwrap_err().contains("brackets"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_a_panic(text in "[a-c0-9.e+*/()\\[\\]=, over-]{0,40}|\\PC{0,20}") {
            let _ = parse(&text);
        }
    }
}
