//! Checkpoints: everything a run needs to go on as if it had never stopped, to the bit.
//!
//! `checkpoints/step-00000120/` holds `params.safetensors` (masters, `f32`), `optimizer.safetensors` (moments, as `f32` or in
//! 8-bit codes) and `state.json`
//! (step, best, what the run is). A directory is written beside its place, flushed and renamed, so it is there whole or not
//! at all. The last two are kept, and the best one. Random numbers and the data's order are functions of the step's number,
//! so nothing of them is stored.

use std::path::{Path, PathBuf};
use std::time::Instant;

use hone_edit::EditStack;
use hone_edit::atomic;
use hone_edit::files::{Slice, TensorFile, write_slices, write_tensors};
use hone_engine::optim::{Adam8State, AdamState, SgdState};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{TrainError, io_error};
use crate::machine::cpu_seconds;
use crate::optimizer::{Memory, Optimizer};
use crate::rules::Rules;

const PARAMS: &str = "params.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
/// What the method remembers between steps.
const RULES: &str = "rules.safetensors";
const STATE: &str = "state.json";
/// Checkpoints kept beside the best one.
const KEPT: usize = 2;

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimiser steps done.
    pub step: usize,
    /// Tokens read.
    pub tokens: u64,
    /// Wall seconds spent in steps and validations.
    pub seconds: f64,
    /// Processor seconds spent in them by all threads; 0 where the system does not tell.
    #[serde(default)]
    pub cpu_seconds: f64,
    /// The best validation so far.
    pub best: Option<Best>,
    /// Validations since the best one.
    pub validations_since_best: usize,
    /// The step of the last validation.
    pub validated: Option<usize>,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
}

/// When a step or a validation began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    wall: Instant,
    cpu: Option<f64>,
}

impl Start {
    /// Now.
    pub fn now() -> Start {
        Start { wall: Instant::now(), cpu: cpu_seconds() }
    }
}

impl Progress {
    /// Counts the time since `start`; wall seconds are given.
    pub(crate) fn add(&mut self, start: Start) -> f64 {
        let seconds = start.wall.elapsed().as_secs_f64();
        self.seconds += seconds;
        self.cpu_seconds += cpu_seconds().zip(start.cpu).map_or(0.0, |(now, then)| now - then);
        seconds
    }
}

/// The best validation so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its step.
    pub step: usize,
    /// Its loss.
    pub validation_loss: f64,
}

/// What a run is: a checkpoint is continued only by the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The resolved recipe, without what does not change the numbers.
    pub recipe: Map<String, Value>,
    /// SHA-256 of the model's weights.
    pub model_sha256: String,
    /// SHA-256 of the tokenised data.
    pub data_sha256: String,
    /// Threads it computed with.
    pub threads: usize,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    format: u32,
    progress: Progress,
    /// Updates of each parameter so far.
    updates: Vec<u64>,
    identity: Identity,
}

/// The checkpoints of a run.
pub struct Checkpoints {
    directory: PathBuf,
}

impl Checkpoints {
    /// Those in `run`; leftovers of a crashed write are removed.
    pub fn new(run: &Path) -> Result<Checkpoints, TrainError> {
        let directory = run.join("checkpoints");
        std::fs::create_dir_all(&directory).map_err(io_error(&directory))?;
        for entry in std::fs::read_dir(&directory).map_err(io_error(&directory))? {
            let path = entry.map_err(io_error(&directory))?.path();
            if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".hone-")) {
                atomic::remove(&path)?;
            }
        }
        Ok(Checkpoints { directory })
    }

    /// The directory of the checkpoint at `step`.
    pub fn path(&self, step: usize) -> PathBuf {
        self.directory.join(format!("step-{step:08}"))
    }

    /// Steps that have a checkpoint, in order.
    pub fn steps(&self) -> Vec<usize> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let step = |name: String| name.strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<usize> = entries.filter_map(|e| step(e.file_name().into_string().ok()?)).collect();
        steps.sort_unstable();
        steps
    }

    /// Writes a checkpoint and removes those no longer needed. Returns its directory.
    pub fn save(
        &self,
        progress: &Progress,
        stack: &EditStack,
        (optimizer, rules): (&Optimizer, &Rules),
        identity: &Identity,
    ) -> Result<PathBuf, TrainError> {
        let path = self.path(progress.step);
        let params = || stack.trained_params().map(|(_, p)| p);
        atomic::write_directory::<TrainError>(&path, |to| {
            write_tensors(&to.join(PARAMS), stack.kept_params().map(|p| (p.key.as_str(), &p.value)))?;
            let remembered = rules.state();
            if !remembered.is_empty() {
                write_tensors(&to.join(RULES), remembered.iter().map(|(name, value)| (name.as_str(), value)))?;
            }
            let slices = params().zip(&optimizer.memory).flat_map(|(p, memory)| slices(&p.key, memory));
            write_slices(&to.join(OPTIMIZER), slices)?;
            let updates = optimizer.memory.iter().map(updates).collect();
            let state = StateFile { format: 1, progress: progress.clone(), updates, identity: identity.clone() };
            let file = to.join(STATE);
            let text = serde_json::to_string_pretty(&state)
                .map_err(|e| TrainError::Io { path: file.clone(), source: std::io::Error::other(e) })?;
            std::fs::write(&file, text).map_err(io_error(&file))
        })?;
        self.prune(progress.best.map(|b| b.step))?;
        Ok(path)
    }

    fn prune(&self, best: Option<usize>) -> Result<(), TrainError> {
        let steps = self.steps();
        let old = steps.len().saturating_sub(KEPT);
        for step in &steps[..old] {
            let path = self.path(*step);
            if Some(*step) != best {
                atomic::remove(&path)?;
                continue;
            }
            // The best one is there for its parameters; a run goes on from the last one.
            for moments in [OPTIMIZER, RULES].map(|name| path.join(name)) {
                if moments.exists() {
                    std::fs::remove_file(&moments).map_err(io_error(&moments))?;
                }
            }
        }
        Ok(())
    }

    /// Reads the checkpoint at `step` into the stack and the optimiser. Warns where its bits cannot be those of an
    /// uninterrupted run.
    pub fn load(
        &self,
        step: usize,
        stack: &mut EditStack,
        (optimizer, rules): (&mut Optimizer, &mut Rules),
        identity: &Identity,
    ) -> Result<(Progress, Vec<String>), TrainError> {
        let path = self.path(step);
        let state = self.state(&path)?;
        let warnings = same_run(&path, &state.identity, identity)?;
        self.load_params(step, stack)?;
        if state.updates.len() != optimizer.memory.len() {
            return Err(damaged(&path, "it was written by another optimiser or edit".into()));
        }
        let mut file = TensorFile::read(&path.join(OPTIMIZER))?;
        let keys: Vec<(String, usize)> =
            stack.trained_params().map(|(_, p)| (p.key.clone(), p.value.elements())).collect();
        for (((key, elements), memory), step) in keys.iter().zip(&mut optimizer.memory).zip(&state.updates) {
            let name = |part: &str| format!("{part}/{key}");
            let mut read = |part: &str, len: usize| -> Result<Vec<f32>, TrainError> {
                Ok(file.tensor(&name(part), &[len])?.to_vec_f32())
            };
            *memory = match memory {
                Memory::Adam(_) => {
                    Memory::Adam(AdamState { m: read("m", *elements)?, v: read("v", *elements)?, step: *step })
                }
                Memory::Adam8(state) => Memory::Adam8(Adam8State {
                    m_scales: read("m_scales", state.m_scales.len())?,
                    v_scales: read("v_scales", state.v_scales.len())?,
                    m: file.codes(&name("m"), *elements)?,
                    v: file.codes(&name("v"), *elements)?,
                    step: *step,
                }),
                Memory::Sgd(_) if *step == 0 => Memory::Sgd(SgdState::default()),
                Memory::Sgd(_) => {
                    let velocity = read("velocity", *elements).unwrap_or_default();
                    Memory::Sgd(SgdState { velocity, step: *step })
                }
            };
        }
        file.all_used()?;
        self.load_rules(&path, stack, rules)?;
        Ok((state.progress, warnings))
    }

    /// Reads only the masters of the checkpoint at `step`.
    pub fn load_params(&self, step: usize, stack: &mut EditStack) -> Result<(), TrainError> {
        let mut file = TensorFile::read(&self.path(step).join(PARAMS))?;
        for param in stack.kept_params_mut() {
            param.value = file.tensor(&param.key, param.value.dims())?;
        }
        Ok(file.all_used()?)
    }

    fn load_rules(&self, path: &Path, stack: &EditStack, rules: &mut Rules) -> Result<(), TrainError> {
        let path = path.join(RULES);
        if !path.exists() {
            return Ok(());
        }
        let mut file = TensorFile::read(&path)?;
        let mut failure = None;
        rules.restore(stack, &mut |name, shape| match file.has(name).then(|| file.tensor(name, shape))? {
            Ok(tensor) => Some(tensor),
            Err(error) => {
                failure.get_or_insert(error);
                None
            }
        });
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(file.all_used()?),
        }
    }

    fn state(&self, path: &Path) -> Result<StateFile, TrainError> {
        let file = path.join(STATE);
        let text = std::fs::read_to_string(&file).map_err(io_error(&file))?;
        serde_json::from_str(&text).map_err(|e| damaged(path, e.to_string()))
    }
}

fn damaged(path: &Path, what: String) -> TrainError {
    let next = "remove this checkpoint to continue from the one before".into();
    TrainError::Checkpoint { path: path.into(), what, next }
}

fn slices<'a>(key: &str, memory: &'a Memory) -> Vec<(String, Slice<'a>)> {
    let named = |part: &str, slice| (format!("{part}/{key}"), slice);
    match memory {
        Memory::Adam(state) => vec![named("m", Slice::F32(&state.m)), named("v", Slice::F32(&state.v))],
        Memory::Adam8(state) => vec![
            named("m", Slice::U8(&state.m)),
            named("v", Slice::U8(&state.v)),
            named("m_scales", Slice::F32(&state.m_scales)),
            named("v_scales", Slice::F32(&state.v_scales)),
        ],
        Memory::Sgd(state) if state.velocity.is_empty() => Vec::new(),
        Memory::Sgd(state) => vec![named("velocity", Slice::F32(&state.velocity))],
    }
}

fn updates(memory: &Memory) -> u64 {
    match memory {
        Memory::Adam(state) => state.step,
        Memory::Adam8(state) => state.step,
        Memory::Sgd(state) => state.step,
    }
}

/// Refuses to continue another run; warns where the bits may differ.
fn same_run(path: &Path, theirs: &Identity, ours: &Identity) -> Result<Vec<String>, TrainError> {
    let refuse = |what: String| {
        let next = "continue with the recipe, model and data it was made with, or choose another `--out`".into();
        Err(TrainError::Checkpoint { path: path.into(), what, next })
    };
    if theirs.model_sha256 != ours.model_sha256 {
        return refuse(format!(
            "it was made with another model (sha256 {}, now {})",
            theirs.model_sha256, ours.model_sha256
        ));
    }
    if let Some((key, then, now)) = first_difference("", &theirs.recipe, &ours.recipe) {
        return refuse(format!("it was made with another recipe: `{key}` was {then} and is {now}"));
    }
    if theirs.data_sha256 != ours.data_sha256 {
        return refuse("it was made with other data (the tokenised examples differ)".into());
    }
    if theirs.threads != ours.threads {
        return Ok(vec![format!(
            "the run so far used {} threads, this one uses {}: the result will not be the same to the bit",
            theirs.threads, ours.threads
        )]);
    }
    Ok(Vec::new())
}

/// The first key on which two objects differ, with both values.
fn first_difference(prefix: &str, a: &Map<String, Value>, b: &Map<String, Value>) -> Option<(String, String, String)> {
    let show = |v: Option<&Value>| v.map_or("not set".to_string(), Value::to_string);
    a.keys().chain(b.keys()).find_map(|key| match (a.get(key), b.get(key)) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => first_difference(&format!("{prefix}{key}."), a, b),
        (a, b) if a != b => Some((format!("{prefix}{key}"), show(a), show(b))),
        _ => None,
    })
}
