//! What other verbs measured, as a comparison takes it: attention maps, scores of context-dependency, a ladder.

use hone_eval::measures::MeasureResult;
use hone_eval::scorecard::{ChoiceScore, MetricValue, Scorecard, ScorecardHeader, ScorecardRow};
use hone_eval::statistics::BootstrapOptions;
use hone_locate::attention::{AttentionMass, AttentionReport, Before, Looked, Looks, Measured, Shares, Subject};
use hone_locate::dependency::TurnScore;
use hone_locate::difference::changes;
use hone_locate::prompt::{Form, Part};
use hone_locate::scored::{DependencyReport, MOVED, ScoredTurn};
use hone_predict::{LadderOptions, Rung, ladder};

/// The three measures.
pub fn measures() -> [MeasureResult; 3] {
    [attention(), dependency(), of_ladder()]
}

/// Maps of two layers by two heads, on three questions.
fn attention() -> MeasureResult {
    let looked = |scale: f64| {
        let examples = (0..3).map(|i| vec![0.1 * scale, 0.2 * scale, 0.3, 0.01 * f64::from(i)]).collect();
        let map = AttentionMass::new(2, 2, examples);
        let looks = || Looks { parts: [(Part::Context, map.clone())].into(), ..Looks::default() };
        let form =
            Measured { form: Form::Plain, from_prompt: looks(), from_answer: looks(), log_probability: vec![-1.0; 3] };
        Looked { ids: ["0", "1", "2"].map(str::to_owned).into(), left_out: Vec::new(), forms: vec![form] }
    };
    let (before, after) = (looked(1.0), looked(2.0));
    let shares = Shares { layer: 1, head: 0, forms: Vec::new() };
    let options = BootstrapOptions { resamples: 200, ..BootstrapOptions::default() };
    let changes = changes(&before, &after, &options).expect("maps of one size");
    let before = Some(Before { subject: Subject::default(), looked: before, shares: shares.clone() });
    let subject = Subject { model: "tuned".into(), ..Subject::default() };
    hone_locate::measure::attention::of(&AttentionReport {
        source: "nq_context".into(),
        subject,
        looked: after,
        shares,
        template: None,
        before,
        changes,
    })
}

/// Turns of two groups, with what their context is worth.
fn dependency() -> MeasureResult {
    let score = |score: f64| TurnScore { score, max_first: score, head: 0, tokens: 4 };
    let turn = |i: u32| ScoredTurn {
        id: i.to_string(),
        row: i.to_string(),
        group: Some(["with a context", "without"][i as usize % 2].into()),
        user: "Who?".into(),
        answer: "Ann.".into(),
        after: score(0.3 + 0.05 * f64::from(i)),
        before: Some(score(0.5)),
        gain_after: Some(1.0),
        gain_before: Some(1.5),
    };
    hone_locate::measure::dependency::of(&DependencyReport {
        source: "chats.jsonl".into(),
        form: Form::Chat,
        layer: 15,
        layers: 30,
        moved: MOVED,
        group: Some("context".into()),
        subject: Subject { model: "tuned".into(), ..Subject::default() },
        before: Some(Subject { model: "base".into(), ..Subject::default() }),
        left_out: 0,
        turns: (0..9).map(turn).collect(),
    })
}

/// A ladder of four models, of a task that is compared too.
fn of_ladder() -> MeasureResult {
    let rung = |m: u32| {
        let choice = |text: &str, log_likelihood: f64| ChoiceScore {
            text: text.into(),
            log_likelihood,
            tokens: 1,
            is_greedy: false,
        };
        let row = |i: u32| ScorecardRow {
            id: i.to_string(),
            target: "yes".into(),
            choices: vec![choice("no", -8.0 + f64::from((i * 5 + m * 3) % 7)), choice("yes", -6.0 + f64::from(m))],
            ..ScorecardRow::default()
        };
        let header = ScorecardHeader {
            task: "boolq".into(),
            kind: "multiple_choice".into(),
            main_metric: "acc".into(),
            metrics: vec![MetricValue { name: "acc".into(), ..MetricValue::default() }],
            n: 8,
            ..ScorecardHeader::default()
        };
        let cards = vec![Scorecard { header, rows: (0..8).map(row).collect() }];
        Rung { name: format!("cards/{m}"), compute: f64::from(1 << m), cards }
    };
    hone_predict::measure::of(&ladder((0..4).map(rung).collect(), &LadderOptions::default()).expect("a ladder"))
}
