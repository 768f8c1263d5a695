//! Which system calls the program may not make: a seccomp filter for this process and all that it becomes.
//!
//! A list of what is denied, not of what is allowed, so that every version of Python and of the C library runs; what is new in a
//! kernel and on no list meets the other layers. Each group says what it is for. Denied calls fail with an error that the program
//! sees: "operation not permitted", for sockets "network is down", and "not implemented" where the C library then takes an older
//! call.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// There is one process, from beginning to end.
#[cfg(target_arch = "x86_64")]
const PROCESSES: &[c_long] = &[libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const PROCESSES: &[c_long] = &[];

/// Others, which belong to the same user: to be looked into, signalled or slowed down.
const OTHERS: &[c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
];

/// Memory that is in no address space, or outlives the process, and so escapes the limit.
const MEMORY: &[c_long] = &[
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
];

/// Large parts of the kernel that no test needs; several of them make sockets, files or rights by another way.
const DOORS: &[c_long] = &[
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_fsopen,
    libc::SYS_open_tree,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_fanotify_init,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
];

/// Changes of a file that Landlock has no rule for, and would let through anywhere.
const FILES: &[c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SETXATTRAT,
    REMOVEXATTRAT,
    FILE_SETATTR,
    // By path; by an open file it stays. Landlock has a rule for it since Linux 6.2.
    libc::SYS_truncate,
];
#[cfg(target_arch = "x86_64")]
const OLD_FILES: &[c_long] =
    &[libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat];
#[cfg(not(target_arch = "x86_64"))]
const OLD_FILES: &[c_long] = &[];

// From 424 on a call has the same number on every machine; not all of these have a name in `libc` yet.
const FCHMODAT2: c_long = 452;
const SETXATTRAT: c_long = 463;
const REMOVEXATTRAT: c_long = 466;
const FILE_SETATTR: c_long = 469;

/// The second set of calls of x86-64 kernels, for programs with short pointers: the same calls under numbers with this bit.
const SHORT_POINTERS: i64 = 0x4000_0000;

/// Argument number, comparison, value.
type Condition = (u8, SeccompCmpOp, u64);

/// Calls that are denied: wholly, or under conditions.
#[derive(Default)]
struct Denied(BTreeMap<i64, Vec<SeccompRule>>);

impl Denied {
    fn always(mut self, calls: &[c_long]) -> Denied {
        self.0.extend(calls.iter().map(|call| (*call, Vec::new())));
        self
    }

    /// Where all the conditions hold. They are about the lower 32 bits, all that the kernel reads of these arguments.
    fn when(mut self, call: c_long, conditions: &[Condition]) -> Result<Denied, seccompiler::BackendError> {
        let condition = |(argument, comparison, value): &Condition| {
            SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, comparison.clone(), *value)
        };
        let rule = SeccompRule::new(conditions.iter().map(condition).collect::<Result<_, _>>()?)?;
        self.0.entry(call).or_default().push(rule);
        Ok(self)
    }

    fn with(mut self, error: i32, machine: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
        if machine == TargetArch::x86_64 {
            let again: Vec<_> = self.0.iter().map(|(call, rules)| (call | SHORT_POINTERS, rules.clone())).collect();
            self.0.extend(again);
        }
        let error = SeccompAction::Errno(error.unsigned_abs());
        SeccompFilter::new(self.0, SeccompAction::Allow, error, machine)?.try_into()
    }
}

/// Puts the filter on this thread, and says what holds now.
///
/// # Errors
/// Why the kernel has no such filter, or this library none for the machine.
pub(super) fn restrict() -> Result<String, String> {
    let filters = filters(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs().into())?;
    filters.iter().try_for_each(|filter| apply_filter(filter)).map_err(|error| format!("seccomp: {error}"))?;
    Ok("a seccomp filter".into())
}

/// The filters of process `own`, one an error.
fn filters(own: u64) -> Result<Vec<BpfProgram>, String> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let machine = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let not_zero = |argument| -> [Condition; 1] { [(argument, Ne, 0)] };
    // Process 0 is the group of the sender: itself alone.
    let elsewhere: [Condition; 2] = [(0, Ne, own), (0, Ne, 0)];
    let opens_to_truncate = |argument| -> [Condition; 1] {
        [(argument, MaskedEq((libc::O_ACCMODE | libc::O_TRUNC) as u64), (libc::O_RDONLY | libc::O_TRUNC) as u64)]
    };
    let made = || -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
        let denied = Denied::default()
            .always(PROCESSES)
            .always(OTHERS)
            .always(MEMORY)
            .always(DOORS)
            .always(FILES)
            .always(OLD_FILES)
            // A thread is a process that says so.
            .when(libc::SYS_clone, &[(0, MaskedEq(libc::CLONE_THREAD as u64), 0)])?
            .when(libc::SYS_kill, &elsewhere)?
            .when(libc::SYS_tgkill, &elsewhere)?
            .when(libc::SYS_tkill, &elsewhere)?
            .when(libc::SYS_prlimit64, &not_zero(0))?
            .when(libc::SYS_setpriority, &not_zero(1))?
            .when(libc::SYS_ioprio_set, &not_zero(1))?
            .when(libc::SYS_sched_setaffinity, &not_zero(0))?
            .when(libc::SYS_sched_setattr, &not_zero(0))?
            .when(libc::SYS_sched_setparam, &not_zero(0))?
            .when(libc::SYS_sched_setscheduler, &not_zero(0))?
            // The kernel's promise to end the program with its parent stands.
            .when(libc::SYS_prctl, &[(0, Eq, libc::PR_SET_PDEATHSIG as u64)])?
            // Opening to read may empty a file all the same.
            .when(libc::SYS_openat, &opens_to_truncate(2))?;
        #[cfg(target_arch = "x86_64")]
        let denied = denied.when(libc::SYS_open, &opens_to_truncate(1))?;
        // Their flags are behind pointers, where no filter sees them.
        let hidden = Denied::default().always(&[libc::SYS_clone3, libc::SYS_openat2]);
        let network = Denied::default().always(&[libc::SYS_socket]);
        Ok(vec![
            denied.with(libc::EPERM, machine)?,
            hidden.with(libc::ENOSYS, machine)?,
            network.with(libc::ENETDOWN, machine)?,
        ])
    };
    made().map_err(|error| format!("seccomp: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own, which keeps the filter until it ends.
    #[test]
    fn a_filtered_thread_reaches_neither_network_nor_others() {
        let parent = rustix::process::getppid();
        let refused = std::thread::spawn(move || {
            restrict().unwrap();
            let socket = std::net::TcpListener::bind("127.0.0.1:0").map(drop).map_err(|e| e.raw_os_error());
            let child = std::process::Command::new("true").status().map(drop).map_err(|e| e.raw_os_error());
            let signal = rustix::process::test_kill_process(parent.unwrap()).map_err(|e| e.raw_os_error());
            let own = rustix::process::test_kill_process(rustix::process::getpid());
            let mode = std::fs::set_permissions("/", std::fs::metadata("/").unwrap().permissions());
            (socket, child, signal, own, mode.map_err(|e| e.raw_os_error()))
        });
        let (socket, child, signal, own, mode) = refused.join().unwrap();
        assert_eq!(socket, Err(Some(libc::ENETDOWN)));
        assert_eq!(child, Err(Some(libc::EPERM)));
        assert_eq!(signal, Err(libc::EPERM));
        assert_eq!(own, Ok(()));
        assert_eq!(mode, Err(Some(libc::EPERM)));
    }
}
