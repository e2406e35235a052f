// implements: chunk_values
//
// Values enter the state as they are: see matrix/corrected.

import matrix/state::{Tiles};
import work_item::{Chunk, WorkItem};

fn prepare_correction(mu: ptr<function, Tiles>, thread: u32, subgroup: u32) {}

fn correct_values(item: WorkItem, chunk: Chunk, thread: u32, subgroup: u32) {}
