//! Runs on stories260k.

#![allow(dead_code)] // every test file uses a part

pub mod versions;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hone_data::{Body, DataReport, Example, FlatBatch, Loaded, SourceRef, Tokenised, TokenisedExample};
use hone_edit::EditStack;
use hone_engine::DType;
use hone_engine::ops::head_logits;
use hone_model::{Context, Hooks, LoadOptions, Model};
use hone_train::objective::token_batch;
use hone_train::{Event, Outcome, PreparedData, Recipe, Start, TrainError, Trainer, new_edit, recipe};

pub fn stories_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k")
}

pub fn stories(dtype: DType) -> Arc<Model> {
    let options = LoadOptions { dtype, keep_quantised: false };
    Arc::new(Model::load(stories_path().to_str().unwrap(), options).unwrap())
}

/// A recipe with these lines under `train` and `data`.
pub fn recipe(train: &str, data: &str) -> Recipe {
    let text = format!(
        "{{model: stories260k, data: {{path: none, {data}}}, method: {{type: lora, r: 4}}, train: {{{train}}}}}"
    );
    recipe::parse(&text, "test", &[]).unwrap()
}

pub fn example(ids: Vec<u32>, trained: Vec<bool>, row: usize) -> TokenisedExample {
    let source = SourceRef { file: Path::new("test").into(), row, line: None };
    TokenisedExample { ids, trained, source, part: 0, wording: 0, truncated: 0 }
}

/// Data from token ids alone.
pub fn prepared(train: Vec<TokenisedExample>, validation: Vec<TokenisedExample>, recipe: &Recipe) -> Arc<PreparedData> {
    let body = |e: &TokenisedExample| Example {
        source: e.source.clone(),
        part: 0,
        wording: e.wording,
        body: Body::PromptCompletion { prompt: "a".into(), completion: "b".into() },
    };
    let mut report = DataReport::default();
    report.train = hone_data::report::split_report(train.len(), &train, &[2]);
    report.validation = hone_data::report::split_report(validation.len(), &validation, &[2]);
    let loaded = Loaded {
        train: train.iter().map(body).collect(),
        validation: validation.iter().map(body).collect(),
        report: report.clone(),
    };
    let tokenised = Tokenised { train, validation, max_length: 512, report };
    Arc::new(PreparedData::new(loaded, tokenised, recipe).unwrap())
}

/// Sentences of this model's kind: uneven lengths, the first third read, the rest trained, the end token last.
pub fn sentences(model: &Model, n: usize) -> Vec<TokenisedExample> {
    let words = ["big", "red", "old", "sad", "new", "wet", "fun"];
    (0..n)
        .map(|i| {
            let text = format!("Once there was a {} cat. ", words[i % 7]).repeat(1 + i % 4) + "The end.";
            let mut ids = vec![1];
            ids.extend(model.tokenizer.encode(&text, false).unwrap().ids);
            ids.push(2);
            let trained = (0..ids.len()).map(|t| t * 3 > ids.len()).collect();
            example(ids, trained, i + 1)
        })
        .collect()
}

pub struct Run {
    pub outcome: Result<Outcome, TrainError>,
    pub events: Vec<Event>,
}

impl Run {
    pub fn losses(&self) -> Vec<f64> {
        let loss = |e: &Event| match e {
            Event::Step(m) => Some(m.loss),
            _ => None,
        };
        self.events.iter().filter_map(loss).collect()
    }
}

/// Trains; `on` sees every event and may set the flag.
pub fn train_with(
    model: &Arc<Model>,
    stack: EditStack,
    data: &Arc<PreparedData>,
    recipe: &Recipe,
    run: &Path,
    start: Start,
    on: &mut dyn FnMut(&Event, &AtomicBool),
) -> Run {
    let stop = AtomicBool::new(false);
    let mut events = Vec::new();
    let trainer = Trainer::new(model.clone(), stack, data.clone(), recipe, run, start);
    let outcome = trainer.and_then(|trainer| {
        trainer.run(&stop, &mut |event| {
            on(&event, &stop);
            events.push(event);
        })
    });
    Run { outcome, events }
}

/// Trains a fresh edit of the recipe's method.
pub fn train(model: &Arc<Model>, data: &Arc<PreparedData>, recipe: &Recipe, run: &Path, start: Start) -> Run {
    let stack = EditStack::training(new_edit(recipe, model).unwrap());
    train_with(model, stack, data, recipe, run, start, &mut |_, _| {})
}

pub fn adapter_bytes(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("adapter/adapter_model.safetensors")).unwrap()
}

/// `ln softmax(z / T)` of every trained token.
pub fn log_probs(model: &Model, hooks: &Arc<dyn Hooks>, batch: &FlatBatch, temperature: f64) -> Vec<Vec<f64>> {
    let cx = Context::inference(hooks.clone(), DType::F32);
    let hidden = model.decoder.hidden(&cx, &token_batch(batch)).value;
    let logits = head_logits(&hidden, &model.decoder.head(&cx), &batch.rows, None);
    let row = |row: &[f32]| {
        let divided: Vec<f64> = row.iter().map(|l| f64::from(*l) / temperature).collect();
        let sum = divided.iter().map(|l| l.exp()).sum::<f64>().ln();
        divided.iter().map(|l| l - sum).collect()
    };
    logits.as_slice::<f32>().chunks(logits.rows_cols().1).map(row).collect()
}

/// `KL(q ‖ p)` of two such rows.
pub fn divergence(q: &[f64], p: &[f64]) -> f64 {
    q.iter().zip(p).map(|(q, p)| q.exp() * (q - p)).sum()
}
