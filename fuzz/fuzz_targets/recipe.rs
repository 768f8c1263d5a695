//! The recipe reader: any bytes as a recipe, with any bytes as a `--set`. What is read must be written back and read again
//! as the same recipe.
#![no_main]

use hone_train::recipe::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (String, Option<String>)| {
    let (text, setting) = data;
    let settings: Vec<String> = setting.into_iter().collect();
    let Ok(recipe) = parse(&text, "fuzz", &settings) else { return };
    let Ok(resolved) = recipe.resolved() else { return };
    let text = resolved.to_yaml().expect("a recipe that was read can be written");
    let mut again = parse(&text, "written", &[]).unwrap_or_else(|e| panic!("{e}\n{text}"));
    again.directory = resolved.directory.clone();
    assert_eq!(again, resolved, "{text}");
});
