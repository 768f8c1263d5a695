//! Running the steps: one after another, each a process of its own, its result and its messages in its directory.
//!
//! - **Finished steps are not run again** while their fingerprint ([`crate::record`]) is the same.
//! - **Stopping** (the `stop` flag) sends the running command one interrupt, as Ctrl-C would, and waits until it has saved. The
//!   command stands in a process group of its own, so that a terminal's Ctrl-C reaches it once, by way of this program.
//! - **Being killed** leaves the running command at work. It holds the run's lock: the lock file is its standard input (empty),
//!   and a lock lasts as long as any process has the file open. The next run waits for it instead of working beside it.
//! - **Continuing** an interrupted step adds its `resume` options; without such it begins in an empty directory.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::StudyError;
use crate::plan::{FILES, Plan, Step};
use crate::record::{self, LOG, RESULT, Record, State, write_text};

/// The file that is locked while a run is at work.
const LOCK: &str = "lock";
/// The copy of the study a run is of.
const STUDY: &str = "study.yaml";
/// Pause between two looks at a running command.
const PAUSE: Duration = Duration::from_millis(50);
/// Lines of a failed step's messages that are shown.
const TAIL: usize = 12;

/// Where and with what to run.
pub struct Setting<'a> {
    /// The program.
    pub program: &'a Path,
    /// Options for every command, such as the data root.
    pub options: Vec<String>,
    /// The run's directory.
    pub directory: &'a Path,
    /// Hashes of the study's data files.
    pub data: Vec<String>,
    /// Version of the program.
    pub version: &'a str,
    /// Do every step again.
    pub fresh: bool,
}

/// What happens on the way.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Another process is at work in the directory.
    Waiting,
    /// A step begins.
    Begun {
        /// The step.
        step: &'a Step,
        /// Steps done.
        done: usize,
    },
    /// Time goes by.
    Working {
        /// Seconds all steps that are left will take, this one included, as far as it can be told.
        left: f64,
    },
    /// A step is done.
    Done {
        /// The step.
        step: &'a Step,
        /// Steps done.
        done: usize,
        /// Wall seconds it took; `None` if it had been done before.
        seconds: Option<f64>,
        /// Seconds the steps that are left will take.
        left: f64,
    },
}

/// How it ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// Every step is done; what each of them took, in seconds.
    Done(Vec<Record>),
    /// It was stopped; so many steps are done.
    Stopped(usize),
}

/// A command as it is typed in the run's directory.
pub fn shown(step: &Step) -> String {
    let words = std::iter::once("hone").chain(step.words.iter().map(String::as_str)).chain(["--json"]);
    shlex::try_join(words).unwrap_or_else(|_| step.words.join(" "))
}

/// Runs what is not done.
pub fn run(
    plan: &Plan,
    setting: &Setting<'_>,
    stop: &AtomicBool,
    on: &mut dyn FnMut(Event<'_>),
) -> Result<Ended, StudyError> {
    std::fs::create_dir_all(setting.directory).map_err(StudyError::io(setting.directory))?;
    let Some(lock) = lock(setting.directory, stop, on)? else { return Ok(Ended::Stopped(0)) };
    claim(plan, setting)?;
    for (name, text) in &plan.files {
        write_text(&setting.directory.join(FILES).join(name), text)?;
    }
    write_text(&setting.directory.join("commands.sh"), &script(plan))?;
    let program = std::fs::read(setting.program).map_err(StudyError::io(setting.program))?;
    let program_sha256 = record::sha256(&program);
    let fingerprints = record::fingerprints(plan, &setting.data, setting.version);
    let mut times = Times::new(plan);
    let mut records = Vec::new();
    for (at, (step, fingerprint)) in plan.steps.iter().zip(fingerprints).enumerate() {
        let directory = record::directory(setting.directory, step);
        let known = record::read(&directory).filter(|record| record.fingerprint == fingerprint && !setting.fresh);
        if let Some(done) = known.clone().filter(|record| record.state == State::Done) {
            times.took(step, done.seconds);
            records.push(done);
            on(Event::Done { step, done: at + 1, seconds: None, left: times.left(plan, at + 1) });
            continue;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(Ended::Stopped(at));
        }
        on(Event::Begun { step, done: at });
        let continued = known.as_ref().filter(|_| step.resume.is_some());
        let before = continued.map_or(0.0, |record| record.seconds);
        if continued.is_none() {
            empty(&directory)?;
        }
        let version = setting.version.to_owned();
        let mut record = Record {
            state: State::Started,
            fingerprint,
            seconds: before,
            version,
            program_sha256: program_sha256.clone(),
        };
        record::write(&directory, &record)?;
        for (name, text) in &step.files {
            write_text(&directory.join(name), text)?;
        }
        let started = Instant::now();
        let child = start(step, setting, continued.is_some(), &lock)?;
        let mut tick = || on(Event::Working { left: times.left_within(plan, at, started.elapsed().as_secs_f64()) });
        let (status, stopped) = wait(child, stop, &mut tick).map_err(|source| not_started(step, source))?;
        record.seconds = before + started.elapsed().as_secs_f64();
        if !status.success() {
            record::write(&directory, &record)?;
            if stopped {
                return Ok(Ended::Stopped(at));
            }
            return Err(failed(step, status, &directory));
        }
        record.state = State::Done;
        record::write(&directory, &record)?;
        times.took(step, record.seconds);
        let seconds = Some(record.seconds);
        records.push(record);
        on(Event::Done { step, done: at + 1, seconds, left: times.left(plan, at + 1) });
    }
    Ok(Ended::Done(records))
}

/// Takes the run's lock, waiting while another process has it. `None` when asked to stop.
fn lock(directory: &Path, stop: &AtomicBool, on: &mut dyn FnMut(Event<'_>)) -> Result<Option<File>, StudyError> {
    let path = directory.join(LOCK);
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(StudyError::io(&path))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(std::fs::TryLockError::Error(source)) => return Err(StudyError::io(path)(source)),
            Err(std::fs::TryLockError::WouldBlock) if stop.load(Ordering::Relaxed) => return Ok(None),
            Err(std::fs::TryLockError::WouldBlock) => {
                on(Event::Waiting);
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Makes the directory one of this study, unless it is one of another.
fn claim(plan: &Plan, setting: &Setting<'_>) -> Result<(), StudyError> {
    let name = setting.directory.join("study.txt");
    if let Ok(found) = std::fs::read_to_string(&name)
        && found.trim() != plan.name
    {
        let found = found.trim().to_owned();
        return Err(StudyError::OtherStudy { directory: setting.directory.into(), found, expected: plan.name.clone() });
    }
    write_text(&name, &format!("{}\n", plan.name))?;
    write_text(&setting.directory.join(STUDY), &plan.text)
}

/// All commands, for a shell.
fn script(plan: &Plan) -> String {
    let command = |step: &Step| format!("{} > steps/{}/{RESULT}\n", shown(step), step.name);
    let commands: String = plan.steps.iter().map(command).collect();
    format!("# The commands of the study `{}`, to be run in this directory.\n{commands}", plan.name)
}

fn empty(directory: &Path) -> Result<(), StudyError> {
    if directory.exists() {
        std::fs::remove_dir_all(directory).map_err(StudyError::io(directory))?;
    }
    std::fs::create_dir_all(directory).map_err(StudyError::io(directory))
}

fn start(step: &Step, setting: &Setting<'_>, continued: bool, lock: &File) -> Result<Child, StudyError> {
    let directory = record::directory(setting.directory, step);
    let create = |name: &str| {
        let path = directory.join(name);
        File::create(&path).map_err(StudyError::io(path))
    };
    let (result, log) = (create(RESULT)?, create(LOG)?);
    let held = lock.try_clone().map_err(|source| not_started(step, source))?;
    let mut command = Command::new(setting.program);
    command.args(&step.words).arg("--json").args(&setting.options);
    command.args(step.resume.iter().flatten().filter(|_| continued));
    command.current_dir(setting.directory).stdin(Stdio::from(held)).stdout(result).stderr(log);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().map_err(|source| not_started(step, source))
}

fn not_started(step: &Step, source: std::io::Error) -> StudyError {
    StudyError::NotStarted { step: step.name.clone(), command: shown(step), source }
}

/// Waits for the end of a command; the second value is whether it was asked to stop.
fn wait(mut child: Child, stop: &AtomicBool, tick: &mut dyn FnMut()) -> std::io::Result<(ExitStatus, bool)> {
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, asked));
        }
        if stop.load(Ordering::Relaxed) && !asked {
            interrupt(&mut child)?;
            asked = true;
        }
        tick();
        std::thread::sleep(PAUSE);
    }
}

/// As Ctrl-C would.
#[cfg(unix)]
fn interrupt(child: &mut Child) -> std::io::Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    match i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        Some(pid) => Ok(kill_process(pid, Signal::INT)?),
        None => child.kill(),
    }
}

#[cfg(not(unix))]
fn interrupt(child: &mut Child) -> std::io::Result<()> {
    child.kill()
}

fn failed(step: &Step, status: ExitStatus, directory: &Path) -> StudyError {
    let log = directory.join(LOG);
    let text = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| format!("    {line}")).collect::<Vec<_>>();
    let tail = if tail.is_empty() { "    (none)".into() } else { tail.join("\n") };
    StudyError::StepFailed { step: step.name.clone(), ended: status.to_string(), command: shown(step), log, tail }
}

/// How long steps take: as long as the finished ones of the same template; before one has finished, an equal share of what
/// the study says it takes.
struct Times {
    share: f64,
    took: std::collections::BTreeMap<String, (f64, usize)>,
}

impl Times {
    fn new(plan: &Plan) -> Times {
        Times { share: plan.study.minutes * 60.0 / plan.steps.len().max(1) as f64, took: Default::default() }
    }

    fn took(&mut self, step: &Step, seconds: f64) {
        let (sum, count) = self.took.entry(step.template.clone()).or_default();
        *sum += seconds;
        *count += 1;
    }

    fn of(&self, step: &Step) -> f64 {
        self.took.get(&step.template).map_or(self.share, |(sum, count)| sum / *count as f64)
    }

    fn left(&self, plan: &Plan, done: usize) -> f64 {
        plan.steps[done..].iter().map(|step| self.of(step)).sum()
    }

    fn left_within(&self, plan: &Plan, at: usize, spent: f64) -> f64 {
        (self.of(&plan.steps[at]) - spent).max(0.0) + self.left(plan, at + 1)
    }
}
