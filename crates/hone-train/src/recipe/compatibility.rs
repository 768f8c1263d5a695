//! `train.compatibility`: an update that stays compatible with the version before it. What it trains is said in
//! [`crate::compatibility`].

use std::path::Path;

use hone_edit::registry::located;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::verify::Fault;

/// Train towards the old version where the update errs, towards the new version elsewhere, instead of towards the data alone
/// (MUSCLE, arXiv 2407.09435).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "keys and values (`old`, `new`, `mask` …)")]
pub struct Compatibility {
    /// The version to stay compatible with: its adapter, its model, or both.
    pub old: OldVersion,
    /// The version that replaces it, on the recipe's model; by default the adapter of `method.init_from`.
    pub new: NewVersion,
    /// What the logits of all three are divided by before they are compared.
    pub temperature: f64,
    /// Which trained tokens learn from the old version.
    pub mask: Mask,
    /// Weight of the cross-entropy on the data, from 0 up to 1; the rest is that of agreeing with the two versions.
    pub cross_entropy: f64,
}

/// The old version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`{edit: DIR}`, `{model: NAME}`, or both")]
pub struct OldVersion {
    /// Its model, with the same tokenizer; by default the recipe's, which is then held once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its adapter's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edit: Option<String>,
}

/// The new version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "`{edit: DIR}`")]
pub struct NewVersion {
    /// Its adapter's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edit: Option<String>,
}

/// Which trained tokens learn from the old version; the others learn from the new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// Those at which the update's own most likely token is wrong, as it stands at that step.
    #[default]
    StudentWrong,
    /// Those at which the old version's most likely token is right.
    OldRight,
    /// Those that the old version finds more likely than the update does.
    LikelihoodToken,
    /// All of an example that the old version finds more likely than the update does, as a whole.
    LikelihoodSequence,
    /// All: the new version is not read.
    AlwaysOld,
    /// None: the new version is distilled into itself, and the old one is not read. A control.
    NeverOld,
}

impl Default for Compatibility {
    fn default() -> Self {
        Compatibility {
            old: OldVersion::default(),
            new: NewVersion::default(),
            temperature: 2.0,
            mask: Mask::default(),
            cross_entropy: 0.0,
        }
    }
}

impl Compatibility {
    /// Whether the old version is read.
    pub fn wants_old(&self) -> bool {
        self.mask != Mask::NeverOld
    }

    /// Whether the new version is read.
    pub fn wants_new(&self) -> bool {
        self.mask != Mask::AlwaysOld
    }

    /// With paths that start at `directory` made absolute, and the adapter training goes on from as the new version where none
    /// is named.
    pub(super) fn resolved(&self, directory: &Path, init_from: Option<String>) -> Compatibility {
        let mut resolved = self.clone();
        let absolute = |path: &String| located(path, directory);
        resolved.old.edit = self.old.edit.as_ref().map(absolute);
        resolved.new.edit = self.new.edit.as_ref().map(absolute).or(init_from);
        resolved
    }

    /// The first value that cannot be meant. `goes_on` says whether training goes on from an adapter.
    pub(super) fn check(&self, goes_on: bool) -> Result<(), Fault> {
        let fault = |keys: &[&str], found: &str, expected: &str| -> Result<(), Fault> {
            let path: Vec<String> = ["train", "compatibility"].iter().chain(keys).map(ToString::to_string).collect();
            let what = format!("`{}`: found {found}, expected {expected}", path.join("."));
            Err((path, what))
        };
        let (temperature, share) = (self.temperature, self.cross_entropy);
        if !(temperature.is_finite() && temperature > 0.0) {
            return fault(&["temperature"], &temperature.to_string(), "a number above 0");
        }
        if !(0.0..1.0).contains(&share) {
            let expected =
                "a share from 0 up to, but not including, 1; for cross-entropy alone leave out `train.compatibility`";
            return fault(&["cross_entropy"], &share.to_string(), expected);
        }
        if self.wants_old() && self.old == OldVersion::default() {
            let expected = "the version to stay compatible with: its adapter (`edit`), its model (`model`), or both";
            return fault(&["old"], "nothing", expected);
        }
        if self.wants_new() && self.new.edit.is_none() && !goes_on {
            let expected = "the new version's adapter, here or as what training goes on from (`method.init_from`)";
            return fault(&["new", "edit"], "nothing", expected);
        }
        Ok(())
    }
}
