//! Tasks that are one task asked in several ways, put together: what measures over wordings, passages and reasoning read.

use std::collections::HashMap;

use super::TaskMeasure;
use crate::pairing::Paired;
use crate::task::variants::Variant;

/// A task with all the ways it was asked, in the task file's order.
pub struct Family<'p, 'a> {
    /// The task.
    pub name: &'a str,
    /// Its ways.
    pub members: Vec<(&'a Variant, &'p Paired<'a>)>,
}

/// The families among the tasks, in the order of their first members. A single way of a task is a family of one.
pub fn families<'p, 'a>(all: &'p [Paired<'a>]) -> Vec<Family<'p, 'a>> {
    let mut families: Vec<Family<'p, 'a>> = Vec::new();
    for paired in all {
        let base: &'a crate::scorecard::ScorecardHeader = paired.base;
        let Some(variant) = &base.variant else { continue };
        match families.iter_mut().find(|family| family.name == variant.of) {
            Some(family) => family.members.push((variant, paired)),
            None => families.push(Family { name: &variant.of, members: vec![(variant, paired)] }),
        }
    }
    families.iter_mut().for_each(|family| family.members.sort_by_key(|(variant, _)| variant.index));
    families
}

impl<'a> Family<'_, 'a> {
    /// The sets of ways, in order; ways without a set are `None`.
    pub fn sets(&self) -> Vec<Option<&'a str>> {
        let mut sets = Vec::new();
        for (variant, _) in &self.members {
            let set = variant.set.as_deref();
            if !sets.contains(&set) {
                sets.push(set);
            }
        }
        sets
    }

    /// The tasks that its ways are.
    pub fn tasks(&self) -> Vec<String> {
        self.members.iter().map(|(_, paired)| paired.task().to_owned()).collect()
    }

    /// The way of this name.
    pub fn named(&self, name: &str) -> Option<&Paired<'a>> {
        self.members.iter().find(|(variant, _)| variant.name == name).map(|(_, paired)| *paired)
    }

    /// The ids of the examples that every way has, in the first one's order, and where each stands in each member:
    /// `[members][examples]`.
    pub fn common(&self) -> (Vec<&'a str>, Vec<Vec<usize>>) {
        let places: Vec<HashMap<&'a str, usize>> = self
            .members
            .iter()
            .map(|(_, paired)| paired.rows.iter().enumerate().map(|(i, (row, _))| (row.id.as_str(), i)).collect())
            .collect();
        let Some((_, first)) = self.members.first() else { return (Vec::new(), Vec::new()) };
        let ids: Vec<&'a str> = first.rows.iter().map(|(row, _)| row.id.as_str()).collect();
        let ids: Vec<&'a str> = ids.into_iter().filter(|id| places.iter().all(|at| at.contains_key(id))).collect();
        let at = places.iter().map(|place| ids.iter().filter_map(|id| place.get(id).copied()).collect()).collect();
        (ids, at)
    }

    /// A measure of this family without numbers.
    pub fn measure(&self, n: usize) -> TaskMeasure {
        let metric = self.members.first().map_or_else(String::new, |(_, paired)| paired.metric.name.clone());
        let tasks = self.tasks();
        TaskMeasure { name: self.name.to_owned(), metric, n, tasks, ..TaskMeasure::default() }
    }
}
