// implements: correction
//
// Values enter the state as they are, or a thread corrects its own.

import factor::{Factor};
import lane::{Lane};
import tile::{Tile};
import work_item::{Chunk, WorkItem};

fn correct_values(
    mu: ptr<function, Tile>,
    factor: ptr<function, Factor>,
    item: WorkItem,
    chunk: Chunk,
    lane: Lane,
) {}
