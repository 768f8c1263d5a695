//! PEFT's types that are not read here, and why: their files do not say all of the adapter, or the adapter is not one of the kind
//! that a causal model can be scored with. Read off PEFT 0.21.2.

use crate::error::EditError;

/// `(peft_type, why)`.
const NOT_READ: &[(&str, &str)] = &[
    (
        "ADAMSS",
        "which rows of a map belong to which of its subspaces is not in the file; PEFT finds it again by k-means over a random \
         projection, which no other program repeats",
    ),
    (
        "FROD",
        "the factor U is not in the file; PEFT computes it again from a decomposition whose signs depend on the library that it \
         runs with, and keeps it beside the saved V",
    ),
    (
        "PSOFT",
        "its rotation is in the basis of singular vectors that PEFT computes again when it reads the file; their signs, which the \
         rotation depends on, are those of the library that it runs with",
    ),
    (
        "LILY",
        "its router averages over all positions, so a token's logits follow the tokens after it and the other rows of the batch: \
         its log-likelihoods are not those of a causal model",
    ),
    ("SHADOW", "it is a second model that runs beside the first, not a change of it"),
];

/// The error for a type that PEFT has and Hone does not read; `None` for any other word.
pub fn refused(peft_type: &str) -> Option<EditError> {
    let (_, why) = NOT_READ.iter().find(|(word, _)| *word == peft_type)?;
    Some(EditError::NotRead { found: peft_type.into(), why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{METHODS, from_peft};

    const PAGE: &str = include_str!("../../../docs/methods.md");

    #[test]
    fn a_type_is_read_or_refused_by_name() {
        for (word, why) in NOT_READ {
            assert!(METHODS.iter().all(|method| method.peft_type != *word), "{word} is read");
            assert!(PAGE.contains(&format!("\n| {word} |")), "docs/methods.md does not name {word}");
            let config = serde_json::json!({"peft_type": word});
            let Err(error) = from_peft(config.as_object().unwrap(), &mut Vec::new()) else { panic!("{word} is read") };
            assert!(error.to_string().contains(why) && error.to_string().contains(word), "{error}");
        }
        assert!(refused("LORA").is_none() && refused("SOFT").is_none());
    }
}
