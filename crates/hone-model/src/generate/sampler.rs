//! The next token from a row of logits, with transformers' filters in transformers' order: repetition penalty, then (when
//! sampling) temperature, top-k, top-p, min-p, and a draw from what is left.
//!
//! A draw is a number by counter from (seed, prompt, step) turned through the cumulative distribution in order of token
//! ids, so what else is in the batch never changes it. It knows nothing of models or text.

use hone_engine::RandomKey;

use super::{GenerationConfig, Wanted};

/// Draws for one sequence.
pub(super) struct Sampler<'a> {
    config: &'a GenerationConfig,
    key: RandomKey,
    /// Tokens of the prompt and of the continuation, for the repetition penalty; sorted, each once.
    seen: Vec<u32>,
}

/// A token that may still be drawn.
#[derive(Clone, Copy)]
struct Candidate {
    id: u32,
    /// Logit over temperature.
    score: f32,
    /// `exp(score - highest score)`.
    mass: f64,
}

impl<'a> Sampler<'a> {
    /// A sampler for what is wanted behind `prompt`.
    pub fn new(config: &'a GenerationConfig, wanted: Wanted, prompt: &[u32]) -> Self {
        let key = RandomKey::new(wanted.seed).named("generate").index(wanted.prompt as u64);
        let mut sampler = Sampler { config, key, seen: Vec::new() };
        if config.repetition_penalty != 1.0 {
            sampler.seen = prompt.to_vec();
            sampler.seen.sort_unstable();
            sampler.seen.dedup();
        }
        sampler
    }

    /// The token after `step` earlier ones, `None` if the logits hold nothing to choose from (all NaN or infinite).
    /// Changes the logits in place.
    pub fn next(&mut self, logits: &mut [f32], step: usize) -> Option<u32> {
        self.penalise(logits);
        let id = if self.config.temperature == 0.0 {
            highest(logits)?
        } else {
            let uniform = f64::from(self.key.index(step as u64).uniform(0));
            draw(&filtered(logits, self.config)?, uniform)
        };
        if self.config.repetition_penalty != 1.0
            && let Err(at) = self.seen.binary_search(&id)
        {
            self.seen.insert(at, id);
        }
        Some(id)
    }

    fn penalise(&self, logits: &mut [f32]) {
        let penalty = self.config.repetition_penalty;
        for &id in &self.seen {
            let logit = &mut logits[id as usize];
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// The highest logit's token, the lowest id on ties.
fn highest(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (id, &logit) in logits.iter().enumerate() {
        if logit.is_finite() && best.is_none_or(|(_, highest)| logit > highest) {
            best = Some((id as u32, logit));
        }
    }
    best.map(|(id, _)| id)
}

/// What the filters leave, in order of token ids.
fn filtered(logits: &[f32], config: &GenerationConfig) -> Option<Vec<Candidate>> {
    let finite = |(id, &logit): (usize, &f32)| {
        logit.is_finite().then(|| Candidate { id: id as u32, score: logit / config.temperature, mass: 0.0 })
    };
    let mut left: Vec<Candidate> = logits.iter().enumerate().filter_map(finite).collect();
    if left.is_empty() {
        return None;
    }
    if config.top_k > 0 && config.top_k < left.len() {
        let mut scores: Vec<f32> = left.iter().map(|c| c.score).collect();
        let (_, lowest, _) = scores.select_nth_unstable_by(config.top_k - 1, |a, b| b.total_cmp(a));
        let lowest = *lowest;
        left.retain(|c| c.score >= lowest);
    }
    let highest = left.iter().map(|c| c.score).fold(f32::NEG_INFINITY, f32::max);
    left.iter_mut().for_each(|c| c.mass = f64::from(c.score - highest).exp());
    if config.top_p < 1.0 {
        keep_top_p(&mut left, f64::from(config.top_p));
    }
    if config.min_p > 0.0 {
        // The highest candidate has mass 1, so this is a share of it; it always stays.
        left.retain(|c| c.mass >= f64::from(config.min_p));
    }
    Some(left)
}

/// Drops the least likely candidates as long as together they have no more than `1 - top_p`; one stays.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f64) {
    let total: f64 = candidates.iter().map(|c| c.mass).sum();
    let budget = (1.0 - top_p) * total;
    // Those below an equal share of the budget go in any case; what remains to be sorted is a small part.
    let share = budget / candidates.len() as f64;
    let mut dropped: f64 = candidates.iter().filter(|c| c.mass < share).map(|c| c.mass).sum();
    candidates.retain(|c| c.mass >= share);
    candidates.sort_by(|a, b| a.score.total_cmp(&b.score));
    let mut drop = 0;
    while drop + 1 < candidates.len() && dropped + candidates[drop].mass <= budget {
        dropped += candidates[drop].mass;
        drop += 1;
    }
    candidates.drain(..drop);
    candidates.sort_by_key(|c| c.id);
}

/// The candidate at `uniform` (in [0, 1)) of the cumulative distribution. `candidates` is not empty.
fn draw(candidates: &[Candidate], uniform: f64) -> u32 {
    let total: f64 = candidates.iter().map(|c| c.mass).sum();
    let mut below = 0.0;
    for candidate in candidates {
        below += candidate.mass;
        if uniform * total < below {
            return candidate.id;
        }
    }
    // Rounding of the sum can leave a sliver above the last candidate.
    candidates[candidates.len() - 1].id
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Wanted = Wanted { prompt: 0, seed: 0, group: None };

    fn kept(logits: &[f32], config: GenerationConfig) -> Vec<u32> {
        filtered(logits, &config).unwrap().iter().map(|c| c.id).collect()
    }

    fn sampling() -> GenerationConfig {
        GenerationConfig { temperature: 1.0, ..GenerationConfig::default() }
    }

    #[test]
    fn top_k_keeps_ties_at_its_edge() {
        assert_eq!(kept(&[1.0, 3.0, 2.0, 2.0, 0.0], GenerationConfig { top_k: 2, ..sampling() }), [1, 2, 3]);
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_it() {
        let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
        let kept = |top_p| kept(&logits, GenerationConfig { top_p, ..sampling() });
        assert_eq!(kept(0.4), [0]);
        assert_eq!(kept(0.7), [0, 1]);
        assert_eq!(kept(0.9), [0, 1, 2]);
        assert_eq!(kept(0.99), [0, 1, 2, 3]);
        assert_eq!(kept(1e-6), [0]);
    }

    #[test]
    fn min_p_is_a_share_of_the_most_likely() {
        let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
        assert_eq!(kept(&logits, GenerationConfig { min_p: 0.25, ..sampling() }), [0, 1, 2]);
    }

    #[test]
    fn repetition_penalty_divides_positive_and_multiplies_negative_logits() {
        let config = GenerationConfig { repetition_penalty: 2.0, ..GenerationConfig::default() };
        let mut logits = [3.0, -1.0, 2.0, -0.5];
        let mut sampler = Sampler::new(&config, FIRST, &[0, 1, 1]);
        assert_eq!(sampler.next(&mut logits, 0), Some(2));
        assert_eq!(logits, [1.5, -2.0, 2.0, -0.5]);
        assert_eq!(sampler.seen, [0, 1, 2], "what is drawn is penalised from then on");
    }

    #[test]
    fn draws_follow_the_distribution_and_depend_on_seed_prompt_and_step_only() {
        let logits = [0.5f32, 0.3, 0.2].map(f32::ln);
        let config = sampling();
        let run = |index| {
            let mut sampler = Sampler::new(&config, Wanted { prompt: index, seed: 5, group: None }, &[0]);
            (0..4000).map(|step| sampler.next(&mut logits.clone(), step).unwrap()).collect::<Vec<_>>()
        };
        let ids = run(0);
        assert_eq!(ids, run(0));
        assert_ne!(ids, run(1));
        for (id, p) in [0.5, 0.3, 0.2].into_iter().enumerate() {
            let share = ids.iter().filter(|&&i| i == id as u32).count() as f64 / 4000.0;
            assert!((share - p).abs() < 0.03, "token {id}: {share} against {p}");
        }
    }

    /// `tools/golden/sampling.py`
    #[test]
    fn the_filters_leave_what_those_of_transformers_leave() {
        let file = safetensors::SafeTensors::deserialize(include_bytes!("../../tests/golden/sampling.safetensors"));
        let file = file.unwrap();
        let floats = |name: &str| -> Vec<f32> {
            let (values, _) = file.tensor(name).unwrap().data().as_chunks::<4>();
            values.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        let logits = floats("logits");
        let seen: Vec<u32> = floats("seen").iter().map(|four_bytes| four_bytes.to_bits()).collect();
        let (settings, rows) = (floats("settings"), 5);
        let (vocabulary, prompt) = (logits.len() / rows, seen.len() / rows);
        for (i, s) in settings.chunks(5).enumerate() {
            let config = GenerationConfig {
                temperature: s[0],
                top_k: s[1] as usize,
                top_p: s[2],
                min_p: s[3],
                repetition_penalty: s[4],
                ..GenerationConfig::default()
            };
            let processed = floats(&format!("processed.{i}"));
            for row in 0..rows {
                let sampler = Sampler::new(&config, FIRST, &seen[row * prompt..(row + 1) * prompt]);
                let mut logits = logits[row * vocabulary..(row + 1) * vocabulary].to_vec();
                sampler.penalise(&mut logits);
                let left = filtered(&logits, &config).unwrap();
                let expected = &processed[row * vocabulary..(row + 1) * vocabulary];
                let ids: Vec<u32> = left.iter().map(|c| c.id).collect();
                let kept: Vec<u32> = (0..vocabulary as u32).filter(|&id| expected[id as usize].is_finite()).collect();
                assert_eq!(ids, kept, "settings {s:?}, row {row}");
                for candidate in left {
                    let expected = expected[candidate.id as usize];
                    assert!((candidate.score - expected).abs() <= 1e-5 * expected.abs().max(1.0), "settings {s:?}");
                }
            }
        }
    }

    #[test]
    fn a_row_without_a_finite_logit_gives_nothing() {
        assert_eq!(highest(&[f32::NAN, f32::NEG_INFINITY]), None);
        assert!(filtered(&[f32::NAN, f32::INFINITY], &sampling()).is_none());
        assert_eq!(highest(&[f32::NAN, -5.0, f32::NEG_INFINITY]), Some(1));
    }
}
