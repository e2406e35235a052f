//! Files made in tests, and the program run on them.

use std::path::{Path, PathBuf};
use std::process::Command;

use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

/// A tensor of a file to be made.
#[derive(Clone)]
pub(crate) struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Tensor {
    pub(crate) fn new(dtype: Dtype, shape: &[usize], data: &[u8]) -> Self {
        Self { dtype, shape: shape.to_vec(), data: data.to_vec() }
    }

    pub(crate) fn f32(shape: &[usize], numbers: &[f32]) -> Self {
        let data: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self::new(Dtype::F32, shape, &data)
    }

    pub(crate) fn zeros(shape: &[usize]) -> Self {
        Self::f32(shape, &vec![0.0; shape.iter().product()])
    }

    pub(crate) fn to_f16(&self) -> Self {
        let numbers = f32s(&self.data);
        let data: Vec<u8> = numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        Self::new(Dtype::F16, &self.shape, &data)
    }
}

/// Two tokens of one head, K = V = 2.
pub(crate) fn tiny() -> Vec<(&'static str, Tensor)> {
    let tensor = |numbers: &[f32]| Tensor::f32(&[1, 2, 1, 2], numbers);
    vec![
        ("q", tensor(&[1.0, 0.0, 1.0, 1.0])),
        ("k", tensor(&[1.0, 2.0, 0.0, 1.0])),
        ("v", tensor(&[3.0, 4.0, 5.0, 6.0])),
    ]
}

pub(crate) fn encode(tensors: &[(&str, Tensor)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.data);
        (*name, view.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

pub(crate) fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
}

/// A directory that goes when the guard does.
pub(crate) fn scratch() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    (directory, path)
}

pub(crate) struct Found {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Found {
    /// Runs a command to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Found {
    Found::of(Command::new(env!("CARGO_BIN_EXE_linear-attention")).args(arguments))
}

/// Runs what must end with status 2 and one line on stderr; returns the line.
pub(crate) fn refused(arguments: &[&str]) -> String {
    let found = run(arguments);
    assert_eq!(found.status, 2, "{arguments:?}: {}{}", found.stdout, found.stderr);
    assert_eq!(found.stderr.lines().count(), 1, "{arguments:?}: {}", found.stderr);
    found.stderr
}

/// Runs a file that `run` must refuse, and returns the line that says why.
pub(crate) fn refused_file(bytes: &[u8], arguments: &[&str]) -> String {
    let (_guard, directory) = scratch();
    let (input, output) = (directory.join("in"), directory.join("out"));
    std::fs::write(&input, bytes).unwrap();
    let mut all = vec!["run", input.to_str().unwrap(), "-o", output.to_str().unwrap()];
    all.extend(arguments);
    let line = refused(&all);
    assert_eq!(names(&directory), ["in"], "no output appears, nor a part of one");
    line
}

/// The names of the files in a directory.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The file of `tiny` with one tensor replaced or added.
pub(crate) fn with(name: &'static str, tensor: Tensor) -> Vec<u8> {
    let mut tensors: Vec<_> = tiny().into_iter().filter(|(other, _)| *other != name).collect();
    tensors.push((name, tensor));
    encode(&tensors)
}

/// The file that `run` makes of these tensors.
pub(crate) fn computed(tensors: &[(&str, Tensor)], arguments: &[&str]) -> Vec<u8> {
    let (_guard, directory) = scratch();
    let (input, output) = (directory.join("in"), directory.join("out"));
    std::fs::write(&input, encode(tensors)).unwrap();
    let mut all = vec!["run", input.to_str().unwrap(), "-o", output.to_str().unwrap()];
    all.extend(arguments);
    let found = run(&all);
    assert_eq!(found.status, 0, "{}", found.stderr);
    std::fs::read(output).unwrap()
}

/// The name of an adapter of wgpu's; none, which is said or is wrong where one is required, where
/// wgpu finds none.
pub(crate) fn adapter() -> Option<String> {
    let found = run(&["adapters"]);
    let names = found.stdout.lines().filter(|line| !line.starts_with(' '));
    let name = names.skip(1).find(|line| !line.starts_with("no adapter")).map(str::to_owned);
    let required = std::env::var_os("LINEAR_ATTENTION_REQUIRE_GPU").is_some_and(|v| v == "1");
    assert!(name.is_some() || !required, "LINEAR_ATTENTION_REQUIRE_GPU asks for an adapter");
    if name.is_none() {
        eprintln!("SKIPPED: no adapter");
    }
    name
}
