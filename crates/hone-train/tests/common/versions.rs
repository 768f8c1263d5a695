//! Two versions of stories260k, and an update that goes on from the new one.

use std::path::PathBuf;
use std::sync::Arc;

use hone_edit::{load_edit, save_edit};
use hone_engine::{DType, RandomKey};
use hone_model::{Hooks, LoadOptions, Model};
use hone_train::{PreparedData, Recipe, new_edit};

use super::{prepared, recipe, sentences, stories, stories_path};

/// A model, an old and a new adapter of it, and sentences.
pub struct Setting {
    dtype: DType,
    pub model: Arc<Model>,
    folder: tempfile::TempDir,
}

impl Setting {
    pub fn new(dtype: DType) -> Setting {
        let setting = Setting { dtype, model: stories(dtype), folder: tempfile::tempdir().unwrap() };
        setting.save(&setting.model, "old", 1);
        setting.save(&setting.model, "new", 2);
        setting
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An adapter of `model` that has moved at random.
    pub fn save(&self, model: &Model, name: &str, seed: u64) {
        let mut edit = new_edit(&recipe("", ""), model).unwrap();
        for param in &mut edit.params {
            let key = RandomKey::new(seed).named(&param.key);
            let values = param.value.as_mut_slice::<f32>().iter_mut().enumerate();
            values.for_each(|(i, v)| *v += 0.04 * key.normal(i as u64));
        }
        save_edit(&edit, &self.dir(name)).unwrap();
    }

    /// A recipe that goes on from the new version.
    pub fn recipe(&self, old: &str, compatibility: &str) -> Recipe {
        let dtype = self.dtype;
        let text = format!(
            "{{model: stories260k, data: {{path: none}}, method: {{type: lora, r: 4, init_from: '{}'}}, train: {{steps: 24, \
             learning_rate: 1e-2, dtype: {dtype}, validation_every: 0, save_every: 7, compatibility: {{old: {{{old}}}, \
             {compatibility}}}}}}}",
            self.dir("new").display()
        );
        hone_train::recipe::parse(&text, "test", &[]).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    pub fn of_adapters(&self, compatibility: &str) -> Recipe {
        self.recipe(&format!("edit: '{}'", self.dir("old").display()), compatibility)
    }

    pub fn data(&self, recipe: &Recipe) -> Arc<PreparedData> {
        let mut examples = sentences(&self.model, 40);
        let validation = examples.split_off(32);
        prepared(examples, validation, recipe)
    }

    pub fn hooks(&self, model: &Model, name: &str) -> Arc<dyn Hooks> {
        load_edit(&self.dir(name), model).unwrap().hooks(DType::F32)
    }
}

/// stories260k with all numbers `factor` times as large: another model with the same tokenizer.
pub fn another(setting: &Setting, factor: f32) -> Model {
    let dir = setting.dir("another");
    std::fs::create_dir_all(&dir).unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(stories_path().join(name), dir.join(name)).unwrap();
    }
    let mut bytes = std::fs::read(stories_path().join("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for number in bytes[header..].chunks_exact_mut(4) {
        let value = f32::from_le_bytes(number.try_into().unwrap());
        number.copy_from_slice(&(factor * value).to_le_bytes());
    }
    std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
    Model::load(dir.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap()
}
