// implements: correction
//
// Values enter the state as they are, or a thread corrects its own.

import lane::{Lane};
import tile::{Tile};
import work_item::{Chunk, WorkItem};

fn correct_values(mu: ptr<function, Tile>, item: WorkItem, chunk: Chunk, lane: Lane) {}
