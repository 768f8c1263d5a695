//! A ladder: models of one series, asked the same questions. How evenly does each score of a question move with compute?
//!
//! Schaeffer et al. 2024, "Why Has Predicting Downstream Capabilities of Frontier AI Models with Scale Remained Elusive?", arXiv
//! 2406.04391. From the log-likelihoods of the choices come five scores `s1 … s5`, from the likelihood of the right answer to accuracy
//! ([`hone_eval::measures::likelihoods`]). For each question `j` and score `k`, over models with compute `C_m`,
//!
//! ```text
//! r_kj = corr(s_k(m, j), C_m)                    Spearman, Pearson or Kendall's τ-b
//! F_k(t) = share of questions with r_kj > t      survival function
//! mean, median; area under F_k on [−1, 1] (= mean + 1); distance W₁ to "all are 1" (= 1 − mean)
//! loss of a step = mean(r_k − r_{k+1})           over the questions where both are defined, with a bootstrap over questions
//! ```
//!
//! A score that is the same in all models has no correlation; such questions are counted, and left out of the distribution. `s1` and
//! `s2` have the same ranks, so a loss between them can only show with Pearson, for which probabilities are shares of each question's largest
//! one: that changes no correlation, and keeps all of them from becoming 0 where answers are long.
//!
//! Beside the questions stand the means of all of them: many uneven questions can make an even mean.
//!
//! What it does not know: whether the models are of one series. Checkpoints of one run are; models of two families are not, and must not
//! be in one ladder. That a score moves evenly with compute says nothing about what the model can do.

use std::collections::HashMap;

use hone_eval::measures::likelihoods::{Scores, log_likelihoods, right_choice};
use hone_eval::metrics::Kind;
use hone_eval::pairing::Paired;
use hone_eval::scorecard::{Scorecard, ScorecardRow};
use hone_eval::statistics::correlation::{kendall, pearson, spearman};
use hone_eval::statistics::groups;
use hone_eval::statistics::{BootstrapOptions, Estimate, mean, quantile};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::PredictError;
use crate::found::{Ladder, Loss, Means, Model, ScoreLadder, TaskLadder};
use crate::wrong_mass::{total_slope, wrong_mass};

/// Fewest models.
pub const FEWEST: usize = 3;
/// With fewer, a rank correlation takes a few values only.
pub const ENOUGH: usize = 8;
/// If accuracy is the same in all models for more of the questions than this, scores are not put in order.
const MOST_UNDEFINED: f64 = 0.5;
/// Steps of the survival function between -1 and 1.
const SURVIVAL_STEPS: i32 = 40;

/// Which correlation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correlation {
    /// Of ranks.
    #[default]
    Spearman,
    /// Of the numbers.
    Pearson,
    /// Kendall's τ-b, of pairs.
    Kendall,
}

impl Correlation {
    /// Every correlation with its name.
    pub const NAMES: [(&'static str, Correlation); 3] =
        [("spearman", Correlation::Spearman), ("pearson", Correlation::Pearson), ("kendall", Correlation::Kendall)];

    /// Its name in files and on the command line.
    pub fn name(self) -> &'static str {
        Correlation::NAMES.into_iter().find(|(_, of)| *of == self).map_or("", |(name, _)| name)
    }

    /// The correlation; `None` where one side does not vary.
    pub fn of(self, scores: &[f64], compute: &[f64]) -> Option<f64> {
        let value = match self {
            Correlation::Spearman => spearman(scores, compute),
            Correlation::Pearson => pearson(scores, compute),
            Correlation::Kendall => kendall(scores, compute),
        };
        value.is_finite().then_some(value)
    }
}

/// Settings of a ladder.
#[derive(Clone, Copy, Debug)]
pub struct LadderOptions {
    /// Which correlation.
    pub correlation: Correlation,
    /// Resampling of questions.
    pub bootstrap: BootstrapOptions,
}

impl Default for LadderOptions {
    fn default() -> Self {
        let bootstrap = BootstrapOptions { resamples: 1000, ..BootstrapOptions::default() };
        LadderOptions { correlation: Correlation::default(), bootstrap }
    }
}

/// A model of the ladder.
#[derive(Clone, Debug)]
pub struct Rung {
    /// What it is called.
    pub name: String,
    /// What was spent on it, in any unit: `6 · parameters · tokens`.
    pub compute: f64,
    /// Its scorecards.
    pub cards: Vec<Scorecard>,
}

/// Correlations of a ladder.
///
/// # Errors
/// Fewer than three models, compute that is no positive number or is the same everywhere, cards of different questions, or no task with
/// choices in common.
pub fn ladder(mut rungs: Vec<Rung>, options: &LadderOptions) -> Result<Ladder, PredictError> {
    if rungs.len() < FEWEST {
        return Err(PredictError::TooFew { found: rungs.len(), needed: FEWEST });
    }
    if let Some(rung) = rungs.iter().find(|rung| !(rung.compute.is_finite() && rung.compute > 0.0)) {
        return Err(PredictError::Compute { found: rung.compute, model: rung.name.clone() });
    }
    let found = rungs[0].compute;
    if rungs.iter().all(|rung| rung.compute == found) {
        return Err(PredictError::SameCompute { found });
    }
    rungs.sort_by(|a, b| a.compute.total_cmp(&b.compute));
    let mut notes = Vec::new();
    if rungs.len() < ENOUGH {
        notes.push(format!(
            "{} models: a correlation over so few takes a few values only; {ENOUGH} or more tell scores apart",
            rungs.len()
        ));
    }
    let mut tasks = Vec::new();
    for card in &rungs[0].cards {
        let name = &card.header.task;
        if Kind::from_name(&card.header.kind) != Some(Kind::MultipleChoice) {
            notes.push(format!("{name} was left out: it has no choices"));
            continue;
        }
        let cards: Option<Vec<&Scorecard>> =
            rungs.iter().map(|rung| rung.cards.iter().find(|other| other.header.task == *name)).collect();
        match cards {
            Some(cards) => tasks.push(task_ladder(&cards, &rungs, options)?),
            None => notes.push(format!("{name} was left out: not all models were evaluated on it")),
        }
    }
    if tasks.is_empty() {
        let there: Vec<&str> = rungs[0].cards.iter().map(|card| card.header.task.as_str()).collect();
        return Err(PredictError::NoTask { there: there.join(", ") });
    }
    let models = rungs.iter().map(|rung| Model { name: rung.name.clone(), compute: rung.compute }).collect();
    Ok(Ladder { format: 1, correlation: options.correlation, models, tasks, notes })
}

/// The field of a row with a score in all models, least compute first.
pub fn by_model(score: &str) -> String {
    format!("{score}_by_model")
}

/// A question: its id, the right choice, and log-likelihoods `[model][choice]`.
struct Question<'a> {
    id: &'a str,
    right: usize,
    likelihoods: Vec<Vec<f64>>,
}

fn task_ladder(cards: &[&Scorecard], rungs: &[Rung], options: &LadderOptions) -> Result<TaskLadder, PredictError> {
    let first = cards[0];
    let questions = questions(cards)?;
    if questions.is_empty() {
        return Err(PredictError::NoQuestion { task: first.header.task.clone(), questions: first.rows.len() });
    }
    let compute: Vec<f64> = rungs.iter().map(|rung| rung.compute).collect();
    // `[question][model]`
    let scores: Vec<Vec<Scores>> =
        questions.iter().map(|q| q.likelihoods.iter().map(|l| Scores::new(l, q.right)).collect()).collect();
    // `[score][question]`
    let correlations: Vec<Vec<Option<f64>>> = (0..Scores::NAMES.len())
        .map(|k| {
            scores
                .iter()
                .map(|models| options.correlation.of(&comparable(models, k, options.correlation), &compute))
                .collect()
        })
        .collect();
    let means: Vec<Means> = (rungs.iter().zip(cards).enumerate())
        .map(|(m, (rung, card))| Means {
            compute: rung.compute,
            scores: (0..Scores::NAMES.len())
                .map(|k| mean(&scores.iter().map(|models| models[m].all()[k]).collect::<Vec<_>>()))
                .collect(),
            acc_norm: card.header.metrics.iter().find(|metric| metric.name == "acc_norm").map(|metric| metric.value),
        })
        .collect();
    let of_score = |k: usize| {
        let of_means: Vec<f64> = means.iter().map(|means| means.scores[k]).collect();
        ScoreLadder {
            name: Scores::NAMES[k].into(),
            label: Scores::LABELS[k].into(),
            of_the_mean: options.correlation.of(&of_means, &compute),
            ..distribution(&correlations[k], &options.bootstrap)
        }
    };
    let score_ladders: Vec<ScoreLadder> = (0..Scores::NAMES.len()).map(of_score).collect();
    let losses: Vec<Loss> =
        (1..Scores::NAMES.len()).map(|k| loss(k, &correlations[k - 1], &correlations[k], &options.bootstrap)).collect();
    let mut notes = Vec::new();
    let lost_at = lost_at(&score_ladders, &losses, &mut notes);
    let above_half: Vec<&Scores> = scores.iter().flatten().filter(|scores| scores.p > 0.5).collect();
    let slopes = questions.iter().map(|q| total_slope(&q.likelihoods, q.right));
    let rows = questions.iter().zip(slopes).enumerate().map(|(j, (question, slope))| {
        let mut row = json!({ "id": question.id, "wrong_mass_slope": slope });
        for (k, (name, of_score)) in Scores::NAMES.iter().zip(&correlations).enumerate() {
            row[*name] = of_score[j].into();
            row[by_model(name)] = scores[j].iter().map(|model| model.all()[k]).collect();
        }
        row
    });
    let rows = rows.collect();
    let left_out = first.rows.len() - questions.len();
    Ok(TaskLadder {
        name: first.header.task.clone(),
        questions: questions.len(),
        left_out,
        scores: score_ladders,
        losses,
        lost_at,
        above_half: above_half.len(),
        above_half_right: above_half.iter().filter(|scores| scores.accuracy == 1.0).count(),
        wrong_mass: wrong_mass(&questions.into_iter().map(|q| (q.likelihoods, q.right)).collect::<Vec<_>>()),
        means,
        notes,
        rows,
    })
}

/// The questions that all cards have, and that have one right answer among their choices.
fn questions<'a>(cards: &[&'a Scorecard]) -> Result<Vec<Question<'a>>, PredictError> {
    let first = cards[0];
    for other in &cards[1..] {
        // Refuses cards of other questions or prompts.
        Paired::new(first, other, false)?;
    }
    let by_id: Vec<HashMap<&str, &ScorecardRow>> =
        cards.iter().map(|card| card.rows.iter().map(|row| (row.id.as_str(), row)).collect()).collect();
    let question = |row: &'a ScorecardRow| {
        let right = right_choice(&first.header, row)?;
        let of_model = |rows: &HashMap<&str, &ScorecardRow>| {
            Some(log_likelihoods(rows.get(row.id.as_str())?)).filter(|found| found.len() == row.choices.len())
        };
        Some(Question { id: &row.id, right, likelihoods: by_id.iter().map(of_model).collect::<Option<_>>()? })
    };
    Ok(first.rows.iter().filter_map(question).collect())
}

/// A question's score in all models, as it is correlated: probabilities by their logarithms where ranks are all that counts, else as
/// shares of their largest one.
fn comparable(models: &[Scores], k: usize, correlation: Correlation) -> Vec<f64> {
    let highest = models.iter().map(|scores| scores.log_p).fold(f64::NEG_INFINITY, f64::max);
    let value = |scores: &Scores| match Scores::NAMES[k] {
        "p" if correlation != Correlation::Pearson => scores.log_p,
        "p" => (scores.log_p - highest).exp(),
        _ => scores.all()[k],
    };
    models.iter().map(value).collect()
}

/// Statistics of the correlations of one score.
fn distribution(correlations: &[Option<f64>], bootstrap: &BootstrapOptions) -> ScoreLadder {
    let mut defined: Vec<f64> = correlations.iter().copied().flatten().collect();
    defined.sort_by(f64::total_cmp);
    let some = |value: f64| value.is_finite().then_some(value);
    let above = |t: f64| defined.iter().filter(|r| **r > t).count() as f64 / defined.len() as f64;
    let grid = (-SURVIVAL_STEPS / 2..=SURVIVAL_STEPS / 2).map(|i| f64::from(i) / f64::from(SURVIVAL_STEPS / 2));
    ScoreLadder {
        name: String::new(),
        label: String::new(),
        defined: defined.len(),
        undefined: correlations.len() - defined.len(),
        mean: estimate(correlations, bootstrap),
        median: some(quantile(&defined, 0.5)),
        area: some(area(&defined)),
        distance: some(defined.iter().map(|r| 1.0 - r).sum::<f64>() / defined.len() as f64),
        of_the_mean: None,
        survival: if defined.is_empty() { Vec::new() } else { grid.map(|t| (t, above(t))).collect() },
    }
}

/// Area under the survival function of sorted correlations, from -1 to 1: between neighbours it is flat.
fn area(sorted: &[f64]) -> f64 {
    let (n, mut area, mut from) = (sorted.len() as f64, 0.0, -1.0);
    for (i, &r) in sorted.iter().enumerate() {
        area += (r - from) * (sorted.len() - i) as f64 / n;
        from = r;
    }
    if sorted.is_empty() { f64::NAN } else { area }
}

/// The mean of what is defined, with a bootstrap over all questions.
fn estimate(values: &[Option<f64>], bootstrap: &BootstrapOptions) -> Option<Estimate> {
    let over = |at: &mut dyn Iterator<Item = usize>| {
        let (sum, n) = at.filter_map(|i| values[i]).fold((0.0, 0usize), |(sum, n), value| (sum + value, n + 1));
        sum / n as f64
    };
    let value = over(&mut (0..values.len()));
    let interval = groups::interval(&[values.len()], bootstrap, &|drawn| over(&mut drawn[0].iter().copied()));
    value.is_finite().then_some(Estimate { value, low: interval.low, high: interval.high })
}

/// What the step to score `k` loses.
fn loss(k: usize, before: &[Option<f64>], after: &[Option<f64>], bootstrap: &BootstrapOptions) -> Loss {
    let differences: Vec<Option<f64>> = before.iter().zip(after).map(|(b, a)| Some((*b)? - (*a)?)).collect();
    Loss {
        from: Scores::NAMES[k - 1].into(),
        to: Scores::NAMES[k].into(),
        questions: differences.iter().flatten().count(),
        loss: estimate(&differences, bootstrap),
    }
}

/// The score whose step loses most, if it surely loses something.
fn lost_at(scores: &[ScoreLadder], losses: &[Loss], notes: &mut Vec<String>) -> Option<String> {
    let accuracy = scores.last()?;
    let all = accuracy.defined + accuracy.undefined;
    if accuracy.undefined as f64 > MOST_UNDEFINED * all as f64 {
        notes.push(format!(
            "accuracy is the same in all models on {} of {all} questions, so the scores are not put in order: the questions are too \
             easy, too hard, or their wrong answers too weak for this ladder",
            accuracy.undefined
        ));
        return None;
    }
    let sure = losses.iter().filter_map(|loss| Some((loss, loss.loss?))).filter(|(_, of)| of.low > 0.0);
    sure.max_by(|(_, a), (_, b)| a.value.total_cmp(&b.value)).map(|(loss, _)| loss.to.clone())
}

#[cfg(test)]
pub(crate) mod tests {
    use hone_eval::scorecard::{ChoiceScore, MetricValue, ScorecardHeader};
    use proptest::prelude::*;

    use super::*;

    /// A card: of every question the log-likelihoods of its choices, the first one right.
    fn card(task: &str, questions: &[Vec<f64>]) -> Scorecard {
        let row = |(i, likelihoods): (usize, &Vec<f64>)| ScorecardRow {
            id: i.to_string(),
            target: "choice 0".into(),
            choices: likelihoods
                .iter()
                .enumerate()
                .map(|(c, l)| ChoiceScore {
                    text: format!("choice {c}"),
                    log_likelihood: *l,
                    tokens: 1,
                    is_greedy: false,
                })
                .collect(),
            ..ScorecardRow::default()
        };
        let header = ScorecardHeader {
            task: task.into(),
            kind: "multiple_choice".into(),
            main_metric: "acc".into(),
            metrics: vec![MetricValue { name: "acc".into(), ..MetricValue::default() }],
            n: questions.len(),
            ..ScorecardHeader::default()
        };
        Scorecard { header, rows: questions.iter().enumerate().map(row).collect() }
    }

    /// A ladder over `models[model][question][choice]`, compute 1, 2, 4 …
    pub(crate) fn of(models: &[Vec<Vec<f64>>], correlation: Correlation) -> Ladder {
        let rungs = models.iter().enumerate().map(|(m, questions)| Rung {
            name: format!("model {m}"),
            compute: f64::from(1 << m),
            cards: vec![card("quiz", questions)],
        });
        let bootstrap = BootstrapOptions { resamples: 200, ..BootstrapOptions::default() };
        ladder(rungs.collect(), &LadderOptions { correlation, bootstrap }).unwrap()
    }

    #[test]
    fn summaries_are_the_papers() {
        let found = distribution(&[Some(0.9), Some(0.5), None, Some(-0.2), Some(1.0)], &BootstrapOptions::default());
        assert!((found.mean.unwrap().value - 0.55).abs() < 1e-12);
        assert!((found.area.unwrap() - 1.55).abs() < 1e-12 && (found.distance.unwrap() - 0.45).abs() < 1e-12);
        assert!((found.median.unwrap() - 0.7).abs() < 1e-12);
        assert_eq!((found.defined, found.undefined), (4, 1));
        let at = |t: f64| found.survival.iter().find(|(grid, _)| (grid - t).abs() < 1e-9).unwrap().1;
        assert_eq!([at(-1.0), at(-0.2), at(0.5), at(0.95), at(1.0)], [1.0, 0.75, 0.5, 0.25, 0.0]);
        let nothing = distribution(&[None], &BootstrapOptions::default());
        assert_eq!((nothing.mean, nothing.area, nothing.undefined), (None, None, 1));
    }

    /// The right answer gains evenly; wrong ones gain with it, at random, so the later scores move less evenly.
    #[test]
    fn correlation_is_lost_where_wrong_choices_come_in() {
        let mut random = hone_eval::python::random::PythonRandom::new(5);
        let mut models = vec![Vec::new(); 10];
        for _ in 0..200 {
            let start = -20.0 - 4.0 * random.random();
            for (m, questions) in models.iter_mut().enumerate() {
                let right = start + 0.8 * m as f64 + 0.1 * random.random();
                let wrong = |random: &mut hone_eval::python::random::PythonRandom| {
                    start + 0.7 * m as f64 + 4.0 * random.random() - 3.0
                };
                questions.push(vec![right, wrong(&mut random), wrong(&mut random), wrong(&mut random)]);
            }
        }
        for correlation in [Correlation::Spearman, Correlation::Kendall, Correlation::Pearson] {
            let ladder = of(&models, correlation);
            let task = &ladder.tasks[0];
            let means: Vec<f64> = task.scores.iter().map(|score| score.mean.unwrap().value).collect();
            assert!(means[0].min(means[1]) > means[2] + 0.3, "{correlation:?} {means:?}");
            assert!(
                (means[2] - means[3]).abs() < 0.05,
                "Brier says what the probability among the choices says: {means:?}"
            );
            assert_eq!(task.lost_at.as_deref(), Some("p_choices"), "{:?}", task.losses);
            assert!(task.wrong_mass.positive.unwrap() > 0.9 && task.above_half == 0);
            // The mean over two hundred questions is even again.
            assert!(task.scores[2].of_the_mean.unwrap() > means[2] + 0.2);
            assert_eq!((task.rows.len(), task.left_out, ladder.notes.len()), (200, 0, 0));
        }
    }

    #[test]
    fn questions_on_which_accuracy_never_changes_are_counted_and_the_order_is_not_judged() {
        // Wrong answers that are no competition.
        let models: Vec<Vec<Vec<f64>>> = (0..8)
            .map(|m| (0..30).map(|q| vec![-10.0 + f64::from(m) + f64::from(q * m % 5) * 0.1, -60.0, -70.0]).collect())
            .collect();
        let ladder = of(&models, Correlation::Spearman);
        let task = &ladder.tasks[0];
        assert_eq!((task.scores[4].undefined, task.scores[4].mean, &task.lost_at), (30, None, &None));
        assert!(task.notes[0].contains("30 of 30 questions"), "{:?}", task.notes);
        assert_eq!(task.losses[3].loss, None);
    }

    #[test]
    fn what_cannot_be_a_ladder_is_refused() {
        let rung = |m: u32, compute: f64, task: &str| Rung {
            name: format!("model {m}"),
            compute,
            cards: vec![card(task, &[vec![-1.0 - f64::from(m), -2.0]])],
        };
        let options = LadderOptions::default();
        let message = |rungs: Vec<Rung>| ladder(rungs, &options).unwrap_err().to_string();
        let same = |compute: fn(u32) -> f64| (0..4).map(|m| rung(m, compute(m), "quiz")).collect::<Vec<_>>();
        assert!(
            message(same(|m| f64::from(m + 1))[..2].to_vec())
                .contains("2 models; correlations over models need at least 3")
        );
        assert!(message(same(f64::from)).contains("compute 0 of model 0"));
        assert!(message(same(|_| 2.0)).contains("all models have the same compute (2)"));
        let mut rungs = same(|m| f64::from(m + 1));
        rungs[3].cards[0].header.task_sha256 = "other".into();
        assert!(message(rungs).contains("cannot be paired"));
        let mut rungs = same(|m| f64::from(m + 1));
        rungs[3].cards[0].header.task = "other".into();
        assert!(message(rungs).contains("there are: quiz"));
        let mut rungs = same(|m| f64::from(m + 1));
        rungs[0].cards[0].rows[0].target = "something else".into();
        assert!(message(rungs).contains("none of 1 questions"));
        let few = ladder(same(|m| f64::from(m + 1)), &options).unwrap();
        assert!(few.notes[0].contains("4 models"), "{:?}", few.notes);
    }

    proptest! {
        #[test]
        fn ranks_cannot_tell_likelihood_from_log_likelihood(
            models in prop::collection::vec(prop::collection::vec(prop::collection::vec(-2000.0..-0.1f64, 3), 4), 3..9)
        ) {
            for correlation in [Correlation::Spearman, Correlation::Kendall] {
                let ladder = of(&models, correlation);
                let task = &ladder.tasks[0];
                for row in &task.rows {
                    prop_assert_eq!(&row["log_p"], &row["p"]);
                }
                prop_assert_eq!(task.scores[0].mean, task.scores[1].mean);
                for score in &task.scores {
                    if let (Some(mean), Some(area), Some(distance)) = (score.mean, score.area, score.distance) {
                        prop_assert!((area - (mean.value + 1.0)).abs() < 1e-9 && (distance - (1.0 - mean.value)).abs() < 1e-9);
                    }
                }
            }
        }
    }
}
