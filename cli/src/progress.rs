//! The progress of long work: a bar on a terminal, otherwise plain lines.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// The steps of one piece of work.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Work of so many steps, shown on stderr.
    pub(crate) fn new(steps: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(steps as u64).with_style(style)
        });
        Self { bar }
    }

    /// Reports that one more step begins or is done.
    pub(crate) fn step(&self, message: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(message.to_owned());
                bar.inc(1);
            }
            None => eprintln!("{message}"),
        }
    }

    /// Prints a line of the result without tearing the bar.
    pub(crate) fn print(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{line}")),
            None => println!("{line}"),
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
