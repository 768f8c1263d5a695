//! Probes: they see what passes, and change nothing.
//!
//! With activation recomputation a pass runs twice, and a probe sees it twice.

use hone_engine::Var;
use hone_model::attention::AttentionProbe;
use hone_model::{Context, Linear, Site};

/// Reads activations. Implementations collect behind interior mutability.
pub trait Probe: Send + Sync {
    /// An activation, after every edit at its site.
    fn activation(&self, cx: &Context, site: Site, h: &Var) {
        let _ = (cx, site, h);
    }

    /// A linear map's input and output, edits included.
    fn linear(&self, cx: &Context, linear: &Linear, x: &Var, y: &Var) {
        let _ = (cx, linear, x, y);
    }
}

impl Probe for AttentionProbe {
    fn activation(&self, cx: &Context, site: Site, h: &Var) {
        self.see(cx, site, h);
    }
}
