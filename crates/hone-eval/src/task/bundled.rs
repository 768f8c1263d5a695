//! Task files and small data sets that ship inside the program, so that names work from anywhere.

macro_rules! tasks {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../../../../tasks/", $name, ".yaml")))),*] };
}

macro_rules! data {
    ($($file:literal),* $(,)?) => {
        &[$(($file, include_bytes!(concat!("../../../../assets/", $file)).as_slice())),*]
    };
}

/// Task files by name; a test compares the list with the directory.
const TASKS: &[(&str, &str)] = tasks![
    "agnews",
    "arc_challenge",
    "arc_easy",
    "battery",
    "battery_arithmetic",
    "battery_code",
    "battery_coreference",
    "battery_instructions",
    "battery_key_value",
    "battery_knowledge",
    "battery_logic",
    "battery_physical",
    "battery_plausibility",
    "battery_reading",
    "battery_science",
    "battery_text",
    "battery_translation",
    "battery_word_prediction",
    "boolq",
    "code_assertions",
    "code_clones",
    "code_comprehension",
    "code_defects",
    "code_summaries",
    "demo_arc_easy",
    "demo_instructions",
    "demo_lambada",
    "demo_piqa",
    "demo_worked_answers",
    "finance",
    "gsm8k",
    "harmless_pairs",
    "humaneval",
    "induction",
    "induction_active_to_passive",
    "induction_diff",
    "induction_first_word_letter",
    "induction_larger_animal",
    "induction_letters_list",
    "induction_negation",
    "induction_num_to_verbal",
    "induction_second_word_letter",
    "induction_sentiment",
    "induction_singular_to_plural",
    "induction_sum",
    "induction_taxonomy_animal",
    "induction_translation_en_de",
    "induction_translation_en_es",
    "judge_harmful",
    "judge_rating",
    "judge_right",
    "judge_supported",
    "kv_retrieval",
    "lambada",
    "mbpp",
    "medical",
    "needle",
    "nq_context",
    "openbookqa",
    "passages",
    "piqa",
    "preference",
    "preference_pairs",
    "reasoning_gsm8k",
    "reasoning_qasc",
    "reasoning_strategyqa",
    "rewardbench2",
    "rewardbench2_factuality",
    "rewardbench2_focus",
    "rewardbench2_math",
    "rewardbench2_precise_if",
    "rewardbench2_safety",
    "rewardbench2_ties",
    "rewards",
    "rewards_factuality",
    "rewards_focus",
    "rewards_math",
    "rewards_precise_if",
    "rewards_safety",
    "rewards_ties",
    "safety",
    "safety_harmful",
    "safety_harmful_likelihood",
    "safety_harmless",
    "safety_harmless_likelihood",
    "sst2",
    "telecom",
    "wikitext",
    "winogrande",
    "wording",
    "wording_larger_animal",
    "wording_p3",
    "wording_p3_duplicate",
    "wording_p3_equivalent",
    "wording_p3_paraphrase",
    "wording_p3_sentiment",
    "wording_p3_stars",
    "wording_p3_topic",
    "wording_sentiment",
    "wording_word_sense",
    "xquad_en",
];

/// Data files by the path task files name them by.
const DATA: &[(&str, &[u8])] = data![
    "battery/arithmetic.jsonl",
    "battery/code.jsonl",
    "battery/coreference.jsonl",
    "battery/instructions.jsonl",
    "battery/key_value.jsonl",
    "battery/knowledge.jsonl",
    "battery/logic.jsonl",
    "battery/physical.jsonl",
    "battery/plausibility.jsonl",
    "battery/reading.jsonl",
    "battery/science.jsonl",
    "battery/text.jsonl",
    "battery/translation.jsonl",
    "battery/word_prediction.jsonl",
    "code/assertions_test.jsonl",
    "code/assertions_train.jsonl",
    "code/clones_test.jsonl",
    "code/clones_train.jsonl",
    "code/defects_test.jsonl",
    "code/defects_train.jsonl",
    "code/summaries_test.jsonl",
    "code/summaries_train.jsonl",
    "demo/arc_easy.jsonl",
    "demo/instructions.jsonl",
    "demo/lambada.jsonl",
    "demo/piqa.jsonl",
    "demo/worked_answers.jsonl",
    "needle/needle.jsonl",
    "passages/nq.jsonl",
    "rewards/factuality.jsonl",
    "rewards/focus.jsonl",
    "rewards/math.jsonl",
    "rewards/precise_if.jsonl",
    "rewards/safety.jsonl",
    "rewards/ties.jsonl",
];

/// Names of the tasks there are.
pub fn names() -> impl Iterator<Item = &'static str> {
    TASKS.iter().map(|(name, _)| *name)
}

/// A task file's text.
pub fn task(name: &str) -> Option<&'static str> {
    TASKS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// A data file's bytes.
pub fn data(path: &str) -> Option<&'static [u8]> {
    DATA.iter().find(|(known, _)| *known == path).map(|(_, bytes)| *bytes)
}
