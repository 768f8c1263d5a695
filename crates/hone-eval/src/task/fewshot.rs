//! Which examples are shown before the question: the harness' draw, document by document, from one stream of random numbers
//! a task; its first ones; or those most similar to the question ([`super::similar`]).

use std::borrow::Cow;
use std::ops::Deref;

use super::data::Doc;
use super::docs::Docs;
use super::similar::Similar;
use crate::error::EvalError;
use crate::python::random::PythonRandom;

/// The rows that shots are taken from.
pub enum Pool<'a> {
    /// Rows of their own.
    Own(Docs),
    /// Those that are evaluated.
    Evaluated(&'a Docs),
}

impl Deref for Pool<'_> {
    type Target = Docs;

    fn deref(&self) -> &Docs {
        match self {
            Pool::Own(docs) => docs,
            Pool::Evaluated(docs) => docs,
        }
    }
}

/// The pool and the stream.
pub struct Sampler<'a> {
    pool: Pool<'a>,
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

/// Why there are no shots.
#[derive(Debug)]
pub enum NoShots {
    /// How many are wanted and how many there are, in words.
    TooFew(String),
    /// The pool could not be read.
    Unread(EvalError),
}

impl From<EvalError> for NoShots {
    fn from(error: EvalError) -> NoShots {
        NoShots::Unread(error)
    }
}

impl<'a> Sampler<'a> {
    /// With `exclude` one more is drawn and the evaluated example is dropped.
    pub fn new(pool: Pool<'a>, seed: u64, way: Way, exclude: bool) -> Sampler<'a> {
        Sampler { pool, random: PythonRandom::new(seed), way, exclude }
    }

    /// Whether shots depend on the question's text.
    pub fn reads_the_question(&self) -> bool {
        matches!(self.way, Way::Similar(_))
    }

    /// The next example's shots; `question` is its text, for samplers that read it.
    pub fn shots(&mut self, count: usize, evaluated: &Doc, question: &str) -> Result<Vec<Cow<'_, Doc>>, NoShots> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if let Way::Similar(similar) = &self.way {
            return self.at(similar.most(count, question).map_err(NoShots::TooFew)?);
        }
        let same = |doc: &Doc| doc.columns == evaluated.columns;
        let too_few =
            |available: usize| Err(NoShots::TooFew(format!("{count} shots are wanted, {available} are there to take")));
        if matches!(self.way, Way::FirstN) {
            let kept =
                |doc: &Result<Cow<'_, Doc>, EvalError>| !(self.exclude && doc.as_ref().is_ok_and(|doc| same(doc)));
            let left: Vec<_> = self.pool.iter().filter(kept).take(count).collect::<Result<_, _>>()?;
            return if left.len() < count { too_few(left.len()) } else { Ok(left) };
        }
        let drawn = count + usize::from(self.exclude);
        if drawn > self.pool.len() {
            return too_few(self.pool.len() - usize::from(self.exclude).min(self.pool.len()));
        }
        let mut indices = self.random.sample(self.pool.len(), drawn);
        if self.exclude {
            indices = self.others(indices, &same)?;
            indices.truncate(count);
        }
        if indices.len() < count {
            // The pool holds the evaluated example more than once, and more than one copy was drawn.
            let others = self.others((0..self.pool.len()).collect(), &same)?;
            if others.len() < count {
                return too_few(others.len());
            }
            indices = self.random.sample(others.len(), count).into_iter().map(|i| others[i]).collect();
        }
        self.at(indices)
    }

    /// Those places at which another row stands.
    fn others(&self, places: Vec<usize>, same: &dyn Fn(&Doc) -> bool) -> Result<Vec<usize>, NoShots> {
        let mut others = Vec::with_capacity(places.len());
        for place in places {
            if self.pool.get(place)?.is_some_and(|doc| !same(&doc)) {
                others.push(place);
            }
        }
        Ok(others)
    }

    fn at(&self, places: Vec<usize>) -> Result<Vec<Cow<'_, Doc>>, NoShots> {
        let docs = places.into_iter().filter_map(|place| self.pool.get(place).transpose());
        Ok(docs.collect::<Result<_, _>>()?)
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
        let pool: Docs = (0..100).map(doc).collect();
        let mut apart = Sampler::new(Pool::Evaluated(&pool), 1234, Way::Draw, false);
        assert_eq!(drawn(&mut apart, 5, 7), [99, 56, 14, 0, 11]);
        assert_eq!(drawn(&mut apart, 5, 85), [74, 4, 85, 88, 10]);
        // The pool is the evaluated split: k + 1 are drawn, the example itself is dropped, the first k stay.
        let mut same = Sampler::new(Pool::Evaluated(&pool), 1234, Way::Draw, true);
        assert_eq!(drawn(&mut same, 5, 14), [99, 56, 0, 11, 74]);
        assert_eq!(drawn(&mut same, 5, 3), [4, 85, 88, 10, 12]);
        let mut first = Sampler::new(Pool::Evaluated(&pool), 1234, Way::FirstN, false);
        assert_eq!(drawn(&mut first, 3, 1), [0, 1, 2]);
    }

    #[test]
    fn too_small_pools_are_refused() {
        let refused = |sampler: &mut Sampler<'_>, count: usize| match sampler.shots(count, &doc(0), "") {
            Err(NoShots::TooFew(why)) => why,
            other => panic!("{other:?}"),
        };
        let mut sampler = Sampler::new(Pool::Own((0..3).map(doc).collect()), 1234, Way::Draw, true);
        assert!(refused(&mut sampler, 3).contains("3 shots are wanted, 2 are there"));
        let mut twice = Sampler::new(Pool::Own([0, 0, 1].map(doc).into_iter().collect()), 1234, Way::Draw, true);
        assert_eq!(drawn(&mut twice, 1, 0), [1]);
        assert!(refused(&mut twice, 2).contains("1 are there"));
    }
}
