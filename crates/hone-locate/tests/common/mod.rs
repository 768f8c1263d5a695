//! The tiny model that ships, with a chat template and without.

#![allow(dead_code)] // every test file uses a part

use std::path::Path;

use hone_edit::{Base, Edit, EditStack, Role, registry};
use hone_engine::{DType, RandomKey};
use hone_locate::Question;
use hone_locate::question::asked;
use hone_model::template::ChatTemplate;
use hone_model::{LoadOptions, Model};
use serde_json::{Value, json};

/// A template as many are: marks around trimmed messages, a system message that nobody wrote.
pub const TEMPLATE: &str = "<|system|>\nYou help.\n{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>\n{% endfor %}\
                            {% if add_generation_prompt %}<|assistant|>\n{% endif %}";

pub fn stories() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
    Model::load(path.to_str().unwrap(), options).unwrap()
}

pub fn with_template(source: &str) -> Model {
    let mut model = stories();
    let tokens = model.tokenizer.special_tokens();
    model.template = Some(ChatTemplate::new(Path::new("test"), source.to_owned(), None, tokens).unwrap());
    model
}

/// An edit whose trained numbers were moved from where they start.
pub fn moved(model: &Model, recipe: Value) -> EditStack {
    let base = Base::of(model);
    let method = registry::from_recipe(recipe.as_object().unwrap(), &mut Vec::new()).unwrap();
    let mut edit = Edit::new(method, &base, 3).unwrap();
    for param in edit.params.iter_mut().filter(|p| p.traits.role == Role::Trained) {
        let key = RandomKey::new(3).named(&param.key);
        param.value.as_mut_slice::<f32>().iter_mut().enumerate().for_each(|(i, v)| *v += 0.2 * key.normal(i as u64));
    }
    EditStack::of(edit)
}

pub fn lora(model: &Model) -> EditStack {
    moved(model, json!({"type": "lora", "r": 2, "target_modules": ["q_proj", "k_proj"]}))
}

pub fn question(id: &str, context: &str, question: &str, answer: &str) -> Question {
    let (user, context) = asked(context, question);
    let (alone, answer) = (Some(asked("", question).0), answer.to_owned());
    Question { id: id.to_owned(), user, context, alone, answer, delimiter: " ".to_owned() }
}

pub fn questions() -> Vec<Question> {
    vec![
        question("1", "Tom has a red ball. Lily has a blue car.", "What does Lily have?", "a blue car"),
        question("2", "The dog ran to the park.\n\nThe cat sat down.", "Where did the dog run?", "to the park"),
        question("3", "Once upon a time there was a big bear.", "Who was there?", "the bear"),
        question("4", "Ann gave Bob an apple. Bob gave it to Max.", "Who has the apple?", "Max"),
    ]
}
