//! `hone sandboxed`: what `hone eval --run-code` starts for every program of a model. It takes its own rights away and becomes the
//! Python interpreter. Not for people, so no help names it.

use std::path::PathBuf;
use std::sync::Arc;

use hone_eval::code::{CodeRunner, Layer, Limits, Python, Sandbox};

use crate::args::Common;
use crate::fail::Failure;
use crate::print::remark;

/// Options of verbs that run what a model writes.
#[derive(clap::Args, Debug)]
pub struct CodeArguments {
    /// Run the Python programs that the model writes, for tasks that test them. In a sandbox: no network, no processes, no files but
    /// their own, little time and memory.
    #[arg(long)]
    run_code: bool,
    /// The Python that runs them (default: `python3` on the PATH).
    #[arg(long, value_name = "PROGRAM", requires = "run_code")]
    python: Option<PathBuf>,
    /// Do without a layer of the sandbox that this machine does not have: system-calls, files or namespaces.
    #[arg(long, value_name = "LAYER", value_delimiter = ',', requires = "run_code")]
    without_layer: Vec<Layer>,
}

impl CodeArguments {
    /// What runs programs, tried once; `None` where nobody asked for it.
    pub fn runner(&self, common: &Common) -> Result<Option<Arc<CodeRunner>>, Failure> {
        if !self.run_code {
            return Ok(None);
        }
        let sandbox = Sandbox {
            launcher: std::env::current_exe()?,
            launcher_arguments: vec!["sandboxed".into()],
            python: Python::find(self.python.as_deref())?,
            limits: Limits::default(),
            without: self.without_layer.clone(),
        };
        let protections = sandbox.check()?;
        if !common.quiet && !common.json {
            remark!("programs run with Python {}; {protections}", sandbox.python.version);
        }
        Ok(Some(Arc::new(CodeRunner::new(sandbox))))
    }
}

/// Arguments of `hone sandboxed`.
#[derive(clap::Args, Debug)]
pub struct Sandboxed {
    /// What the sandbox is to be like, and where the program is.
    order: String,
}

impl Sandboxed {
    /// Becomes the interpreter; an exit code only if that fails. It is run before there are threads, for much of what it gives up
    /// is given up by the one thread that asks.
    pub fn run(&self) -> u8 {
        hone_eval::code::enter(&self.order)
    }
}
