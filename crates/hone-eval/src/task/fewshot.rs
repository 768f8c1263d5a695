//! Which examples are shown before the question: the harness' draw, document by document, from one stream of random numbers
//! a task; its first ones; or those most similar to the question ([`super::similar`]).

use super::data::Doc;
use super::similar::Similar;
use crate::python::random::PythonRandom;

/// The pool and the stream.
pub struct Sampler {
    pool: Vec<Doc>,
    random: PythonRandom,
    way: Way,
    /// Take the evaluated example out of the draw: the pool may hold it.
    exclude: bool,
}

/// How shots are found.
pub enum Way {
    /// Drawn at random.
    Draw,
    /// The first of the pool.
    FirstN,
    /// The most similar to the question.
    Similar(Similar),
}

impl Sampler {
    /// With `exclude` one more is drawn and the evaluated example is dropped.
    pub fn new(pool: Vec<Doc>, seed: u64, way: Way, exclude: bool) -> Sampler {
        Sampler { pool, random: PythonRandom::new(seed), way, exclude }
    }

    /// Whether shots depend on the question's text.
    pub fn reads_the_question(&self) -> bool {
        matches!(self.way, Way::Similar(_))
    }

    /// The next example's shots; `question` is its text, for samplers that read it. The error says how many there are.
    pub fn shots(&mut self, count: usize, evaluated: &Doc, question: &str) -> Result<Vec<&Doc>, String> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if let Way::Similar(similar) = &self.way {
            return Ok(similar.most(count, question)?.into_iter().map(|row| &self.pool[row]).collect());
        }
        let same = |doc: &Doc| doc.columns == evaluated.columns;
        let too_few = |available: usize| Err(format!("{count} shots are wanted, {available} are there to take"));
        if matches!(self.way, Way::FirstN) {
            let left: Vec<&Doc> = self.pool.iter().filter(|doc| !(self.exclude && same(doc))).take(count).collect();
            return if left.len() < count { too_few(left.len()) } else { Ok(left) };
        }
        let drawn = count + usize::from(self.exclude);
        if drawn > self.pool.len() {
            return too_few(self.pool.len() - usize::from(self.exclude).min(self.pool.len()));
        }
        let indices = self.random.sample(self.pool.len(), drawn);
        let mut shots: Vec<&Doc> = indices.into_iter().map(|i| &self.pool[i]).collect();
        if self.exclude {
            shots.retain(|doc| !same(doc));
            shots.truncate(count);
        }
        if shots.len() < count {
            // The pool holds the evaluated example more than once, and more than one copy was drawn.
            let others: Vec<&Doc> = self.pool.iter().filter(|doc| !same(doc)).collect();
            if others.len() < count {
                return too_few(others.len());
            }
            shots = self.random.sample(others.len(), count).into_iter().map(|i| others[i]).collect();
        }
        Ok(shots)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hone_data::example::SourceRef;
    use serde_json::json;

    use super::*;

    fn doc(i: usize) -> Doc {
        let columns = json!({ "i": i }).as_object().cloned().unwrap();
        Doc { columns, place: SourceRef { file: Path::new("pool").into(), row: i + 1, line: None } }
    }

    fn drawn(sampler: &mut Sampler, count: usize, evaluated: usize) -> Vec<u64> {
        let shots = sampler.shots(count, &doc(evaluated), "").unwrap();
        shots.iter().map(|d| d.columns["i"].as_u64().unwrap()).collect()
    }

    #[test]
    fn draws_are_the_harness() {
        let pool: Vec<Doc> = (0..100).map(doc).collect();
        let mut apart = Sampler::new(pool.clone(), 1234, Way::Draw, false);
        assert_eq!(drawn(&mut apart, 5, 7), [99, 56, 14, 0, 11]);
        assert_eq!(drawn(&mut apart, 5, 85), [74, 4, 85, 88, 10]);
        // The pool is the evaluated split: k + 1 are drawn, the example itself is dropped, the first k stay.
        let mut same = Sampler::new(pool.clone(), 1234, Way::Draw, true);
        assert_eq!(drawn(&mut same, 5, 14), [99, 56, 0, 11, 74]);
        assert_eq!(drawn(&mut same, 5, 3), [4, 85, 88, 10, 12]);
        let mut first = Sampler::new(pool, 1234, Way::FirstN, false);
        assert_eq!(drawn(&mut first, 3, 1), [0, 1, 2]);
    }

    #[test]
    fn too_small_pools_are_refused() {
        let mut sampler = Sampler::new((0..3).map(doc).collect(), 1234, Way::Draw, true);
        assert!(sampler.shots(3, &doc(0), "").unwrap_err().contains("3 shots are wanted, 2 are there"));
        let mut twice = Sampler::new(vec![doc(0), doc(0), doc(1)], 1234, Way::Draw, true);
        assert_eq!(drawn(&mut twice, 1, 0), [1]);
        assert!(twice.shots(2, &doc(0), "").unwrap_err().contains("1 are there"));
    }
}
