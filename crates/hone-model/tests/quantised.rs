//! A model whose linear maps are rounded to few bits while it is loaded.

use std::path::Path;

use hone_engine::quant::{BlockType, QuantType};
use hone_engine::{DType, Weight, WeightRef};
use hone_model::{Model, Quantise};

fn stories() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    path.to_str().expect("a printable path").to_string()
}

fn frozen(weight: &WeightRef) -> &Weight {
    match weight {
        WeightRef::Frozen(weight) => weight,
        WeightRef::Trained(_) => panic!("a loaded weight is frozen"),
    }
}

#[test]
fn linear_maps_are_in_blocks_and_nothing_else_is() {
    let nf4 = QuantType::Nf4 { double: true };
    let model = Model::load_quantised(&stories(), DType::F32, Quantise::To(nf4)).unwrap();
    assert!(frozen(&model.decoder.embed_tokens).quantised().is_none());
    let (mut bytes, mut numbers) = (0, 0);
    for linear in model.decoder.linears() {
        let weight = frozen(&linear.weight);
        assert_eq!(weight.quantised().map(|blocks| blocks.kind()), Some(nf4), "{}", linear.name);
        bytes += weight.bytes();
        numbers += linear.weight.elements();
    }
    let bits = 8.0 * bytes as f64 / numbers as f64;
    assert!(bits < 4.25, "{bits} bits a number");
}

#[test]
fn maps_whose_rows_are_no_whole_blocks_stay_as_they_are() {
    let q8_0 = QuantType::Gguf(BlockType::Q8_0);
    let model = Model::load_quantised(&stories(), DType::F32, Quantise::To(q8_0)).unwrap();
    for linear in model.decoder.linears() {
        let weight = frozen(&linear.weight);
        // 172 numbers a row on the way out of the MLP, 64 everywhere else.
        assert_eq!(weight.quantised().is_some(), weight.in_features() == 64, "{}", linear.name);
    }
}

#[test]
fn blocks_that_are_not_there_cannot_be_kept() {
    let error = Model::load_quantised(&stories(), DType::F32, Quantise::Keep).err().expect("a refusal").to_string();
    assert!(error.contains("no quantised blocks") && error.contains("nf4"), "{error}");
}
