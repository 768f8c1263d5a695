//! Packing, batches and the layout of a step.

mod common;

use std::collections::{BTreeMap, HashSet};

use common::place;
use hone_data::batches::permutation;
use hone_data::report::packing_report;
use hone_data::{BatchPlan, DataConfig, DataError, Packing, PlanOptions, StepBatch, TokenisedExample, TrainRow, pack};
use proptest::prelude::*;

/// Documents of these lengths; every token is its document's number and place, so none can be mistaken for another.
fn documents(lengths: &[(usize, usize)]) -> Vec<TokenisedExample> {
    let document = |(index, &(length, part)): (usize, &(usize, usize))| TokenisedExample {
        ids: (0..length).map(|t| (index * 1000 + t) as u32).collect(),
        trained: (0..length).map(|t| t % 3 != 0).collect(),
        source: place(index + 1),
        part,
        wording: 0,
        truncated: 0,
    };
    lengths.iter().enumerate().map(document).collect()
}

fn of_lengths(lengths: &[usize]) -> Vec<TokenisedExample> {
    documents(&lengths.iter().map(|&l| (l, 0)).collect::<Vec<_>>())
}

fn rows_of(lengths: &[usize], packing: Packing, room: usize) -> Vec<Vec<usize>> {
    pack(&of_lengths(lengths), packing, room).unwrap().into_iter().map(|r| r.documents).collect()
}

#[test]
fn in_order_keeps_neighbours_and_first_fit_fills_gaps() {
    let lengths = [6, 5, 4, 3, 2];
    assert_eq!(rows_of(&lengths, Packing::InOrder, 10), [vec![0], vec![1, 2], vec![3, 4]]);
    assert_eq!(rows_of(&lengths, Packing::FirstFitDecreasing, 10), [vec![0, 2], vec![1, 3, 4]]);
    assert_eq!(rows_of(&lengths, Packing::Off, 1), [[0], [1], [2], [3], [4]]);
}

#[test]
fn a_document_longer_than_a_row_is_refused_by_name() {
    let error = pack(&of_lengths(&[3, 11]), Packing::InOrder, 10).unwrap_err();
    assert!(matches!(error, DataError::LongerThanRow { index: 1, length: 11, sequence_length: 10, .. }));
    assert!(error.to_string().contains("rows.jsonl: row 2"), "{error}");
}

#[test]
fn the_recipes_word_for_packing_is_a_switch_or_a_method() {
    let read = |yaml: &str| serde_yaml_ng::from_str::<Packing>(yaml);
    assert_eq!(read("true").unwrap(), Packing::FirstFitDecreasing);
    assert_eq!(read("false").unwrap(), Packing::Off);
    assert_eq!(read("off").unwrap(), Packing::Off);
    assert_eq!(read("in_order").unwrap(), Packing::InOrder);
    let error = read("best_fit").unwrap_err().to_string();
    assert!(error.contains("expected `true`, `false`, `in_order` or `first_fit_decreasing`"), "{error}");
    for packing in [Packing::Off, Packing::InOrder, Packing::FirstFitDecreasing] {
        assert_eq!(read(&serde_yaml_ng::to_string(&packing).unwrap()).unwrap(), packing);
    }
}

/// First fit without the tree.
fn first_fit_plainly(lengths: &[usize], room: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
    for index in order {
        match rows.iter_mut().find(|(left, _)| *left >= lengths[index]) {
            Some((left, row)) => {
                *left -= lengths[index];
                row.push(index);
            }
            None => rows.push((room - lengths[index], vec![index])),
        }
    }
    rows.into_iter().map(|r| r.1).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_token_is_packed_once_and_no_row_overflows(
        lengths in prop::collection::vec((1usize..40, 0usize..3), 0..80),
        room in 40usize..100,
        by_order in any::<bool>(),
    ) {
        let packing = if by_order { Packing::InOrder } else { Packing::FirstFitDecreasing };
        let examples = documents(&lengths);
        let rows = pack(&examples, packing, room).unwrap();
        let mut seen = HashSet::new();
        for row in &rows {
            let batch = StepBatch::new(&examples, &row.documents);
            let flat = batch.layout();
            prop_assert!(flat.ids.len() <= room);
            prop_assert!(!row.documents.is_empty());
            prop_assert!(row.documents.iter().all(|&d| examples[d].part == row.part));
            // Segments tile the tokens.
            let mut end = 0;
            for segment in &flat.segments {
                prop_assert_eq!(segment.start, end);
                end += segment.len;
            }
            prop_assert_eq!(end, flat.ids.len());
            for id in flat.ids {
                prop_assert!(seen.insert(id), "token {} twice", id);
            }
        }
        prop_assert_eq!(seen.len(), lengths.iter().map(|l| l.0).sum::<usize>());
        let report = packing_report(&rows, &examples, room);
        prop_assert_eq!((report.documents, report.tokens), (lengths.len(), seen.len()));
    }

    #[test]
    fn the_tree_finds_the_same_rows_as_looking_through_all(lengths in prop::collection::vec(1usize..30, 0..60)) {
        prop_assert_eq!(rows_of(&lengths, Packing::FirstFitDecreasing, 30), first_fit_plainly(&lengths, 30));
    }

    #[test]
    fn targets_are_the_next_token_of_the_same_document(lengths in prop::collection::vec(1usize..20, 1..10)) {
        let examples = of_lengths(&lengths);
        let all: Vec<usize> = (0..examples.len()).collect();
        let batch = StepBatch::new(&examples, &all);
        let flat = batch.layout();
        prop_assert_eq!(flat.rows.len(), batch.trained_tokens());
        prop_assert_eq!(flat.targets.len(), flat.rows.len());
        prop_assert!(flat.weights.iter().all(|w| *w == 1.0));
        for (&row, &target) in flat.rows.iter().zip(&flat.targets) {
            // Document and place are written in the token.
            prop_assert_eq!(target, flat.ids[row as usize] + 1);
            prop_assert_eq!(target % 1000, flat.positions[row as usize] + 1);
            prop_assert!(target % 1000 % 3 != 0, "an untrained token is a target");
        }
    }

    #[test]
    fn a_permutation_holds_every_index_once(len in 0usize..300, seed in any::<u64>(), epoch in 0u64..5) {
        let mut order = permutation(len, seed, 0, epoch);
        prop_assert_eq!(&order, &permutation(len, seed, 0, epoch));
        order.sort_unstable();
        prop_assert_eq!(order, (0..len).collect::<Vec<_>>());
    }

    #[test]
    fn steps_of_an_epoch_read_every_row_once_and_any_step_can_be_asked_alone(
        n in 1usize..60, batch_size in 1usize..9, seed in any::<u64>(),
    ) {
        let plan = plan(&vec![0; n], batch_size, true, seed, &[]);
        let steps = plan.steps_per_epoch();
        let epoch = |e: usize| (e * steps..(e + 1) * steps).flat_map(|s| plan.step(s)).collect::<Vec<_>>();
        let (first, second) = (epoch(0), epoch(1));
        for order in [&first, &second] {
            prop_assert_eq!(order.iter().collect::<HashSet<_>>().len(), n);
            prop_assert_eq!(order.len(), n);
        }
        // Asked out of order, of a fresh plan: the same.
        let fresh = plan_again(n, batch_size, seed);
        for step in (0..2 * steps).rev() {
            prop_assert_eq!(fresh.step(step), plan.step(step));
            prop_assert!(fresh.rows_of_step(step).len() <= batch_size);
        }
    }
}

fn plan(parts: &[usize], batch_size: usize, shuffle: bool, seed: u64, weights: &[f64]) -> BatchPlan {
    let rows = parts.iter().enumerate().map(|(i, &part)| TrainRow { documents: vec![i], part }).collect();
    BatchPlan::new(rows, PlanOptions { batch_size, shuffle, seed, weights: weights.to_vec() }).unwrap()
}

fn plan_again(n: usize, batch_size: usize, seed: u64) -> BatchPlan {
    plan(&vec![0; n], batch_size, true, seed, &[])
}

#[test]
fn the_order_of_an_epoch_is_fixed_for_all_time() {
    // A changed generator would silently change every resumed run: these numbers may not change. They come from ten lines of
    // Python that follow the module's text (`hashlib` and integers).
    assert_eq!(permutation(10, 0, 0, 0), [0, 7, 4, 5, 8, 9, 2, 1, 6, 3]);
    assert_eq!(permutation(10, 0, 0, 1), [1, 9, 7, 4, 0, 8, 5, 6, 3, 2]);
    assert_eq!(permutation(10, 1, 0, 0), [5, 6, 1, 4, 9, 0, 2, 8, 7, 3]);
}

#[test]
fn permutations_are_uniform() {
    // Of 4 things 24 orders; 24,000 draws; χ² with 23 degrees of freedom is below 49.7 in 999 of 1000 cases.
    let mut counts: BTreeMap<Vec<usize>, f64> = BTreeMap::new();
    for epoch in 0..24_000 {
        *counts.entry(permutation(4, 7, 0, epoch)).or_default() += 1.0;
    }
    let chi: f64 = counts.values().map(|n| (n - 1000.0).powi(2) / 1000.0).sum();
    assert_eq!(counts.len(), 24);
    assert!(chi < 49.7, "χ² = {chi}");
}

#[test]
fn without_shuffling_the_order_is_the_datas() {
    let plan = plan(&[0; 5], 2, false, 0, &[]);
    let steps: Vec<Vec<usize>> = (0..6).map(|s| plan.step(s)).collect();
    assert_eq!(steps, [vec![0, 1], vec![2, 3], vec![4], vec![0, 1], vec![2, 3], vec![4]]);
}

#[test]
fn a_mix_meets_its_weights_and_goes_through_each_source_evenly() {
    // Ten rows of source 0, thirty of source 1, weights 3 to 1: an epoch of 40 has 30 and 10.
    let parts: Vec<usize> = (0..40).map(|i| usize::from(i >= 10)).collect();
    for shuffle in [true, false] {
        let plan = plan(&parts, 4, shuffle, 5, &[3.0, 1.0]);
        assert_eq!((plan.rows_per_epoch(), plan.steps_per_epoch()), (40, 10));
        let mut times = vec![0; 40];
        for epoch in 0..3 {
            let order = plan.order(epoch);
            assert_eq!(order.iter().filter(|&&r| r < 10).count(), 30);
            order.iter().for_each(|&r| times[r] += 1);
        }
        // Three epochs: source 0 nine times through, source 1 once.
        assert!(times[..10].iter().all(|&t| t == 9), "{times:?}");
        assert!(times[10..].iter().all(|&t| t == 1), "{times:?}");
    }
    let plan = plan(&parts, 4, false, 0, &[3.0, 1.0]);
    let sources: Vec<usize> = plan.step(0).into_iter().map(|d| parts[d]).collect();
    assert_eq!(sources.iter().sum::<usize>(), 1, "unshuffled sources are interleaved: {sources:?}");
}

#[test]
fn plans_that_cannot_be_made_say_why() {
    let options =
        |batch_size, weights: &[f64]| PlanOptions { batch_size, shuffle: true, seed: 0, weights: weights.to_vec() };
    let row = |part| TrainRow { documents: vec![0], part };
    let said = |rows, options| BatchPlan::new(rows, options).unwrap_err().to_string();
    assert!(said(vec![row(0)], options(0, &[])).contains("`data.batch_size`"));
    assert!(said(vec![], options(1, &[])).contains("no rows"));
    assert!(said(vec![row(0)], options(1, &[1.0, 2.0])).contains("`data.mix[1]`: found no example left"));
    assert!(said(vec![row(0), row(1)], options(1, &[1.0])).contains("1 weights for 2 sources"));
}

#[test]
fn a_tiny_weight_still_gives_a_row_an_epoch() {
    let parts: Vec<usize> = (0..20).map(|i| usize::from(i >= 10)).collect();
    let plan = plan(&parts, 1, true, 0, &[1e-9, 1.0]);
    assert_eq!(plan.order(0).iter().filter(|&&r| r < 10).count(), 1);
}

#[test]
fn a_recipe_packs_and_plans_in_one_go() {
    let config: DataConfig =
        serde_yaml_ng::from_str("{path: x.jsonl, packing: true, sequence_length: 10, shuffle: false}").unwrap();
    let examples = of_lengths(&[6, 5, 4, 3, 2]);
    let plan = BatchPlan::for_examples(&examples, &config, 512, 1).unwrap();
    assert_eq!((plan.step(0), plan.step(1)), (vec![0, 2], vec![1, 3, 4]));
}
