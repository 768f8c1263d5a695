//! The child's side of the sandbox: a process takes its own rights away and becomes the interpreter.
//!
//! The order matters. Namespaces come first, because the mount in them needs the rights they give; Landlock after the mount, so
//! that its rule is for the mounted directory; capabilities after both; the filter of system calls last, for all that was done
//! before is among what it forbids. The process has one thread, or part of this would hold for one thread only.

use std::ffi::CString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{
    Resource, Rlimit, Signal, getgid, getppid, getrlimit, getuid, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities, set_no_new_privs};

use super::sandbox::{Layer, Limits, Order, Protections, Report, State};
use super::system_calls;

/// The program that runs the program.
const DRIVER: &str = include_str!("driver.py");

/// The exit code of a launcher that did not become the interpreter.
const NOT_ENTERED: u8 = 125;

/// What every interpreter needs, where it exists: the system's libraries, and where they are looked up.
const SYSTEM: [&str; 8] = ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store", "/etc/ld.so.cache"];

/// Devices that hold nothing.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// The version of Landlock's rules that is asked for; older kernels have fewer of them.
const RULES: ABI = ABI::V6;

/// The environment. Programs' sets have the same order each time, libraries start no threads of their own.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("LANG", "C.UTF-8"),
    ("TZ", "UTC"),
    ("PYTHONHASHSEED", "0"),
    ("PYTHONUTF8", "1"),
    ("OMP_NUM_THREADS", "1"),
    ("OPENBLAS_NUM_THREADS", "1"),
];

/// Becomes the interpreter as `order` says. Returns, with an exit code, only if that fails; standard output says why.
pub(super) fn enter(order: &str) -> u8 {
    let failed = match serde_json::from_str::<Order>(order) {
        Err(error) => Report::Failed(format!("the launcher was told something else than an order: {error}")),
        Ok(order) => match confine(&order) {
            Err(report) => report,
            Ok(protections) => match report(&Report::Entered(protections)) {
                Err(error) => Report::Failed(error.to_string()),
                Ok(()) => {
                    let error = interpreter(&order).exec();
                    Report::Failed(format!("{}: {error}", order.python.executable.display()))
                }
            },
        },
    };
    // Nobody is left to tell if even this fails; the exit code says as much.
    let _ = report(&failed);
    NOT_ENTERED
}

fn report(report: &Report) -> std::io::Result<()> {
    let line = serde_json::to_string(report)?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

fn interpreter(order: &Order) -> Command {
    let mut command = Command::new(&order.python.executable);
    // Neither user's nor site's packages: a score must not depend on what is installed here.
    command.args(["-s", "-S", "-B", "-c", DRIVER]).env_clear().envs(ENVIRONMENT);
    command.env("HOME", &order.directory).env("TMPDIR", &order.directory);
    command
}

/// Takes the rights away. The error is what the parent is told.
fn confine(order: &Order) -> Result<Protections, Report> {
    let failed = |what: &'static str| move |error: rustix::io::Errno| Report::Failed(format!("{what}: {error}"));
    let left_out = |layer| order.without.contains(&layer);
    let (namespaces, disk) = match left_out(Layer::Namespaces) {
        true => (State::left_out(), State::Missing("there are no namespaces to hold it".into())),
        false => separate(&order.directory, &order.limits),
    };
    std::env::set_current_dir(&order.directory)
        .map_err(|error| Report::Failed(format!("going to the program's directory: {error}")))?;
    set_no_new_privs(true).map_err(failed("giving up new privileges"))?;
    let files = match left_out(Layer::Files) {
        true => State::left_out(),
        false => confine_files(order).unwrap_or_else(|error| State::Missing(error.to_string())),
    };
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, none).map_err(failed("giving up capabilities"))?;
    limit(&order.limits).map_err(failed("setting limits"))?;
    // Behind every change of rights: some of them reset it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("tying the program to its parent"))?;
    if getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()) != Some(order.parent) {
        return Err(Report::Failed("the parent has gone".into()));
    }
    let system_calls = match left_out(Layer::SystemCalls) {
        true => State::left_out(),
        false => system_calls::restrict().map_or_else(State::Missing, State::Active),
    };
    let protections = Protections { system_calls, files, namespaces, disk };
    match protections.refusal(&order.without) {
        Some(problem) => Err(Report::Refused(problem)),
        None => Ok(protections),
    }
}

/// A network without interfaces, and in mounts of its own a file system in memory for the directory.
fn separate(directory: &Path, limits: &Limits) -> (State, State) {
    let own = UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWNS;
    // Asked before: in the new user namespace nobody is anybody yet.
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    let by_user = unshare(own | UnshareFlags::NEWUSER);
    let mapped = match by_user {
        Ok(()) => map_ids(user, group),
        // Root may do without a user namespace, which containers often forbid.
        Err(_) if user == 0 && unshare(own).is_ok() => Ok(()),
        Err(error) => {
            let why = format!("the kernel gives no namespaces ({error})");
            return (State::Missing(why.clone()), State::Missing(why));
        }
    };
    let namespaces = State::Active("a network, IPC and mount namespace of its own".into());
    let disk = mapped.map_err(|error| format!("the user namespace takes no ids ({error})")).and_then(|()| {
        mount_memory(directory, limits)
            .map_err(|error| format!("a file system in memory could not be mounted ({error})"))
    });
    let size = format!("a file system in memory of {} bytes and {} files", limits.disk_bytes, limits.files);
    (namespaces, disk.map_or_else(State::Missing, |()| State::Active(size)))
}

#[expect(
    deprecated,
    reason = "unsafe is only the sharing of open files, which is not asked for; rustix has no other safe call"
)]
fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    rustix::thread::unshare(flags)
}

/// The user stays who they are, and there is nobody else.
fn map_ids(user: u32, group: u32) -> std::io::Result<()> {
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

fn mount_memory(directory: &Path, limits: &Limits) -> std::io::Result<()> {
    // What is mounted here is not to show up outside.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // The directory itself is an inode too.
    let data = format!("size={},nr_inodes={},mode=0700", limits.disk_bytes, limits.files.saturating_add(1));
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("hone-code", directory, "tmpfs", flags, CString::new(data)?.as_c_str())?)
}

/// Landlock: what is not allowed here is denied, now and to all that this process becomes.
fn confine_files(order: &Order) -> Result<State, RulesetError> {
    let readable = SYSTEM.iter().map(Path::new).chain(order.python.folders.iter().map(|folder| folder.as_path()));
    let own = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(RULES))?
        .handle_access(AccessNet::from_all(RULES))?
        .scope(Scope::from_all(RULES))?
        .create()?
        .add_rules(path_beneath_rules(readable, AccessFs::from_read(RULES)))?
        .add_rules(path_beneath_rules(DEVICES, AccessFs::ReadFile | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules([&order.directory], own))?
        .restrict_self()?;
    Ok(state_of(&status))
}

fn state_of(status: &RestrictionStatus) -> State {
    match (&status.ruleset, &status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            State::Missing("Landlock is built into the kernel but not among its security modules (`lsm=`)".into())
        }
        (RulesetStatus::NotEnforced, _) => State::Missing("the kernel has no Landlock".into()),
        (_, LandlockStatus::Available { effective_abi, .. }) => State::Active(format!("Landlock {effective_abi:?}")),
        _ => State::Active("Landlock".into()),
    }
}

/// What the process may use. Limits that are lower already stay.
fn limit(limits: &Limits) -> rustix::io::Result<()> {
    let set = |resource, soft: u64, hard: u64| {
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        setrlimit(resource, Rlimit { current: Some(soft.min(most)), maximum: Some(hard.min(most)) })
    };
    // The first is a signal that says what it is for, the second ends a program that ignores it.
    set(Resource::Cpu, limits.cpu_seconds, limits.cpu_seconds.saturating_add(1))?;
    let both = |resource, value| set(resource, value, value);
    both(Resource::As, limits.memory_bytes)?;
    both(Resource::Fsize, limits.disk_bytes)?;
    both(Resource::Nofile, limits.open_files)?;
    both(Resource::Core, 0)?;
    both(Resource::Memlock, 0)?;
    both(Resource::Msgqueue, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_landlock_is_told_from_one_that_leaves_it_off() {
        // Landlock's own answer for this kernel, whatever it is, with the two that cannot be had here.
        let missing = |state| match state {
            State::Missing(why) => why,
            State::Active(how) => panic!("active: {how}"),
        };
        let mut status = status_of_nothing();
        status.landlock = LandlockStatus::NotEnabled;
        assert!(missing(state_of(&status)).contains("`lsm=`"));
        status.landlock = LandlockStatus::NotImplemented;
        assert!(missing(state_of(&status)).contains("has no Landlock"));
        status.ruleset = RulesetStatus::PartiallyEnforced;
        status.landlock = LandlockStatus::Available { effective_abi: ABI::V2, kernel_abi: None };
        assert_eq!(state_of(&status), State::Active("Landlock V2".into()));
    }

    /// A status to change: that of a thread with rules that allow everything they name.
    fn status_of_nothing() -> RestrictionStatus {
        let restricted = std::thread::spawn(|| {
            let rules = Ruleset::default().handle_access(AccessFs::MakeFifo)?.create()?;
            rules.add_rules(path_beneath_rules(["/"], AccessFs::MakeFifo))?.restrict_self()
        });
        let mut status = restricted.join().unwrap().unwrap();
        status.ruleset = RulesetStatus::NotEnforced;
        status
    }
}
