//! The parent's side of the sandbox: starts the launcher, feeds the program, reads no more than it should, counts, kills.

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::rand::{GetRandomFlags, getrandom};

use super::sandbox::{Limits, Order, Protections, Report, Run, Sandbox, SandboxError};
use super::verdict::{End, Stop, outcome, verdict};

/// How often threads and files are counted.
const TICK: Duration = Duration::from_millis(20);

/// How long launcher and interpreter may take to come up, which is no part of the program's time.
const START: Duration = Duration::from_secs(60);

/// How much of the program's input or output is moved at once.
const CHUNK: usize = 64 << 10;

impl Sandbox {
    /// Runs a program and says how it ended. Whatever the program does is an [`Outcome`](super::Outcome), never an error.
    ///
    /// # Errors
    /// No program could be run: a required layer is missing, or launcher or interpreter did not come up.
    pub fn run(&self, program: &str) -> Result<Run, SandboxError> {
        let directory = tempfile::Builder::new().prefix("hone-code-").tempdir();
        let directory =
            directory.map_err(|source| SandboxError::Io { what: "making the program's directory", source })?;
        let order = Order {
            directory: directory.path().to_owned(),
            python: self.python.clone(),
            limits: self.limits.clone(),
            without: self.without.clone(),
            parent: std::process::id(),
        };
        let order =
            serde_json::to_string(&order).map_err(|error| SandboxError::Start { problem: error.to_string() })?;
        let token = token().map_err(|source| SandboxError::Io { what: "drawing a random line", source })?;
        let input = [token.as_bytes(), b"\n", program.as_bytes()].concat();
        let started = Instant::now();
        let child = Command::new(&self.launcher)
            .args(&self.launcher_arguments)
            .arg(order)
            .env_clear()
            // A group of its own: Ctrl-C in the terminal is for the parent, which ends what runs in its own time.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| SandboxError::Start { problem: format!("{}: {error}", self.launcher.display()) })?;
        let ready = format!("\n{token} ready\n");
        let ended = supervise(Leash { child, status: None }, &input, ready.as_bytes(), &self.limits, directory.path())
            .map_err(|source| SandboxError::Io { what: "watching the program", source })?;
        let seconds = started.elapsed().as_secs_f64();
        let Some(ready_at) = ended.ready else { return Err(not_started(&ended)) };
        let protections = entered(&ended.stdout).ok_or_else(|| not_started(&ended))?;
        // The processor's time is spent no faster than the clock's on one processor, and programs rarely use more.
        let spent = ready_at.elapsed().as_secs_f64() >= self.limits.cpu_seconds as f64;
        let outcome = outcome(ended.end, verdict(&ended.stdout, &token), &ended.stderr, spent);
        Ok(Run { outcome, protections, seconds })
    }
}

/// 32 hexadecimal digits that nobody can guess.
fn token() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    let drawn = getrandom(&mut bytes, GetRandomFlags::empty())?;
    if drawn < bytes.len() {
        return Err(io::Error::other("the system gave too few random bytes"));
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What the launcher said before it became the interpreter.
fn reports(stdout: &[u8]) -> impl Iterator<Item = Report> {
    stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

fn entered(stdout: &[u8]) -> Option<Protections> {
    reports(stdout).find_map(|report| match report {
        Report::Entered(protections) => Some(protections),
        Report::Refused(_) | Report::Failed(_) => None,
    })
}

/// Why the driver never got to run: nothing of the program has been run yet, so all this is ours to say.
fn not_started(ended: &Ended) -> SandboxError {
    let said = reports(&ended.stdout).find_map(|report| match report {
        Report::Refused(problem) => Some(SandboxError::Refused { problem }),
        Report::Failed(problem) => Some(SandboxError::Start { problem }),
        Report::Entered(_) => None,
    });
    said.unwrap_or_else(|| {
        let stderr = String::from_utf8_lossy(&ended.stderr);
        let line = stderr.trim().lines().last().unwrap_or("it said nothing");
        let what = if entered(&ended.stdout).is_some() { "the interpreter" } else { "the launcher" };
        SandboxError::Start { problem: format!("{what} ended before the program began ({:?}): {line}", ended.end) }
    })
}

/// A child that is dead and gone when this is dropped.
struct Leash {
    child: Child,
    status: Option<ExitStatus>,
}

impl Leash {
    /// Ends the child, if it has not ended, and all of its group: there are others only in programs run without the layer that
    /// keeps them from starting processes. Until the child is waited for, its number is nobody else's.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.child.kill()?;
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        // On the way out of an error, which is the news.
        let _ = self.end();
    }
}

/// A child that has ended, and what it wrote.
struct Ended {
    end: End,
    /// When the driver said that it begins.
    ready: Option<Instant>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn supervise(
    mut leash: Leash,
    mut input: &[u8],
    marker: &[u8],
    limits: &Limits,
    directory: &Path,
) -> io::Result<Ended> {
    let pid = Pid::from_child(&leash.child);
    let ends = pidfd_open(pid, PidfdFlags::empty())?;
    let child = &mut leash.child;
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    stdin.as_ref().map_or(Ok(()), |pipe| ioctl_fionbio(pipe, true))?;
    stdout.as_ref().map_or(Ok(()), |pipe| ioctl_fionbio(pipe, true))?;
    stderr.as_ref().map_or(Ok(()), |pipe| ioctl_fionbio(pipe, true))?;
    let started = Instant::now();
    let (mut counted, mut ready) = (started, None);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut status = None;
    loop {
        write_some(&mut stdin, &mut input)?;
        read_some(&mut stdout, &mut out, limits.output_bytes)?;
        read_some(&mut stderr, &mut err, limits.output_bytes)?;
        let now = Instant::now();
        if ready.is_none() && out.windows(marker.len()).any(|window| window == marker) {
            ready = Some(now);
        }
        let deadline = ready.map_or(started + START, |at| at + Duration::from_secs(limits.wall_seconds));
        let stop = if out.len() + err.len() > limits.output_bytes {
            Some(Stop::Output)
        } else if status.is_some() {
            None
        } else if now >= deadline {
            Some(Stop::Time)
        } else if now < counted + TICK {
            None
        } else {
            counted = now;
            let threads = (threads(pid) > limits.threads).then_some(Stop::Threads);
            threads.or_else(|| holds_more(directory, limits).then_some(Stop::Disk))
        };
        if let Some(stop) = stop {
            leash.end()?;
            return Ok(Ended { end: End::Stopped(stop), ready, stdout: out, stderr: err });
        }
        // It had ended before the last reading, so nothing that it wrote is missing.
        if let Some(status) = status {
            return Ok(Ended { end: status, ready, stdout: out, stderr: err });
        }
        let mut waited: Vec<PollFd<'_>> = vec![PollFd::new(&ends, PollFlags::IN)];
        waited.extend(stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        waited.extend(stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        waited.extend(stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let pause: Option<Timespec> = TICK.min(deadline - now).try_into().ok();
        match poll(&mut waited, pause.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if waited[0].revents().contains(PollFlags::IN) {
            let ended = leash.end()?;
            status = Some(End::of(ended.code(), ended.signal()));
        }
    }
}

/// Writes what the pipe takes; closes it when all is written, or when nobody reads.
fn write_some(pipe: &mut Option<impl Write>, input: &mut &[u8]) -> io::Result<()> {
    while let Some(open) = pipe {
        if input.is_empty() {
            *pipe = None;
            break;
        }
        match open.write(&input[..input.len().min(CHUNK)]) {
            Ok(written) => *input = &input[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => *pipe = None,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what is there, at most one chunk more than `most`; closes the pipe at its end.
fn read_some(pipe: &mut Option<impl Read>, text: &mut Vec<u8>, most: usize) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    while let Some(open) = pipe
        && text.len() <= most
    {
        match open.read(&mut chunk) {
            Ok(0) => *pipe = None,
            Ok(read) => text.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Threads of a process; 0 of one that has gone.
fn threads(pid: Pid) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Whether a directory holds more than it may. What cannot be looked into counts as too much; what has just gone does not.
fn holds_more(directory: &Path, limits: &Limits) -> bool {
    let (mut bytes, mut files) = (0u64, 0u64);
    let mut left = vec![directory.to_owned()];
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    while let Some(directory) = left.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if gone(&error) => continue,
            Err(_) => return true,
        };
        for entry in entries {
            let Ok(entry) = entry else { return true };
            // Of the entry itself, not of what a link leads to.
            match entry.metadata() {
                Ok(found) if found.is_dir() => left.push(entry.path()),
                Ok(found) => bytes += found.len(),
                Err(error) if gone(&error) => continue,
                Err(_) => return true,
            }
            files += 1;
            if bytes > limits.disk_bytes || files > limits.files {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_counted_with_all_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { disk_bytes: 100, files: 3, ..Limits::default() };
        let path = |name: &str| directory.path().join(name);
        assert!(!holds_more(directory.path(), &limits));
        std::fs::create_dir(path("a")).unwrap();
        std::fs::write(path("a/b"), [0; 60]).unwrap();
        // A link to everything is one more file, not everything.
        std::os::unix::fs::symlink("/", path("everything")).unwrap();
        assert!(!holds_more(directory.path(), &limits));
        std::fs::write(path("a/b"), [0; 101]).unwrap();
        assert!(holds_more(directory.path(), &limits));
        std::fs::write(path("a/b"), []).unwrap();
        std::fs::write(path("c"), []).unwrap();
        assert!(holds_more(directory.path(), &limits));
        assert!(!holds_more(&path("not there"), &limits));
    }

    #[test]
    fn tokens_differ_and_have_no_white_space() {
        let (one, two) = (token().unwrap(), token().unwrap());
        assert_ne!(one, two);
        assert!(one.len() == 32 && one.bytes().all(|byte| byte.is_ascii_hexdigit()), "{one}");
    }

    #[test]
    fn own_threads_are_counted() {
        assert!(threads(rustix::process::getpid()) >= 1);
    }
}
