//! `hone study`: published claims held against measurement, with this program's own commands on real data.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::Parser;
use hone_eval::DataRoot;
use hone_study::claims::Holds;
use hone_study::record::sha256;
use hone_study::results::Ran;
use hone_study::runner::{self, Ended, Setting};
use hone_study::{Plan, Results, Source, Step, Study as StudyFile, StudyError, page};
use hone_train::machine::Machine;
use hone_train::recipe;
use serde::Serialize;

use super::compare::write_text;
use super::study_progress::StudyProgress;
use crate::args::{Arguments, Common, Verb};
use crate::fail::{Failure, INTERRUPTED};
use crate::interrupt;
use crate::print::{outln, remark};

/// Exit code when a claim does not hold.
const CLAIM: u8 = 1;
/// Where the runs of studies go.
const RUNS: &str = "runs/studies";

/// Arguments of `hone study`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone study list
  hone study run peft-frontier --data-root data      # the same command continues it after an interruption
  hone study run mystudy.yaml --out runs/mystudy
  hone study run --all

A study exits with 1 when one of its claims does not hold, or is not decided.")]
pub struct Study {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List the studies: minutes, whether their data are at hand, question.
    List,
    /// Run a study, or what is left of it, and hold its claims against what was measured.
    Run(Run),
}

#[derive(clap::Args, Debug)]
struct Run {
    /// A study's name, or the path of a study file.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,
    /// Run every study there is.
    #[arg(long)]
    all: bool,
    /// The run's directory (default: runs/studies/NAME).
    #[arg(long, value_name = "DIR", conflicts_with = "all")]
    out: Option<PathBuf>,
    /// Where the page goes besides the run (default: docs/studies/NAME.md beside the `studies` directory the study is in).
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    page: Option<PathBuf>,
    /// Do finished steps again.
    #[arg(long)]
    fresh: bool,
}

/// A line of `hone study list --json`.
#[derive(Serialize)]
struct Listed {
    name: String,
    title: String,
    paper: String,
    minutes: f64,
    steps: usize,
    claims: usize,
    models: Vec<String>,
    data: Vec<String>,
    missing_data: Vec<String>,
}

impl Study {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        match self.action {
            Action::List => list(common),
            Action::Run(run) => run.run(common),
        }
    }
}

fn list(common: &Common) -> Result<u8, Failure> {
    let mut all = Vec::new();
    for name in hone_study::names_known() {
        let source = hone_study::find(&name)?;
        let study = hone_study::read(&source)?;
        let (root, missing) = data_root(&study, common);
        let plan = Plan::new(&source, &study, &root.to_string_lossy())?;
        all.push(Listed {
            name,
            title: study.title,
            paper: study.paper,
            minutes: study.minutes,
            steps: plan.steps.len(),
            claims: study.claims.len(),
            models: study.needs.models,
            data: study.needs.data,
            missing_data: missing,
        });
    }
    if common.json {
        outln!("{}", serde_json::to_string(&all)?)?;
        return Ok(0);
    }
    let width = all.iter().map(|study| study.name.len()).max().unwrap_or(0);
    for study in &all {
        let data = if study.missing_data.is_empty() { "" } else { "  (data missing)" };
        outln!("{:<width$}  {:>3.0} min  {}{data}", study.name, study.minutes, study.title)?;
    }
    Ok(0)
}

/// The data root that holds most of what the study needs, and what it lacks.
fn data_root(study: &StudyFile, common: &Common) -> (PathBuf, Vec<String>) {
    let roots = DataRoot::discover(common.data_root.as_deref()).directories;
    let lacks = |root: &PathBuf| -> Vec<String> {
        study.needs.data.iter().filter(|file| !root.join(file).is_file()).cloned().collect()
    };
    let best = roots.iter().map(|root| (root.clone(), lacks(root))).min_by_key(|(_, missing)| missing.len());
    let (root, missing) = best.unwrap_or_else(|| (PathBuf::from("."), study.needs.data.clone()));
    (std::path::absolute(&root).unwrap_or(root), missing)
}

impl Run {
    fn run(&self, common: &Common) -> Result<u8, Failure> {
        let stop = interrupt::stop_flag();
        let names = match &self.name {
            Some(name) => vec![name.clone()],
            None => hone_study::names_known(),
        };
        let mut finished = Vec::new();
        let mut worst = 0;
        for name in &names {
            match self.one(name, &stop, common) {
                Ok(Some(results)) => {
                    worst = worst.max(if results.all_hold() { 0 } else { CLAIM });
                    if !common.json {
                        show(&results)?;
                    }
                    finished.push(results);
                }
                Ok(None) => {
                    remark!("stopped; the same command goes on after the steps that are done");
                    return Ok(INTERRUPTED);
                }
                // One study that cannot run is no reason to leave out the others.
                Err(failure) if self.all => {
                    worst = worst.max(failure.code);
                    failure.doing(format!("study `{name}`")).print();
                }
                Err(failure) => return Err(failure),
            }
        }
        if common.json {
            let text = match &finished[..] {
                [one] if !self.all => serde_json::to_string(one)?,
                all => serde_json::to_string(all)?,
            };
            outln!("{text}")?;
        }
        Ok(worst)
    }

    /// Runs a study and writes what came out. `None` if it was stopped.
    fn one(&self, name: &str, stop: &AtomicBool, common: &Common) -> Result<Option<Results>, Failure> {
        let source = hone_study::find(name)?;
        let study = hone_study::read(&source)?;
        let (root, missing) = data_root(&study, common);
        if !missing.is_empty() {
            let looked = DataRoot::discover(common.data_root.as_deref()).directories;
            let looked: Vec<String> = looked.iter().map(|d| d.display().to_string()).collect();
            let looked = if looked.is_empty() { "no directory".into() } else { looked.join(", ") };
            return Err(StudyError::NoData { study: source.name, missing: missing.join(", "), looked }.into());
        }
        let plan = Plan::new(&source, &study, &root.to_string_lossy())?;
        plan.steps.iter().try_for_each(check)?;
        for model in &study.needs.models {
            super::pull::resolve(model, common)?;
        }
        let directory = self.out.clone().unwrap_or_else(|| Path::new(RUNS).join(&plan.name));
        let data = data_hashes(&study, &root)?;
        let program = std::env::current_exe().map_err(Failure::from)?;
        let setting = Setting {
            program: &program,
            options: options(&study, &root, common),
            directory: &directory,
            data: data.iter().map(|(_, hash)| hash.clone()).collect(),
            version: env!("CARGO_PKG_VERSION"),
            fresh: self.fresh,
        };
        let mut progress = StudyProgress::new(&plan, common);
        let ended = runner::run(&plan, &setting, stop, &mut |event| progress.event(event));
        progress.finish();
        let Ended::Done(records) = ended? else { return Ok(None) };
        let machine = Machine::this();
        let ran = Ran {
            version: env!("CARGO_PKG_VERSION").into(),
            machine: format!(
                "{}, {} threads",
                machine.processor.unwrap_or_else(|| machine.architecture.into()),
                machine.threads
            ),
            models: study.needs.models.clone(),
            data,
            ..Ran::default()
        };
        let results = Results::of(&plan, &directory, &records, ran)?;
        self.write(&source, &plan, &results, &directory)?;
        Ok(Some(results))
    }

    /// Writes results, page and plots into the run, and the page with its plots where it belongs.
    fn write(&self, source: &Source, plan: &Plan, results: &Results, directory: &Path) -> Result<(), Failure> {
        let mut places = vec![directory.join("study.md")];
        places.extend(self.page.clone().or_else(|| page_beside(source)));
        write_text(&directory.join("results.json"), &serde_json::to_string_pretty(results)?)?;
        let text = page::write(plan, results);
        let mut pictures = Vec::new();
        for plot in &results.plots {
            let drawn = hone_report::study::draw(plot).map_err(|error| Failure::ours(error.to_string()))?;
            pictures.extend(drawn.map(|svg| (format!("{}-{}.svg", results.study, plot.name), svg)));
        }
        for place in places {
            write_text(&place, &text)?;
            let beside = place.parent().unwrap_or(Path::new(""));
            pictures.iter().try_for_each(|(name, svg)| write_text(&beside.join(name), svg))?;
        }
        Ok(())
    }
}

/// `docs/studies/NAME.md` beside the `studies` directory that the study's file lies in.
fn page_beside(source: &Source) -> Option<PathBuf> {
    let directory = PathBuf::from(source.directory()?);
    let named = directory.file_name().is_some_and(|name| name == "studies");
    named.then(|| directory.with_file_name("docs").join("studies").join(format!("{}.md", source.name)))
}

fn data_hashes(study: &StudyFile, root: &Path) -> Result<Vec<(String, String)>, Failure> {
    let hash = |file: &String| {
        let path = root.join(file);
        let bytes = std::fs::read(&path).map_err(|e| Failure::from(e).doing(format!("reading {}", path.display())))?;
        Ok((file.clone(), sha256(&bytes)))
    };
    study.needs.data.iter().map(hash).collect()
}

/// What every command of the study is given besides its own words.
fn options(study: &StudyFile, root: &Path, common: &Common) -> Vec<String> {
    let mut options = Vec::new();
    if common.data_root.is_some() || !study.needs.data.is_empty() {
        options.extend(["--data-root".to_owned(), root.to_string_lossy().into_owned()]);
    }
    options.extend(common.threads.into_iter().flat_map(|n| ["--threads".to_owned(), n.to_string()]));
    options
}

/// Refuses a command that could only fail when its turn comes: wrong options, a wrong recipe.
fn check(step: &Step) -> Result<(), Failure> {
    let words = ["hone", "--json"].into_iter().chain(step.words.iter().map(String::as_str));
    let place = |problem: String| format!("step `{}`: `{}`: {problem}", step.name, runner::shown(step));
    let arguments = Arguments::try_parse_from(words).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Failure::user(place(first), "mend the step's command in the study")
    })?;
    match arguments.verb {
        Verb::Study(_) => Err(Failure::user(place("a study runs no study".into()), "name its steps here instead")),
        Verb::Tune(tune) => {
            let Some((path, set)) = tune.recipe() else { return Ok(()) };
            let own = step.files.iter().find(|(name, _)| path == Path::new("steps").join(&step.name).join(name));
            match own {
                Some((name, text)) => recipe::parse(text, name, set)
                    .map(drop)
                    .map_err(|error| Failure::from(error).doing(format!("step `{}`", step.name))),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn show(results: &Results) -> Result<(), Failure> {
    outln!("{}\n", results.title)?;
    for claim in &results.claims {
        let measured = &claim.measured;
        let interval = if measured.low.is_some() { format!(" ({})", page::interval(measured)) } else { String::new() };
        outln!("{:<12} {}", claim.holds.in_words(), claim.claim)?;
        outln!("{:<12} expected {}, measured {}{interval}", "", claim.expected, page::value(measured))?;
    }
    let held = results.claims.iter().filter(|claim| claim.holds == Holds::Yes).count();
    outln!("\n{held} of {} claims hold", results.claims.len())
}
