//! What makes a run this run: everything that changes its numbers. A checkpoint is continued only by the same run
//! ([`crate::checkpoint`]).

use hone_model::Model;
use serde_json::{Map, Value, json};

use crate::checkpoint::Identity;
use crate::compatibility::Versions;
use crate::prepare::PreparedData;
use crate::recipe::Recipe;

/// Of a run of the resolved `recipe`.
pub(crate) fn identity(recipe: &Recipe, model: &Model, data: &PreparedData, versions: Option<&Versions>) -> Identity {
    let mut train = match serde_json::to_value(&recipe.train) {
        Ok(Value::Object(train)) => train,
        _ => Map::new(),
    };
    for harmless in ["log_every", "save_every"] {
        train.shift_remove(harmless);
    }
    // What the versions hold, wherever they lie.
    if let (Some(versions), Some(Value::Object(compatibility))) = (versions, train.get_mut("compatibility")) {
        compatibility.extend(versions.contents().map(|(name, contents)| (name.to_string(), contents)));
    }
    let order = json!({
        "seed": recipe.data.seed,
        "shuffle": recipe.data.shuffle,
        "packing": recipe.data.packing,
        "sequence_length": recipe.data.sequence_length,
        "weights": recipe.data.weights(),
    });
    let mut identity = Map::new();
    identity.insert("method".into(), Value::Object(recipe.method.0.clone()));
    identity.insert("train".into(), Value::Object(train));
    identity.insert("data".into(), order);
    if let Some(quantize) = recipe.quantize {
        identity.insert("quantize".into(), json!(quantize));
    }
    Identity {
        recipe: identity,
        model_sha256: model.source.sha256.clone(),
        data_sha256: data.sha256.clone(),
        threads: rayon::current_num_threads(),
    }
}
