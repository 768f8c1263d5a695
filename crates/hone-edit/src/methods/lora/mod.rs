//! LoRA (Hu et al. 2021, arXiv 2106.09685): `y = x Wᵀ + s · drop(x) Aᵀ Bᵀ` with `A` `[r, in]`, `B` `[out, r]` trained, `W`
//! frozen, `s = alpha / r`. rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): `s = alpha / √r`. LoRA+ (Hayou et al. 2024,
//! arXiv 2402.12354): `B` learns `loraplus_lr_ratio` times as fast as `A`.
//!
//! What else an adapter of this type may be:
//! - first values made of the weight, with the part of the weight they stand for taken out of it ([`init`]: PiSSA, OLoRA,
//!   LoftQ);
//! - DoRA, `use_dora`: directions and lengths of the weight's rows apart ([`dora`]);
//! - `lora_bias`: a trained vector added after `B` ([`pair`]);
//! - a pair on the embedding table ([`embedding`]), rows of it trained whole (`trainable_token_indices`,
//!   [`super::tokens`]);
//! - modules trained whole (`modules_to_save`) and biases (`bias`).
//!
//! Start: `A ~ U(±1/√in)` (Kaiming-uniform with `a = √5`), `B = 0`, so the model is unchanged; see [`init`] for the others.
//! Parameters: `r (in + out)` a map, DoRA `out` more, `lora_bias` `out` more.
//!
//! Fields, defaults and tensor keys are Hugging Face PEFT's (`LoraConfig`, 0.21). PEFT has LoRA+ as an argument of its
//! optimiser, not as a field, so `loraplus_lr_ratio` stands in `hone.json` beside the adapter.

mod config;
pub mod dora;
pub mod embedding;
pub mod init;
pub mod pair;

pub(crate) use config::INERT;
pub use config::{BiasChoice, InitLora, LoraConfig, TokenIndices};

use serde_json::{Map, Value};

use self::init::Start;
use crate::base::{Base, BaseWeight, WeightKind};
use crate::biases::Biases;
use crate::config::to_map;
use crate::error::EditError;
use crate::method::{Mergeable, Method, MethodInfo, ParamPlan, Plan, QuantisedBase};
use crate::planning::{key, wrong};
use crate::replace::plan_replacements;
use crate::target::{OneOrMany, saved_modules};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "lora",
    peft_type: "LORA",
    family: "low rank",
    summary: "a trained low-rank pair beside each frozen linear map",
    paper: "arXiv 2106.09685; rsLoRA 2312.03732; LoRA+ 2402.12354; DoRA 2402.09353; PiSSA 2404.02948; OLoRA 2406.01775; LoftQ 2310.08659",
    formula: "W + s B A",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse: config::parse,
    schema: |generator| generator.subschema_for::<LoraConfig>(),
};

impl LoraConfig {
    fn plan_map(&self, plan: &mut Plan, weight: &BaseWeight, base: &Base) -> Result<(), EditError> {
        let (module, out, inputs) = (weight.module(), weight.shape[0], weight.shape[1]);
        let (rank, scale) = self.rank_and_scale(module)?;
        let most = match self.start() {
            Start::Plain => out.max(inputs),
            _ => out.min(inputs),
        };
        if rank > most {
            let expected = format!("a rank of at most {most} (`{module}` is [{out}, {inputs}])");
            return Err(wrong(METHOD.name, "r", rank.to_string(), expected));
        }
        let first = self.first_values(weight, rank, scale)?;
        let planned = |a, b| {
            let b = ParamPlan::new(key(module, "lora_B.weight"), &[out, rank], b);
            let a = ParamPlan::new(key(module, "lora_A.weight"), &[rank, inputs], a);
            [a, b.learning_rate_factor(self.loraplus_lr_ratio.unwrap_or(1.0))]
        };
        let mut params = Vec::from(planned(first.a, first.b));
        let dropout = self.lora_dropout as f32;
        if self.use_dora {
            // The magnitudes start at norms that the pair's first values take part in, which are made a second time for it.
            let again = self.first_values(weight, rank, scale)?;
            params.push(dora::magnitudes(weight, planned(again.a, again.b), scale));
            plan.on_linear(weight, dora::Dora::new(scale, dropout), params);
            return Ok(());
        }
        params.extend(first.taken_out);
        match first.quantised {
            Some(rounded) => plan.on_linear(weight, init::OnRounded { scale, dropout, rounded }, params),
            None => plan.on_linear(weight, pair::Pair { scale, dropout }, params),
        }
        if self.lora_bias {
            pair::plan_bias(plan, module, out, scale, base);
        }
        Ok(())
    }

    fn plan_on(&self, plan: &mut Plan, weight: &BaseWeight, base: &Base) -> Result<(), EditError> {
        match weight.kind {
            WeightKind::Linear => self.plan_map(plan, weight, base),
            WeightKind::Embedding => self.plan_table(plan, weight, base),
            _ => Err(EditError::Unsupported {
                method: METHOD.name,
                field: "target_modules".into(),
                found: format!("`{}`", weight.module()),
                reason: "the LM head takes no low-rank pair; train it whole with `modules_to_save`".into(),
            }),
        }
    }

    /// A pair on the embedding table.
    fn plan_table(&self, plan: &mut Plan, weight: &BaseWeight, base: &Base) -> Result<(), EditError> {
        let refused = [
            (self.use_dora, "use_dora"),
            (self.lora_bias, "lora_bias"),
            (self.start() != Start::Plain, "init_lora_weights"),
        ];
        if let Some((_, field)) = refused.iter().find(|(set, _)| *set) {
            return Err(EditError::Unsupported {
                method: METHOD.name,
                field: (*field).into(),
                found: format!("with `{}` in `target_modules`", weight.module()),
                reason: "it is built for linear maps only; leave the table out, or the field".into(),
            });
        }
        let (rank, scale) = self.rank_and_scale(weight.module())?;
        let ratio = self.loraplus_lr_ratio.unwrap_or(1.0);
        let start = self.init_lora_weights != InitLora::Standard(false);
        embedding::plan(plan, weight, base, embedding::Table { rank, scale, start_unchanged: start, ratio });
        Ok(())
    }
}

impl Method for LoraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        // PEFT's table for the architectures we know (llama, mistral, qwen2, qwen3, gemma3_text).
        let default = OneOrMany::Many(vec!["q_proj".into(), "v_proj".into()]);
        let kinds = [WeightKind::Linear, WeightKind::Embedding, WeightKind::Head];
        let selection = self.targets().select(METHOD.name, base, &kinds, default)?;
        let mut plan = Plan { config: self.written(&selection.resolved), params: Vec::new(), placed: Vec::new() };
        for weight in &selection.weights {
            self.plan_on(&mut plan, weight, base)?;
        }
        self.plan_tokens(&mut plan, base)?;
        let saved = saved_modules(self.modules_to_save.as_deref().unwrap_or_default(), base)?;
        plan_replacements(&mut plan, &saved, base);
        let targeted = plan.mapped_modules();
        Biases::from(self.bias).plan(&mut plan, base, &targeted);
        Ok(plan)
    }

    fn fields(&self) -> Map<String, Value> {
        to_map(self)
    }

    fn own_fields(&self) -> &'static [&'static str] {
        &["loraplus_lr_ratio"]
    }
}
