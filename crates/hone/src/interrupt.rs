//! Ctrl-C: the first asks the running work to save and stop, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::print::remark;

/// A flag that becomes true at the first Ctrl-C (or SIGTERM).
pub fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let handler = move || {
        if seen.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(crate::fail::INTERRUPTED));
        }
        remark!("\nstopping after this step and saving; press Ctrl-C again to stop at once");
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        remark!("note: Ctrl-C will end hone without saving ({error})");
    }
    stop
}
