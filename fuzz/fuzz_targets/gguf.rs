//! Any bytes as a GGUF file: tensors, config, tokenizer and chat template are read or refused.
#![no_main]

use hone_engine::DType;
use hone_model::files::ModelFiles;
use hone_model::spec::DecoderSpec;
use hone_model::template::ChatTemplate;
use hone_model::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("hone-fuzz-{}.gguf", std::process::id()));
    std::fs::write(&path, bytes).expect("a place to write");
    let Ok(files) = ModelFiles::open(&path) else { return };
    if let Ok(config) = files.config() {
        let _ = DecoderSpec::from_config(&path, &config);
    }
    let _ = files.generation_config();
    if let Ok(weights) = files.weights() {
        for name in weights.tensor_names() {
            let shape = weights.shape(&name).expect("listed");
            let _ = weights.load(&name, &shape, DType::F32);
            if shape.len() == 2 {
                let _ = weights.load_weight(&name, &shape, DType::BF16, true);
            }
        }
    }
    if let Ok(tokenizer) = Tokenizer::from_files(&files) {
        if let Ok(encoding) = tokenizer.encode("a b\n12 ü", true) {
            let _ = tokenizer.decode(&encoding.ids, false);
        }
        let _ =
            ChatTemplate::from_files(&files, &tokenizer).map(|template| template.map(|t| t.end_of_turn(&tokenizer)));
    }
});
