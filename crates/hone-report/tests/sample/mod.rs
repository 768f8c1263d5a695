//! A report with everything on it: gains, losses, no change, a metric that is no share, text that could break a page.

use hone_eval::ledger::{Ledger, Outcome, PairedExample, TaskComparison};
use hone_eval::measures::chart::{Bar, ChartData, Drawing, Group, HeatMap, Point, Series};
use hone_eval::measures::{MeasureResult, Number, Table, TaskMeasure, Unit, calibration, compatibility, forgetting};
use hone_report::{InvariantResult, Report, RunSummary, Side, Source};
use serde_json::json;

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
        effect: Some(0.2),
        unpaired: 0,
        gained,
        lost,
        both_right,
        both_wrong: n - both_right - gained - lost,
        negative_flip_rate: lost as f64 / n as f64,
        positive_flip_rate: gained as f64 / n as f64,
        verdict: verdict.into(),
        is_target: name == "telecom",
        is_variant: false,
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

fn number(name: &str, value: f64, unit: Unit) -> Number {
    Number {
        name: name.replace(' ', "_"),
        label: name.into(),
        value,
        low: Some(value * 0.6),
        high: Some(value * 1.5),
        unit,
    }
}

/// Numbers that only some tasks have, a table with an empty cell, rows of every example.
fn compatibility_measure() -> MeasureResult {
    let matrix = Table {
        title: "Flip matrix".into(),
        unit: Unit::Count,
        columns: ["right after", "wrong after, same answer", "wrong after, another answer"].map(str::to_owned).into(),
        rows: ["right before", "wrong before"].map(str::to_owned).into(),
        cells: vec![vec![Some(72.0), None, Some(21.0)], vec![Some(58.0), Some(110.0), Some(39.0)]],
    };
    let two = Table {
        title: "Flip matrix".into(),
        unit: Unit::Count,
        columns: ["right after", "wrong after"].map(str::to_owned).into(),
        rows: ["right before", "wrong before"].map(str::to_owned).into(),
        cells: vec![vec![Some(162.0), Some(21.0)], vec![Some(12.0), Some(105.0)]],
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
        rows: vec![json!({"id": "1", "negative_flip": true})],
        ..TaskMeasure::default()
    };
    let boolq = TaskMeasure {
        name: "boolq".into(),
        metric: "acc".into(),
        n: 300,
        numbers: vec![number("negative flips", 0.07, Unit::Share), number("positive flips", 0.04, Unit::Share)],
        tables: vec![two],
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
    MeasureResult { tasks: vec![telecom, boolq, summaries], ..MeasureResult::new(&compatibility::MEASURE) }
}

/// A forest of skills, one with a name as long as they come.
fn forgetting_measure() -> MeasureResult {
    let bar = |name: &str, value: f64, half: f64| Bar {
        name: name.into(),
        value,
        low: Some(value - half),
        high: Some(value + half),
    };
    let bars = vec![
        bar("arithmetic: gsm8k", 0.042, 0.02),
        bar("commonsense: piqa", 0.005, 0.018),
        bar("instructions_with_a_long_name: follow_several_instructions_at_once@observed-12", -0.013, 0.02),
        bar("translation: wmt14_en_fr", 0.021, 0.024),
    ];
    let drawing = Drawing::Forest { x: "loss (points)".into(), unit: Unit::Points, bars };
    let task = TaskMeasure {
        name: "all skills".into(),
        metric: "each task's own".into(),
        n: 2400,
        numbers: vec![number("mean loss", 0.014, Unit::Points), number("largest loss", 0.042, Unit::Points)],
        charts: vec![ChartData { title: "Loss by skill".into(), drawing }],
        ..TaskMeasure::default()
    };
    MeasureResult { tasks: vec![task], ..MeasureResult::new(&forgetting::MEASURE) }
}

/// A reliability diagram of two tasks, and more numbers than fit beside each other.
fn calibration_measure() -> MeasureResult {
    let reliability = |after: f64| {
        let series = |name: &str, below: f64| Series {
            name: name.into(),
            points: (0..6)
                .map(|i| {
                    let x = 0.42 + 0.1 * f64::from(i);
                    let y = (x - below * (x - 0.3)).clamp(0.05, 1.0);
                    Point { x, y, low: Some((y - 0.08).max(0.0)), high: Some((y + 0.07).min(1.0)) }
                })
                .collect(),
        };
        let drawing = Drawing::Lines {
            x: "confidence".into(),
            y: "accuracy".into(),
            unit: Unit::Share,
            diagonal: true,
            series: vec![series("before", 0.15), series("after", after)],
        };
        ChartData { title: "Reliability".into(), drawing }
    };
    let task = |name: &str, after: f64| TaskMeasure {
        name: name.into(),
        metric: "acc".into(),
        n: 300,
        numbers: vec![
            number("ECE before", 0.041, Unit::Share),
            number("ECE after", 0.122, Unit::Share),
            number("change of ECE", 0.081, Unit::Points),
            number("overconfidence before", 0.02, Unit::Points),
            number("overconfidence after", 0.11, Unit::Points),
            number("a seventh number with a long name", 0.5, Unit::Plain),
            number("an eighth", 12.0, Unit::Plain),
        ],
        tables: vec![Table {
            title: "Answers by confidence".into(),
            unit: Unit::Count,
            columns: ["before", "after"].map(str::to_owned).into(),
            rows: ["40 to 50 %", "50 to 60 %", "60 to 70 %"].map(str::to_owned).into(),
            cells: vec![vec![Some(120.0), Some(12.0)], vec![Some(90.0), Some(40.0)], vec![Some(90.0), Some(248.0)]],
        }],
        charts: vec![reliability(after)],
        rows: vec![json!({"id": "1", "confidence_before": 0.5})],
        ..TaskMeasure::default()
    };
    MeasureResult {
        tasks: vec![task("telecom", 0.5), task("a_task_with_quite_a_long_name_for_a_heading", 0.3)],
        ..MeasureResult::new(&calibration::MEASURE)
    }
}

/// Curves with long names, a spread over wordings, attention before and after: what no measure here has yet under one name.
fn everything_else() -> MeasureResult {
    let curve = |name: &str, up: f64| Series {
        name: name.into(),
        points: (0..5)
            .map(|i| {
                let x = f64::from(i) / 4.0;
                let y = 0.3 + up * x;
                Point { x, y, low: Some(y - 0.05), high: Some(y + 0.05) }
            })
            .collect(),
    };
    let lines = Drawing::Lines {
        x: "share of the reasoning that is kept".into(),
        y: "answer unchanged".into(),
        unit: Unit::Share,
        diagonal: false,
        series: vec![
            curve("before, kept from the start", 0.5),
            curve("after, kept from the start", 0.2),
            curve("before, with mistakes put in", 0.4),
            curve("after, with mistakes put in", 0.1),
        ],
    };
    let group = |name: &str, middle: f64, step: f64| Group {
        name: name.into(),
        values: (0..9).map(|i| (format!("wording {i}"), middle + step * (f64::from((i * 5) % 9) - 4.0))).collect(),
    };
    let spread = Drawing::Spread {
        y: "acc_norm".into(),
        unit: Unit::Share,
        groups: vec![
            group("observed, before", 0.61, 0.012),
            group("observed, after", 0.72, 0.004),
            group("unobserved wordings of another author, before", 0.6, 0.014),
            group("unobserved wordings of another author, after", 0.58, 0.025),
        ],
    };
    let map = |name: &str, shift: usize| HeatMap {
        name: name.into(),
        values: (0..30)
            .map(|layer: usize| (0..9).map(|head: usize| ((layer * 7 + head * 5 + shift) % 23) as f64 / 23.0).collect())
            .collect(),
    };
    let heat = Drawing::Heat {
        row: "layer".into(),
        column: "head".into(),
        unit: Unit::Share,
        maps: vec![map("before", 0), map("after", 9)],
    };
    let chart = |title: &str, drawing| ChartData { title: title.into(), drawing };
    let task = TaskMeasure {
        name: "gsm8k".into(),
        metric: "exact_match".into(),
        n: 200,
        numbers: vec![number("follows its reasoning", 0.6, Unit::Share)],
        charts: vec![
            chart("Faithfulness", lines),
            chart("Spread over wordings", spread),
            chart("Attention to the passage", heat),
        ],
        ..TaskMeasure::default()
    };
    MeasureResult {
        name: "everything_else".into(),
        question: "Does the answer follow its reasoning, its wording and its passage?".into(),
        legend: "Numbers of a sample.".into(),
        source: "a sample".into(),
        tasks: vec![task],
        origin: None,
    }
}

/// What was measured besides.
fn measures() -> Vec<MeasureResult> {
    vec![compatibility_measure(), forgetting_measure(), calibration_measure(), everything_else()]
}

/// Where the scorecards lie; of one task only one, of another none.
fn sources() -> Vec<Source> {
    let source = |task: &str, side: Side, word: &str| Source {
        task: task.into(),
        side,
        path: format!("../cards/{word}/{task}.jsonl"),
    };
    let both = |task: &str| [source(task, Side::Base, "base"), source(task, Side::Tuned, "tuned 2")];
    ["telecom", "boolq", "arc_easy"]
        .iter()
        .flat_map(|task| both(task))
        .chain([source("piqa", Side::Base, "base")])
        .collect()
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
        task("follow_several_instructions_at_once@observed-12", 0.41, 0.415, 0.03, 14, 13, "unchanged"),
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
        sources: sources(),
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
