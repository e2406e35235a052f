//! Any bytes as an input file: its tensors and the results of `run`, or one line that says what is
//! wrong. The fuzz target `safetensors` and a test of its corpus call it.

use linear_attention::cpu::CpuAttention;
use linear_attention::{Config, FeatureMap, Normalization, UpdateRule};

use crate::file::InputFile;
use crate::maps::Missing;
use crate::rule::RuleName;

/// Elements up to which the results are computed.
const MOST: u64 = 1 << 12;

/// The first byte chooses options of the command, the others are the file.
pub(crate) fn run(bytes: &[u8]) {
    let Some((options, file)) = bytes.split_first() else { return };
    let named = match options % 5 {
        0 => None,
        1 => Some(RuleName::Linear),
        2 => Some(RuleName::Gated),
        3 => Some(RuleName::Delta),
        _ => Some(RuleName::GatedDelta),
    };
    let file = InputFile::of_bytes("fuzzed".to_owned(), file.to_vec());
    if let Err(failure) = read(&file, named, options / 5) {
        assert_eq!(failure.exit_code(), 2, "{failure}");
        assert!(!failure.to_string().is_empty());
    }
    if let Err(failure) = file.check_compare() {
        assert_eq!(failure.exit_code(), 2, "{failure}");
    }
}

fn read(
    file: &InputFile,
    named: Option<RuleName>,
    options: u8,
) -> Result<(), crate::failure::Failure> {
    let rule = file.update_rule(named)?;
    let mut config = Config::of_rule(1, 1, rule);
    config.feature_map = match options % 6 {
        0 => FeatureMap::Elu,
        1 => FeatureMap::Identity,
        2 => FeatureMap::T2r { features: 3 },
        3 => FeatureMap::Favor { features: 8 },
        4 => FeatureMap::Hedgehog,
        _ => config.feature_map,
    };
    config.normalization = match options / 6 % 2 {
        0 if rule == UpdateRule::Linear => Normalization::default(),
        _ => Normalization::None,
    };
    let missing = [Missing::DrawRandom(1), Missing::DrawAll(1)][usize::from(options / 12 % 2)];
    let input = file.input(&mut config, missing)?;
    file.check_run(&config, named)?;
    input.inputs().check(&config, &input.shape)?;
    let lens = input.shape.lens(&config)?;
    if lens.q.max(lens.o).max(lens.mu).max(input.shape.sequences().into()) <= MOST {
        let output = CpuAttention::new(config.clone())?.run(&input.shape, input.inputs())?;
        let results = output.into();
        let bytes = input.encode(&results)?;
        assert!(!bytes.is_empty() && input.overflows(&results) <= lens.o as usize);
        assert!(!input.describe(&config).is_empty());
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    /// The inputs that the fuzzer has found worth keeping.
    #[test]
    fn corpus() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/safetensors");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let count = files.map(|path| super::run(&std::fs::read(path).unwrap())).count();
        assert!(count > 0);
    }
}
