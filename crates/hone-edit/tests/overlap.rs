//! Overlaps of edits whose changed elements are known: placed by hand, drawn at random, and refused where there are none.

mod common;

use common::{STORIES, Shape, base, edit};
use hone_edit::base::{Base, BaseValue};
use hone_edit::overlap::{Named, Overlap, Part, overlap};
use hone_edit::{Edit, EditError};
use hone_engine::{DType, Tensor};

/// A base of ones: a mask shows where it drops a weight.
fn ones() -> Base {
    let mut base = base(&STORIES, true);
    for weight in &mut base.weights {
        weight.value = BaseValue::Vector(Tensor::full(weight.shape.as_slice(), DType::F32, 1.0));
    }
    base
}

/// A sparse change of `base` with these elements, `(tensor, element)`, set to a half.
fn sparse(base: &Base, selection: &str, elements: &[(&str, usize)]) -> Edit {
    let mut edit = edit(&format!(r#"{{"type": "fish_mask"{selection}}}"#), base).unwrap();
    for (tensor, element) in elements {
        let key = format!("base_model.model.model.{tensor}.weight.change");
        let param = edit.params.iter_mut().find(|param| param.key == key).unwrap_or_else(|| panic!("no {key}"));
        param.value.as_mut_slice::<f32>()[*element] = 0.5;
    }
    edit
}

fn of(a: &Edit, b: &Edit, base: &Base) -> Result<Overlap, EditError> {
    overlap(Named { name: "runs/a", edit: a }, Named { name: "runs/b", edit: b }, base)
}

fn refused(a: &Edit, b: &Edit, base: &Base) -> String {
    of(a, b, base).map(|found| panic!("not refused: {found:?}")).unwrap_or_else(|error| error.to_string())
}

fn named<'a>(parts: &'a [Part], name: &str) -> &'a Part {
    parts.iter().find(|part| part.part == name).unwrap_or_else(|| panic!("no {name} in {parts:?}"))
}

#[test]
fn elements_are_counted_by_hand() {
    let base = ones();
    let (q, up, norm) = ("layers.0.self_attn.q_proj", "layers.3.mlp.up_proj", "layers.3.input_layernorm");
    let a = sparse(&base, "", &[(q, 5), (q, 6), (up, 11_007), (norm, 2)]);
    let b = sparse(&base, "", &[(q, 6), (q, 7), (up, 11_007), (up, 0), ("norm", 63)]);
    let found = of(&a, &b, &base).unwrap();
    // 5 layers of q, o [64, 64], k, v [32, 64], gate, up, down [172, 64] and two norms, and the last norm.
    let layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 172 * 64 + 2 * 64;
    let elements = 5 * layer + 64;
    let counts = found.counts;
    assert_eq!((counts.elements, counts.changed_a, counts.changed_b, counts.both), (elements, 4, 5, 2));
    assert_eq!((counts.share, counts.chance), (Some(0.5), Some(5.0 / elements as f64)));
    assert_eq!(counts.ratio, Some(0.5 / (5.0 / elements as f64)));
    // By layer and kind the same elements again; the last norm lies in no layer.
    assert_eq!(found.layers.iter().map(|part| part.part.as_str()).collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
    let third = named(&found.layers, "3").counts;
    assert_eq!((third.elements, third.changed_a, third.changed_b, third.both), (layer, 2, 2, 1));
    assert_eq!(third.share, Some(0.5));
    let first = named(&found.layers, "1").counts;
    assert_eq!((first.changed_a, first.share, first.chance, first.ratio), (0, None, Some(0.0), None));
    let up = named(&found.kinds, "up_proj").counts;
    assert_eq!((up.elements, up.changed_a, up.changed_b, up.both), (5 * 172 * 64, 1, 2, 1));
    assert_eq!(found.kinds.iter().map(|part| part.counts.elements).sum::<usize>(), elements);
    assert_eq!(named(&found.kinds, "norm").counts.changed_b, 1);
}

#[test]
fn the_share_depends_on_who_is_first_and_the_ratio_does_not() {
    let base = ones();
    let q = "layers.2.self_attn.q_proj";
    let a = sparse(&base, "", &[(q, 1), (q, 2), (q, 3), (q, 4)]);
    let b = sparse(&base, "", &[(q, 4), (q, 5)]);
    let (there, back) = (of(&a, &b, &base).unwrap().counts, of(&b, &a, &base).unwrap().counts);
    assert_eq!((there.share, back.share), (Some(0.25), Some(0.5)));
    assert!((there.ratio.unwrap() - back.ratio.unwrap()).abs() < 1e-9 * back.ratio.unwrap());
    let same = of(&a, &a, &base).unwrap().counts;
    assert_eq!((same.share, same.ratio), (Some(1.0), Some(same.elements as f64 / 4.0)));
}

/// `T` is what at least one of the two acts on, so edits of different weights have nothing in common and a chance above 0.
#[test]
fn edits_of_different_weights_share_nothing() {
    let base = ones();
    let only = |target: &str| format!(r#", "target_modules": ["{target}"]"#);
    let a = sparse(&base, &only("q_proj"), &[("layers.0.self_attn.q_proj", 0)]);
    let b = sparse(&base, &only("v_proj"), &[("layers.0.self_attn.v_proj", 0)]);
    let counts = of(&a, &b, &base).unwrap().counts;
    assert_eq!(counts.elements, 5 * (64 * 64 + 32 * 64));
    assert_eq!((counts.both, counts.share, counts.ratio), (0, Some(0.0), Some(0.0)));
    assert_eq!(counts.chance, Some(1.0 / counts.elements as f64));
}

/// Places drawn with two seeds meet as often as chance has it: within four standard deviations of a share of so many draws
/// (maps of one shape have the same places, so the draws are those of one map).
#[test]
fn random_places_meet_by_chance() {
    let base = ones();
    let drawn = |seed: u64| {
        let fields = r#""r": 8, "init_weights": false, "target_modules": ["q_proj", "up_proj"]"#;
        edit(&format!(r#"{{"type": "shira", "random_seed": {seed}, {fields}}}"#), &base).unwrap()
    };
    let found = of(&drawn(1), &drawn(2), &base).unwrap();
    // Within a kind every map has as many places: r (in + out).
    for (kind, places, size) in [("q_proj", 8 * 128, 64 * 64), ("up_proj", 8 * (172 + 64), 172 * 64)] {
        let counts = named(&found.kinds, kind).counts;
        assert_eq!((counts.changed_a, counts.changed_b), (5 * places, 5 * places), "{kind}");
        let chance = places as f64 / size as f64;
        assert_eq!(counts.chance, Some(chance));
        let deviation = (chance * (1.0 - chance) / places as f64).sqrt();
        let share = counts.share.unwrap();
        assert!((share - chance).abs() < 4.0 * deviation, "{kind}: {share}, chance {chance}");
    }
    let same = of(&drawn(1), &drawn(1), &base).unwrap().counts;
    assert_eq!(same.share, Some(1.0));
}

#[test]
fn dropped_weights_are_changed_elements_too() {
    let base = ones();
    let mut mask = edit(r#"{"type": "mask_tuning", "target_modules": ["q_proj"]}"#, &base).unwrap();
    for element in [3, 4, 9] {
        mask.params[0].value.as_mut_slice::<f32>()[element] = 0.0;
    }
    let change = sparse(&base, r#", "target_modules": ["q_proj"]"#, &[("layers.0.self_attn.q_proj", 4)]);
    let counts = of(&mask, &change, &base).unwrap().counts;
    assert_eq!((counts.changed_a, counts.changed_b, counts.both), (3, 1, 1));
}

#[test]
fn what_has_no_overlap_is_refused_with_the_reason() {
    let base = ones();
    let one = sparse(&base, "", &[("layers.0.self_attn.q_proj", 4)]);
    let nothing = sparse(&base, "", &[]);
    let message = refused(&one, &nothing, &base);
    assert!(message.contains("runs/b: ") && message.contains("`fish_mask` and changes no element"), "{message}");
    let mut dense = edit(r#"{"type": "full", "target_modules": ["q_proj"]}"#, &base).unwrap();
    for param in &mut dense.params {
        param.value.as_mut_slice::<f32>().iter_mut().for_each(|value| *value += 1.0);
    }
    let message = refused(&dense, &one, &base);
    assert!(message.contains("runs/a: ") && message.contains("100.0 % of the 20480 elements"), "{message}");
    assert!(message.contains("sparse edits are expected"), "{message}");
    let prompt = edit(r#"{"type": "prompt_tuning", "num_virtual_tokens": 4}"#, &base).unwrap();
    assert!(matches!(of(&one, &prompt, &base), Err(EditError::CannotMerge { .. })));
    let other = Base { sha256: "1".repeat(64), reference: "other-model".into(), ..base.clone() };
    let foreign = sparse(&other, "", &[("layers.0.self_attn.q_proj", 4)]);
    let message = refused(&one, &foreign, &base);
    assert!(message.contains("runs/b: ") && message.contains("another base model (`other-model`)"), "{message}");
}

#[test]
fn a_weight_of_more_elements_than_have_a_number_is_refused() {
    let base = base(&Shape { layers: 1, hidden: 1 << 16, intermediate: (1 << 15) + 1, ..STORIES }, false);
    let lora = edit(r#"{"type": "lora", "r": 1, "target_modules": ["up_proj"]}"#, &base).unwrap();
    let message = refused(&lora, &lora, &base);
    let expected = "`model.layers.0.mlp.up_proj.weight` has 2147549184 elements, expected at most 2147483648";
    assert!(message.contains(expected), "{message}");
}
