//! Programs that behave and programs that do not, in the sandbox of `hone sandboxed`: each has one clear end, and nothing of them
//! stays.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hone_eval::code::sandbox::State;
use hone_eval::code::{
    Answer, CodeError, CodeOptions, CodeRunner, Layer, Limits, Outcome, Python, Sandbox, SandboxError, program, score,
};
use hone_eval::task::{DataRoot, Item, PromptOptions, Prompts, Question, Task, TaskConfig};

/// The sandbox, with little time; `None`, and a line that says so, on a machine that cannot have one.
fn sandbox() -> Option<Sandbox> {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: the sandbox is for Linux");
        return None;
    }
    let sandbox = Sandbox {
        launcher: assert_cmd::cargo::cargo_bin("hone"),
        launcher_arguments: vec!["sandboxed".into()],
        python: Python::find(None).expect("a Python"),
        limits: Limits { wall_seconds: 8, cpu_seconds: 2, ..Limits::default() },
        without: Vec::new(),
    };
    match sandbox.check() {
        Err(SandboxError::Refused { problem }) => {
            eprintln!("skipped: {problem}");
            None
        }
        Err(error) => panic!("{error}"),
        Ok(_) => Some(sandbox),
    }
}

fn outcome(sandbox: &Sandbox, program: &str) -> Outcome {
    sandbox.run(program).unwrap_or_else(|error| panic!("{error}\n{program}")).outcome
}

/// The outcome's words.
fn said(sandbox: &Sandbox, program: &str) -> String {
    outcome(sandbox, program).to_string()
}

#[track_caller]
fn assert_forbidden(sandbox: &Sandbox, what: &str, programs: &[&str]) {
    for program in programs {
        let said = said(sandbox, program);
        assert!(said.starts_with("forbidden: ") && said.contains(what), "{said}\n{program}");
    }
}

/// Whether a process of this name runs.
fn has_process(name: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    // Behind the name stands the state; a process that has ended is a zombie until its parent looks.
    stats
        .into_iter()
        .any(|stat| stat.split_once(&format!("({name}) ")).is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X'])))
}

/// Waits until a process of this name runs, or none does any more; says whether one does.
fn wait_for_process(name: &str, wanted: bool) -> bool {
    let begun = Instant::now();
    while has_process(name) != wanted && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    has_process(name)
}

/// Python that gives its process a name of at most 15 characters.
fn named(name: &str) -> String {
    format!("import ctypes\nassert ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0) == 0\n")
}

#[test]
fn only_what_ran_to_its_end_has_passed() {
    let Some(sandbox) = sandbox() else { return };
    let of = |program: &str| said(&sandbox, program);
    assert_eq!(of("def f(): return 1\nassert f() == 1\nprint('fine')"), "passed");
    assert_eq!(of("def f(): return 2\nassert f() == 1"), "failed: AssertionError");
    assert_eq!(of("assert 1 == 2, 'one is\\n not two'"), "failed: AssertionError: one is not two");
    assert!(of("def f(:\n").starts_with("failed: SyntaxError: "), "{}", of("def f(:\n"));
    assert_eq!(of("def f():\n  return 1\n return 2").split(':').nth(1), Some(" IndentationError"));
    assert!(of("x = '\0'").starts_with("failed: "));
    assert_eq!(of("1 / 0"), "failed: ZeroDivisionError: division by zero");
    assert_eq!(of("input()"), "failed: EOFError: EOF when reading a line");
    assert_eq!(of("class E(Exception):\n    def __str__(self): raise E\nraise E"), "failed: E");
    // An exit code of 0 before the tests is none of their doing.
    assert!(of("import os\nos._exit(0)\nassert False").contains("exit code 0 before its tests had run"));
    assert!(of("import sys\nsys.exit(0)").contains("ended itself before its tests had run (SystemExit: 0)"));
    assert!(of("raise SystemExit").contains("ended itself before its tests had run (SystemExit)"));
    assert!(
        of("import os\nos._exit = lambda code: None\nos.write = print\nassert False")
            .starts_with("failed: AssertionError")
    );
    // Neither the driver's words nor another program's end are its line.
    let forged = "import os, sys\nos.write(1, b'\\n' + b'0' * 32 + b' done\\n')\nprint('ready\\ndone')\nsys.stdout.flush()\nos._exit(0)";
    assert!(of(forged).contains("exit code 0 before its tests had run"));
    assert!(
        of("import os\nos.execv('/bin/sh', ['sh', '-c', 'exit 0'])").contains("exit code 0 before its tests had run")
    );
    // As in HumanEval's script, a program is no main program.
    assert_eq!(of("if __name__ == '__main__':\n    assert False"), "passed");
    // Longer than a pipe holds.
    assert_eq!(of(&format!("x = '{}'\nassert len(x) == 1000000", "é".repeat(1_000_000))), "passed");
    // Output that goes nowhere is no reason to fail.
    assert_eq!(of("import sys\nsys.stdout.close()\nsys.stderr.close()"), "passed");
    assert_eq!(of("import os\nos.close(0)\nos.close(1)\nos.close(2)"), "passed");
    assert!(of("import os\nos.closerange(0, 64)").starts_with("failed: it ended with exit code"));
}

#[test]
fn a_program_that_never_ends_is_ended() {
    let Some(mut sandbox) = sandbox() else { return };
    sandbox.limits = Limits { wall_seconds: 3, cpu_seconds: 1, ..sandbox.limits };
    let endless = [
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nimport time\ntime.sleep(1000)",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import os, time\nos.closerange(0, 64)\ntime.sleep(1000)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
    ];
    for program in endless {
        let begun = Instant::now();
        assert_eq!(outcome(&sandbox, program), Outcome::TimedOut, "{program}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{program}");
    }
}

#[test]
fn no_process_is_started_and_none_stays() {
    let Some(sandbox) = sandbox() else { return };
    let programs = [
        "import os\nwhile True: os.fork()",
        "import subprocess\nsubprocess.run(['/bin/true'])",
        "import subprocess\nsubprocess.Popen('sleep 1000', shell=True, start_new_session=True)",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nassert libc.vfork() == -1\nraise OSError(ctypes.get_errno(), '')",
    ];
    assert_forbidden(&sandbox, "a process", &programs);
    // One that does not give up when it may not.
    let stubborn = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass";
    assert_eq!(outcome(&sandbox, stubborn), Outcome::TimedOut);
    // Threads may stay behind the tests; they end with the process.
    let left = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()";
    let begun = Instant::now();
    assert_eq!(said(&sandbox, &format!("{}{left}", named("hone-left"))), "passed");
    assert!(begun.elapsed() < Duration::from_secs(5) && !has_process("hone-left"));
    let sleeps = format!("{}import time\ntime.sleep(1000)", named("hone-sleeper"));
    assert_eq!(outcome(&sandbox, &sleeps), Outcome::TimedOut);
    assert!(!has_process("hone-sleeper"));
    let many =
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()";
    let small = format!("import threading\nthreading.stack_size(32768)\n{many}");
    for program in [many, &small] {
        let said = said(&sandbox, program);
        assert!(said == "too many threads" || said.contains("can't start new thread"), "{said}");
    }
    let counted = "import threading, time\nthreading.stack_size(32768)\n\
        for i in range(70): threading.Thread(target=time.sleep, args=(1000,)).start()\ntime.sleep(1000)";
    let roomy = Sandbox { limits: Limits { memory_bytes: 1 << 33, ..sandbox.limits.clone() }, ..sandbox };
    assert_eq!(outcome(&roomy, counted), Outcome::TooManyThreads);
}

#[test]
fn others_are_neither_signalled_nor_looked_into() {
    let Some(sandbox) = sandbox() else { return };
    let programs = [
        "import os\nos.kill(os.getppid(), 9)",
        "import os\nos.kill(os.getppid(), 0)",
        "import os\nos.kill(-1, 9)",
        "import os\nos.killpg(os.getpgid(os.getppid()), 15)",
        "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_AS, (1, 1))",
        "import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "import os\nos.sched_setaffinity(os.getppid(), {0})",
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.ptrace(16, os.getppid(), 0, 0)\nraise OSError(ctypes.get_errno(), '')",
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.unshare(0x10000000)\nraise OSError(ctypes.get_errno(), '')",
        "import os\nos.chroot('.')",
        "import os\nos.pidfd_open(os.getppid())",
    ];
    assert_forbidden(&sandbox, "a process, or another system call", &programs);
    assert_forbidden(&sandbox, "a file", &["import os\nopen(f'/proc/{os.getppid()}/environ').read()"]);
    // Its own are its own.
    assert_eq!(
        said(&sandbox, "import os, signal\nsignal.signal(10, lambda *a: None)\nos.kill(os.getpid(), 10)"),
        "passed"
    );
    assert_eq!(said(&sandbox, "import signal\nsignal.alarm(1)\nsignal.pause()"), "crashed by signal 14");
    assert!(said(&sandbox, "import os\nos.kill(os.getpid(), 9)").contains("signal 9"));
    assert_eq!(said(&sandbox, "import ctypes\nctypes.string_at(0)"), "crashed by signal 11");
    assert_eq!(said(&sandbox, "import os\nos.abort()"), "crashed by signal 6");
    let deep = said(&sandbox, "def f(): return f()\nf()");
    assert!(deep.starts_with("failed: RecursionError"), "{deep}");
    // Versions of Python differ in whether they notice.
    let deeper = "import sys\nsys.setrecursionlimit(10**9)\nf = lambda: [*map(lambda x: f(), [1])]\nf()";
    let deeper = outcome(&sandbox, deeper);
    assert!(
        matches!(deeper, Outcome::Crashed { signal: 11 } | Outcome::Failed { .. } | Outcome::OutOfMemory),
        "{deeper}"
    );
}

#[test]
fn memory_and_output_have_their_limits() {
    let Some(sandbox) = sandbox() else { return };
    let hungry = [
        "x = bytearray(1 << 40)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "x = 'a'\nwhile True: x += x",
        "import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 1 << 24))",
    ];
    for program in hungry {
        assert_eq!(outcome(&sandbox, program), Outcome::OutOfMemory, "{program}");
    }
    // Memory that is in no address space.
    assert_forbidden(&sandbox, "a process, or another", &["import os\nos.memfd_create('x')"]);
    let loud = [
        "while True: print('x' * 1000)",
        "import os\nwhile True: os.write(2, b'x' * 100000)",
        "print('x' * (1 << 20), flush=True)",
    ];
    for program in loud {
        assert_eq!(outcome(&sandbox, program), Outcome::TooMuchOutput, "{program}");
    }
    assert_eq!(said(&sandbox, "print('x' * 500000)"), "passed");
}

#[test]
fn the_disk_has_its_limit_in_memory_and_without() {
    let Some(tight) = sandbox() else { return };
    let plain = Sandbox { without: vec![Layer::Namespaces], ..tight.clone() };
    for sandbox in [tight, plain] {
        let filling = [
            "with open('x', 'wb') as f:\n    while True: f.write(b'x' * (1 << 20))",
            "for i in range(10**6):\n    with open(f'{i}', 'wb') as f: f.write(b'x' * (1 << 20))",
            "import os\nfor i in range(10**6): open(f'{i}', 'w').close()",
            "import os\nfor i in range(10**6): os.mkdir(f'{i}')",
            "import os\nwith open('x', 'wb') as f: os.ftruncate(f.fileno(), 1 << 40)",
        ];
        for program in filling {
            assert_eq!(outcome(&sandbox, program), Outcome::DiskLimit, "{program}\n{:?}", sandbox.without);
        }
        // What fits may be written, read, moved and removed.
        let tidy = "import os, tempfile\nos.makedirs('a/b')\nopen('a/b/c', 'w').write('hi')\nassert open('a/b/c').read() == 'hi'\n\
            os.rename('a/b/c', 'd')\nos.symlink('d', 'e')\nassert os.listdir('a/b') == [] and open('e').read() == 'hi'\n\
            os.remove('d')\nos.removedirs('a/b')\nwith tempfile.TemporaryFile() as f: f.write(b'x')\n\
            import pathlib\npathlib.Path('t').touch()";
        assert_eq!(said(&sandbox, tidy), "passed");
        // Nothing is left, here or for the next.
        let where_it_was = said(&sandbox, "import os\nopen('x', 'w').write('x')\nraise Exception(os.getcwd())");
        let directory = where_it_was.strip_prefix("failed: Exception: ").expect("a directory");
        assert!(directory.contains("hone-code-") && !Path::new(directory).exists(), "{directory}");
        assert_eq!(said(&sandbox, "import os\nassert os.listdir() == []"), "passed");
    }
}

#[test]
fn the_network_is_cut_by_either_layer() {
    let Some(tight) = sandbox() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("set");
    let port = listener.local_addr().expect("an address").port();
    let connect = format!("import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2)");
    let programs = [
        connect.as_str(),
        "import socket\nsocket.socket(socket.AF_UNIX).connect('/run/x')",
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "import urllib.request\ntry: urllib.request.urlopen('http://192.0.2.1/')\nexcept urllib.error.URLError as e: raise e.reason",
    ];
    assert_forbidden(&tight, "the network", &programs);
    // A pair of connected ends is no network.
    assert_eq!(
        said(&tight, "import socket\na, b = socket.socketpair()\na.send(b'x')\nassert b.recv(1) == b'x'"),
        "passed"
    );
    assert_eq!(said(&tight, "import asyncio\nasync def f(): return 1\nassert asyncio.run(f()) == 1"), "passed");
    let protections = tight.check().expect("run");
    if protections.namespaces.is_active() {
        let open = Sandbox { without: vec![Layer::SystemCalls], ..tight.clone() };
        let said = said(&open, &connect);
        assert!(said.starts_with("forbidden: "), "{said}");
        // What the filter kept away has an end too.
        let child = format!("{}import os, time\nif os.fork() == 0: time.sleep(1000)", named("hone-child"));
        assert_eq!(outcome(&open, &child), Outcome::Passed);
        assert!(!wait_for_process("hone-child", false));
    } else {
        eprintln!("skipped: the network without the filter ({:?})", protections.namespaces);
    }
    assert!(listener.accept().is_err(), "somebody came through");
    // With neither layer nothing is run, unless both are given up by name.
    let bare = Sandbox { without: vec![Layer::SystemCalls, Layer::Namespaces], ..tight };
    assert!(said(&bare, "import socket\nsocket.socket()").starts_with("passed"));
}

#[test]
fn files_elsewhere_are_neither_read_nor_written() {
    let Some(tight) = sandbox() else { return };
    let elsewhere = tempfile::tempdir().expect("a directory");
    let secret = elsewhere.path().join("secret");
    fs::write(&secret, "secret").expect("written");
    let before = fs::metadata(&secret).expect("there").modified().expect("a time");
    let at = secret.display();
    let plain = Sandbox { without: vec![Layer::Namespaces], ..tight.clone() };
    for sandbox in [&tight, &plain] {
        let touching = [
            format!("open('{at}').read()"),
            format!("open('{at}', 'w')"),
            format!("open('{at}', 'a')"),
            format!("import os\nos.remove('{at}')"),
            format!("import os\nos.symlink('{at}', 'mine')\nopen('mine', 'w')"),
            format!("import os\nos.truncate('{at}', 0)"),
            format!("import os\nos.open('{at}', os.O_RDONLY | os.O_TRUNC)"),
            format!("import os\nos.chmod('{at}', 0)"),
            format!("import os\nos.utime('{at}', (0, 0))"),
            format!("import os\nos.setxattr('{at}', 'user.x', b'x')"),
            format!("import os\nos.chown('{at}', 1, 1)"),
            format!("open('{at}.new', 'w')"),
            format!("import os\nos.listdir('{}')", elsewhere.path().display()),
            "open('/etc/passwd').read()".into(),
            "open('/proc/self/status').read()".into(),
            "import os\nos.listdir('/')".into(),
            "import os\nos.listdir('/etc')".into(),
            "import os\nopen(os.__file__, 'a')".into(),
            "import os\nos.open(os.__file__, os.O_RDONLY | os.O_TRUNC)".into(),
            "import os\nos.mkfifo('x')".into(),
            "open('/dev/tty')".into(),
        ];
        for program in &touching {
            let said = said(sandbox, program);
            assert!(said.starts_with("forbidden: "), "{said}\n{program}");
        }
        // To another file system there is no way at all.
        for program in [format!("import os\nos.rename('{at}', 'mine')"), format!("import os\nos.link('{at}', 'mine')")]
        {
            let said = said(sandbox, &program);
            assert!(said.starts_with("forbidden: ") || said.contains("[Errno 18]"), "{said}\n{program}");
        }
        // What is there: the interpreter's own, and devices that hold nothing. No packages, no environment.
        let there = "import os\nopen(os.__file__).read()\nopen('/dev/null', 'w').write('x')\nassert len(os.urandom(4)) == 4\n\
            import json, random, datetime, decimal, re, heapq, collections, itertools, typing, dataclasses";
        assert_eq!(said(sandbox, there), "passed");
        let environment = "import os\nassert set(os.environ) <= {'LANG', 'TZ', 'PYTHONHASHSEED', 'PYTHONUTF8', 'OMP_NUM_THREADS', \
            'OPENBLAS_NUM_THREADS', 'HOME', 'TMPDIR', 'LC_CTYPE'}, sorted(os.environ)\nassert os.environ['HOME'] == os.getcwd()";
        assert_eq!(said(sandbox, environment), "passed");
        assert!(said(sandbox, "import pip").contains("ModuleNotFoundError"));
    }
    // It is the layers that keep it away, and nothing else.
    let bare = Sandbox { without: vec![Layer::SystemCalls, Layer::Files, Layer::Namespaces], ..tight };
    assert_eq!(said(&bare, &format!("assert open('{at}').read() == 'secret'")), "passed");
    assert_eq!(fs::read_to_string(&secret).expect("there"), "secret");
    assert_eq!(fs::metadata(&secret).expect("there").modified().expect("a time"), before);
    assert_eq!(fs::read_dir(elsewhere.path()).expect("there").count(), 1);
}

/// The set's order, of which a program's result may be made, is the same every time.
#[test]
fn a_program_ends_the_same_way_every_time() {
    let Some(sandbox) = sandbox() else { return };
    let order = "raise Exception(''.join({'one', 'two', 'three', 'four', 'five', 'six', 'seven'}))";
    let first = said(&sandbox, order);
    assert!(first.contains("three"), "{first}");
    for _ in 0..4 {
        assert_eq!(said(&sandbox, order), first);
    }
}

#[test]
fn a_program_ends_with_its_parent() {
    let Some(sandbox) = sandbox() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let order = serde_json::json!({
        "directory": directory.path(), "python": sandbox.python, "limits": Limits::default(), "without": [],
        "parent": 4242424242u32,
    });
    let order = order.to_string();
    assert_eq!(order.matches("4242424242").count(), 1);
    let program = directory.path().with_extension("input");
    // It may not untie itself.
    let untie = "assert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == -1\nimport time\ntime.sleep(1000)";
    fs::write(&program, format!("token\n{}{untie}", named("hone-orphan"))).expect("written");
    // The shell is the parent, and ends when its input does.
    let script = r#"order=$(printf %s "$ORDER" | sed "s/4242424242/$$/")
        "$HONE" sandboxed "$order" < "$PROGRAM" > /dev/null & read line"#;
    let mut shell = Command::new("sh")
        .args(["-c", script])
        .env("ORDER", &order)
        .env("HONE", &sandbox.launcher)
        .env("PROGRAM", &program)
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell");
    let came = wait_for_process("hone-orphan", true);
    drop(shell.stdin.take());
    shell.wait().expect("ended");
    let stays = wait_for_process("hone-orphan", false);
    fs::remove_file(&program).expect("removed");
    assert!(came && !stays, "came {came}, stays {stays}");
}

#[test]
fn what_cannot_be_run_is_said() {
    let Some(sandbox) = sandbox() else { return };
    let message = |sandbox: &Sandbox| sandbox.run("pass").expect_err("nothing can be run").to_string();
    let nowhere = Sandbox { launcher: "no-such-launcher".into(), ..sandbox.clone() };
    assert!(message(&nowhere).contains("did not start: no-such-launcher"), "{}", message(&nowhere));
    let other = Sandbox { launcher: "true".into(), ..sandbox.clone() };
    assert!(message(&other).contains("the launcher ended before the program began"), "{}", message(&other));
    let python = Python { executable: "/no/python".into(), ..sandbox.python.clone() };
    let gone = Sandbox { python, ..sandbox.clone() };
    assert!(message(&gone).contains("did not start: /no/python"), "{}", message(&gone));
    let tiny = Sandbox { limits: Limits { memory_bytes: 1 << 20, ..Limits::default() }, ..sandbox };
    assert!(message(&tiny).contains("did not start"), "{}", message(&tiny));
    let output = Command::new(assert_cmd::cargo::cargo_bin("hone")).args(["sandboxed", "{}"]).output().expect("run");
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stdout).contains("something else than an order"));
    // No help names it.
    let help = Command::new(assert_cmd::cargo::cargo_bin("hone")).arg("--help").output().expect("run");
    assert!(!String::from_utf8_lossy(&help.stdout).contains("sandboxed"));
}

#[test]
fn what_holds_is_told() {
    let Some(sandbox) = sandbox() else { return };
    let protections = sandbox.check().expect("run");
    eprintln!("{protections:?}");
    assert!(protections.system_calls.is_active() && protections.files.is_active());
    let without = |layer| Sandbox { without: vec![layer], ..sandbox.clone() }.check().expect("run");
    assert_eq!(without(Layer::Files).files, State::left_out());
    let unfiltered = Sandbox { without: vec![Layer::SystemCalls], ..sandbox.clone() }.check();
    match protections.namespaces.is_active() {
        true => assert_eq!(unfiltered.expect("run").system_calls, State::left_out()),
        // Nothing else here cuts the network.
        false => assert!(unfiltered.expect_err("refused").to_string().contains("reach the network")),
    }
    let plain = without(Layer::Namespaces);
    assert_eq!(plain.namespaces, State::left_out());
    assert!(!plain.disk.is_active() && plain.files == protections.files);
}

#[test]
fn responses_are_counted() {
    let Some(sandbox) = sandbox() else { return };
    let runner = CodeRunner::new(sandbox);
    let responses = ["    return 1\n", "    return 2\n", "    return 1\n", "    while True: pass\n"].map(String::from);
    let target = "def one():\n<<answer>>\nassert one() == 1";
    let of = |k| score(&runner, &responses, target, &CodeOptions { k, answer: Answer::Text });
    let one = of(1).expect("run");
    assert_eq!((one.passed(), one.score), (2, 0.5));
    assert_eq!(one.summary(), "1 failed: AssertionError; 2 passed; 1 timed out");
    // 1 − C(2, 2) / C(4, 2), and none but passing draws of three.
    let begun = Instant::now();
    assert!((of(2).expect("run").score - 5.0 / 6.0).abs() < 1e-15);
    assert_eq!(of(3).expect("run").score, 1.0);
    // Nothing was run again, the endless one least of all.
    assert!(begun.elapsed() < Duration::from_secs(1));
    let error = of(5).expect_err("too few");
    assert!(matches!(error, CodeError::TooFew { k: 5, found: 4 }) && error.to_string().contains("`repeats`"));
}

/// The items of a task that ships with hone, where its data is here. Without its metrics: they are no matter.
fn items(name: &str) -> Option<(PathBuf, Vec<Item>)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tasks").join(format!("{name}.yaml"));
    let text = fs::read_to_string(&file).expect("the task file");
    let mut config = TaskConfig::parse(name, &text, &|_| unreachable!("includes nothing")).expect("a task");
    (config.metric_list, config.main_metric) = (None, None);
    let root = DataRoot::discover(None);
    let path = config.dataset_kwargs.data_files["test"].paths()[0].to_owned();
    let Some(data) = root.directories.iter().map(|directory| directory.join(&path)).find(|file| file.is_file()) else {
        eprintln!("skipped: {name}, its data file {path} is not here");
        return None;
    };
    let task = Task::from_config(config, file.display().to_string(), &root).expect("a task");
    let mut prompts = Prompts::new(&task, None, &PromptOptions::default()).expect("prompts");
    let items = (0..task.docs.len()).map(|index| prompts.item(index).expect("an item")).collect();
    Some((data, items))
}

/// Each item's program with a reference solution passes, and with `nothing` in its place fails.
fn references_pass(runner: &CodeRunner, items: &[Item], solutions: &[String], nothing: &str) {
    let targets: Vec<&str> = items
        .iter()
        .map(|item| match &item.question {
            Question::Generate { references, .. } => references[0].as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    let programs: Vec<String> =
        targets.iter().zip(solutions).map(|(target, solution)| program::program(solution, target)).collect();
    let empty: Vec<String> = targets.iter().map(|target| program::program(nothing, target)).collect();
    assert_eq!((programs.len(), empty.len()), (items.len(), items.len()));
    for (at, outcome) in runner.outcomes(&programs).expect("run").iter().enumerate() {
        assert!(outcome.passed(), "{outcome}\n{}", programs[at]);
    }
    for (at, outcome) in runner.outcomes(&empty).expect("run").iter().enumerate() {
        assert!(!outcome.passed(), "{outcome}\n{}", empty[at]);
    }
}

fn rows(file: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(file).expect("the data");
    text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

fn column(rows: &[serde_json::Value], name: &str) -> Vec<String> {
    rows.iter().map(|row| row[name].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn humaneval_solutions_pass_and_nothing_does_not() {
    let Some(sandbox) = sandbox() else { return };
    let Some((data, items)) = items("humaneval") else { return };
    let rows = rows(&data);
    assert_eq!((rows.len(), items.len()), (164, 164));
    let prompts = column(&rows, "prompt");
    assert!(items.iter().zip(&prompts).all(|(item, prompt)| item.prompt == *prompt));
    let runner = CodeRunner::new(Sandbox { limits: Limits::default(), ..sandbox });
    references_pass(&runner, &items, &column(&rows, "canonical_solution"), "    pass\n");
}

#[test]
fn mbpp_solutions_pass_and_nothing_does_not() {
    let Some(sandbox) = sandbox() else { return };
    let Some((data, items)) = items("mbpp") else { return };
    let rows: Vec<serde_json::Value> = rows(&data)
        .into_iter()
        .filter(|row| (11..=510).contains(&row["task_id"].as_u64().expect("a number")))
        .collect();
    assert_eq!((rows.len(), items.len()), (500, 500));
    // Three worked examples, then the question.
    let first = &items[0].prompt;
    assert_eq!((first.matches("[BEGIN]").count(), first.matches("[DONE]").count()), (4, 3), "{first}");
    assert!(first.ends_with("[BEGIN]\n") && !first.contains("<<answer>>"), "{first}");
    let runner = CodeRunner::new(Sandbox { limits: Limits::default(), ..sandbox });
    references_pass(&runner, &items[..100], &column(&rows[..100], "code"), "pass");
}
