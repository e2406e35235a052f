//! Safetensors files in and out. Tensors are checked and converted to f32 when a file is read.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use linear_attention::feature_map::Weights;
use linear_attention::reference::Output64;
use linear_attention::shape::{MAX_KEY_DIM, MAX_VALUE_DIM};
use linear_attention::{Config, Inputs, Output, Shape, UpdateRule};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::attention_mask;
use crate::cu_seqlens;
use crate::failure::Failure;
use crate::header;
use crate::maps::{self, Missing};
use crate::rule::{self, RuleName};
use crate::taken;
use crate::tensors::{expect_dtype, expect_shape, from_f32, required, sizes, to_f32};

/// The tensors of an input file.
pub(crate) struct Input {
    pub(crate) shape: Shape,
    pub(crate) value_dim: u32,
    /// F.
    features: u32,
    /// That of q, k and v, and so of o.
    pub(crate) dtype: Dtype,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    decay: Option<Vec<f32>>,
    beta: Option<Vec<f32>>,
    initial: Option<State>,
    weights: Option<Weights>,
}

/// mu `[N,E,F,V]` and, where o is normalised, nu `[N,E,F]`.
struct State {
    mu: Vec<f32>,
    nu: Vec<f32>,
}

/// The results of a run, in f32, from the device or from the reference.
pub(crate) struct Results {
    pub(crate) o: Vec<f32>,
    mu: Vec<f32>,
    nu: Vec<f32>,
}

impl From<Output> for Results {
    fn from(output: Output) -> Self {
        Self { o: output.o, mu: output.mu, nu: output.nu }
    }
}

impl From<Output64> for Results {
    fn from(output: Output64) -> Self {
        let to_f32 = |numbers: Vec<f64>| numbers.into_iter().map(|x| x as f32).collect();
        Self { o: to_f32(output.o), mu: to_f32(output.mu), nu: to_f32(output.nu) }
    }
}

/// An input file as it was read.
pub(crate) struct InputFile {
    shown: String,
    bytes: Vec<u8>,
}

impl InputFile {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        let bytes = fs::read(path).map_err(|error| {
            Failure::Input(format!("{shown}: expected a readable file, found {error}"))
        })?;
        Ok(Self::of_bytes(shown, bytes))
    }

    /// The same of its bytes; `shown` is its name in errors.
    pub(crate) fn of_bytes(shown: String, bytes: Vec<u8>) -> Self {
        Self { shown, bytes }
    }

    /// The rule that is named, or that the file's tensors imply.
    pub(crate) fn update_rule(&self, named: Option<RuleName>) -> Result<UpdateRule, Failure> {
        rule::update_rule(&self.tensors()?, named).map_err(|message| self.refuse(&message))
    }

    /// Refuses a tensor that `run` would not use: its result would not be what the file asks for.
    pub(crate) fn check_run(
        &self,
        config: &Config,
        named: Option<RuleName>,
    ) -> Result<(), Failure> {
        taken::check_run(&self.tensors()?, config, named).map_err(|message| self.refuse(&message))
    }

    /// The same of `compare`.
    pub(crate) fn check_compare(&self) -> Result<(), Failure> {
        taken::check_compare(&self.tensors()?).map_err(|message| self.refuse(&message))
    }

    /// The checked tensors of the file; sets the sizes and the dtype of `config`. `missing` decides
    /// about weights that the file does not have.
    pub(crate) fn input(&self, config: &mut Config, missing: Missing) -> Result<Input, Failure> {
        Input::new(&self.tensors()?, config, missing).map_err(|message| self.refuse(&message))
    }

    fn tensors(&self) -> Result<SafeTensors<'_>, Failure> {
        SafeTensors::deserialize(&self.bytes)
            .map_err(|error| self.refuse(&header::explain(&self.bytes, &error)))
    }

    fn refuse(&self, message: &str) -> Failure {
        Failure::Input(format!("{}: {message}", self.shown))
    }
}

impl Input {
    fn new(
        tensors: &SafeTensors<'_>,
        config: &mut Config,
        missing: Missing,
    ) -> Result<Self, String> {
        let [q, k, v] = ["q", "k", "v"].map(|name| required(tensors, name));
        let (q, k, v) = (q?, k?, v?);
        let dtype = q.dtype();
        if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(format!("tensor q: expected dtype F32, F16 or BF16, found {dtype}"));
        }
        expect_dtype("k", &k, dtype)?;
        expect_dtype("v", &v, dtype)?;

        let [b, t, h, key_dim] = sizes("q", "[B,T,H,K]", &q)?;
        let [_, _, g, _] = sizes("k", "[B,T,G,K]", &k)?;
        let [_, _, e, value_dim] = sizes("v", "[B,T,E,V]", &v)?;
        expect_shape("k", &k, &[b, t, g, key_dim])?;
        expect_shape("v", &v, &[b, t, e, value_dim])?;
        for (name, what, most, size) in
            [("q", "K", MAX_KEY_DIM, key_dim), ("v", "V", MAX_VALUE_DIM, value_dim)]
        {
            if size > most {
                return Err(format!(
                    "tensor {name}: expected {what} from 1 to {most}, found {size}"
                ));
            }
        }
        if !e.is_multiple_of(g) {
            return Err(format!("tensor k: expected heads G that divide v's E = {e}, found {g}"));
        }
        if !h.is_multiple_of(e) && !e.is_multiple_of(h) {
            return Err(format!(
                "tensor v: expected heads E that divide q's H = {h} or are a multiple of it, found {e}"
            ));
        }
        let shape =
            match (cu_seqlens::lengths(tensors, b, t)?, attention_mask::valid(tensors, [b, t])?) {
                (None, None) => Shape::new(b, t, h),
                (None, Some(valid)) => Shape::padded(&valid, t, h),
                (Some(lengths), None) => {
                    let mut shape = Shape::packed(&lengths, h);
                    // Tokens behind the last sequence belong to none.
                    shape.seq_len = t;
                    shape
                }
                (Some(_), Some(_)) => {
                    return Err(
                        "tensor attention_mask: expected none beside cu_seqlens, found one".into(),
                    );
                }
            };
        (config.key_dim, config.value_dim) = (key_dim, value_dim);
        config.dtype = linear_attention::Dtype::from_name(&dtype.to_string()).unwrap_or_default();
        config.validate().map_err(|error| maps::explain(config, &error))?;
        let features = config.features();
        let shape = shape.with_key_heads(g).with_value_heads(e);
        let [decay, beta] = rule::gates(tensors, config, &shape, dtype)?;
        let sizes = [shape.sequences(), e, features, value_dim];
        let initial = initial_state(tensors, sizes, config.is_normalized())?;
        let weights = maps::weights(tensors, config, [h, g], missing)?;
        if let Some(weights) = &weights {
            weights.check(config, &shape).map_err(|error| error.to_string())?;
        }
        Ok(Self {
            shape,
            value_dim,
            features,
            dtype,
            q: to_f32(&q),
            k: to_f32(&k),
            v: to_f32(&v),
            decay,
            beta,
            initial,
            weights,
        })
    }

    /// The inputs as the library takes them.
    pub(crate) fn inputs(&self) -> Inputs<'_> {
        let mut inputs = Inputs::new(&self.q, &self.k, &self.v);
        inputs.weights = self.weights.as_ref();
        (inputs.decay, inputs.beta) = (self.decay.as_deref(), self.beta.as_deref());
        match &self.initial {
            Some(State { mu, nu }) => inputs.with_initial_state(mu, nu),
            None => inputs,
        }
    }

    /// The sizes of q, k and v.
    pub(crate) fn describe(&self, config: &Config) -> String {
        let Shape { batch: b, seq_len: t, heads: h, key_heads: g, value_heads: e, .. } = self.shape;
        let (k, v, dtype) = (config.key_dim, config.value_dim, self.dtype);
        let rule = match config.update_rule {
            UpdateRule::Linear => String::new(),
            rule => format!(", {}", rule.name()),
        };
        format!("q [{b},{t},{h},{k}], k [{b},{t},{g},{k}], v [{b},{t},{e},{v}] in {dtype}{rule}")
    }

    /// Multiplies q and k.
    pub(crate) fn scale_queries_and_keys(&mut self, by: f64) {
        self.q.iter_mut().chain(&mut self.k).for_each(|x| *x = (f64::from(*x) * by) as f32);
    }

    /// The bytes of the output file that belongs to this input.
    pub(crate) fn encode(&self, output: &Results) -> Result<Vec<u8>, Failure> {
        let size = |n: u32| n as usize;
        let Shape { batch, seq_len, value_heads, .. } = self.shape;
        let heads = self.shape.output_heads();
        let (n, e) = (size(self.shape.sequences()), size(value_heads));
        let (f, v) = (size(self.features), size(self.value_dim));
        let o = from_f32(&output.o, self.dtype);
        let (mu, nu) = (from_f32(&output.mu, Dtype::F32), from_f32(&output.nu, Dtype::F32));
        let views = [
            ("o", self.dtype, vec![size(batch), size(seq_len), size(heads), v], &o),
            ("final_mu", Dtype::F32, vec![n, e, f, v], &mu),
            ("final_nu", Dtype::F32, vec![n, e, f], &nu),
        ];
        // There is no nu where o is not normalised.
        let has_nu = !output.nu.is_empty();
        let views: Result<Vec<_>, _> = views
            .into_iter()
            .filter(|(name, ..)| has_nu || *name != "final_nu")
            .map(|(name, dtype, shape, data)| Ok((name, TensorView::new(dtype, shape, data)?)))
            .collect();
        views
            .and_then(|views| safetensors::serialize(views, None))
            .map_err(|error| Failure::NotHeld(format!("the output makes no file: {error}")))
    }

    /// Outputs that the file's dtype is too narrow for: they are written as infinities.
    pub(crate) fn overflows(&self, output: &Results) -> usize {
        let is_infinite = |x: f32| match self.dtype {
            Dtype::F16 => f16::from_f32(x).is_infinite(),
            Dtype::BF16 => bf16::from_f32(x).is_infinite(),
            _ => x.is_infinite(),
        };
        output.o.iter().filter(|x| is_infinite(**x)).count()
    }
}

fn initial_state(
    tensors: &SafeTensors<'_>,
    [n, e, f, v]: [u32; 4],
    is_normalized: bool,
) -> Result<Option<State>, String> {
    if ["initial_mu", "initial_nu"].iter().all(|name| tensors.tensor(name).is_err()) {
        return Ok(None);
    }
    let mu = required(tensors, "initial_mu")?;
    expect_dtype("initial_mu", &mu, Dtype::F32)?;
    expect_shape("initial_mu", &mu, &[n, e, f, v])?;
    let mut state = State { mu: to_f32(&mu), nu: Vec::new() };
    if is_normalized {
        let nu = required(tensors, "initial_nu")?;
        expect_dtype("initial_nu", &nu, Dtype::F32)?;
        expect_shape("initial_nu", &nu, &[n, e, f])?;
        state.nu = to_f32(&nu);
    }
    Ok(Some(state))
}
