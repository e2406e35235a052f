// The rows and columns of mu that a thread of a work item holds. Neighbouring threads hold
// neighbouring columns, so that they read and write neighbouring vec4s of a state.

import constants::{COLUMN_THREADS, LANE_TILES, ROWS_VEC4};

struct Lane {
    thread: u32,  // of the work item
    f4: u32,      // its first features, in vec4s, within the feature block
    c4: u32,      // its first values, in vec4s, within the value block; the next are COLUMN_THREADS on
}

fn lane_of(thread: u32) -> Lane {
    let lane = thread / COLUMN_THREADS;
    return Lane(thread, lane * LANE_TILES * ROWS_VEC4, thread % COLUMN_THREADS);
}
