// implements: segment_decay
//
// The rule `linear`: a segment keeps all of the state before it.

import gates::{Decay};
import states::{Element};
import work_item::{WorkItem};

fn add_decay(decay: ptr<function, Decay>, row: u32, f4: u32) {}

fn store_decay(decay: Decay, item: WorkItem, f4: u32) {}

fn element_decay(segment: u32, element: u32) -> Element { return Element(0.0); }
