//! Maps of attention as a measure: what each head gives to the context, before and after.

use hone_eval::measures::chart::HeatMap;
use hone_eval::measures::{ChartData, Drawing, MeasureResult, Number, Origin, TaskMeasure, Unit};
use hone_eval::statistics::Estimate;

use super::{models, named};
use crate::attention::{AttentionMass, AttentionReport, Looked};
use crate::prompt::{Form, Part};

/// The measure's name.
pub const NAME: &str = "attention";
/// The question it answers.
pub const QUESTION: &str = "Where does it look?";

/// A report's maps, before and after, as a measure. Without another side ([`AttentionReport::before`]) there is only one map.
pub fn of(report: &AttentionReport) -> MeasureResult {
    let forms = report.looked.forms.iter().map(|measured| measured.form);
    MeasureResult {
        name: NAME.into(),
        question: QUESTION.into(),
        legend: "The share of attention that the prompt's last token, which predicts the answer's first, gives to the context: all heads \
                 in the mean, and each on a map of layers by heads. Attention is a share, not use."
            .into(),
        source: "Wang et al. 2025, arXiv 2411.02688".into(),
        tasks: forms.map(|form| of_form(report, form)).collect(),
        origin: Some(Origin {
            models: models(report.before.as_ref().map(|before| &before.subject), &report.subject),
            formulas: vec![
                "share of a head = mean over questions of its attention from the prompt's last token to the context".into(),
                "to the context = mean over all layers and heads; change = after − before, question by question".into(),
                "a head changed where the interval of its own change leaves 0 out".into(),
            ],
            intervals: "percentiles of resamples of the questions, both models' maps of a question together (bootstrap)"
                .into(),
        }),
    }
}

fn of_form(report: &AttentionReport, form: Form) -> TaskMeasure {
    let map = |looked: &Looked| looked.form(form).map(|measured| measured.from_prompt.part(Part::Context).clone());
    let after = map(&report.looked).unwrap_or_default();
    let mut measure = TaskMeasure {
        name: format!("{}, {form}", report.source),
        metric: "attention".into(),
        n: after.n,
        notes: vec![format!("after: {}", named(&report.subject))],
        ..TaskMeasure::default()
    };
    let before = report.before.as_ref().and_then(|before| Some((before, map(&before.looked)?)));
    let mut maps = Vec::new();
    if let Some((side, before)) = &before {
        measure.notes.insert(0, format!("before: {}", named(&side.subject)));
        measure.numbers.push(Number::new(
            "context_before",
            "to the context, before",
            before.overall(),
            None,
            Unit::Share,
        ));
        maps.push(heat("before", before));
    }
    let label = if before.is_some() { "to the context, after" } else { "to the context" };
    measure.numbers.push(Number::new("context_after", label, after.overall(), None, Unit::Share));
    maps.push(heat(if before.is_some() { "after" } else { "all questions" }, &after));
    if let Some(change) = report.changes.iter().find(|change| change.form == form) {
        let Estimate { value, low, high } = change.from_prompt.overall;
        let number = Number::new("context_change", "to the context, change", value, Some((low, high)), Unit::Points);
        measure.numbers.push(number);
        let apart = change.from_prompt.apart as f64;
        measure.numbers.push(Number::new("heads_apart", "heads that changed", apart, None, Unit::Count));
        let heads = change.from_prompt.layers * change.from_prompt.heads;
        let by_chance = heads as f64 * 0.05;
        measure.notes.push(format!("of {heads} heads about {by_chance:.0} would seem to change by chance alone"));
    }
    let drawing = Drawing::Heat { row: "layer".into(), column: "head".into(), unit: Unit::Share, maps };
    measure.charts.push(ChartData { title: format!("Attention to the context, {form}"), drawing });
    measure
}

fn heat(name: &str, map: &AttentionMass) -> HeatMap {
    let values = map.mass.chunks(map.heads.max(1)).map(<[f64]>::to_vec).collect();
    HeatMap { name: name.into(), values }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::{Before, Looks, Measured, Shares, Subject};
    use crate::difference::changes;
    use hone_eval::statistics::BootstrapOptions;

    fn looked(scale: f64) -> Looked {
        let per_example: Vec<Vec<f64>> =
            (0..3).map(|i| vec![0.1 * scale, 0.2 * scale, 0.3, 0.01 * f64::from(i)]).collect();
        let mass = AttentionMass::new(2, 2, per_example);
        let looks = || Looks { parts: [(Part::Context, mass.clone())].into(), evidence: None, virtual_tokens: None };
        let form =
            Measured { form: Form::Plain, from_prompt: looks(), from_answer: looks(), log_probability: vec![-1.0; 3] };
        Looked { ids: ["0", "1", "2"].map(str::to_owned).into(), left_out: Vec::new(), forms: vec![form] }
    }

    #[test]
    fn both_maps_stand_side_by_side_with_what_changed() {
        let (before, after) = (looked(1.0), looked(2.0));
        let shares = Shares { layer: 1, head: 0, forms: Vec::new() };
        let options = BootstrapOptions { resamples: 200, ..BootstrapOptions::default() };
        let subject = |model: &str| Subject { model: model.into(), ..Subject::default() };
        let changes = changes(&before, &after, &options).unwrap();
        let side = Before { subject: subject("old"), looked: before, shares: shares.clone() };
        let report = AttentionReport {
            source: "nq_context".into(),
            subject: subject("new"),
            looked: after,
            shares,
            template: None,
            before: Some(side),
            changes,
        };
        let found = of(&report);
        let task = &found.tasks[0];
        let number = |name: &str| task.numbers.iter().find(|number| number.name == name).unwrap().value;
        // Heads 0 and 1 doubled: 0.3 more over four heads.
        assert!((number("context_change") - 0.3 / 4.0).abs() < 1e-6, "{}", number("context_change"));
        assert!((number("context_after") - number("context_before") - 0.3 / 4.0).abs() < 1e-6);
        assert_eq!(number("heads_apart"), 2.0);
        let Drawing::Heat { maps, .. } = &task.charts[0].drawing else { panic!("{:?}", task.charts) };
        assert_eq!(maps.iter().map(|map| map.name.as_str()).collect::<Vec<_>>(), ["before", "after"]);
        assert_eq!(maps[0].values.len(), 2, "a row a layer");
        assert!((maps[1].values[0][1] - 0.4).abs() < 1e-6);
        assert_eq!(found.origin.as_ref().map(|origin| origin.models.as_str()), Some("old → new"));
        assert_eq!(task.notes[..2], ["before: old", "after: new"].map(str::to_owned));
        let alone = of(&AttentionReport { before: None, changes: Vec::new(), ..report });
        assert_eq!(alone.tasks[0].numbers.len(), 1);
    }
}
