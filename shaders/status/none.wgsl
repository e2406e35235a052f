// implements: key_status
//
// Nobody asks.

import work_item::{WorkItem};

fn check_key(item: WorkItem, t: u32, features: vec4<f32>) {}
