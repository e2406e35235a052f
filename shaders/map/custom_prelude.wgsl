// All that the text of a caller's own map may use, as far as a compiler must know it: the text is
// compiled with this, and alone, before it becomes a part of a shader. The functions are those of
// map/row.

struct Row { opaque_row: u32 }

override KEY_DIM: u32;
override FEATURE_DIM: u32;

fn x(row: Row, i: u32) -> f32 { return 0.0; }
fn y(row: Row, p: u32) -> f32 { return 0.0; }
