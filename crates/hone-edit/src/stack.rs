//! The stack of edits on a model: several at once, each with a strength, enabled or not, trained or frozen.
//!
//! An [`EditStack`] is plain data. [`EditStack::hooks`] makes of it what a forward pass runs with: the parameters' masters
//! cast to the compute type once, the parts sorted by place. A training loop calls it once a step, everything else once.

use std::sync::Arc;

use hone_engine::{DType, ParamId};
use hone_model::{Hooks, Sharing};

use crate::bound::Bound;
use crate::error::EditError;
use crate::method::{Edit, Method, Param, Place, Placed, Role};
use crate::probe::Probe;

/// Edits in the order they apply, and probes.
#[derive(Clone, Default)]
pub struct EditStack {
    /// The edits.
    pub entries: Vec<StackEntry>,
    /// The probes; they see what all edits left.
    pub probes: Vec<Arc<dyn Probe>>,
    /// The group (task) of batches that do not say any, for edits that differ by group.
    pub group: u32,
}

/// An edit on a stack.
#[derive(Clone)]
pub struct StackEntry {
    /// The edit.
    pub edit: Edit,
    /// How strongly it is applied: 1 as trained, 0 not at all, negative to subtract.
    pub strength: f32,
    /// Whether it is applied.
    pub enabled: bool,
    /// Whether its parameters take gradients.
    pub trained: bool,
    /// The groups of a batch's sequences it acts on: different adapters for different rows of one batch. `None` is all.
    pub groups: Option<Vec<u32>>,
}

impl StackEntry {
    /// An edit at full strength, frozen, for all rows.
    pub fn new(edit: Edit) -> StackEntry {
        StackEntry { edit, strength: 1.0, enabled: true, trained: false, groups: None }
    }

    /// Whether there are rows that both act on.
    fn meets(&self, other: &StackEntry) -> bool {
        match (&self.groups, &other.groups) {
            (Some(own), Some(others)) => own.iter().any(|group| others.contains(group)),
            _ => true,
        }
    }

    /// Whether it does anything.
    pub fn is_applied(&self) -> bool {
        self.enabled && self.strength != 0.0
    }
}

/// Refuses a task that `method` does not know.
pub fn check_group(method: &Arc<dyn Method>, group: u32) -> Result<(), EditError> {
    match method.groups() {
        Some(groups) if group as usize >= groups => {
            Err(EditError::NoSuchGroup { method: method.info().name, group, groups })
        }
        _ => Ok(()),
    }
}

impl EditStack {
    /// No edit: the base model.
    pub fn new() -> EditStack {
        EditStack::default()
    }

    /// One frozen edit.
    pub fn of(edit: Edit) -> EditStack {
        EditStack { entries: vec![StackEntry::new(edit)], ..EditStack::default() }
    }

    /// One edit whose parameters are trained.
    pub fn training(edit: Edit) -> EditStack {
        let mut stack = EditStack::of(edit);
        stack.entries[0].trained = true;
        stack
    }

    /// Adds an edit on top. Two edits that each replace the same weight, or the same rows of one, cannot be stacked, unless they act on
    /// different groups.
    pub fn push(&mut self, entry: StackEntry) -> Result<(), EditError> {
        let replaced = |e: &Edit| -> Vec<Place> {
            e.placed.iter().filter(|p| p.part.replaces()).map(|p| p.place.clone()).collect()
        };
        let new = replaced(&entry.edit);
        let meeting = || self.entries.iter().filter(|e| e.meets(&entry));
        if let Some(place) = meeting().flat_map(|e| replaced(&e.edit)).find(|p| new.contains(p)) {
            return Err(EditError::CannotStack { place: place.to_string() });
        }
        for own in &entry.edit.placed {
            let whole = |one: &Placed, other: &Placed| one.part.replaces() && !other.part.replaced_rows().is_empty();
            let at_place = || meeting().flat_map(|e| &e.edit.placed).filter(|p| p.place == own.place);
            if at_place().any(|p| whole(p, own) || whole(own, p)) {
                return Err(EditError::CannotStack { place: own.place.to_string() });
            }
            let mut rows = at_place().flat_map(|p| p.part.replaced_rows());
            if let Some(row) = rows.find(|row| own.part.replaced_rows().contains(row)) {
                return Err(EditError::CannotStack { place: format!("{} (row {row})", own.place) });
            }
        }
        if entry.groups.is_some() {
            let by_row = |place: &Place| matches!(place, Place::Linear(_) | Place::Activation(_));
            if let Some(placed) = entry.edit.placed.iter().find(|p| !by_row(&p.place)) {
                let (method, place) = (entry.edit.method.info().name, placed.place.to_string());
                return Err(EditError::CannotRoute { method, place });
            }
            // What stands before one row would stand before all: keys of zeros draw attention as well.
            if entry.edit.method.virtual_tokens() > 0 {
                let method = entry.edit.method.info().name;
                return Err(EditError::CannotRoute { method, place: Place::VirtualTokens.to_string() });
            }
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Makes `group` the task of batches that do not say any. Fails where an edit tells fewer apart.
    pub fn choose_group(&mut self, group: u32) -> Result<(), EditError> {
        self.entries.iter().try_for_each(|entry| check_group(&entry.edit.method, group))?;
        self.group = group;
        Ok(())
    }

    /// What a forward pass runs with, in the given compute type. A batch's groups must be known to every edit
    /// ([`check_group`]): a pass over others panics.
    pub fn hooks(&self, dtype: DType) -> Arc<dyn Hooks> {
        Arc::new(Bound::new(self, dtype))
    }

    /// Every parameter with its number, trained or not.
    pub fn params(&self) -> impl Iterator<Item = (ParamId, &Param)> {
        self.entries.iter().flat_map(|e| &e.edit.params).enumerate().map(|(i, p)| (ParamId(i as u32), p))
    }

    /// The trained parameters with their numbers (those that rest in a step included).
    pub fn trained_params(&self) -> impl Iterator<Item = (ParamId, &Param)> {
        let flags = self.entries.iter().flat_map(|e| e.edit.params.iter().map(|_| e.trained));
        let trained = |(_, param): &(ParamId, &Param), flag: bool| flag && param.traits.role == Role::Trained;
        self.params().zip(flags).filter_map(move |(param, flag)| trained(&param, flag).then_some(param))
    }

    /// What a checkpoint holds of the trained edits: trained parameters, and fixed ones that their files hold as well.
    pub fn kept_params(&self) -> impl Iterator<Item = &Param> {
        self.entries.iter().filter(|e| e.trained).flat_map(|e| &e.edit.params).filter(|p| p.is_kept())
    }

    /// The same, to be read back.
    pub fn kept_params_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        self.entries.iter_mut().filter(|e| e.trained).flat_map(|e| &mut e.edit.params).filter(|p| p.is_kept())
    }

    /// Virtual tokens that stand before every sequence.
    pub fn virtual_tokens(&self) -> usize {
        self.entries.iter().filter(|e| e.is_applied()).map(|e| e.edit.method.virtual_tokens()).sum()
    }

    /// Whose virtual tokens are the same: as few share them as any edit says.
    pub fn virtual_token_sharing(&self) -> Sharing {
        let applied = self.entries.iter().filter(|e| e.is_applied());
        applied.map(|e| e.edit.method.virtual_token_sharing()).max().unwrap_or_default()
    }

    /// The trained parameters, to be updated.
    pub fn trained_params_mut(&mut self) -> impl Iterator<Item = (ParamId, &mut Param)> {
        let all = self.entries.iter_mut().flat_map(|e| {
            let trained = e.trained;
            e.edit.params.iter_mut().map(move |p| (trained && p.traits.role == Role::Trained, p))
        });
        let numbered = all.enumerate().map(|(i, (trained, param))| (trained, ParamId(i as u32), param));
        numbered.filter_map(|(trained, id, param)| trained.then_some((id, param)))
    }

    /// The stack with every edit as its files hold it.
    pub fn as_saved(&self) -> EditStack {
        let mut saved = self.clone();
        for entry in &mut saved.entries {
            if let Some(form) = entry.edit.method.saved_form(&entry.edit) {
                entry.edit = form;
            }
        }
        saved
    }

    /// Trained numbers.
    pub fn trained_count(&self) -> usize {
        self.trained_params().map(|(_, p)| p.value.elements()).sum()
    }

    /// Everything that was noticed while the edits were made or read.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().flat_map(|e| &e.edit.warnings).map(String::as_str)
    }
}
