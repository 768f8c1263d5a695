//! What this processor can do, and which of it the matrix products use.
//!
//! One binary runs everywhere: features are asked for at run time. The environment variable `HONE_CPU` (`amx`,
//! `avx512bf16`, `avx512`, `avx2`, `neon`, `portable`) holds the products to a lower level, and [`limit`] does the same
//! from a program; a level that the machine lacks is never used.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// A set of instructions the matrix products can be built on, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Intel AMX with bf16 tiles (and AVX-512 around it).
    Amx,
    /// AVX-512 with bf16 dot products.
    Avx512Bf16,
    /// AVX-512 (F, BW, VL, DQ).
    Avx512,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// Arm NEON.
    Neon,
    /// Whatever the compiler makes of plain loops.
    Portable,
}

impl Level {
    /// Every level, best first.
    pub const ALL: [Level; 6] =
        [Level::Amx, Level::Avx512Bf16, Level::Avx512, Level::Avx2, Level::Neon, Level::Portable];

    /// The name `HONE_CPU` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Amx => "amx",
            Level::Avx512Bf16 => "avx512bf16",
            Level::Avx512 => "avx512",
            Level::Avx2 => "avx2",
            Level::Neon => "neon",
            Level::Portable => "portable",
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Level {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let names = Level::ALL.map(Level::name).join(", ");
        Level::ALL
            .into_iter()
            .find(|l| l.name() == s)
            .ok_or_else(|| format!("unknown level `{s}`, expected one of {names}"))
    }
}

/// The processor, for `hone doctor` and `hone bench`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuFeatures {
    /// The processor's own name, if it tells one.
    pub brand: String,
    /// Processors the system offers to this process.
    pub processors: usize,
    /// Threads of the pool that products run on.
    pub threads: usize,
    /// Levels this machine has, best first.
    pub levels: Vec<Level>,
    /// The level in use.
    pub used: Level,
    /// What is in the way of a level the processor reports but the products cannot use, one sentence each.
    pub notes: Vec<String>,
}

/// What the processor can do and what is used.
pub fn features() -> CpuFeatures {
    let detected = detected();
    CpuFeatures {
        brand: brand(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        threads: rayon::current_num_threads(),
        levels: detected.levels.clone(),
        used: level(),
        notes: detected.notes.clone(),
    }
}

/// Name of the kernel that bf16 products use now.
pub fn bf16_kernel_name() -> &'static str {
    match level() {
        Level::Amx => "AMX tiles",
        Level::Avx512Bf16 => "AVX-512 bf16 dot products",
        Level::Avx512 => "AVX-512, widened to f32",
        Level::Avx2 => "AVX2 + FMA, widened to f32",
        Level::Neon => "NEON, widened to f32",
        Level::Portable => "portable loops",
    }
}

/// Name of the kernel that f32 products use now.
pub fn f32_kernel_name() -> &'static str {
    match level() {
        Level::Amx | Level::Avx512Bf16 | Level::Avx512 => "AVX-512",
        Level::Avx2 => "AVX2 + FMA",
        Level::Neon => "NEON",
        Level::Portable => "portable loops",
    }
}

const NO_LIMIT: u8 = 0;
static LIMIT: AtomicU8 = AtomicU8::new(NO_LIMIT);

/// Holds products to `limit` or worse from now on (`None` lifts that). Products already running keep their level.
pub fn limit(limit: Option<Level>) {
    LIMIT.store(limit.map_or(NO_LIMIT, |l| l as u8), Ordering::Relaxed);
}

/// The level in use: the best the machine has, within `HONE_CPU` and [`limit`].
pub fn level() -> Level {
    let at_best = LIMIT.load(Ordering::Relaxed).max(environment_limit());
    detected().levels.iter().copied().find(|l| *l as u8 >= at_best).unwrap_or(Level::Portable)
}

/// Levels this machine has, best first.
pub fn available() -> &'static [Level] {
    &detected().levels
}

fn environment_limit() -> u8 {
    static FROM_ENVIRONMENT: OnceLock<u8> = OnceLock::new();
    *FROM_ENVIRONMENT.get_or_init(|| match std::env::var("HONE_CPU").map(|v| v.parse::<Level>()) {
        Ok(Ok(level)) => level as u8,
        _ => NO_LIMIT,
    })
}

/// What is wrong with the value of `HONE_CPU`, if anything is: it is then as if it were not set.
pub fn environment_problem() -> Option<String> {
    let value = std::env::var("HONE_CPU").ok()?;
    match value.parse::<Level>() {
        Err(problem) => Some(format!("HONE_CPU: {problem}")),
        Ok(level) if !available().contains(&level) => Some(format!("HONE_CPU: this machine has no `{level}`")),
        Ok(_) => None,
    }
}

struct Detected {
    levels: Vec<Level>,
    notes: Vec<String>,
}

fn detected() -> &'static Detected {
    static DETECTED: OnceLock<Detected> = OnceLock::new();
    DETECTED.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Detected {
    let (mut levels, mut notes) = (Vec::new(), Vec::new());
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq");
    let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
    if bf16 && amx_reported() {
        match request_amx() {
            Ok(()) => levels.push(Level::Amx),
            Err(note) => notes.push(note),
        }
    }
    if bf16 {
        levels.push(Level::Avx512Bf16);
    }
    if avx512 {
        levels.push(Level::Avx512);
    }
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        levels.push(Level::Avx2);
    }
    levels.push(Level::Portable);
    Detected { levels, notes }
}

#[cfg(target_arch = "aarch64")]
fn detect() -> Detected {
    Detected { levels: vec![Level::Neon, Level::Portable], notes: Vec::new() }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect() -> Detected {
    Detected { levels: vec![Level::Portable], notes: Vec::new() }
}

#[cfg(target_arch = "x86_64")]
fn amx_reported() -> bool {
    raw_cpuid::CpuId::new().get_extended_feature_info().is_some_and(|f| f.has_amx_tile() && f.has_amx_bf16())
}

/// Linux lends the 8 KiB of tile state only to processes that ask (`Documentation/arch/x86/xstate.rst`); one request
/// serves all threads.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_amx() -> Result<(), String> {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two integers and writes no memory of ours.
    let refused = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) };
    if refused == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(format!("the processor has AMX, but the system did not grant its use: {error}"))
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn request_amx() -> Result<(), String> {
    Err("the processor has AMX, but its use is only known on Linux".to_string())
}

#[cfg(target_arch = "x86_64")]
fn brand() -> String {
    let brand = raw_cpuid::CpuId::new().get_processor_brand_string();
    brand.map_or_else(|| "unknown x86-64 processor".to_string(), |b| b.as_str().trim().to_string())
}

#[cfg(not(target_arch = "x86_64"))]
fn brand() -> String {
    format!("{} processor", std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_level_is_used_unless_limited() {
        assert_eq!(available().last(), Some(&Level::Portable));
        assert!(available().is_sorted());
        assert!(available().contains(&level()));
        assert_eq!("avx2".parse(), Ok(Level::Avx2));
        assert!("sse9".parse::<Level>().is_err_and(|e| e.contains("avx512bf16")));
    }
}
