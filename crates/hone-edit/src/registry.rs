//! Every method, one line each; and which of a method's fields are paths.

use std::path::Path;
use std::sync::Arc;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::config::check_type;
use crate::error::{EditError, did_you_mean};
use crate::method::{Method, MethodInfo, Origin};
use crate::planning::wrong;
use crate::words::{WORDS, spelled_out};
use crate::{methods, not_read, warm_start};

/// The methods, in the order they are listed.
pub const METHODS: &[MethodInfo] = &[
    methods::lora::METHOD,
    methods::adalora::METHOD,
    methods::vera::METHOD,
    methods::pvera::METHOD,
    methods::lycoris::loha::METHOD,
    methods::lycoris::lokr::METHOD,
    methods::hira::METHOD,
    methods::miss::METHOD,
    methods::randlora::METHOD,
    methods::delora::METHOD,
    methods::glora::METHOD,
    methods::gralora::METHOD,
    methods::vblora::METHOD,
    methods::unilora::METHOD,
    methods::tinylora::METHOD,
    methods::peanut::METHOD,
    methods::deft::METHOD,
    methods::c3a::METHOD,
    methods::waveft::METHOD,
    methods::trainable_tokens::METHOD,
    methods::oft::METHOD,
    methods::boft::METHOD,
    methods::hra::METHOD,
    methods::road::METHOD,
    methods::fourierft::METHOD,
    methods::osf::METHOD,
    methods::ia3::METHOD,
    methods::adapters::houlsby::METHOD,
    methods::adapters::pfeiffer::METHOD,
    methods::adapters::parallel::METHOD,
    methods::adapters::conformer::METHOD,
    methods::adapters::compacter::METHOD,
    methods::adapters::fusion::METHOD,
    methods::full::METHOD,
    methods::selective::bitfit::METHOD,
    methods::beft::METHOD,
    methods::selective::norms::METHOD,
    methods::selective::last_layers::METHOD,
    methods::selective::head_only::METHOD,
    methods::selective::shira::METHOD,
    methods::selective::supertuning::METHOD,
    methods::selective::fish_mask::METHOD,
    methods::selective::child_tuning::METHOD,
    methods::selective::subnetwork::METHOD,
    methods::selective::diff_pruning::METHOD,
    methods::selective::mask_tuning::METHOD,
    methods::selective::grafting::METHOD,
    methods::selective::lisa::METHOD,
    methods::selective::galore::METHOD,
    methods::routed::poly::METHOD,
    methods::routed::poly_ia3::METHOD,
    methods::routed::moe_lora::METHOD,
    methods::routed::adamix::METHOD,
    methods::routed::xlora::METHOD,
    methods::prompts::prompt_tuning::METHOD,
    methods::prompts::p_tuning::METHOD,
    methods::prompts::prefix_tuning::METHOD,
    methods::prompts::cartridge::METHOD,
    methods::prompts::multitask_prompt_tuning::METHOD,
    methods::prompts::adaption_prompt::METHOD,
    methods::prompts::dept::METHOD,
    methods::prompts::ept::METHOD,
    methods::prompts::attempt::METHOD,
    methods::prompts::cpt::METHOD,
    methods::hybrid::mam::METHOD,
    methods::hybrid::unipelt::METHOD,
];

/// A method from a recipe's `method`: its `type` is the word ([`crate::words`] are words, too), `defaults` says whose defaults it
/// has, `init_from` which adapter it goes on from ([`warm_start`]), the rest are its fields.
pub fn from_recipe(fields: &Map<String, Value>, warnings: &mut Vec<String>) -> Result<Arc<dyn Method>, EditError> {
    check_type(fields)?;
    let mut own = spelled_out(fields);
    let word = own.shift_remove("type").unwrap_or_default();
    let word = word.as_str().unwrap_or_default();
    let Some(info) = METHODS.iter().find(|m| m.name == word) else {
        return Err(unknown(word, METHODS.iter().map(|m| m.name).chain(WORDS.iter().map(|word| word.name))));
    };
    match own.shift_remove("defaults") {
        None => {}
        Some(Value::String(whose)) if whose == "hone" => {}
        Some(Value::String(whose)) if whose == "peft" => with_pefts_defaults(info, &mut own),
        Some(other) => return Err(wrong(info.name, "defaults", other.to_string(), "`hone` or `peft`")),
    }
    warm_start::take(info, &mut own)?;
    (info.parse)(&own, Origin::Recipe, warnings)
}

/// Fills in what PEFT has where a recipe says nothing: the values of the schema, which are those of the files.
fn with_pefts_defaults(info: &MethodInfo, fields: &mut Map<String, Value>) {
    for (field, schema) in schema_of(info).get("properties").and_then(Value::as_object).into_iter().flatten() {
        if let Some(default) = schema.get("default") {
            fields.entry(field.clone()).or_insert_with(|| default.clone());
        }
    }
}

/// A recipe's `method` with its paths made absolute: taken from `directory`, the recipe's, or, where only that is there, from
/// where the command is run.
pub fn with_paths_from(directory: &Path, fields: &Map<String, Value>) -> Map<String, Value> {
    let fields = &spelled_out(fields);
    let word = fields.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut paths = METHODS.iter().find(|m| m.name == word).map(path_fields).unwrap_or_default();
    paths.push(warm_start::FIELD.into());
    let mut fields = fields.clone();
    for (_, value) in fields.iter_mut().filter(|(field, _)| paths.contains(field)) {
        match value {
            Value::Array(list) => list.iter_mut().for_each(|path| locate(path, directory)),
            Value::Object(named) => named.values_mut().for_each(|path| locate(path, directory)),
            path => locate(path, directory),
        }
    }
    fields
}

/// A method's fields as a JSON schema with everything in place; its defaults are those of files, and so PEFT's.
pub fn schema_of(info: &MethodInfo) -> Value {
    let mut generator = SchemaSettings::default().with(|settings| settings.inline_subschemas = true).into_generator();
    (info.schema)(&mut generator).to_value()
}

/// The fields of a method that hold paths: one, a list of them, or several by name. Their schema has the format `path`.
pub fn path_fields(info: &MethodInfo) -> Vec<String> {
    let schema = schema_of(info);
    let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    fields.filter(|(_, schema)| schema["format"] == "path").map(|(field, _)| field.clone()).collect()
}

/// A path, if `value` is one; what else stands beside paths is the method's to read.
fn locate(value: &mut Value, directory: &Path) {
    if let Value::String(path) = value {
        *path = located(path, directory);
    }
}

/// A recipe's path made absolute: taken from `directory`, the recipe's, or, where only that is there, from where the command is
/// run.
pub fn located(path: &str, directory: &Path) -> String {
    let beside = directory.join(path);
    let found = if beside.exists() || !Path::new(path).exists() { beside } else { Path::new(path).to_path_buf() };
    std::path::absolute(&found).unwrap_or(found).to_string_lossy().into_owned()
}

/// A method from an `adapter_config.json`.
pub fn from_peft(config: &Map<String, Value>, warnings: &mut Vec<String>) -> Result<Arc<dyn Method>, EditError> {
    let word = config.get("peft_type").and_then(Value::as_str).unwrap_or_default();
    let Some(info) = METHODS.iter().find(|m| m.peft_type == word) else {
        return Err(not_read::refused(word).unwrap_or_else(|| unknown(word, METHODS.iter().map(|m| m.peft_type))));
    };
    (info.parse)(config, Origin::File, warnings)
}

fn unknown<'a>(found: &str, known: impl Iterator<Item = &'a str> + Clone) -> EditError {
    let hint = did_you_mean(found, known.clone());
    EditError::UnknownMethod { found: found.into(), hint, known: known.collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_name_directories_say_so() {
        for info in METHODS {
            let schema = schema_of(info);
            let described = |schema: &Value| schema["description"].as_str().unwrap_or_default().to_lowercase();
            let fields = schema["properties"].as_object().into_iter().flatten();
            let named: Vec<String> = fields
                .filter(|(field, schema)| {
                    let text = described(schema);
                    field.ends_with("state_dict_path") || text.contains("director")
                })
                .map(|(field, _)| field.clone())
                .collect();
            assert_eq!(
                path_fields(info),
                named,
                "{}: a field is a path, and its schema has no format `path`",
                info.name
            );
        }
        let of = |word: &str| path_fields(METHODS.iter().find(|m| m.name == word).unwrap());
        assert_eq!(of("grafting"), ["tuned"]);
        assert_eq!(of("attempt"), ["init_from", "init_nearest_to", "sources"]);
        assert_eq!(of("poly"), ["init_from"]);
        assert_eq!(of("lora"), [""; 0]);
    }
}
