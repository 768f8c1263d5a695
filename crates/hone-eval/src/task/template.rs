//! Jinja templates of task files, rendered as the harness renders them: undefined variables are errors, a missing `else` is an empty
//! text, the last newline is kept, values print as Python prints them, `regex_replace` is there. Python's methods: [`methods`]; filters
//! and formats as jinja2 has them: [`filters`], [`percent`].
//!
//! Besides, for reshaping rows: `regex_find` (first group of the first match), `regex_find_all`, `regex_split`.

mod filters;
mod html;
mod methods;
mod percent;
mod wrap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde_json::{Map, Value as Json};

use crate::python::literal;
use crate::python::regex::{PythonRegex, RegexError};

/// Steps one rendering may take: templates come from outside, and loops can be nested.
const FUEL: u64 = 5_000_000;

/// The templates of a task, by name.
pub struct Templates {
    environment: Environment<'static>,
}

impl Default for Templates {
    fn default() -> Self {
        Templates::new()
    }
}

impl Templates {
    /// No templates yet.
    pub fn new() -> Templates {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // A syntax of default delimiters is always valid.
        if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
            environment.set_syntax(syntax);
        }
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(methods::method);
        environment.set_fuel(Some(FUEL));
        environment.set_formatter(|out, state, value| {
            filters::defined(state, value)?;
            out.write_str(&literal::str_of(value)).map_err(|_| Error::from(ErrorKind::WriteFailure))
        });
        environment.add_filter("regex_replace", |text: &str, pattern: &str, replacement: &str| {
            compile(pattern)?.replace_all(text, replacement).map_err(refused)
        });
        environment.add_filter("regex_find", |text: &str, pattern: &str| -> Result<String, Error> {
            let found = compile(pattern)?.find(text).map_err(refused)?;
            found.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("`{pattern}` does not match {text:?}")))
        });
        environment.add_filter("regex_find_all", |text: &str, pattern: &str| -> Result<Vec<Value>, Error> {
            let groups = |mut groups: Vec<String>| match groups.len() {
                1 => Value::from(groups.swap_remove(0)),
                _ => Value::from(groups),
            };
            Ok(compile(pattern)?.find_all(text).map_err(refused)?.into_iter().map(groups).collect())
        });
        environment.add_filter("regex_split", |text: &str, pattern: &str| -> Result<Vec<String>, Error> {
            compile(pattern)?.split(text).map_err(refused)
        });
        filters::add(&mut environment);
        Templates { environment }
    }

    /// Adds a template; the error is the parser's.
    pub fn add(&mut self, name: &str, source: &str) -> Result<(), String> {
        self.environment
            .add_template_owned(name.to_owned(), percent::template(source).into_owned())
            .map_err(|e| in_words(&e))
    }

    /// Renders a template over a row's columns. The error says what is wrong with the row.
    pub fn render(&self, name: &str, columns: &Map<String, Json>) -> Result<String, String> {
        let template = self.environment.get_template(name).map_err(|e| in_words(&e))?;
        template.render(context(columns)).map_err(|error| {
            let missing: Vec<String> = template
                .undeclared_variables(false)
                .into_iter()
                .filter(|name| !columns.contains_key(name) && !self.environment.globals().any(|(g, _)| g == name))
                .collect();
            explain(&error, missing, columns)
        })
    }

    /// A column made from a row: the value of the expression if the source is one `{{ expression }}`, else the text.
    pub fn column(&self, source: &str, columns: &Map<String, Json>) -> Result<Json, String> {
        let context = context(columns);
        let text = |context| self.environment.render_str(&percent::template(source), context);
        let value = match lone_expression(source) {
            Some(expression) => {
                let source = percent::expression(expression);
                let compiled = self.environment.compile_expression(&source).map_err(|e| in_words(&e))?;
                let missing = || {
                    let names = compiled.undeclared_variables(false).into_iter();
                    names.filter(|name| !columns.contains_key(name)).collect()
                };
                let value = compiled.eval(context.clone()).map_err(|e| explain(&e, missing(), columns))?;
                // Only the engine knows a missing `else`, which prints as nothing, from a missing value.
                match value.is_undefined() {
                    true => Value::from(text(context).map_err(|e| explain(&e, missing(), columns))?),
                    false => value,
                }
            }
            None => Value::from(text(context).map_err(|e| explain(&e, Vec::new(), columns))?),
        };
        serde_json::to_value(&value).map_err(|e| e.to_string())
    }
}

/// A row's columns as variables; `doc` is the row as a whole, for columns whose names are no identifiers.
fn context(columns: &Map<String, Json>) -> Value {
    let row = Value::from(Serde(columns));
    if columns.contains_key("doc") {
        row
    } else {
        minijinja::context! { doc => row.clone(), ..row }
    }
}

fn compile(pattern: &str) -> Result<PythonRegex, Error> {
    PythonRegex::new(pattern).map_err(refused)
}

fn refused(error: RegexError) -> Error {
    Error::new(ErrorKind::InvalidOperation, error.to_string())
}

/// The expression of a source that is nothing but `{{ expression }}`.
fn lone_expression(source: &str) -> Option<&str> {
    let inner = source.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("{%")).then_some(inner.trim())
}

fn in_words(error: &Error) -> String {
    let detail = error.detail().map_or_else(String::new, |d| format!(": {d}"));
    let line = error.line().map_or_else(String::new, |l| format!(" (line {l} of the template)"));
    format!("{}{detail}{line}", error.kind())
}

/// A rendering error in words; a missing field is named with those there are.
fn explain(error: &Error, mut missing: Vec<String>, columns: &Map<String, Json>) -> String {
    if error.kind() != ErrorKind::UndefinedError {
        return in_words(error);
    }
    missing.sort();
    let there: Vec<&str> = columns.keys().map(String::as_str).collect();
    match missing.first() {
        Some(field) => {
            let hint = crate::error::did_you_mean(field, there.iter().copied());
            format!("field `{field}` is missing{hint}; the row has: {}", there.join(", "))
        }
        None => format!("a value is missing inside a field ({}); the row has: {}", in_words(error), there.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str, columns: Json) -> Result<String, String> {
        let mut templates = Templates::new();
        templates.add("t", source)?;
        templates.render("t", columns.as_object().unwrap())
    }

    #[test]
    fn whole_numbers_are_made_as_in_jinja() {
        let templates = Templates::new();
        let columns = serde_json::json!({"t": "7", "f": " 7.9 ", "x": "none", "n": -2.5, "número": "3"});
        let of = |source: &str| templates.column(source, columns.as_object().unwrap()).unwrap();
        assert_eq!((of("{{ t|int }}"), of("{{ f|int }}"), of("{{ n|int }}")), (7.into(), 7.into(), (-2).into()));
        assert_eq!(
            (of("{{ x|int }}"), of("{{ x|int(-1) }}"), of("{{ x|int(default=5) }}")),
            (0.into(), (-1).into(), 5.into())
        );
        assert_eq!(of("{{ número|int - 1 }}"), 2, "names may have any letters");
    }

    #[test]
    fn columns_know_formats_and_a_missing_else() {
        let templates = Templates::new();
        let columns = json!({"n": 7, "b": false});
        let of = |source: &str| templates.column(source, columns.as_object().unwrap());
        assert_eq!(of("{{ '%03d' % n }}").unwrap(), json!("007"));
        assert_eq!(of("{{ 'x' if b }}").unwrap(), json!(""));
        assert_eq!(of("{{ (n, b) }}").unwrap(), json!([7, false]));
        assert!(of("{{ m if b is defined }}").unwrap_err().contains("field `m` is missing"));
    }

    #[test]
    fn harness_templates_render_as_in_jinja() {
        let arc = json!({"choices": {"text": ["a", "it's"], "label": ["A", "B"]}, "answerKey": "B"});
        assert_eq!(render("{{choices.label.index(answerKey)}}", arc.clone()).unwrap(), "1");
        assert_eq!(render("{{choices.text}}", arc).unwrap(), r#"['a', "it's"]"#);
        let text = json!({"text": "one two three"});
        assert_eq!(render("{{text.split(' ')[:-1]|join(' ')}}\n", text.clone()).unwrap(), "one two\n");
        assert_eq!(render("{{' '+text.split(' ')[-1]}}", text).unwrap(), " three");
        assert_eq!(render("{{[sol1, sol2]}}", json!({"sol1": "x", "sol2": 1.0})).unwrap(), "['x', 1.0]");
        assert_eq!(render("{{ s | regex_replace('\\\\s+', ' ') }}", json!({"s": "a \n b"})).unwrap(), "a b");
        assert_eq!(render("{{ 'abc'.index('c') }}{{ none }}{{ true }}", json!({})).unwrap(), "2NoneTrue");
    }

    #[test]
    fn columns_keep_their_type() {
        let row = json!({"instruction": "Q: why?\n\nAnswer1: a b Answer2: c\n\nAnswer format: x", "n": 3});
        let columns = row.as_object().unwrap();
        let column = |source: &str| Templates::new().column(source, columns);
        let options =
            r#"{{ instruction | regex_find("(?s)\n\nAnswer1: (.*)\n\nAnswer format") | regex_split(" Answer\\d: ") }}"#;
        assert_eq!(column(options).unwrap(), json!(["a b", "c"]));
        assert_eq!(column("{{ n + 1 }}").unwrap(), json!(4));
        assert_eq!(column("{{ n }} and {{ n }}").unwrap(), json!("3 and 3"));
        assert_eq!(column(r#"{{ "a1b22" | regex_find_all("\\d+") }}"#).unwrap(), json!(["1", "22"]));
    }

    #[test]
    fn missing_fields_are_named() {
        let error = render("{{ question }}", json!({"Question": "?", "answer": 1})).unwrap_err();
        assert!(error.contains("field `question` is missing; did you mean `Question`?"), "{error}");
        let error = render("{{ choices.txt }}", json!({"choices": {"text": []}})).unwrap_err();
        assert!(error.contains("inside a field"), "{error}");
        let error = Templates::new().column("{{ nothing }}", &Map::new()).unwrap_err();
        assert!(error.contains("`nothing`"), "{error}");
        assert!(render("{{ a ", json!({})).is_err());
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
        assert!(render(endless, json!({})).is_err());
    }
}
