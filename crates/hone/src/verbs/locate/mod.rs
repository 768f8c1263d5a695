//! `hone locate`: where in a model something happens.

mod attention;
mod dependency;

use clap::{Subcommand, ValueEnum};
use hone_engine::DType;
use hone_locate::attention::Subject;
use hone_locate::prompt::Form;
use hone_model::Model;

use crate::args::Common;
use crate::fail::Failure;
use crate::print::remark;

/// Arguments of `hone locate`.
#[derive(clap::Args, Debug)]
pub struct LocateVerb {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// How much attention goes to the user's context, by layer and head, with and without the chat template, before and after.
    Attention(attention::Attention),
    /// How much each answer of a training set depends on what the user gave, before and after; marks those that do.
    #[command(visible_alias = "dependency")]
    ContextDependency(dependency::ContextDependency),
}

impl LocateVerb {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        match self.what {
            What::Attention(attention) => attention.run(common),
            What::ContextDependency(dependency) => dependency.run(common),
        }
    }
}

/// Which forms are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Templates {
    Both,
    On,
    Off,
}

/// The forms to look at, by what was asked for; a model without a template has one form only, and that is said.
fn forms(asked: Option<Templates>, otherwise: Templates, model: &Model, common: &Common) -> Vec<Form> {
    let without = |wanted: Templates| {
        if asked.is_none() && wanted != Templates::Off && model.template.is_none() {
            if !common.quiet {
                remark!("note: {} has no chat template; looked at without one", model.source.reference);
            }
            return Templates::Off;
        }
        wanted
    };
    match without(asked.unwrap_or(otherwise)) {
        Templates::Both => vec![Form::Plain, Form::Chat],
        Templates::On => vec![Form::Chat],
        Templates::Off => vec![Form::Plain],
    }
}

/// What is looked at.
fn subject(model: &Model, edit: Option<String>, dtype: DType) -> Subject {
    let source = &model.source;
    Subject { model: source.reference.clone(), model_sha256: source.sha256.clone(), edit, dtype: dtype.to_string() }
}

/// The layer asked for, else the middle one.
fn layer(asked: Option<usize>, model: &Model) -> Result<usize, Failure> {
    let layers = model.spec.layers.len();
    match asked {
        None => Ok(layers / 2),
        Some(layer) if layer < layers => Ok(layer),
        Some(layer) => {
            let cause = format!("--layer {layer}: {} has {layers} layers", model.source.reference);
            Err(Failure::user(cause, format!("count from 0: 0 to {}", layers - 1)))
        }
    }
}

/// Columns of a data file, by what was given on the command line.
fn columns(
    context: Option<&String>,
    question: Option<&String>,
    answer: Option<&String>,
) -> Option<hone_locate::question::Columns> {
    Some(hone_locate::question::Columns {
        context: context.cloned().unwrap_or_default(),
        question: question?.clone(),
        answer: answer?.clone(),
    })
}
