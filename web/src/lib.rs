//! The page's side in WebAssembly: its workers call this. Every panel of the page has a worker and
//! a
//! [`Computer`](computer::Computer) of its own, so that none waits for another.

mod check;
mod computer;
mod softmax;
mod speed;
mod write;
