// Here stands the text of a caller's own map. Where there is none, no map calls this.

fn phi(row: Row, feature: u32) -> f32 { return x(row, feature); }
