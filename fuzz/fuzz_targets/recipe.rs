//! The recipe reader: any bytes as a recipe, and after the last `# --set ` any bytes as an override. What is read must be
//! written back and read again as the same recipe.
#![no_main]

use hone_train::recipe::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // The override stays in the text, where it is a comment: a seed is a recipe as people write them.
    let settings: Vec<String> =
        text.rsplit_once("# --set ").map(|(_, set)| set.trim_end().to_string()).into_iter().collect();
    let Ok(recipe) = parse(text, "fuzz", &settings) else { return };
    let Ok(resolved) = recipe.resolved() else { return };
    let text = resolved.to_yaml().expect("a recipe that was read can be written");
    let mut again = parse(&text, "written", &[]).unwrap_or_else(|e| panic!("{e}\n{text}"));
    again.directory = resolved.directory.clone();
    assert_eq!(again, resolved, "{text}");
});
