//! A report with everything on it: gains, losses, no change, a metric that is no share, text that could break a page.

use hone_eval::ledger::{Ledger, Outcome, PairedExample, TaskComparison};
use hone_eval::measures::{MeasureResult, Number, Table, TaskMeasure, Unit, compatibility};
use hone_report::{InvariantResult, Report, RunSummary};

fn task(name: &str, base: f64, tuned: f64, half: f64, gained: usize, lost: usize, verdict: &str) -> TaskComparison {
    let n = 300;
    let both_right = (base * n as f64) as usize - lost;
    TaskComparison {
        name: name.into(),
        metric: "acc".into(),
        higher_is_better: true,
        is_share: true,
        n,
        base,
        tuned,
        difference: tuned - base,
        ci_low: tuned - base - half,
        ci_high: tuned - base + half,
        mcnemar_p: Some(0.012),
        bootstrap_p: Some(0.014),
        p_holm: Some(0.048),
        unpaired: 0,
        gained,
        lost,
        both_right,
        both_wrong: n - both_right - gained - lost,
        negative_flip_rate: lost as f64 / n as f64,
        positive_flip_rate: gained as f64 / n as f64,
        verdict: verdict.into(),
        is_target: name == "telecom",
    }
}

fn example(task: &str, change: &str, i: usize) -> PairedExample {
    PairedExample {
        task: task.into(),
        id: format!("{i}"),
        change: change.into(),
        prompt: "Question: Which <b>interface</b> & protocol \"N2\" connects?\nAnswer:".into(),
        target: "The gNB and the AMF".into(),
        base_answer: "averyveryverylongwordwithoutanyspace".repeat(6),
        tuned_answer: "The gNB and the AMF".into(),
        base_score: 0.0,
        tuned_score: 1.0,
    }
}

/// What was measured besides: numbers that only some tasks have, and a table with an empty cell.
fn measures() -> Vec<MeasureResult> {
    let number = |name: &str, value: f64, unit: Unit| Number {
        name: name.replace(' ', "_"),
        label: name.into(),
        value,
        low: Some(value * 0.6),
        high: Some(value * 1.5),
        unit,
    };
    let matrix = Table {
        title: "Flip matrix".into(),
        unit: Unit::Count,
        columns: ["right after", "wrong after, same answer", "wrong after, another answer"].map(str::to_owned).into(),
        rows: ["right before", "wrong before"].map(str::to_owned).into(),
        cells: vec![vec![Some(72.0), None, Some(21.0)], vec![Some(58.0), Some(110.0), Some(39.0)]],
    };
    let telecom = TaskMeasure {
        name: "telecom".into(),
        metric: "acc".into(),
        n: 300,
        numbers: vec![
            number("negative flips", 0.07, Unit::Share),
            number("positive flips", 0.193, Unit::Share),
            number("inconsistent", 0.2, Unit::Share),
        ],
        tables: vec![matrix],
        ..TaskMeasure::default()
    };
    let summaries = TaskMeasure {
        name: "summaries | <b>".into(),
        metric: "rougeL".into(),
        n: 40,
        numbers: vec![number("negative flips", 0.475, Unit::Share), number("mean loss", 0.08, Unit::Points)],
        notes: vec!["changes of the score up to 0.01 count as none".into()],
        ..TaskMeasure::default()
    };
    vec![MeasureResult { tasks: vec![telecom, summaries], ..MeasureResult::new(&compatibility::MEASURE) }]
}

/// The report.
pub fn report() -> Report {
    let mut perplexity = task("wikitext", 0.5, 0.5, 0.01, 0, 0, "worse");
    perplexity = TaskComparison {
        metric: "word_perplexity".into(),
        higher_is_better: false,
        is_share: false,
        base: 31.2,
        tuned: 33.9,
        difference: 2.7,
        ci_low: 2.1,
        ci_high: 3.3,
        mcnemar_p: None,
        p_holm: None,
        ..perplexity
    };
    let tasks = vec![
        task("telecom", 0.31, 0.434, 0.021, 58, 21, "better"),
        task("boolq", 0.61, 0.58, 0.012, 12, 21, "worse"),
        task("arc_easy", 0.52, 0.523, 0.02, 15, 14, "unchanged"),
        task("piqa", 0.66, 0.655, 0.018, 10, 12, "unchanged"),
        perplexity,
    ];
    let examples = ["lost", "gained", "both_wrong"]
        .iter()
        .flat_map(|c| (0..3).map(move |i| example("telecom", c, i)))
        .chain((0..2).map(|i| example("boolq", "lost", i)))
        .collect();
    let curve =
        |i: i32| (f64::from(i), 1.2 + 1.5 * (-f64::from(i) / 60.0).exp() + 0.1 * f64::from((i * 37) % 11) / 11.0);
    Report {
        title: "telecom-lora".into(),
        ledger: Ledger {
            format: 1,
            base: "SmolLM2-135M-Instruct".into(),
            tuned: "runs/telecom-lora/adapter".into(),
            verdict: "Better on telecom by 12.4 ± 2.1 points; lost 3.0 ± 1.2 on boolq; no measurable change on arc_easy, piqa. Do not ship if you need boolq.".into(),
            outcome: Outcome::Mixed,
            broken_rules: vec!["boolq may lose at most 2 points, lost 3.0".into()],
            notes: Vec::new(),
            tasks,
            examples,
            measures: measures(),
        },
        scorecards: Vec::new(),
        run: Some(RunSummary {
            facts: vec![("Method".into(), "LoRA r=16, alpha 32, all linear maps".into()), ("Trained parameters".into(), "4,884,480 (3.5 %)".into())],
            training_loss: (0..200).map(curve).collect(),
            validation_loss: (0..200).step_by(40).map(|i| (f64::from(i), curve(i).1 + 0.1)).collect(),
        }),
        invariants: vec![
            InvariantResult { name: "End-of-turn token is trained".into(), status: "held".into(), detail: "300 of 300 examples".into() },
            InvariantResult { name: "Packed loss equals unpacked loss".into(), status: "failed".into(), detail: "2.113 against 2.481".into() },
        ],
        provenance: vec![("Model".into(), "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53".into())],
        command: "hone tune recipe.yaml --out runs/telecom-lora".into(),
    }
}
