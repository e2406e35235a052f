//! A long text fed in pieces of changing length: the state that one piece ends with is
//! the state the next begins with, and the result is that of the text in one piece.

use linear_attention::{Config, Inputs, LinearAttention, Shape, wgpu};

const FILE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/minilm-layer0-t512-f16.safetensors");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (device, queue) = open_device()?;

    let bytes = std::fs::read(FILE)?;
    let file = safetensors::SafeTensors::deserialize(&bytes)?;
    let [q, k, v] = [file.tensor("q")?, file.tensor("k")?, file.tensor("v")?];
    let &[1, tokens, heads, width] = q.shape() else {
        return Err(format!("q must be [1,T,H,K], found {:?}", q.shape()).into());
    };
    let [q, k, v] = [q, k, v].map(|tensor| widened(tensor.data()));
    // With one sequence, the tokens of a piece lie side by side in q, k, v and o.
    let row = heads * width;

    let attention = LinearAttention::new(&device, Config::new(width as u32, width as u32))?;
    let run = |from: usize, to: usize, state: Option<(&[f32], &[f32])>| {
        let shape = Shape::new(1, (to - from) as u32, heads as u32);
        let part = from * row..to * row;
        let mut inputs = Inputs::new(&q[part.clone()], &k[part.clone()], &v[part]);
        if let Some((mu, nu)) = state {
            inputs = inputs.with_initial_state(mu, nu);
        }
        attention.run(&queue, &shape, inputs)
    };

    let whole = run(0, tokens, None)?;

    let mut o = Vec::with_capacity(whole.o.len());
    let mut state: Option<(Vec<f32>, Vec<f32>)> = None;
    let mut from = 0usize;
    for piece in [1, 7, 64, 100, usize::MAX] {
        let to = tokens.min(from.saturating_add(piece));
        let carried = state.as_ref().map(|(mu, nu)| (mu.as_slice(), nu.as_slice()));
        let output = run(from, to, carried)?;
        println!("tokens {from:>3} .. {to}");
        o.extend(output.o);
        state = Some((output.mu, output.nu));
        from = to;
    }
    let (mu, nu) = state.ok_or("the text is empty")?;

    let mut worst = 0.0f32;
    for (name, pieces, whole) in [("o", o, whole.o), ("mu", mu, whole.mu), ("nu", nu, whole.nu)] {
        let difference = relative_difference(&pieces, &whole);
        println!("{name}: {difference:.1e} of the largest element lies between the two");
        worst = worst.max(difference);
    }
    if worst > 1e-5 {
        return Err(format!("the pieces differ from the whole by {worst:.1e}").into());
    }
    Ok(())
}

/// The largest difference over the largest element; infinite where a length or a NaN differs.
fn relative_difference(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let difference = a.iter().zip(b).map(|(x, y)| (x - y).abs());
    if a.len() != b.len() || difference.clone().any(f32::is_nan) {
        return f32::INFINITY;
    }
    difference.fold(0.0, f32::max) / largest
}

/// The file holds f16, little-endian; every f16 is an f32.
fn widened(bytes: &[u8]) -> Vec<f32> {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().map(|pair| half::f16::from_le_bytes(*pair).to_f32()).collect()
}

fn open_device() -> Result<(wgpu::Device, wgpu::Queue), Box<dyn std::error::Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    }))?;
    println!("on {}", adapter.get_info().name);
    Ok(pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_limits: adapter.limits(),
        ..Default::default()
    }))?)
}
