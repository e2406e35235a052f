//! Shaders that are wrong on purpose, to prove that the harness can fail.

use std::rc::Rc;

use libtest_mimic::Failed;
use linear_attention::tuning::Tuning;
use linear_attention::verify::{self, Mutation, Options};

use crate::Trial;
use crate::adapters::Gpu;
use crate::cases::{both_layouts, of_the_day, subgroup_tunings};

/// One trial a mutation and layout; the quick level has each mutation in one of them.
pub(crate) fn trials(gpu: &Rc<Gpu>) -> Vec<Trial> {
    let mut trials = Vec::new();
    let layouts = both_layouts(gpu).into_iter().chain(subgroup_tunings(gpu).into_iter().take(1));
    for (layout, tuning) in layouts {
        for mutation in Mutation::ALL {
            // A thread on its own maps no rows and takes no F apart.
            use Mutation::{
                BiasForgotten, BlockForgotten, FactorForgotten, LaneForgotten, NormForgotten,
            };
            let is_of_rows = matches!(mutation, BiasForgotten | BlockForgotten | NormForgotten);
            let is_of_lanes = mutation == LaneForgotten;
            let has_factor = mutation == FactorForgotten;
            if layout == "direct" && (is_of_rows || is_of_lanes || has_factor)
                || layout == "subgroups" && !is_of_lanes
            {
                continue;
            }
            let gpu = Rc::clone(gpu);
            let name = format!("{}::caught::{layout}::{mutation:?}", gpu.name);
            // On any device these have this layout by default.
            let tuning = (!is_of_rows).then_some(tuning);
            trials.push(Trial {
                group: name.clone(),
                name,
                cost: 40,
                is_full: !is_of_rows
                    && !is_of_lanes
                    && !has_factor
                    && of_the_day(&format!("{mutation:?}")) != (layout == "workgroup"),
                test: Box::new(move || caught(&gpu, tuning, mutation)),
            });
        }
    }
    trials
}

/// A wrong shader must show in the result of the case that the mistake is for.
fn caught(gpu: &Gpu, tuning: Option<Tuning>, mutation: Mutation) -> Result<(), Failed> {
    let mut options = Options::default();
    options.mutation = Some(mutation);
    options.tuning = tuning;
    options.filter = Some(
        match mutation {
            Mutation::EpsDropped => "large-eps",
            Mutation::StateNotCarried => "t64-state",
            Mutation::MaskedBeforePhi => "k3-v5",
            Mutation::ScanWithoutInitial => "t1000",
            Mutation::SlotIgnored | Mutation::StepNotWritten => "slots-step",
            Mutation::LengthOffByOne => "packed-segments",
            Mutation::BlockForgotten => "blocks",
            Mutation::BiasForgotten => "t2r",
            Mutation::NormForgotten => "favor-hyperbolic",
            Mutation::DecayAfterWrite | Mutation::FactorForgotten => "gated-packed",
            Mutation::BetaForgotten | Mutation::DeltaFromUndecayed => "gated-delta-alike",
            Mutation::NuNotDecayed => "gated-sum",
            Mutation::HeadsTiled => "grouped-values",
            _ => "t63",
        }
        .to_owned(),
    );
    let report = verify::run(&gpu.device, &gpu.queue, &options);
    let compared = report.rows.iter().all(|row| row.message.is_empty());
    if report.passed() || report.rows.is_empty() || !compared {
        return Err(Failed::from("a wrong shader was not caught by its result"));
    }
    Ok(())
}
