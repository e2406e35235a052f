// implements: gates
//
// The rule `linear`: nothing decays.

struct Decay { unused: u32 }

fn load_decay(row: u32, f4: u32) -> Decay { return Decay(0u); }

// nu, of features 4 f4 .. + 3.
fn decay_nu(nu: vec4<f32>, row: u32, f4: u32) -> vec4<f32> { return nu; }
